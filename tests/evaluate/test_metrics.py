"""Scores of answers: known pairs, parity with libraries, and what must hold for any text and any numbers."""

import random
import time

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU, CHRF

from instruct_course.common.errors import InputError
from instruct_course.data.example import Example
from instruct_course.evaluate.contamination import contamination
from instruct_course.evaluate.metrics import (
    Difference,
    bleu,
    chrf,
    difference,
    exact_match,
    interval,
    majority,
    normalised_match,
    pick_shots,
    repetition,
    rouge_l,
    score,
    units,
)

WORDS = "the cat sat on a big mat in Paris and then ran home to sleep while Tom visited old friends".split()
SIGNS = "昨天汤姆在巴黎参观了一个大博物馆然后回家睡觉今天气很好我们去公"
quick = settings(deadline=None, max_examples=60)
shares = st.lists(st.floats(0, 1), min_size=1, max_size=30)
bits = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=30)


def sentences(count, seed=0, size=(1, 12)):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(*size))) for _ in range(count)]


@pytest.mark.parametrize(
    "said, wanted, same",
    [
        ("Paris.", "Paris", True),
        ("ＡＢＣ", "ABC", True),
        ("北京。", "北京", True),
        ("  a  b ", "a b", True),
        ("cat", "CAT", False),
        ("", "A", False),
    ],
)
def test_exact_match_known(said, wanted, same):
    assert exact_match(said, wanted) is same


@pytest.mark.parametrize(
    "said, wanted, same",
    [
        ("The Nile!", "Nile", True),
        ("《红楼梦》", "红楼梦", True),
        ("北京 是首都", "北京是首都。", True),
        ("Ｎｏ．", "no", True),
        ("", "A", False),
        ("A", "A", True),
        ("four", "4", False),
    ],
)
def test_normalised_match_known(said, wanted, same):
    assert normalised_match(said, wanted) is same


@pytest.mark.parametrize(
    "said, wanted, value",
    [
        ("小明去了博物馆", "小明去了博物馆", 1),
        ("小明参观了博物馆", "小明去了博物馆", 12 / 15),
        ("the cat sat on the mat", "the cat is on a mat", 8 / 12),
        ("👍", "👎", 0),
        ("", "", 1),
        ("", "x", 0),
        ("!", "!", 1),
    ],
)
def test_rouge_known(said, wanted, value):
    assert rouge_l(said, wanted) == pytest.approx(value, abs=1e-12)


def test_units_and_repetition_known():
    assert units("Tom 去了 Paris2！") == ["tom", "去", "了", "paris2"]
    assert [repetition(t) for t in ("Paris", "Tom visited a big museum", "a b c d a b c d")] == [
        0,
        0,
        pytest.approx(1 / 5),
    ]
    assert repetition("我很好。" * 10) == pytest.approx(1 - 3 / 27)


def test_rouge_is_the_librarys_on_english():
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    for a, b in zip(sentences(200), sentences(200, 1)):
        assert rouge_l(a, b) == pytest.approx(scorer.score(b, a)["rougeL"].fmeasure, abs=1e-12)


def test_sacrebleu_is_what_is_called():
    a, b = sentences(60, size=(4, 12)), sentences(60, 1, size=(4, 12))
    assert (
        bleu(a, b) == pytest.approx(BLEU().corpus_score(a, [b]).score / 100, abs=1e-12)
        and bleu(a, b) > 0
    )
    said, right = ["小明昨天参观了博物馆。"], ["小明昨天去了博物馆。"]
    assert bleu(said, right) == pytest.approx(
        BLEU(tokenize="zh").corpus_score(said, [right]).score / 100, abs=1e-12
    )
    assert bleu(said, right) == pytest.approx(0.5877, abs=1e-4) and bleu(["Paris"], ["Paris"]) == 1
    for x, y in [*zip(a, b), *zip(said, right)]:
        assert chrf(x, y) == pytest.approx(CHRF().sentence_score(x, [y]).score / 100, abs=1e-12)


def test_normalised_match_is_squads_in_english_and_chinese():
    """Against the scripts of SQuAD and of MLQA, its form for many languages, as lm-eval holds them."""
    squad = pytest.importorskip("lm_eval.tasks.super_glue.record.t5_utils").normalize_squad
    many = pytest.importorskip("lm_eval.tasks.mlqa.utils")
    seen, draw = set(), random.Random(0)
    for text in sentences(150, size=(1, 5)):
        for said in (
            text.upper() + "!",
            "The " + text,
            text.replace("a", "b"),
            f'"{text}"',
            text + " x",
        ):
            if squad(text).strip():  # where nothing is left, ours is stricter on purpose
                seen.add(normalised_match(said, text))
                assert (
                    normalised_match(said, text)
                    == (squad(said) == squad(text))
                    == many.exact_match_score(said, text, "en")
                )
    for _ in range(150):
        text = "".join(draw.choices(SIGNS, k=draw.randint(1, 8)))
        for said in (
            text + "。",
            f"《{text}》",
            "，".join(text),
            " ".join(text),
            text + "不",
            text[::-1],
        ):
            seen.add(("zh", normalised_match(said, text)))
            assert normalised_match(said, text) == many.exact_match_score(said, text, "zh")
    assert seen == {True, False, ("zh", True), ("zh", False)}


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
@given(st.text(max_size=40), st.text(max_size=40))
def test_scores_of_any_texts_are_shares(a, b):
    for f in (exact_match, normalised_match, rouge_l, chrf, lambda x, y: bleu([x], [y])):
        assert 0 <= f(a, b) <= 1
    assert rouge_l(a, b) == rouge_l(b, a) and 0 <= repetition(a) <= 1
    assert (
        exact_match(a, a)
        and normalised_match(a, a)
        and rouge_l(a, a) == 1
        and chrf(a, a) == pytest.approx(1)
    )


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
        (lambda: contamination([], [], near=80), "near 80"),
        (lambda: score([], []), "no rows"),
        (lambda: score(["a"], ROWS), r"row 1 \('Two'\) has no prediction"),
        (lambda: score(["a", None], ROWS), "row 1"),
        (lambda: score(["a", "b", "c"], ROWS), "3 predictions for 2 rows"),
        (lambda: score(["a", "b"], ROWS, reasons=["end"]), "1 reasons for 2 rows"),
        (lambda: score(["a", "b"], ROWS, losses=[(1.0, 2)]), "1 losses for 2 rows"),
        (lambda: score(["a", "b"], ROWS, losses=[(1.0, 2), (float("nan"), 2)]), "row 1"),
        (lambda: score(["a", "b"], ROWS, losses=[(0.0, 0)] * 2), "no row has a token"),
    ],
)
def test_errors_say_where(call, says):
    with pytest.raises(InputError, match=says):
        call()


ROWS = [
    Example("One", output="Paris", task="t", lang="en", split="s"),
    Example("Two", output="北京", task="u", lang="zh", split="s"),
]


def test_score_known():
    got = score(["Paris.", ""], ROWS, reasons=["end", "length"], losses=[(3.0, 1), (1.8, 9)])
    assert (got["exact_match"], got["rouge_l"], got["n"], got["empty"], got["stopped"]) == (
        0.5,
        0.5,
        2,
        1,
        0.5,
    )
    assert (got["loss"], got["tokens"]) == (pytest.approx(0.48), 10) and got[
        "perplexity"
    ] == pytest.approx(np.exp(0.48))
    assert got["length"] == {"answers": 0.5, "references": 1.5} and got["interval"][
        "exact_match"
    ] == list(interval([1, 0]))
    assert got["interval"]["loss"] == list(interval([3.0, 0.2], [1, 9]))
    assert {k: v["exact_match"] for k, v in got["langs"].items()} == {"en": 1, "zh": 0} and got[
        "splits"
    ]["s"]["n"] == 2
    assert score(["Paris", "x"], ROWS)["stopped"] is None and "loss" not in score(
        ["Paris", "x"], ROWS
    )


def test_majority_and_shots():
    rows = [Example("Q", output=o, task="t", lang="en") for o in ("a", "a", "b")]
    assert majority(rows) == pytest.approx(2 / 3) and majority([]) == 0
    assert pick_shots(ROWS[0], [ROWS[0], ROWS[1]]) == [ROWS[1]]


def test_long_texts_and_many_rows_are_fast():
    draw = random.Random(0)
    a, b = ("".join(draw.choices(SIGNS, k=10_000)) for _ in range(2))
    start = time.perf_counter()
    assert 0 < rouge_l(a, b) < 1 and rouge_l(a, a) == 1
    assert time.perf_counter() - start < 2
    start = time.perf_counter()
    interval(np.random.default_rng(0).random(2000))
    assert time.perf_counter() - start < 2
