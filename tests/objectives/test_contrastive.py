"""InfoNCE: known answers, a library, its gradient, and that one negative makes Bradley-Terry."""

import math

import pytest
import torch
from torch.nn import functional as F

from instruct_course.common.errors import InputError
from instruct_course.objectives.contrastive import info_nce, similarities
from instruct_course.objectives.reward import bradley_terry


def vectors(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=g)


def test_by_hand():
    """Right keys on the axes, wrong ones at a right angle: -log(e^2 / (e^2 + 1)) at τ = 1/2."""
    axes = torch.eye(2, dtype=torch.float64)
    expected = math.log(1 + math.exp(-2))
    assert info_nce(axes, 3 * axes, temperature=0.5).item() == pytest.approx(expected, abs=1e-14)


def test_equal_scores_cost_the_logarithm_of_their_number():
    same = torch.ones(5, 3, dtype=torch.float64)
    assert info_nce(same, same, temperature=0.07).item() == pytest.approx(math.log(5))
    more = torch.ones(5, 2, 3, dtype=torch.float64)
    assert info_nce(same, same, temperature=0.07, negatives=more).item() == pytest.approx(
        math.log(7)
    )


@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
def test_against_cosine_similarity_and_cross_entropy(temperature):
    q, k, extra = vectors(6, 4), vectors(6, 4, seed=1), vectors(6, 3, 4, seed=2)
    inside = F.cosine_similarity(q[:, None], k[None], dim=-1)
    outside = F.cosine_similarity(q[:, None], extra, dim=-1)
    library = F.cross_entropy(torch.cat([inside, outside], 1) / temperature, torch.arange(6))
    ours = info_nce(q, k, temperature=temperature, negatives=extra)
    torch.testing.assert_close(ours, library, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("in_batch, with_negatives", [(True, False), (True, True), (False, True)])
def test_gradients_are_those_of_finite_differences(in_batch, with_negatives):
    given = [vectors(4, 3), vectors(4, 3, seed=1)]
    given += [vectors(4, 2, 3, seed=2)] if with_negatives else []

    def loss(q, k, negatives=None):
        return info_nce(q, k, temperature=0.3, negatives=negatives, in_batch=in_batch)

    assert torch.autograd.gradcheck(loss, [v.requires_grad_() for v in given])


def test_one_negative_is_bradley_terry():
    q, k, wrong = vectors(7, 5), vectors(7, 5, seed=1), vectors(7, 1, 5, seed=2)
    cosines, right = similarities(q, k, wrong, in_batch=False)
    assert cosines.shape == (7, 2) and right.tolist() == [0] * 7
    ours = info_nce(q, k, temperature=0.1, negatives=wrong, in_batch=False)
    rewards = cosines / 0.1
    torch.testing.assert_close(ours, bradley_terry(rewards[:, 0], rewards[:, 1]))


def test_rows_and_their_order_and_lengths_of_vectors_do_not_matter():
    q, k = vectors(6, 4), vectors(6, 4, seed=1)
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    whole = info_nce(q, k, temperature=0.2)
    torch.testing.assert_close(info_nce(q[order], k[order], temperature=0.2), whole)
    torch.testing.assert_close(info_nce(7 * q, k / 3, temperature=0.2), whole)


def test_dtypes():
    q = vectors(4, 3)
    assert info_nce(q, q, temperature=1).dtype == torch.float64
    half = info_nce(q.bfloat16(), q.bfloat16(), temperature=1)
    assert half.dtype == torch.float32


@pytest.mark.parametrize(
    "queries, keys, options, said",
    [
        ((1, 3), (1, 3), {}, "no wrong key"),
        ((4, 3), (4, 3), {"in_batch": False}, "no wrong key"),
        ((4, 3), (5, 3), {}, r"not \(4, 3\), \(5, 3\)"),
        ((4, 3), (4, 3), {"negatives": torch.zeros(4, 3)}, r"\(4, 3\), \(4, 3\), \(4, 3\)"),
        ((4, 3), (4, 3), {"temperature": 0.0}, "temperature 0.0 is not above 0"),
        ((4, 3), (4, 3), {"temperature": math.nan}, "temperature nan is not above 0"),
    ],
)
def test_what_is_refused(queries, keys, options, said):
    with pytest.raises(InputError, match=said):
        info_nce(torch.ones(queries), torch.ones(keys), **{"temperature": 1.0} | options)
