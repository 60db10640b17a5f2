"""Generation: the rules are transformers' rules, batches and streams give the same text, stop strings and characters stay whole, limits speak."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as lp

from instruct_course.common.errors import InputError
from instruct_course.generate import Completion, Sampling, choose, complete, context, stream, warp

TEXTS = [
    "The capital of France is",
    "猫的英文是",
    "Sorted from smallest to largest, 3, 1, 2 is",
    "小明喜欢",
    "The",
]
seeds = st.integers(0, 2**31 - 1)


def scores(seed, rows=3, width=40):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 2, (rows, width)))


def ids(nano, text):
    return nano.tokenizer(text, add_special_tokens=False).input_ids


def library(nano, prompt, n, **options):
    rows = torch.tensor([prompt])
    out = nano.model.generate(
        rows,
        attention_mask=torch.ones_like(rows),
        max_new_tokens=n,
        do_sample=False,
        pad_token_id=0,
        **options,
    )
    return out[0, len(prompt) :].tolist()


def run(nano, prompts, n=12, **options):
    return complete(
        nano.model,
        nano.tokenizer,
        prompts,
        stop_ids=options.pop("stop_ids", [1]),
        max_new_tokens=n,
        **options,
    )


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


def test_greedy_batched_streamed_and_the_library_agree(nano):
    prompts = [ids(nano, t) for t in TEXTS]
    together = run(nano, prompts)
    assert run(nano, prompts, batch_size=2) == together
    for prompt, c in zip(prompts, together):
        assert run(nano, [prompt]) == [c]
        want = library(nano, prompt, 12, eos_token_id=1)
        assert c.ids == (want[: want.index(1)] if 1 in want else want)
        assert c.reason == ("end" if 1 in want else "length")
        assert (
            "".join(stream(nano.model, nano.tokenizer, prompt, stop_ids=[1], max_new_tokens=12))
            == c.text
        )


def test_repetition_penalty_is_the_librarys_in_a_padded_batch(nano):
    prompts = [ids(nano, t) for t in TEXTS]
    got = run(nano, prompts, 10, stop_ids=[], sampling=Sampling(repetition_penalty=1.3))
    assert [c.ids for c in got] == [
        library(nano, p, 10, eos_token_id=None, repetition_penalty=1.3) for p in prompts
    ]


def test_beams_are_the_librarys(nano):
    prompts = [ids(nano, t) for t in TEXTS[:2] + TEXTS[-1:]]
    got = run(nano, prompts, 6, stop_ids=[], sampling=Sampling(beams=3))
    assert [c.ids for c in got] == [
        library(nano, p, 6, eos_token_id=None, num_beams=3) for p in prompts
    ]
    assert list(
        stream(
            nano.model,
            nano.tokenizer,
            prompts[0],
            stop_ids=[],
            max_new_tokens=6,
            sampling=Sampling(beams=3),
        )
    ) == [got[0].text]


def test_end_token_stops_and_is_left_out(nano):
    prompt = ids(nano, TEXTS[0])
    free = run(nano, [prompt], stop_ids=[])[0].ids
    (c,) = run(nano, [prompt], stop_ids=[free[3]])
    assert c == Completion(free[:3], nano.tokenizer.decode(free[:3]), "end")


@pytest.mark.parametrize("text", [TEXTS[0], TEXTS[1]])
def test_stop_strings_anywhere_in_the_text(nano, text):
    prompt = ids(nano, text)
    whole = run(nano, [prompt], 16, stop_ids=[])[0].text
    for at in range(len(whole) - 3):
        stop = whole[at : at + 3]  # begins and ends within tokens as often as between them
        (c,) = run(nano, [prompt], 16, stop_ids=[], stop=[stop, "never seen"])
        assert (c.text, c.reason) == (whole[: whole.index(stop)], "stop")
        if at % 5 == 0:
            pieces = list(
                stream(
                    nano.model, nano.tokenizer, prompt, stop_ids=[], stop=stop, max_new_tokens=16
                )
            )
            assert "".join(pieces) == c.text


def test_what_only_looks_like_a_stop_string_comes_out_in_the_end(nano):
    prompt = ids(nano, TEXTS[0])
    (c,) = run(nano, [prompt], 6, stop_ids=[])
    pieces = list(
        stream(
            nano.model,
            nano.tokenizer,
            prompt,
            stop_ids=[],
            stop=c.text[-2:] + "~",
            max_new_tokens=6,
        )
    )
    assert "".join(pieces) == c.text


@pytest.mark.parametrize("n", [1, 2, 3, 12])
def test_no_half_characters(nano, n):
    prompt = ids(nano, TEXTS[3])  # the first character of its answer comes as several tokens
    (c,) = run(nano, [prompt], n, stop_ids=[])
    pieces = list(stream(nano.model, nano.tokenizer, prompt, stop_ids=[], max_new_tokens=n))
    assert (
        "\ufffd" not in c.text
        and not any("\ufffd" in p for p in pieces)
        and "".join(pieces) == c.text
    )
    assert c.text == nano.tokenizer.decode(c.ids).rstrip("\ufffd") and len(c.ids) == n
    assert (c.text == "") == (n == 1)


def test_seeds_do_not_depend_on_neighbours(nano):
    the, other = ids(nano, "The"), ids(nano, TEXTS[2])
    warm = Sampling(temperature=1.5, seed=4)
    two = run(nano, [the, the], sampling=warm)
    assert two[0].ids != two[1].ids
    assert run(nano, [other, the, other, the], sampling=warm)[1::2] == two
    assert run(nano, [the, the], batch_size=1, sampling=warm) == two
    assert run(nano, [the], sampling=Sampling(temperature=1.5, seed=5))[0].ids != two[0].ids
    assert (
        "".join(
            stream(nano.model, nano.tokenizer, the, stop_ids=[1], max_new_tokens=12, sampling=warm)
        )
        == two[0].text
    )


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


def test_limits_speak(nano):
    the, most = ids(nano, "The"), context(nano.model)
    assert most == 1024
    for prompts, options, words in (
        ([the, []], {}, "prompt 1 is empty"),
        ([the], {"n": most}, "1,024 that the model holds"),
        ([the], {"n": 0}, "max_new_tokens 0"),
        ([the], {"batch_size": 0}, "batch_size 0"),
        ([the], {"stop": [""]}, "stop string is empty"),
    ):
        with pytest.raises(InputError, match=words):
            run(nano, prompts, **options)
    with pytest.raises(InputError, match="is empty"):
        stream(
            nano.model, nano.tokenizer, [], stop_ids=[1]
        )  # at the call, before the first piece is asked for
    assert run(nano, []) == []


def test_training_mode_comes_back(fresh):
    the = ids(fresh, "The")
    for mode in (True, False):
        fresh.model.train(mode)
        run(fresh, [the], 2)
        list(stream(fresh.model, fresh.tokenizer, the, stop_ids=[], max_new_tokens=2))
        assert fresh.model.training is mode
    fresh.model.train()
    pieces = stream(fresh.model, fresh.tokenizer, the, stop_ids=[], max_new_tokens=9)
    next(pieces)
    assert not fresh.model.training
    pieces.close()  # left half way
    assert fresh.model.training


def test_progress_counts_prompts(nano):
    seen = []
    run(nano, [ids(nano, t) for t in TEXTS], 2, batch_size=2, progress=seen.append)
    assert seen == [2, 4, 5]
