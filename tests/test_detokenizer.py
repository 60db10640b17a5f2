"""The detokenizer: the library's pieces, whole stop strings and characters, never an error."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerFast

from instruct_course.detokenizer import Detokenizer, detokenize

# bytes and special tokens come first in nano's vocabulary, words after them
token_ids = st.lists(st.one_of(st.integers(0, 299), st.integers(0, 4095)), min_size=1, max_size=24)


@pytest.fixture(scope="module")
def byte_fallback():
    """A tokenizer of Llama 2's kind: unknown characters are spelt byte by byte."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    pieces = [f"<0x{byte:02X}>" for byte in range(256)] + ["▁the", "▁cat", "a", "▁", "，", "猫"]
    for piece in pieces:
        vocabulary[piece] = len(vocabulary)
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>")
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


@settings(deadline=None, max_examples=200)
@given(ids=token_ids)
def test_pieces_are_the_librarys(nano, ids):
    ours, theirs = Detokenizer(nano.tokenizer), DecodeStream(skip_special_tokens=True)
    pieces = [ours.add(i) for i in ids]
    assert pieces == [theirs.step(nano.tokenizer.backend_tokenizer, i) or "" for i in ids]
    whole = nano.tokenizer.decode(ids, skip_special_tokens=True)
    assert "".join(pieces) + ours.finish() == whole.rstrip("\ufffd")


@settings(deadline=None, max_examples=100)
@given(ids=st.lists(st.integers(0, 264), min_size=1, max_size=24))
def test_bytes_that_are_no_character_do_no_harm(byte_fallback, ids):
    """`DecodeStream` raises on some of these, which is why ours was kept."""
    text, stopped = detokenize(byte_fallback, ids)
    assert not stopped and not text.endswith("\ufffd")


def test_the_library_raises_on_such_bytes(byte_fallback):
    theirs = DecodeStream(skip_special_tokens=True)
    ids = byte_fallback.convert_tokens_to_ids(["a", "<0x41>", "<0xE5>", "▁the"])
    ours = Detokenizer(byte_fallback)
    assert "".join(map(ours.add, ids)).endswith(" the")
    with pytest.raises(Exception, match="Invalid prefix"):
        for i in ids:
            theirs.step(byte_fallback.backend_tokenizer, i)


@settings(deadline=None, max_examples=100)
@given(ids=token_ids, data=st.data())
def test_a_stop_string_ends_the_text_wherever_it_falls(nano, ids, data):
    whole, _ = detokenize(nano.tokenizer, ids)
    if not whole:
        return
    start = data.draw(st.integers(0, len(whole) - 1))
    stop = whole[start : start + data.draw(st.integers(1, 6))]
    text, stopped = detokenize(nano.tokenizer, ids, [stop, "never seen"])
    assert stopped and text == whole[: whole.index(stop)]
