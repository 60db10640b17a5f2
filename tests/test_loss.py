"""The loss that training uses, against the dense form of torch and by known answers."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from instruct_course.loss import response_loss, supervised


def rows(seed, keep, dtype=torch.float32):
    """(hidden (2, 9, 8), labels (2, 9)) with a share `keep` of the labels, not shifted."""
    g = torch.Generator().manual_seed(seed)
    hidden, labels = torch.randn(2, 9, 8, generator=g, dtype=dtype).requires_grad_(True), torch.randint(12, (2, 9), generator=g)
    labels[torch.rand(2, 9, generator=g) > keep] = -100
    return hidden, labels


def dense(hidden, head, labels):
    return F.cross_entropy(head(hidden)[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")


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
    for a, b in zip(*(torch.autograd.grad(x, (hidden, head.weight, head.bias)) for x in (total, wanted))):
        torch.testing.assert_close(a, b, rtol=10 * atol, atol=atol)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_tied_head_gets_both_its_gradients(seed):
    """The embedding is the head: it learns from where a token is read and from where it is predicted."""
    _, labels = rows(seed, .7)
    labels[0, 3] = 5
    table, ids = torch.randn(12, 8, generator=torch.Generator().manual_seed(seed), requires_grad=True), labels.clamp(min=0)
    got, wanted = (torch.autograd.grad(loss(F.embedding(ids, table), lambda h: F.linear(h, table), labels), table)[0]
                   for loss in (lambda *a: picked(*a)[0], dense))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    read_only = torch.autograd.grad(picked(F.embedding(ids, table), lambda h: F.linear(h, table.detach()), labels)[0], table)[0]
    assert (got - read_only).abs().max() > 1e-3, "the head's own share is there"


def test_no_supervised_position_is_zero_and_differentiable():
    hidden, head = torch.randn(2, 4, 8, requires_grad=True), torch.nn.Linear(8, 5)
    total, n = picked(hidden, head, torch.full((2, 4), -100))
    total.backward()
    assert (total.item(), n) == (0.0, 0) and hidden.grad.abs().sum() == 0 and head.weight.grad.abs().sum() == 0


def test_16_bits_are_summed_in_32():
    """A thousand equal scores: the sum of their exponentials would be lost in bf16."""
    for dtype in (torch.bfloat16, torch.float16):
        total, n = response_loss(torch.zeros(3, 4, dtype=dtype), torch.nn.Linear(4, 1000, bias=False).to(dtype), torch.tensor([1, 2, 3]))
        assert total.dtype == torch.float32 and total.item() / n == pytest.approx(math.log(1000), rel=1e-6)


@given(st.lists(st.lists(st.sampled_from([-100, 1, 2, 3]), min_size=4, max_size=4), min_size=1, max_size=4))
def test_the_shift(labels):
    """Position t is asked for the label of t + 1; nobody for the first label, the last position for nothing."""
    mask, target = supervised(torch.tensor(labels))
    assert mask.tolist() == [[l != -100 for l in row[1:]] + [False] for row in labels]
    assert target.tolist() == [l for row in labels for l in row[1:] if l != -100]
