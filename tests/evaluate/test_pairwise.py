"""Verdicts counted: outcomes of both orders, the sign test, strengths and agreement."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_course.common.errors import InputError
from instruct_course.evaluate.pairwise import bradley_terry, kappa, outcome, sign_test


def test_outcomes():
    a, b, t, u, f = "first", "second", "tie", "unreadable", "failed"
    assert [
        outcome(*v)
        for v in (
            (a, b),
            (b, a),
            (t, t),
            (a, a),
            (b, b),
            (a, t),
            (t, a),
            (t, b),
            (a, u),
            (u, t),
            (u, f),
            (f, a),
            (f, f),
        )
    ] == [
        "a",
        "b",
        "tie",
        "tie",
        "tie",
        "tie",
        "tie",
        "tie",
        "unreadable",
        "unreadable",
        "failed",
        "failed",
        "failed",
    ]


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_sign_test_is_the_binomial(wins, losses):
    scipy_stats = pytest.importorskip("scipy.stats")
    want = scipy_stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert sign_test(wins, losses) == pytest.approx(want, abs=1e-12) and sign_test(
        wins, losses
    ) == sign_test(losses, wins)


def test_bradley_terry():
    s = bradley_terry([[0, 30], [10, 0]])
    assert s[0] - s[1] == pytest.approx(math.log(3), abs=1e-10) and sum(s) == pytest.approx(
        0, abs=1e-12
    )
    wins = torch.tensor([[0, 7, 9.5], [3, 0, 6], [0.5, 4, 0]], dtype=torch.float64)
    free = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [free],
        max_iter=500,
        tolerance_grad=1e-13,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def loss():
        optimizer.zero_grad()
        out = -(wins * torch.nn.functional.logsigmoid(free[:, None] - free[None])).sum()
        out.backward()
        return out

    optimizer.step(loss)
    best = (free - free.mean()).detach().tolist()
    assert bradley_terry(wins.tolist()) == pytest.approx(best, abs=1e-6)
    with pytest.raises(InputError, match="never lost"):
        bradley_terry([[0, 5], [0, 0]])


def test_kappa():
    metrics = pytest.importorskip("sklearn.metrics")
    a, b = list("aabbttabba"), list("abbbtaabbt")
    assert (
        kappa(a, b) == pytest.approx(metrics.cohen_kappa_score(a, b), abs=1e-12)
        and kappa(a, a) == 1
    )
    assert kappa(list("aabb"), list("abab")) == 0
    for a, b in ((["x"], ["x"]), ([], []), (["a"], ["a", "b"])):
        with pytest.raises(InputError):
            kappa(a, b)
