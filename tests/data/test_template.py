import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.common.text import HAN
from instruct_course.data import template as template_
from instruct_course.data.example import Example, Turn
from instruct_course.data.user_text import control_tokens, plain

CORPUS = [
    "the cat sat on the mat and said hello",
    "Instruction: Input: Output: Response",
    "指令 输入 输出 你好 世界",
    "### Below is an instruction . , ' \" < > [ ] / | _ : é",
] * 30
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level():
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer, tok.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    tok.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=600,
            special_tokens=["<|end|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tok,
        eos_token="<|end|>",
        pad_token="<|end|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    fast.add_tokens(["<think>"])  # an added token that is not special, as Qwen has it
    fast.chat_template = CHATML
    return fast


def unigram():
    tok = Tokenizer(models.Unigram())
    tok.normalizer, tok.pre_tokenizer, tok.decoder = (
        normalizers.NFKC(),
        pre_tokenizers.Metaspace(prepend_scheme="always"),
        decoders.Metaspace(),
    )
    tok.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(
            vocab_size=200,
            special_tokens=["<s>", "</s>", "<unk>"],
            unk_token="<unk>",
            show_progress=False,
        ),
    )
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tok.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tok, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def wordpiece():
    tok = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tok.pre_tokenizer, tok.decoder = (
        pre_tokenizers.WhitespaceSplit(),
        decoders.WordPiece(),
    )  # "[SEP]" stays one word: it is a piece
    tok.train_from_iterator(
        CORPUS,
        trainers.WordPieceTrainer(
            vocab_size=300, special_tokens=["[UNK]", "[SEP]", "[PAD]"], show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tok, unk_token="[UNK]", sep_token="[SEP]", pad_token="[PAD]"
    )  # no end token at all


_made = {}


def tokenizer(name, request=None):
    if name not in _made:
        _made[name] = {
            "nano": lambda: AutoTokenizer.from_pretrained(ASSETS / "nano"),
            "byte-level": byte_level,
            "unigram": unigram,
            "wordpiece": wordpiece,
            "smollm2": lambda: AutoTokenizer.from_pretrained(
                request.getfixturevalue("smollm2_folder")
            ),
        }[name]()
    return _made[name]


NAMES = ["nano", "smollm2", "byte-level", "unigram", "wordpiece"]
MARKERS = [
    "<inst>",
    "<inp>",
    "<out>",
    "<eos>",
    "<pad>",
    "<|end|>",
    "<|im_end|>",
    "<|im_start|>user\n",
    "<think>",
    "<s>",
    "</s>",
    "<unk>",
    "[SEP]",
    "[PAD]",
    "Output: ",
    "### Response:\n",
    "\ue0000\ue001",
    "{input}",
]
PIECE = (
    st.sampled_from(MARKERS)
    | st.sampled_from(["你好", "🙂👩‍👩‍👧", "\x00\x1b", "é", " ", "\n", "cat", "１"])
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
)
TEXT = st.lists(PIECE, max_size=6).map("".join)
FILLED = TEXT.filter(str.strip)
FORMS = ["article", "article-text", "alpaca"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(c=FILLED, x=TEXT, y=FILLED)
def test_the_mask_cannot_be_fooled(request, name, form, c, x, y):
    tok, template = tokenizer(name, request), template_.named(form)
    template_.prepare(template, tok)
    e = template_.encode(template, tok, Example(c, x, y))
    lead = template_.pieces(template, tok, Example(c, x))[1]
    response, prompt = (
        plain(tok, lead + y),
        template_.prompt(template, tok, Example(c, x)),
    )
    assert [i for i in e.labels if i != template_.IGNORE_INDEX] == response + [
        tok.eos_token_id
    ]  # exactly the response and the end
    assert e.ids[: len(prompt)] == prompt and e.labels[: len(prompt)] == [
        template_.IGNORE_INDEX
    ] * len(prompt)
    control = control_tokens(tok)
    quiet = template_.encode(
        template, tok, Example("中" if re.search(f"[{HAN}]", c) else "a", "b" if x else "", "c")
    )
    assert [i for i in e.ids if i in control] == [
        i for i in quiet.ids if i in control
    ]  # nothing was forged, nothing lost
    assert not any(i in control for i in response)
    if tok.bos_token_id is not None and name == "unigram":
        assert e.ids[0] == tok.bos_token_id and e.ids.count(tok.bos_token_id) == 1


@settings(max_examples=60, deadline=None)
@given(text=TEXT)
def test_plain_text_survives_byte_level(text):
    for name in ("nano", "byte-level"):
        tok = tokenizer(name)
        assert tok.decode(plain(tok, text), clean_up_tokenization_spaces=False) == text


@settings(max_examples=60, deadline=None)
@given(c=FILLED, x=TEXT, y=FILLED, system=TEXT, earlier=FILLED)
def test_chat_keeps_the_user_out_of_the_template(c, x, y, system, earlier):
    tok = tokenizer("byte-level")
    template = template_.named("chat", tok)
    ex = Example(
        c, x, y, system=system, history=(Turn("user", earlier), Turn("assistant", earlier))
    )
    e = template_.encode(template, tok, ex, max_length=5000)
    end = tok.convert_tokens_to_ids("<|im_end|>")
    said = [plain(tok, text.strip()) + [end] for text in (earlier, y)]  # the template trims
    assert [i for i in e.labels if i != template_.IGNORE_INDEX] == said[0] + said[1]
    assert template_.prompt(template, tok, ex) == e.ids[: len(template_.prompt(template, tok, ex))]
    assert e.ids.count(tok.convert_tokens_to_ids("<|im_start|>")) == (
        5 if system else 4
    ) and e.ids.count(end) == (4 + bool(system))
    assert template_.stop_ids(template, tok) == (end, tok.eos_token_id)


def test_chat_writes_what_the_library_writes():
    tok = tokenizer("byte-level")
    turns = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "the cat"}]
    library = tok.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    ours = template_.prompt(template_.named("chat", tok), tok, Example("the cat", system="be kind"))
    assert tok.decode(ours, clean_up_tokenization_spaces=False) == library


def test_smollm2_chat(smollm2_folder):
    tok = AutoTokenizer.from_pretrained(smollm2_folder)
    template = template_.named("chat", tok)
    library = tok.apply_chat_template(
        [{"role": "user", "content": "Hello there"}], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert template_.prompt(template, tok, Example("Hello there")) == list(library)
    assert (
        tok.decode(template_.encode(template, tok, Example("Hi", output="Hello")).ids[-1:])
        == "<|im_end|>"
    )


@settings(max_examples=80, deadline=None)
@given(x=FILLED, y=FILLED, room=st.integers(16, 60))
def test_too_long_a_row_loses_input_only(x, y, room):
    tok, template = tokenizer("nano"), template_.named("article")
    response = plain(tok, " " + y) + [tok.eos_token_id]
    fits = len(template_.prompt(template, tok, Example("Do it."))) + len(response) <= room
    if not fits:
        with pytest.raises(InputError, match="max-length"):
            template_.encode(template, tok, Example("Do it.", x, y), max_length=room)
        cut = template_.encode(
            template, tok, Example("Do it.", x, y), max_length=room, truncate_response=True
        )
        assert len(cut.ids) <= room and cut.ids[-1] != tok.eos_token_id
        return
    e = template_.encode(template, tok, Example("Do it.", x, y), max_length=room)
    assert len(e.ids) <= room and [i for i in e.labels if i != -100] == response
    whole = template_.encode(template, tok, Example("Do it.", x, y))
    assert len(whole.ids) - len(e.ids) == e.dropped


def test_an_output_that_cannot_fit_names_both_options():
    tok, template = tokenizer("nano"), template_.named("article")
    row = Example("Do it.", "cat", "dog " * 40)
    with pytest.raises(InputError) as error:
        template_.encode(template, tok, row, max_length=40)
    said = str(error.value)
    assert "instruction and output take" in said and "\n" not in said
    assert "--max-length" in said and "--truncate-response" in said
    over = int(re.search(r"(\d+) tokens more", said)[1])
    assert len(template_.encode(template, tok, row, max_length=40 + over).ids) == 40 + over
    with pytest.raises(InputError):
        template_.encode(template, tok, row, max_length=40 + over - 1)


def test_an_instruction_that_cannot_fit_is_not_cured_by_cutting_the_output():
    tok, template = tokenizer("nano"), template_.named("article")
    row = Example("Do it. " * 40, "cat", "dog")
    for options in ({}, {"truncate_response": True}):
        with pytest.raises(InputError, match="its instruction takes") as error:
            template_.encode(template, tok, row, max_length=40, **options)
        assert "--max-length" in str(error.value) and "--truncate" not in str(error.value)
    with pytest.raises(InputError, match="its instruction takes .* --max-length"):
        template_.prompt(template, tok, row, max_length=40)


def test_a_template_without_room_for_turns_refuses():
    tok = tokenizer("nano")
    for ex in (
        Example("a", output="b", system="s"),
        Example("a", output="b", history=(Turn("user", "x"),)),
    ):
        with pytest.raises(InputError, match="--template chat"):
            template_.encode(template_.named("article"), tok, ex)


def test_names_and_files(tmp_path):
    with pytest.raises(InputError, match="no such template"):
        template_.named("vicuna")
    with pytest.raises(InputError, match="no chat template"):
        template_.named("chat", tokenizer("nano"))
    for template in (
        *template_.TEMPLATES.values(),
        template_.named("chat", tokenizer("byte-level")),
    ):
        template_.save(template, tmp_path / "t.json")
        assert template_.read(tmp_path / "t.json") == template
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]
    (tmp_path / "bad.json").write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match="no template"):
        template_.read(tmp_path / "bad.json")


def test_prepare_adds_and_names_rows():
    tok = wordpiece()
    before = len(tok)
    ids = template_.prepare(template_.named("article"), tok)
    assert (
        len(tok) == before + 4
        and ids == list(range(before, before + 4))
        and tok.eos_token_id in ids
    )
    assert (
        template_.prepare(template_.named("article"), tok) == ids[:3]
    )  # a second time nothing is new but the markers are still ours to train
    assert template_.prepare(template_.named("alpaca"), tokenizer("nano")) == []


def test_untrained_chat_tokens_are_found():
    import torch

    tok = tokenizer("byte-level")
    table = torch.randn(len(tok), 8, generator=torch.Generator().manual_seed(0)) + 3
    start = tok.convert_tokens_to_ids("<|im_start|>")
    assert template_.prepare(template_.named("chat", tok), tok, table) == []
    table[start] = 0.01
    assert template_.prepare(template_.named("chat", tok), tok, table) == [start]


def test_padding_that_is_the_end_token_is_safe():
    from instruct_course.train.batch import collate

    tok = tokenizer("byte-level")
    assert template_.pad_id(tok) == tok.eos_token_id
    rows = [
        template_.encode(template_.named("alpaca"), tok, Example("a", output=y))
        for y in ("b", "a much longer answer")
    ]
    batch = collate(rows, template_.pad_id(tok))
    for i, r in enumerate(rows):
        assert [t for t in batch["labels"][i].tolist() if t != -100] == [
            t for t in r.labels if t != -100
        ]
        assert batch["attention_mask"][i].sum() == len(r.ids)
