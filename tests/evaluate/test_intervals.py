"""Intervals of means and of paired differences: parity with scipy, and what must hold for any numbers."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_course.common.errors import InputError
from instruct_course.evaluate.intervals import Difference, difference, interval

quick = settings(deadline=None, max_examples=60)
shares = st.lists(st.floats(0, 1), min_size=1, max_size=30)
bits = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=30)


def test_interval_is_scipys():
    rng = np.random.default_rng(0)
    v = np.sort(rng.random(200))
    library = scipy.stats.bootstrap(
        (v,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert interval(v) == pytest.approx(tuple(library), abs=1e-12)
    w = rng.integers(1, 30, 200).astype(float)

    def mean(v, w, axis):
        return (w * v).sum(axis) / w.sum(axis)

    library = scipy.stats.bootstrap(
        (v, w),
        mean,
        paired=True,
        vectorized=True,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert interval(v, w) == pytest.approx(tuple(library), abs=1e-12)
    for k, n in ((10, 10), (0, 10), (9, 10), (150, 200)):
        assert interval([1] * k + [0] * (n - k)) == pytest.approx(
            tuple(scipy.stats.binomtest(k, n).proportion_ci(method="wilson")), abs=1e-12
        )


def test_difference_known():
    a, b = (
        np.repeat([1.0, 1.0, 0.0, 0.0], [153, 7, 19, 21]),
        np.repeat([1.0, 0.0, 1.0, 0.0], [153, 7, 19, 21]),
    )
    d, more = difference(a, b), np.concatenate([b - a, [1, -1]])
    assert (d.mean, d.n, d.significant) == (pytest.approx(0.06), 200, True)
    assert (d.low, d.high) == pytest.approx(
        scipy.stats.norm.interval(0.95, loc=more.mean(), scale=scipy.stats.sem(more, ddof=0)),
        abs=1e-12,
    )
    assert str(d) == "+0.060 [+0.009, +0.110], n = 200"
    assert str(Difference(0.0, -0.1, 0.1, 9)).endswith("n = 9: not significant")


@quick
@given(shares | bits, st.randoms(use_true_random=False), st.integers(0, 9))
def test_interval_holds_the_mean_whatever_the_order(values, draw, seed):
    low, high = interval(values, samples=200, seed=seed)
    assert 0 <= low <= np.mean(values) + 1e-12 and np.mean(values) - 1e-12 <= high <= 1
    assert interval(values, samples=200, seed=seed) == (low, high)
    other = draw.sample(values, len(values))
    assert interval(other, samples=200, seed=seed) == pytest.approx((low, high), abs=1e-12)
    wide = interval(values, samples=200, seed=seed, level=0.99)
    assert wide[0] <= low + 1e-12 and wide[1] >= high - 1e-12


@quick
@given(bits | shares, st.integers(0, 99))
def test_difference_turns_its_sign(a, seed):
    b = np.random.default_rng(seed).permutation(a)
    d, e = difference(a, b, samples=2000), difference(b, a, samples=2000)
    assert (
        d.mean == pytest.approx(-e.mean, abs=1e-12)
        and d.low <= d.mean <= d.high
        and difference(a, b, samples=2000) == d
    )
    if set(a) <= {0.0, 1.0}:
        assert (d.low, d.high) == pytest.approx((-e.high, -e.low), abs=1e-12)
    assert difference(a, a).mean == 0 and not difference(a, a).significant


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: interval([]), "at least one row"),
        (lambda: interval([1.0, float("nan")]), "row 1"),
        (lambda: interval([1, 2], [1, -1]), "row 1"),
        (lambda: interval([1, 2], [0, 0]), "all weights are 0"),
        (lambda: interval([1], level=95), "level 95"),
        (lambda: difference([1], [1, 0]), "same rows"),
    ],
)
def test_errors_say_where(call, says):
    with pytest.raises(InputError, match=says):
        call()
