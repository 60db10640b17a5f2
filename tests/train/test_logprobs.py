"""Log-probabilities of whole answers: parity with PyTorch, and the reference's, kept by hash."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import some_pairs, some_rows, tiny_llama
from torch.nn import functional as F

from instruct_course.common.errors import InputError
from instruct_course.data.pairs import builtin_pairs, encode_pairs, pair
from instruct_course.data.template import IGNORE_INDEX, Encoded, named, prepare
from instruct_course.train import logprobs
from instruct_course.train.batch import collate, pack
from instruct_course.train.logprobs import (
    load_reference,
    pair_logprobs,
    reference_key,
    reference_logprobs,
    row_logprobs,
    save_reference,
    token_logprobs,
)

PAIRS = some_pairs()


@torch.no_grad()
def alone(model, row):
    """The log-probability of a row's answer from transformers' own logits."""
    logits = model(torch.tensor([row.ids])).logits[0].float()
    targets = torch.tensor(row.labels[1:])
    return -F.cross_entropy(logits[:-1], targets, ignore_index=IGNORE_INDEX, reduction="sum")


def by_rows(model, pairs):
    return torch.stack([torch.stack([alone(model, row) for row in two]) for two in pairs])


@pytest.mark.parametrize("chunk", [7, 20 * 3, 1 << 24])
def test_tokens_and_their_gradients_are_pytorchs(chunk, monkeypatch):
    monkeypatch.setattr(logprobs, "LOGITS", chunk)
    torch.manual_seed(0)
    hidden = torch.randn(11, 8, dtype=torch.float64, requires_grad=True)
    head = torch.nn.Linear(8, 20, bias=False, dtype=torch.float64).requires_grad_(False)
    labels = torch.randint(20, (11,))
    weights = torch.randn(11, dtype=torch.float64)
    ours = token_logprobs(hidden, head, labels)
    plain = head(hidden).log_softmax(-1).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    got, wanted = (torch.autograd.grad((weights * x).sum(), hidden)[0] for x in (ours, plain))
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda h: token_logprobs(h, head, labels), hidden)


def test_a_trained_head_gets_its_gradient():
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 20, dtype=torch.float64)
    hidden = torch.randn(5, 8, dtype=torch.float64)
    labels = torch.randint(20, (5,))
    made = token_logprobs(hidden, head, labels)
    wanted = torch.autograd.grad(-F.cross_entropy(head(hidden), labels), head.bias)[0] * 5
    torch.testing.assert_close(torch.autograd.grad(made.sum(), head.bias)[0], wanted)


def test_sums_of_rows_are_the_same_in_any_batch():
    model = tiny_llama().eval()
    rows = some_rows(9)
    plain = torch.stack([alone(model, row) for row in rows])
    for batch in (collate(rows, 0), pack(rows)):
        sums, counts = row_logprobs(model, batch)
        torch.testing.assert_close(sums.detach(), plain, rtol=1e-5, atol=1e-5)
        learnt = [sum(i != IGNORE_INDEX for i in row.labels[1:]) for row in rows]
        assert counts.tolist() == learnt


def test_a_batch_that_learns_nothing_has_sums_of_zero():
    row = Encoded([3, 4, 5], [IGNORE_INDEX] * 3)
    sums, counts = row_logprobs(tiny_llama(), pack([row, row]))
    assert sums.tolist() == [0, 0] and counts.tolist() == [0, 0]


def test_the_builtin_pairs_on_nano(nano):
    article = named("article")
    tokenizer = nano.tokenizer
    prepare(article, tokenizer)
    held = [pair(row) for row in builtin_pairs("held").select(range(24))]
    pairs = encode_pairs(article, tokenizer, held)
    got = pair_logprobs(nano.model, pairs, pad_id=0, batch_tokens=700)
    torch.testing.assert_close(got, by_rows(nano.model, pairs), rtol=1e-5, atol=1e-5)


def test_any_batch_size_gives_the_same_and_progress_is_told():
    model = tiny_llama().train()
    told = []
    made = [
        pair_logprobs(model, PAIRS, pad_id=0, batch_tokens=room, progress=told.append)
        for room in (20, 10_000)
    ]
    torch.testing.assert_close(made[0], made[1], rtol=1e-5, atol=1e-5)
    assert made[0].shape == (12, 2) and told[-1] == 12 and model.training
    assert pair_logprobs(model, [], pad_id=0).shape == (0, 2)


def moved(model):
    """The model with adapters and trained rows that are not where they began."""
    torch.manual_seed(3)
    for name, p in model.named_parameters():
        if p.requires_grad and "lora_A" not in name:
            p.data += torch.randn_like(p) * 0.2
    return model


@pytest.mark.parametrize("options", [{}, {"token_ids": (5, 6)}, {"lora_dropout": 0.1}])
def test_the_reference_is_the_base_with_the_adapter_off(options):
    model = tiny_llama(**options).eval()
    with model.disable_adapter():
        base = by_rows(model, PAIRS)
    moved(model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    reference = pair_logprobs(model, PAIRS, pad_id=0, reference=True)
    torch.testing.assert_close(reference, base, rtol=1e-5, atol=1e-5)
    policy = pair_logprobs(model, PAIRS, pad_id=0)
    torch.testing.assert_close(policy, by_rows(model, PAIRS), rtol=1e-5, atol=1e-5)
    assert (policy - reference).abs().mean() > 1e-2
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_model_without_adapter_is_its_own_reference():
    model = tiny_llama().eval().unload()
    made = [pair_logprobs(model, PAIRS, pad_id=0, reference=r) for r in (True, False)]
    assert torch.equal(*made)


# -- kept

BASE = {"fingerprint": "f" * 64, "quantization": "nf4"}
ARTICLE = named("article")


def test_it_is_computed_once_and_kept(tmp_path):
    model = moved(tiny_llama().eval())
    path = tmp_path / "reference.safetensors"
    options = {"base": BASE, "template": ARTICLE, "pad_id": 0}
    first = reference_logprobs(path, model, PAIRS, **options)
    with model.disable_adapter():
        torch.testing.assert_close(first, by_rows(model, PAIRS), rtol=1e-5, atol=1e-5)
    written = path.read_bytes()
    again = reference_logprobs(path, None, PAIRS, **options)  # no model is asked
    assert torch.equal(first, again) and path.read_bytes() == written
    assert [p.name for p in tmp_path.iterdir()] == ["reference.safetensors"]


OTHERS = [
    (BASE | {"fingerprint": "e" * 64}, ARTICLE, PAIRS),
    (BASE | {"quantization": "int8"}, ARTICLE, PAIRS),
    (BASE, named("alpaca"), PAIRS),
    (BASE, ARTICLE, PAIRS[:-1]),
    (BASE, ARTICLE, PAIRS[::-1]),
    (BASE, ARTICLE, [PAIRS[0][::-1], *PAIRS[1:]]),
    (BASE, ARTICLE, [(PAIRS[0][0], replace(PAIRS[0][1], labels=PAIRS[0][1].ids)), *PAIRS[1:]]),
]


@pytest.mark.parametrize("other", OTHERS)
def test_another_base_template_or_pair_is_refused(tmp_path, other):
    path = tmp_path / "reference.safetensors"
    save_reference(path, torch.zeros(12, 2), reference_key(BASE, ARTICLE, PAIRS))
    assert load_reference(path, reference_key(dict(BASE), ARTICLE, list(PAIRS))).shape == (12, 2)
    with pytest.raises(InputError) as error:
        load_reference(path, reference_key(*other))
    said = str(error.value)
    assert said.startswith(f"{path}: these reference log-probabilities are of another base")
    assert "remove the file" in said and "\n" not in said


def test_a_broken_file_is_refused(tmp_path):
    path = tmp_path / "reference.safetensors"
    save_reference(path, torch.zeros(3, 2), "k")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match="no reference log-probabilities"):
        load_reference(path, "k")
    with pytest.raises(InputError, match="no reference log-probabilities"):
        load_reference(tmp_path / "none.safetensors", "k")
    from safetensors.torch import save_file

    save_file({"other": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="no reference log-probabilities"):
        load_reference(path, "k")


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    import safetensors.torch

    def stopped(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.torch, "save_file", stopped)
    with pytest.raises(KeyboardInterrupt):
        save_reference(tmp_path / "reference.safetensors", torch.zeros(3, 2), "k")
    assert not list(tmp_path.iterdir())
