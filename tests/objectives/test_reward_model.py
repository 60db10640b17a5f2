"""Rewards through the engine: equal to plain transformers and a head by hand; the head's file."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from instruct_course.common.errors import InputError
from instruct_course.data import template as templates
from instruct_course.data.example import Example, Turn
from instruct_course.data.pairs import builtin_pairs, encode_pairs, pair
from instruct_course.data.template import IGNORE_INDEX
from instruct_course.model import lora
from instruct_course.objectives.pair_scores import length_judge, score_pairs
from instruct_course.objectives.reward import RewardHead, row_rewards
from instruct_course.objectives.reward_model import (
    encode_answers,
    load_head,
    rewards_of_pairs,
    rewards_of_rows,
    save_head,
)
from instruct_course.train.batch import collate


@pytest.fixture(scope="module")
def judge():
    """(model with adapter and head, tokenizer, template); the adapter is not zero."""
    from instruct_course.model.load import load_base

    base = load_base("nano")
    template = templates.named("article")
    templates.prepare(template, base.tokenizer)
    model = lora.attach(base.model, lora_r=4, seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data = 0.05 * torch.randn(p.shape, generator=generator)
    model.reward_head = RewardHead(base.model.config.hidden_size, seed=3)
    return model.eval(), base.tokenizer, template


@pytest.fixture(scope="module")
def pairs(judge):
    _, tokenizer, template = judge
    two = [pair(row) for row in builtin_pairs("held").select(range(24))]
    return encode_pairs(template, tokenizer, two)


@pytest.fixture(scope="module")
def by_hand(judge, pairs):
    """Row by row: no padding, no engine; (n, 2)."""
    model, *_ = judge
    rows = [row for two in pairs for row in two]
    with torch.no_grad():
        found = [row_rewards(model, model.reward_head, collate([row], 0)) for row in rows]
    return torch.cat(found).view(-1, 2)


@pytest.mark.parametrize("batch_tokens", [16, 300, 4096])
def test_rows_have_the_rewards_that_plain_transformers_gives(judge, pairs, by_hand, batch_tokens):
    rows = [row for two in pairs for row in two]
    done = []
    found = rewards_of_rows(
        judge[0], rows, pad_id=0, batch_tokens=batch_tokens, progress=done.append
    )
    assert torch.allclose(found.view(-1, 2), by_hand, atol=2e-4)
    assert by_hand.std() > 0.01  # there is something to see
    assert done == sorted(done) and done[-1] == len(rows)


@pytest.mark.parametrize("batch_tokens", [16, 4096])
def test_pairs_in_branching_rows_have_the_same(judge, pairs, by_hand, batch_tokens):
    found = rewards_of_pairs(judge[0], pairs, pad_id=0, batch_tokens=batch_tokens)
    assert found.shape == (24, 2) and torch.allclose(found, by_hand, atol=2e-4)


def test_a_model_without_the_engine_has_the_same_road(pairs):
    """A plain float64 model goes through transformers' own code, in padded batches."""
    config = LlamaConfig(
        vocab_size=8000,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).double().eval()
    model.reward_head = RewardHead(32, dtype=torch.float64)
    with torch.no_grad():
        rows = [row for two in pairs for row in two]
        plain = row_rewards(model, model.reward_head, collate(rows, 0)).view(-1, 2)
    assert torch.allclose(rewards_of_pairs(model, pairs, pad_id=0), plain, atol=1e-9)
    assert torch.allclose(rewards_of_rows(model, rows, pad_id=0).view(-1, 2), plain, atol=1e-9)


def test_the_mode_of_the_model_stays(judge, pairs):
    model = judge[0].train()
    rewards_of_pairs(model, pairs[:1], pad_id=0)
    assert model.training
    model.eval()


def test_answers_are_written_as_the_chosen_sides_of_pairs(judge, pairs):
    _, tokenizer, template = judge
    chosen = [pair(row).chosen for row in builtin_pairs("held").select(range(24))]
    made = encode_answers(template, tokenizer, chosen)
    assert [row.ids for row in made] == [two[0].ids for two in pairs]


def test_an_empty_answer_has_its_end_and_a_bad_row_its_reason(judge):
    _, tokenizer, template = judge
    turn = Turn("user", "Hello")
    empty, talk, long = encode_answers(
        template,
        tokenizer,
        [Example("Say nothing."), Example("a", "", "b", history=(turn,)), Example("a " * 200)],
        max_length=64,
    )
    *answer, end = [label for label in empty.labels if label != IGNORE_INDEX]
    assert not tokenizer.decode(answer).strip() and end == tokenizer.eos_token_id
    assert "no place for several turns" in str(talk) and "fit" in str(long)


def test_a_head_comes_back_as_it_was(tmp_path):
    head = RewardHead(8, seed=5)
    save_head(tmp_path / "h.safetensors", head, base_fingerprint="a" * 64)
    back = load_head(tmp_path / "h.safetensors", hidden_size=8, base_fingerprint="a" * 64)
    assert torch.equal(back.weight, head.weight) and back.weight.requires_grad
    assert load_head(tmp_path / "h.safetensors", hidden_size=8, base_fingerprint=None)
    for _ in range(8):  # the same head is the same bytes
        save_head(tmp_path / "again.safetensors", head, base_fingerprint="a" * 64)
        again = (tmp_path / "again.safetensors").read_bytes()
        assert again == (tmp_path / "h.safetensors").read_bytes()


@pytest.mark.parametrize(
    "width, base, says",
    [(8, "b" * 64, "another base than bbbbbbbb"), (9, "a" * 64, r"shape \(8,\).*needs \(9,\)")],
)
def test_a_head_of_another_model_is_refused(tmp_path, width, base, says):
    save_head(tmp_path / "h.safetensors", RewardHead(8), base_fingerprint="a" * 64)
    with pytest.raises(InputError, match=says):
        load_head(tmp_path / "h.safetensors", hidden_size=width, base_fingerprint=base)


@pytest.mark.parametrize("content", [None, b"", b"not a tensor"])
def test_what_is_no_head_is_refused(tmp_path, content):
    path = tmp_path / "h.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="this is no reward head"):
        load_head(path, hidden_size=8, base_fingerprint=None)


def test_scores_of_pairs():
    """Known answers: one right, one wrong, one tie."""
    found = score_pairs([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0 + 1e-6]], ["long", "", "long"])
    assert found["accuracy"]["value"] == 0.5 and found["n"] == 3
    assert found["by_kind"].keys() == {"long"} and found["by_kind"]["long"]["value"] == 0.75
    margins = torch.tensor([1.0, -2.0, -1e-6]).double()
    expected = -torch.nn.functional.logsigmoid(margins).mean()
    assert found["loss"] == pytest.approx(expected.item(), abs=1e-12)
    assert found["chosen"]["mean"] == pytest.approx(4 / 3)
    assert found["rejected"]["std"] == pytest.approx(np.std([0.0, 2, 3]), abs=1e-5)


def test_the_length_judge_learns_which_side_wins(pairs):
    longer = [two for two in pairs if len(two[0].ids) > len(two[1].ids)]
    shorter = [two for two in pairs if len(two[0].ids) < len(two[1].ids)]
    found = length_judge(shorter, shorter + longer)
    share = len(shorter) / (len(shorter) + len(longer))
    assert found["prefers"] == "shorter" and found["accuracy"]["value"] == pytest.approx(share)
    assert length_judge(longer, shorter)["accuracy"]["value"] == 0
