"""Scores of answers: known pairs, parity with libraries, and what must hold for any text."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU, CHRF

from instruct_course.common.errors import InputError
from instruct_course.data.example import Example
from instruct_course.evaluate.contamination import contamination
from instruct_course.evaluate.intervals import interval
from instruct_course.evaluate.metrics import (
    bleu,
    chrf,
    exact_match,
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


@pytest.mark.parametrize(
    "call, says",
    [
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


def test_rouge_of_long_texts():
    """Bits past the width of a machine word: every third of 10,000 characters is another one."""
    text = "".join(random.Random(0).choices(SIGNS, k=9999))
    other = "".join("不" if i % 3 == 0 else c for i, c in enumerate(text))
    assert rouge_l(text, other) == pytest.approx(2 / 3) and rouge_l(text, text) == 1
