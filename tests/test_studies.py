"""The studies that chapters show: their results belong to the code that stands there, and a row made again agrees."""
import json

import pytest

from tools import study

FOUND = study.find()
TOLERANCE = {"relative": .05, "absolute": .05}      # of losses and of shares; another processor trains along another path


@pytest.mark.parametrize("name", FOUND)
def test_results_belong_to_the_code(name):
    kept = json.loads((study.RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    assert kept["version"] == 1 and kept["code"] == study.digest(FOUND[name]), f"run python -m tools.study {name}"
    assert [r["setting"] for r in kept["rows"]] == study.define(name, FOUND[name])[1]


@pytest.mark.parametrize("name", FOUND)
def test_one_row_made_again_agrees(name):
    """The cheapest row; each number within the tolerance, or each seconds and bytes left alone."""
    kept = min(json.loads((study.RESULTS / f"{name}.json").read_text(encoding="utf-8"))["rows"], key=lambda r: r["seconds"])
    again = study.define(name, FOUND[name])[0](**kept["setting"])
    assert again.keys() == kept["result"].keys()
    for key, value in kept["result"].items():
        if isinstance(value, float) and "seconds" not in key:
            assert again[key] == pytest.approx(value, rel=TOLERANCE["relative"], abs=TOLERANCE["absolute"]), key
        elif not isinstance(value, float):
            assert again[key] == value, key


def test_no_results_without_a_study():
    assert {p.stem for p in study.RESULTS.glob("*.json")} == set(FOUND)
