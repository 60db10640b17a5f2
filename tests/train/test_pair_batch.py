"""Pairs in a packed batch: the prompt once, both answers, and nothing seen that a row would not see."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import V, library_in_float64, tiny, tiny_llama

from instruct_course.data.template import IGNORE_INDEX, Encoded
from instruct_course.train.batch import pack
from instruct_course.train.engine import Engine, supports
from instruct_course.train.logprobs import row_logprobs
from instruct_course.train.pair_batch import (
    PackedPairs,
    PairEngine,
    collate_pairs,
    pack_pairs,
    pair_batches,
    visible_keys,
    without_adapters,
)


def two_rows(prompt, chosen, rejected):
    ignored = [IGNORE_INDEX] * len(prompt)
    return tuple(Encoded([*prompt, *a], [*ignored, *a]) for a in (chosen, rejected))


@st.composite
def pair_lists(draw, most=4):
    """Pairs whose prompts begin alike."""
    ids = st.integers(2, V - 1)
    begin = draw(st.lists(ids, min_size=1, max_size=5))
    pairs = []
    for _ in range(draw(st.integers(1, most))):
        prompt = begin + draw(st.lists(ids, max_size=5))
        answers = [draw(st.lists(ids, min_size=1, max_size=6)) for _ in range(2)]
        pairs.append(two_rows(prompt, *answers))
    return pairs


def places(packed, pair, side):
    """Where in the batch the tokens of a row of a pair are, its prompt first."""
    own = dict.fromkeys(packed.pad_indices[pair].tolist())  # without the copies that fill
    behind = [at for at in own if packed.branches[at] in (0, side + 1)]
    return [*range(packed.prefix_length), *behind]


@settings(max_examples=150, deadline=None)
@given(pair_lists(), st.sampled_from([0, 0.1, 2]))
def test_the_batch_holds_each_prompt_once_and_both_answers(pairs, share):
    packed = pack_pairs(pairs, share=share)
    prefix, flat = packed.prefix_length, packed.input_ids[0]
    expected = prefix
    for number, pair in enumerate(pairs):
        prompt = pair[0].labels.count(IGNORE_INDEX)
        answers = [len(row.ids) - prompt for row in pair]
        # the last token of the prompt predicts two tokens, so it stands twice
        expected += prompt + sum(answers) + 1 - prefix
        for side, row in enumerate(pair):
            at = places(packed, number, side)
            assert flat[at].tolist() == row.ids
            assert packed.position_ids[0, at].tolist() == list(range(len(row.ids)))
            learnt = [i for i in packed.targets[at].tolist() if i != IGNORE_INDEX]
            assert learnt == [i for i in row.labels[1:] if i != IGNORE_INDEX]
    assert flat.numel() == expected == packed.targets.numel() == packed.branches.numel()


@settings(max_examples=100, deadline=None)
@given(pair_lists(), st.sampled_from([0, 2]))
def test_a_token_sees_what_it_would_see_in_its_own_row(pairs, share):
    packed = pack_pairs(pairs, share=share)
    prefix = packed.prefix_length
    visible = visible_keys(packed, None)
    predicting = visible_keys(packed, packed.predicting)
    for number in range(len(pairs)):
        at_key = [*range(prefix), *packed.pad_indices[number].tolist()]
        own = len(dict.fromkeys(at_key[prefix:]))  # the rest are copies
        for side in (0, 1):
            row = places(packed, number, side)
            for t, at in enumerate(row[prefix:], prefix):
                seen = visible[number, at - packed.pad_indices[number, 0]]
                assert [at_key[k] for k in seen[: prefix + own].nonzero()[:, 0]] == row[: t + 1]
    tokens = packed.predicting
    for m, at in enumerate(tokens.positions.tolist()):
        number, q = divmod(tokens.unpad_indices[m].item(), tokens.pad_indices.shape[1])
        column = packed.unpad_indices[at - prefix] % packed.pad_indices.shape[1]
        assert torch.equal(predicting[number, q], visible[number, column])


def test_one_pair_needs_only_the_packing_of_rows():
    pair = two_rows([11, 12, 13, 14], [21, 22, 1], [31, 1])
    packed = pack(pair, share=0)
    assert packed.input_ids[0].tolist() == [11, 12, 13, 14, 21, 22, 1, 14, 31, 1]
    assert packed.prefix_length == 3
    model = tiny()
    rows, _ = row_logprobs(model, packed, engine=Engine(model))
    branching, _ = row_logprobs(model, pack_pairs([pair]))
    torch.testing.assert_close(rows, branching, rtol=1e-12, atol=1e-12)


def test_two_prompts_are_no_pair():
    one, _ = two_rows([11, 12], [21], [31])
    for other in (two_rows([11, 13], [21], [31])[1], two_rows([11], [12], [31])[1]):
        with pytest.raises(ValueError, match="two prompts"):
            pack_pairs([(one, other)])
    for bare in (two_rows([], [11], [12]), [Encoded([11, 12], [IGNORE_INDEX] * 2)] * 2):
        with pytest.raises(ValueError, match="needs a prompt and two answers"):
            pack_pairs([bare])


def alone(model, row):
    """The log-probability of a row's answer from transformers' own logits."""
    logits = model(torch.tensor([row.ids])).logits[0]
    logits = logits if logits.dtype == torch.float64 else logits.float()
    logprobs = logits[:-1].log_softmax(-1)
    learnt = [(t, i) for t, i in enumerate(row.labels[1:]) if i != IGNORE_INDEX]
    return sum((logprobs[t, i] for t, i in learnt), logprobs.new_zeros(()))


def adapter_gradient(model, sums, weights):
    model.zero_grad()
    (weights * sums).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


PAIRS = [
    two_rows([11, 12, 13, 14], [21, 22, 1], [31, 1]),
    two_rows([11, 12, 15], [41, 1], [41, 42, 43, 44, 1]),
    two_rows([11, 12, 13, 16, 17, 18], [21], [22, 1]),
]


@pytest.mark.parametrize("share", [0, 2])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral", "qwen3"])
def test_values_and_gradients_are_those_of_single_rows(kind, checkpointing, share):
    model = tiny(kind)
    weights = torch.tensor([1.0, -1, 0.3, -2, 0.7, 0.1], dtype=torch.float64)
    with library_in_float64():
        plain = torch.stack([alone(model, row) for pair in PAIRS for row in pair])
        wanted = adapter_gradient(model, plain, weights)
        engine = PairEngine(model, gradient_checkpointing=checkpointing)
        sums, counts = row_logprobs(model, pack_pairs(PAIRS, share=share), engine=engine)
        torch.testing.assert_close(sums, plain, rtol=1e-10, atol=1e-10)
        assert counts.tolist() == [3, 2, 2, 5, 1, 2]
        got = adapter_gradient(model, sums, weights)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-10)


def test_an_engine_takes_one_batch_after_the_other():
    model = tiny()
    engine = PairEngine(model)
    batches = [pack_pairs(PAIRS), pack_pairs(PAIRS[::-1]), pack(PAIRS[0], share=0)] * 2
    with torch.no_grad():
        made = [row_logprobs(model, batch, engine=engine)[0] for batch in batches]
        fresh = [row_logprobs(model, batch, engine=PairEngine(model))[0] for batch in batches]
    assert all(map(torch.equal, made, fresh))
    swapped = made[0].view(-1, 2).flip(0).flatten()
    torch.testing.assert_close(made[1], swapped, rtol=1e-10, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(pair_lists())
def test_any_pairs_in_float32(pairs):
    model = tiny_llama().eval()
    with torch.no_grad():
        plain = torch.stack([alone(model, row) for pair in pairs for row in pair])
        sums, _ = row_logprobs(model, pack_pairs(pairs))
    torch.testing.assert_close(sums, plain, rtol=1e-5, atol=1e-5)


def test_padded_and_packed_rows_give_the_same_sums():
    fast = tiny()
    slow = tiny()
    slow.base_model.model.config.hidden_act = "other"  # which the engine does not know
    assert supports(fast) and not supports(slow)
    packed = collate_pairs(fast, PAIRS, 0)
    padded = collate_pairs(slow, PAIRS, 0)
    assert isinstance(packed, PackedPairs) and isinstance(padded, dict)
    with library_in_float64():
        made = [row_logprobs(m, b) for m, b in ((fast, packed), (slow, padded))]
    torch.testing.assert_close(made[0], made[1], rtol=1e-10, atol=1e-10)


def test_without_adapters_it_is_the_base():
    adapted, bare = tiny(), tiny(adapted=False)
    engine = without_adapters(PairEngine(adapted))
    packed = pack_pairs(PAIRS)
    with torch.no_grad():
        off, _ = row_logprobs(adapted, packed, engine=engine)
        base, _ = row_logprobs(bare, packed)
        on, _ = row_logprobs(adapted, packed)
    torch.testing.assert_close(off, base, rtol=1e-12, atol=1e-12)
    assert (on - base).abs().min() > 1e-3


@settings(max_examples=50, deadline=None)
@given(pair_lists(most=20), st.integers(10, 100), st.integers(0, 3))
def test_every_pair_is_in_one_batch(pairs, room, epoch):
    made = pair_batches(pairs, room, epoch=epoch)
    assert sorted(i for numbers in made for i in numbers) == list(range(len(pairs)))
    for numbers in made:
        sizes = [pack_pairs([pairs[i]]).input_ids.numel() for i in numbers]
        assert len(numbers) == 1 or max(sizes) * len(numbers) <= room
