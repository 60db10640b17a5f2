"""The page of results is made from runs."""

import re

import nbformat
import pytest

from tools import results


def scores(share, n, **more):
    low, high = max(0.0, share - 0.1), min(1.0, share + 0.1)
    return {"exact_match": share, "n": n, "interval": {"exact_match": [low, high]}, **more}


def report(share):
    """What `tune` writes of a run, with one group of each kind."""

    def judged(share, n):
        groups = {"splits": {"inputs": scores(share, n)}, "langs": {}, "tasks": {}}
        return {"loss": 1.5, "n": n, **groups}

    prompts = {"best": "few-shot", "few-shot": judged(0.5, 9)}
    return {
        "before": judged(0.0, 30) | {"best_prompt": prompts},
        "after": judged(share, 100),
        "majority_knowledge": 0.32,
        "seconds": {"all": 80.0},
    }


def test_the_table_has_intervals_and_rows():
    lines = results.table([report(0.9), report(0.8)]).splitlines()
    cells = "0 [0–10] of 30 | 50 [40–60] of 9 | 85 (80–90) | 100"
    assert lines[2] == f"| split **inputs** | {cells} |"


def test_it_is_written_between_two_comments(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- table -->\nold\n<!-- /table -->\nb\n", encoding="utf-8")
    results.write(page, "| new |")
    text = page.read_text(encoding="utf-8")
    assert text == "a\n<!-- table -->\n| new |\n<!-- /table -->\nb\n"
    page.write_text("no comments", encoding="utf-8")
    with pytest.raises(ValueError, match="0 places"):
        results.write(page, "| new |")


def test_the_page_has_its_place():
    assert len(results.BETWEEN.findall(results.PAGE.read_text(encoding="utf-8"))) == 1


def test_lesson_00_shows_the_same_numbers():
    page = results.PAGE.read_text(encoding="utf-8")
    shown = re.findall(r"\| split \*\*(\w+)\*\* \|.*\| (\d+) \(", page)
    lesson = nbformat.read(results.ROOT / "nbs" / "00_why.ipynb", as_version=4)
    source = next(cell.source for cell in lesson.cells if cell.id == "why-picture")
    assert len(shown) == 3
    for split, percent in shown:
        assert f'"{split}": {percent}' in source
