"""Sampling: transformers' rules, draws that follow the probabilities, options with a range."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as lp

from instruct_course.common.errors import InputError
from instruct_course.sampling import Sampling, choose, random_draws, warp

seeds = st.integers(0, 2**31 - 1)


def scores(seed, rows=3, width=40):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 2, (rows, width)))


@settings(deadline=None, max_examples=60)
@given(seeds, st.floats(0.1, 5), st.integers(1, 60), st.floats(0.05, 0.99), st.floats(0.01, 1))
def test_each_rule_is_the_librarys(seed, temperature, k, p, m):
    z = scores(seed)
    for ours, theirs in (
        (Sampling(temperature=temperature), lp.TemperatureLogitsWarper(temperature)),
        (Sampling(temperature=1.0, top_k=k), lp.TopKLogitsWarper(k)),
        (Sampling(temperature=1.0, top_p=p), lp.TopPLogitsWarper(p)),
        (Sampling(temperature=1.0, min_p=m), lp.MinPLogitsWarper(m)),
    ):
        assert torch.equal(warp(z, ours), theirs(None, z)), ours


@settings(deadline=None, max_examples=60)
@given(
    seeds,
    st.floats(0.5, 3),
    st.floats(0.1, 3),
    st.integers(1, 60),
    st.floats(0.05, 0.99),
    st.floats(0.01, 1),
)
def test_all_rules_together_in_the_librarys_order(seed, penalty, temperature, k, p, m):
    z, row = scores(seed), torch.from_numpy(np.random.default_rng(seed + 1).integers(0, 40, (3, 7)))
    seen = torch.zeros_like(z, dtype=torch.bool).scatter(1, row, True)
    want = z
    for rule in (
        lp.RepetitionPenaltyLogitsProcessor(penalty),
        lp.TemperatureLogitsWarper(temperature),
        lp.TopKLogitsWarper(k),
        lp.TopPLogitsWarper(p),
        lp.MinPLogitsWarper(m),
    ):
        want = rule(row, want)
    got = warp(
        z,
        Sampling(temperature=temperature, top_k=k, top_p=p, min_p=m, repetition_penalty=penalty),
        seen,
    )
    torch.testing.assert_close(got, want, atol=1e-12, rtol=0)
    assert got.isfinite().any(1).all()


def test_choose_on_known_numbers():
    z = torch.tensor([[0.5, 0.25, 0.25]]).log().repeat(4, 1)
    warm = Sampling(temperature=1.0)
    assert choose(z, warm, torch.tensor([0.0, 0.4, 0.6, 0.99])).tolist() == [0, 0, 1, 2]
    assert choose(z, Sampling(), torch.zeros(4)).tolist() == [0] * 4
    out = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    assert [choose(out, warm, torch.tensor([d])).item() for d in (0.0, 0.5, 0.9999999)] == [1, 1, 1]
    with pytest.raises(InputError, match="NaN"):
        choose(torch.full((1, 3), torch.nan), warm, torch.zeros(1))


def test_draws_follow_the_distribution():
    z, n = torch.tensor([[0.6, 0.3, 0.1]]).log(), 20_000
    draws = torch.from_numpy(np.random.default_rng(0).random(n, dtype=np.float32))
    shares = choose(z.expand(n, 3), Sampling(temperature=1.0), draws).bincount(minlength=3) / n
    torch.testing.assert_close(shares, torch.tensor([0.6, 0.3, 0.1]), atol=0.015, rtol=0)


@pytest.mark.parametrize(
    "options, word",
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"min_p": -0.1}, "min_p"),
        ({"min_p": 1.1}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"beams": 0}, "beams"),
        ({"seed": -1}, "seed"),
        ({"beams": 2, "temperature": 1.0}, "temperature 0 only"),
    ],
)
def test_sampling_out_of_range(options, word):
    with pytest.raises(InputError, match=word):
        Sampling(**options)


def test_draws_of_a_row_are_its_own():
    warm = Sampling(temperature=1.0, seed=3)
    alone = random_draws([[5, 6]], warm, 4)
    among = random_draws([[5], [5, 6], [5, 6]], warm, 4)
    assert torch.equal(alone[0], among[1]) and not torch.equal(among[1], among[2])
    assert torch.equal(random_draws([[5, 6]], Sampling(), 4), torch.zeros(1, 4))
