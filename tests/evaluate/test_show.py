"""Runs and evaluations on a terminal: the numbers, and texts with brackets as they are."""

import io

from rich.console import Console

from instruct_course.data.example import Example
from instruct_course.evaluate import metrics, show

ROWS = [Example(f"Say {w}.", output=w, task="[say]", lang="en") for w in ("one", "two")]


def scores(texts):
    return metrics.score(texts, ROWS, losses=[(1.0, 2), (2.0, 2)])


def printed(report):
    out = io.StringIO()
    show.print_evaluation(report, "runs/[mine]/evaluations/x", Console(file=out, width=160))
    return out.getvalue()


REPORT = {
    "run": "[mine]",
    "model": "nano",
    "data": {
        "name": "test[1].jsonl",
        "n": 2,
        "left_out": [{"row": 3, "reason": "the column [input] is empty"}],
    },
    "after": scores(["one", "x"]),
    "before": None,
    "against": None,
    "best_prompt": None,
    "changes": {"base": None, "against": None},
    "contamination": None,
    "ifeval": None,
    "judge": None,
    "seconds": 1.0,
}


def test_an_evaluation_alone():
    out = printed(REPORT)
    assert "exact match" in out and "50 % [9–91]" in out and "0.750 [" in out
    assert "Not looked for: copies of training rows" in out
    assert "The judge" not in out and "minus" not in out


def test_brackets_are_shown_as_they_are():
    out = printed(REPORT)
    for text in ("[mine] (nano): test[1].jsonl", "task [say]", "the column [input] is empty"):
        assert text in out
    assert "Written to runs/[mine]/evaluations/x" in out


def test_what_was_compared_is_said():
    change = {"mean": 0.5, "low": 0.1, "high": 0.9, "significant": True}
    loss = {"mean": -0.2, "low": -0.5, "high": 0.1, "significant": False}
    changes = {"exact_match": change, "loss": loss, "n": 2}
    best = {"best": "plain", "plain": scores(["one", "two"])}
    copies = {"exact": 1, "near": 0, "rows": [], "without": {"exact_match": 0.5, "n": 1}}
    out = printed(
        REPORT
        | {
            "before": scores(["x", "x"]),
            "changes": {"base": changes, "against": None},
            "best_prompt": best,
            "contamination": copies,
        }
    )
    assert "[mine] minus the base, on the same 2 rows: exact match +50 [+10 to +90] points" in out
    assert "loss -0.2 [-0.5 to +0.1] (not significant)" in out
    assert "The base with its best prompt (plain): exact match 100 %" in out
    assert "1 exactly, 0 nearly. Without them: exact match 50.0 % of 1." in out
