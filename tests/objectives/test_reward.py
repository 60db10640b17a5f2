"""Rewards: the loss of pairs, where the number is read, and that a head learns a planted order."""

import math

import pytest
import torch
from tiny_models import some_rows, tiny_llama
from torch.nn import functional as F

from instruct_course.common.errors import InputError
from instruct_course.objectives.reward import (
    RewardHead,
    bradley_terry,
    final_states,
    last_supervised,
    pair_accuracy,
    row_rewards,
)
from instruct_course.train.batch import collate


def rewards(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, dtype=torch.float64, generator=g)


def test_by_hand():
    """A difference of ln 3 is odds of 3 to 1."""
    r = torch.tensor([math.log(3)], dtype=torch.float64)
    assert bradley_terry(r, 0 * r).item() == pytest.approx(math.log(4 / 3), abs=1e-14)
    assert bradley_terry(0 * r, r).item() == pytest.approx(math.log(4), abs=1e-14)
    assert bradley_terry(r, r).item() == pytest.approx(math.log(2), abs=1e-14)


def test_against_binary_cross_entropy():
    a, b = rewards(9), rewards(9, 1)
    library = F.binary_cross_entropy_with_logits(a - b, torch.ones_like(a))
    torch.testing.assert_close(bradley_terry(a, b), library, rtol=1e-12, atol=1e-12)


def test_its_gradient_is_that_of_finite_differences():
    given = [rewards(5).requires_grad_(), rewards(5, 1).requires_grad_()]
    assert torch.autograd.gradcheck(bradley_terry, given)


def test_a_common_constant_cancels_and_an_exchange_mirrors():
    a, b = rewards(6), rewards(6, 1)
    torch.testing.assert_close(bradley_terry(a + 5, b + 5), bradley_terry(a, b))
    for x, y in zip(a, b):
        won, lost = (bradley_terry(p[None], q[None]) for p, q in ((x, y), (y, x)))
        assert (lost - won).item() == pytest.approx((x - y).item())  # log-odds
        assert ((-won).exp() + (-lost).exp()).item() == pytest.approx(1)


def test_far_apart_is_finite():
    far = torch.tensor([1e4])
    assert bradley_terry(far, -far) == 0 and bradley_terry(-far, far) == 2e4


def test_accuracy_counts_a_tie_as_half():
    assert pair_accuracy(torch.tensor([1.0, 0, 2, 3]), torch.tensor([0.0, 1, 2, 1])) == 0.625


def test_the_last_supervised_token():
    X = -100
    labels = torch.tensor([[X, 3, 4, X], [9, X, X, X], [X, 1, X, 2]])
    assert last_supervised(labels).tolist() == [2, 0, 3]
    with pytest.raises(InputError, match="row 2 of the batch has no supervised token"):
        last_supervised(torch.tensor([[X, 3], [X, X]]))


@pytest.mark.parametrize("a, b", [((3,), (4,)), ((0,), (0,)), ((3, 1), (3, 1))])
def test_no_pairs_are_refused(a, b):
    for of in (bradley_terry, pair_accuracy):
        with pytest.raises(InputError, match="as many chosen as rejected"):
            of(torch.zeros(a), torch.zeros(b))


def test_the_head_reads_the_last_supervised_token_whatever_stands_beside():
    model = tiny_llama(torch.float64).eval()
    rows = some_rows(5)
    head = RewardHead(32, dtype=torch.float64)
    together = row_rewards(model, head, collate(rows, 0))
    for row, reward in zip(rows, together):
        ids = torch.tensor([row.ids])
        states = model(ids, output_hidden_states=True).hidden_states[-1][0]
        alone = states[len(row.ids) - 1].double() @ head.weight  # the answer ends the row
        torch.testing.assert_close(reward, alone, rtol=1e-5, atol=1e-6)


def test_adapter_and_head_get_gradients():
    model = tiny_llama()
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    head = RewardHead(32)
    a, b = row_rewards(model, head, collate(some_rows(6), 0)).chunk(2)
    bradley_terry(a, b).backward()
    assert head.weight.grad.abs().max() > 0
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None and p.grad.abs().max() > 0 for p in trained)


def test_the_head_is_seeded_small_and_in_float32():
    assert torch.equal(RewardHead(64).weight, RewardHead(64).weight)
    assert not torch.equal(RewardHead(64).weight, RewardHead(64, seed=1).weight)
    assert RewardHead(4095).weight.std().item() == pytest.approx(1 / 64, rel=0.05)
    assert RewardHead(8)(torch.ones(2, 3, 8, dtype=torch.bfloat16)).shape == (2, 3)
    assert RewardHead(8)(torch.ones(1, 8, dtype=torch.bfloat16)).dtype == torch.float32


def test_a_planted_order_is_learnt():
    """Rows whose answers end with token 7 are better than those that end with 9."""
    model = tiny_llama().eval()
    rows = some_rows(32)

    def ending(token):
        changed = [(row.ids[:-1] + [token], row.labels[:-1] + [token]) for row in rows]
        return collate([type(rows[0])(ids, labels) for ids, labels in changed], 0)

    with torch.no_grad():
        better, worse = (final_states(model, ending(token)).float() for token in (7, 9))
    head = RewardHead(32)
    start = bradley_terry(head(better), head(worse)).item()
    adam = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(40):
        adam.zero_grad()
        loss = bradley_terry(head(better[:16]), head(worse[:16]))
        loss.backward()
        adam.step()
    assert loss.item() < 0.1 * start
    assert pair_accuracy(head(better[16:]), head(worse[16:])) == 1.0
