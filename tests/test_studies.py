"""The studies that notebooks show: their results belong to the code that stands there.

`python -m tools.study --check` makes a row again of each study whose code has changed since, and
records that it agrees; here only what it recorded is looked at, as a row takes minutes.
"""

import json

import jsonschema
import pytest

from tools import fingerprint, study

SCHEMAS = study.RESULTS.parent / "schemas"
SCHEMA = json.loads((SCHEMAS / "study.schema.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", study.find())
def test_results_belong_to_the_code(name):
    recorded = study.read(name)
    jsonschema.validate(recorded, SCHEMA)
    assert recorded["study"] == name
    code = study.hashes(study.find()[name])["code"]
    assert recorded["code"] == code, f"run python -m tools.study --check {name}"
    assert [row["setting"] for row in recorded["rows"]] == study.define(name)[1]


@pytest.mark.parametrize("name", study.find())
def test_results_agree_with_all_that_they_depend_on(name):
    now = study.hashes(study.find()[name])["depends"]
    assert study.read(name)["depends"] == now, f"run python -m tools.study --check {name}"


def test_no_results_without_a_study():
    assert {path.stem for path in study.RESULTS.glob("*.json")} == set(study.find())


# -- what the checks are made of


def row(result, **setting):
    return {"setting": setting, "result": result, "seconds": 1.0}


def test_numbers_agree_within_the_tolerance_or_as_one_more_seed():
    rows = [row({"loss": loss, "n": 3}, seed=i) for i, loss in enumerate((1.0, 1.1, 1.2))]
    rows.append(row({"loss": 9.0, "n": 3}, seed=0, way="other"))

    def wrong(**again):
        return study.disagreements(rows, rows[0], again)

    assert wrong(loss=1.05, n=3) == [] == wrong(loss=0.7, n=3)
    # the 95 % prediction interval of these three seeds: 1.1 ± 4.303 · 0.1 · √(4/3)
    assert wrong(loss=1.596, n=3) == []
    assert len(wrong(loss=1.598, n=3)) == 1
    assert wrong(loss=1.0, n=4) == ["n: 4, and 3 was recorded"]
    assert wrong(loss=1.0) == ["it gives ['loss'], and ['loss', 'n'] was recorded"]


def test_one_seed_alone_has_only_the_tolerance():
    only = row({"share": 0.4, "seconds_per_step": 1.0})
    assert study.disagreements([only], only, {"share": 0.44, "seconds_per_step": 9.0}) == []
    assert study.disagreements([only], only, {"share": 0.46, "seconds_per_step": 1.0})


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A study of one's own, out of date: (its file, a list of the results that it gives next)."""
    results = [{"x": 1.0}]
    source = "def study_a(n):\n    return {'x': 1.0}\na_grid = [{'n': 1}, {'n': 2}]\n"
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    monkeypatch.setattr(study, "find", lambda: {"a": source})
    monkeypatch.setattr(study, "define", lambda name: (lambda n: results[0], [{"n": 1}, {"n": 2}]))
    head = {"version": 1, "study": "a", "code": "0" * 16, "versions": {"torch": "1"}}
    study.write("a", head, [row({"x": 1.0}, n=1), row({"x": 2.0}, n=2)])
    return tmp_path / "a.json", results


def test_the_hashes_are_recorded_only_if_the_row_agrees(kept, capsys):
    path, results = kept
    before = path.read_text(encoding="utf-8")
    results[0] = {"x": 1.5}
    assert study.is_stale("a") and study.main(["--check"]) == 1
    assert "FAILED a: x: 1.5" in capsys.readouterr().out
    assert path.read_text(encoding="utf-8") == before
    results[0] = {"x": 1.01}
    assert study.main(["--check", "a"]) == 0
    after = study.read("a")
    jsonschema.validate(after, SCHEMA)
    assert not study.is_stale("a")
    assert after["rows"] == json.loads(before)["rows"] and after["versions"] == {"torch": "1"}
    assert before.splitlines()[1:] == path.read_text(encoding="utf-8").splitlines()[1:]
    assert study.main(["--check"]) == 0 and "nothing is stale" in capsys.readouterr().out


def test_a_broken_study_does_not_stop_the_others(kept, capsys, monkeypatch):
    monkeypatch.setattr(study, "check", lambda name: 1 / 0)
    assert study.main(["--check"]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_an_unknown_study_is_named(capsys):
    with pytest.raises(SystemExit):
        study.main(["nothing"])
    assert "no notebook holds a study nothing" in capsys.readouterr().err


def test_the_hash_is_of_the_code_and_not_of_its_looks():
    code = "def f(a):\n    return a + 1\n"
    looks = '"""Words."""\ndef f(a):  # one\n    """More."""\n\n    return (a\n        + 1)\n'
    assert fingerprint.code_hash(code) == fingerprint.code_hash(looks)
    assert fingerprint.code_hash(code) != fingerprint.code_hash(code.replace("1", "2"))
    assert fingerprint.code_hash("x = 'a'") != fingerprint.code_hash("x = 'b'")


def test_dependencies_are_followed_through_the_package():
    found = fingerprint.dependencies("from instruct_course.model import lora")
    assert {"model.lora", "common.errors"} <= found and "recipe" not in found
    assert "train.loop" in fingerprint.dependencies("from instruct_course import tune")
    assert fingerprint.dependencies("import torch") == set()


def test_a_change_below_is_seen(monkeypatch):
    source = "from instruct_course.model import lora"
    before = fingerprint.depends_hash([source], ["torch"])
    assert before == fingerprint.depends_hash([source], ["torch"])
    changed = fingerprint.modules()["common.errors"]
    real = fingerprint.file_hash
    monkeypatch.setattr(fingerprint, "file_hash", lambda p: "0" if p == changed else real(p))
    assert before != fingerprint.depends_hash([source], ["torch"])
    monkeypatch.undo()
    monkeypatch.setattr(fingerprint, "pins", lambda packages: {"torch": "3.0"})
    assert before != fingerprint.depends_hash([source], ["torch"])
