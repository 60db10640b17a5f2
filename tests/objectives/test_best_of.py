"""The best of k from n samples: against the list of all sets, and known answers."""

import math
from itertools import combinations

import numpy as np
import pytest

from instruct_course.common.errors import InputError
from instruct_course.objectives.best_of import best_of, kl_bound, sizes


def of_all_sets(rewards, values, k):
    """The mean over all sets of k samples; among equal rewards the mean of their values."""
    means = []
    for chosen in combinations(range(len(rewards)), k):
        top = max(rewards[i] for i in chosen)
        means.append(np.mean([values[i] for i in chosen if rewards[i] == top]))
    return np.mean(means)


@pytest.mark.parametrize("levels", [3, 1000], ids=["many ties", "few ties"])
def test_it_is_the_mean_over_all_sets(levels):
    rng = np.random.default_rng(0)
    rewards = rng.integers(0, levels, (4, 7)).astype(float)
    values = rng.normal(size=(4, 7))
    found = best_of(rewards, values)
    for i in range(4):
        expected = [of_all_sets(rewards[i], values[i], k) for k in range(1, 8)]
        assert found[i] == pytest.approx(expected, abs=1e-12)


def test_one_of_one_is_the_mean_and_n_of_n_the_best():
    rng = np.random.default_rng(1)
    rewards = rng.normal(size=(5, 64))
    curve = best_of(rewards, rewards)
    assert curve[:, 0] == pytest.approx(rewards.mean(1))
    assert curve[:, -1] == pytest.approx(rewards.max(1))
    assert (np.diff(curve, axis=1) > 0).all()


def test_it_is_unbiased():
    """Best of 2 of uniform rewards is 2/3 on average, best of 3 is 3/4, from sets of 4."""
    rewards = np.random.default_rng(2).uniform(size=(40_000, 4))
    means = best_of(rewards, rewards).mean(0)
    assert means == pytest.approx([1 / 2, 2 / 3, 3 / 4, 4 / 5], abs=0.005)


def test_equal_rewards_are_a_draw():
    assert best_of([[1.0, 1.0, 1.0]], [[0, 0, 3]])[0] == pytest.approx([1, 1, 1])


@pytest.mark.parametrize(
    "rewards, values, says",
    [
        ([[1.0, 2.0]], [[1.0]], r"not \(1, 2\) and \(1, 1\)"),
        ([1.0], [1.0], "must both be"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "must both be"),
        ([[math.nan]], [[1.0]], "not finite"),
    ],
)
def test_what_cannot_be_is_refused(rewards, values, says):
    with pytest.raises(InputError, match=says):
        best_of(rewards, values)


@pytest.mark.parametrize("m, n", [(1, 8), (2, 4), (50, 8), (10_000, 64)])
def test_the_bound_holds_and_is_near_where_answers_are_many(m, n):
    """The exact divergence where m answers are equally likely and have different rewards."""
    place = np.arange(m + 1) / m
    p = np.diff(place**n)
    p = p[p > 0]
    exact = (p * np.log(p * m)).sum()
    assert -1e-12 < exact <= kl_bound(n)
    assert m < 10_000 or exact == pytest.approx(kl_bound(n), rel=0.01)


def test_sizes():
    assert [sizes(n) for n in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]
    assert sizes(64)[-2:] == [32, 64]
    assert kl_bound(1) == 0
