"""The loss that training uses, against the dense form of torch and by known answers."""

import math
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from instruct_course.train import loss
from instruct_course.train.loss import response_loss, supervised


def rows(seed, keep, dtype=torch.float32):
    """(hidden (2, 9, 8), labels (2, 9)) with a share `keep` of the labels, not shifted."""
    g = torch.Generator().manual_seed(seed)
    hidden, labels = (
        torch.randn(2, 9, 8, generator=g, dtype=dtype).requires_grad_(True),
        torch.randint(12, (2, 9), generator=g),
    )
    labels[torch.rand(2, 9, generator=g) > keep] = -100
    return hidden, labels


def dense(hidden, head, labels):
    return F.cross_entropy(
        head(hidden)[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
    )


def picked(hidden, head, labels):
    mask, target = supervised(labels)
    return response_loss(hidden[mask], head, target)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), keep=st.floats(0, 1), double=st.booleans())
def test_it_equals_the_dense_loss_in_value_and_gradients(seed, keep, double):
    """Also of the head: frozen or trained, the gradient is autograd's."""
    hidden, labels = rows(seed, keep, torch.float64 if double else torch.float32)
    torch.manual_seed(seed)
    head = torch.nn.Linear(8, 12).to(hidden.dtype)
    wanted, (total, n) = dense(hidden, head, labels), picked(hidden, head, labels)
    assert n == (labels[:, 1:] != -100).sum() and total.dtype == hidden.dtype
    atol = 1e-12 if double else 1e-6
    torch.testing.assert_close(total, wanted, rtol=atol, atol=atol)
    for a, b in zip(
        *(torch.autograd.grad(x, (hidden, head.weight, head.bias)) for x in (total, wanted))
    ):
        torch.testing.assert_close(a, b, rtol=10 * atol, atol=atol)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_tied_head_gets_both_its_gradients(seed):
    """The embedding is the head.

    It learns from where a token is read and from where it is predicted.
    """
    _, labels = rows(seed, 0.7)
    labels[0, 3] = 5
    table, ids = (
        torch.randn(12, 8, generator=torch.Generator().manual_seed(seed), requires_grad=True),
        labels.clamp(min=0),
    )
    got, wanted = (
        torch.autograd.grad(
            loss(F.embedding(ids, table), lambda h: F.linear(h, table), labels), table
        )[0]
        for loss in (lambda *a: picked(*a)[0], dense)
    )
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    read_only = torch.autograd.grad(
        picked(F.embedding(ids, table), lambda h: F.linear(h, table.detach()), labels)[0], table
    )[0]
    assert (got - read_only).abs().max() > 1e-3, "the head's own share is there"


def test_no_supervised_position_is_zero_and_differentiable():
    hidden, head = torch.randn(2, 4, 8, requires_grad=True), torch.nn.Linear(8, 5)
    total, n = picked(hidden, head, torch.full((2, 4), -100))
    total.backward()
    assert (
        (total.item(), n) == (0.0, 0)
        and hidden.grad.abs().sum() == 0
        and head.weight.grad.abs().sum() == 0
    )


# -- one pass, where the head is frozen


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    keep=st.floats(0, 1),
    double=st.booleans(),
    room=st.sampled_from([1, 12, 40, 1 << 24]),
    factor=st.floats(-3, 3),
)
def test_one_pass_is_the_dense_loss(seed, keep, double, room, factor):
    """However many positions are taken at a time, and whatever gradient comes from above."""
    hidden, labels = rows(seed, keep, torch.float64 if double else torch.float32)
    torch.manual_seed(seed)
    head = torch.nn.Linear(8, 12, bias=False).to(hidden.dtype).requires_grad_(False)
    with mock.patch.object(loss, "LOGITS", room):
        total, n = picked(hidden, head, labels)
    assert (
        type(total.grad_fn).__name__ == "FusedLinearCrossEntropyBackward"
        and total.shape == ()
        and total.dtype == hidden.dtype
    )
    wanted, atol = dense(hidden, head, labels), 1e-12 if double else 1e-6
    torch.testing.assert_close(total, wanted, rtol=atol, atol=atol)
    got, want = (torch.autograd.grad(x * factor, hidden)[0] for x in (total, wanted))
    torch.testing.assert_close(got, want, rtol=10 * atol, atol=10 * atol)


def test_one_pass_is_taken_only_where_the_head_is_frozen():
    hidden, labels = rows(0, 1.0)
    plain, passes = (
        torch.nn.Linear(8, 12, bias=False),
        lambda head: (
            "FusedLinearCrossEntropy" in type(picked(hidden, head, labels)[0].grad_fn).__name__
        ),
    )
    assert passes(plain.requires_grad_(False))
    assert (
        not passes(torch.nn.Linear(8, 12, bias=False))
        and not passes(torch.nn.Linear(8, 12).requires_grad_(False))
        and not passes(lambda h: plain(h))
    )
    assert not passes(torch.nn.Sequential(plain))


def test_one_pass_needs_no_gradient_to_tell_the_loss():
    hidden, labels = rows(3, 0.5)
    head = torch.nn.Linear(8, 12, bias=False).requires_grad_(False)
    wanted = picked(hidden, head, labels)[0]
    with torch.no_grad():
        assert picked(hidden, head, labels)[0] == wanted.detach()
    assert picked(hidden[:0], head, labels[:0])[0] == 0


def test_one_pass_in_16_bits_is_as_near_to_the_truth_as_the_plain_path():
    for dtype in (torch.bfloat16, torch.float16):
        hidden, labels = rows(5, 0.8)
        head = torch.nn.Linear(8, 12, bias=False).requires_grad_(False)
        (truth,) = torch.autograd.grad(dense(hidden, head, labels), hidden)
        half, small = head.to(dtype), hidden.detach().to(dtype).requires_grad_(True)
        errors = [
            (torch.autograd.grad(picked(small, h, labels)[0], small)[0].float() - truth)
            .abs()
            .max()
            .item()
            for h in (half, lambda x, half=half: half(x))
        ]
        assert errors[0] <= 1.5 * errors[1] + 1e-3 and errors[0] < 0.1


def test_16_bits_are_summed_in_32():
    """A thousand equal scores: the sum of their exponentials would be lost in bf16."""
    for dtype in (torch.bfloat16, torch.float16):
        total, n = response_loss(
            torch.zeros(3, 4, dtype=dtype),
            torch.nn.Linear(4, 1000, bias=False).to(dtype),
            torch.tensor([1, 2, 3]),
        )
        assert total.dtype == torch.float32 and total.item() / n == pytest.approx(
            math.log(1000), rel=1e-6
        )


@given(
    st.lists(
        st.lists(st.sampled_from([-100, 1, 2, 3]), min_size=4, max_size=4), min_size=1, max_size=4
    )
)
def test_the_shift(labels):
    """Position t is asked for the label of t + 1.

    Nobody for the first label, the last position for nothing.
    """
    mask, target = supervised(torch.tensor(labels))
    assert mask.tolist() == [[l != -100 for l in row[1:]] + [False] for row in labels]
    assert target.tolist() == [l for row in labels for l in row[1:] if l != -100]


def test_the_head_may_score_in_parts(monkeypatch):
    torch.manual_seed(0)
    hidden, head, labels = torch.randn(9, 4), torch.nn.Linear(4, 30), torch.randint(30, (9,))
    whole = loss.token_losses(hidden, head, labels)
    monkeypatch.setattr(loss, "LOGITS", 60)
    torch.testing.assert_close(loss.token_losses(hidden, head, labels), whole)
    torch.testing.assert_close(whole, F.cross_entropy(head(hidden), labels, reduction="none"))
    assert loss.token_losses(hidden[:0], head, labels[:0]).shape == (0,) and not whole.requires_grad
