"""`audit` from the command line and from Python."""

import json

import jsonschema
import pytest
from data import planted

from instruct_course import preflight
from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.config import AuditConfig

SCHEMA = json.loads((ASSETS / "schemas" / "audit.schema.json").read_text(encoding="utf-8"))


@pytest.fixture
def rows(tmp_path):
    return planted.write(tmp_path / "rows.jsonl", planted.uses())


def keys(report):
    return {finding["key"] for finding in report["findings"]}


def test_json_and_nothing_else(command, rows):
    code, out, err = command("audit", "--data", rows, "--template", "alpaca", "--json")
    report = json.loads(out)
    jsonschema.validate(report, SCHEMA)
    assert code == 0 and err == ""
    assert (report["model"], report["template"]) == ("nano", "alpaca")
    assert report["rows"]["audited"] == 24 and report["data"] == [str(rows)]


def test_a_page_and_a_terminal(command, rows, tmp_path):
    code, out, _ = command("audit", "--data", rows, "--html", tmp_path / "audit.html")
    assert code == 0 and "Nothing harmful was found." in out
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "Nothing harmful was found." in page


def test_what_is_meaningless_ends_with_2(command, tmp_path):
    file = planted.write(tmp_path / "rows.jsonl", planted.same(1.0)(None).rows)
    code, out, _ = command("audit", "--data", file)
    assert code == 2 and "Training on these rows is meaningless" in out
    code, _, _ = command("audit", "--data", file, "--json")
    assert code == 2


def test_what_cannot_be_read_at_all_is_one_sentence(command, tmp_path):
    file = planted.write(tmp_path / "rows.jsonl", [planted.row("Why?", " ")])
    code, _, err = command("audit", "--data", file)
    assert code == 2 and err.count("\n") == 1 and "no usable row was found" in err
    code, _, err = command("audit", "--data", tmp_path / "none.jsonl")
    assert code == 2 and "there is no such file" in err


def test_bad_rows_are_counted_and_nothing_is_left(tmp_path):
    bad = ['{"instruction": "Why?"', planted.row("Why?", " "), planted.row("Why?", True)]
    file = planted.write(tmp_path / "rows.jsonl", [*planted.uses(), *bad])
    report = preflight.audit(data=str(file), quiet=True)
    found = {f["key"]: f["rows"] for f in report["findings"]}
    assert found["row-unreadable"] == 2 and found["empty-answer"] == 1
    assert report["rows"]["unreadable"] == 3 and report["rows"]["audited"] == 27
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_the_built_in_rows_are_in_order():
    report = preflight.audit(quiet=True, limit=300)
    assert report["template"] == "article" and report["rows"]["audited"] == 300
    assert {f["severity"] for f in report["findings"]} <= {"note"}


def test_held_out_rows(tmp_path, rows):
    held = planted.write(tmp_path / "held.jsonl", planted.capitals())
    report = preflight.audit(data=str(rows), holdout=str(held), quiet=True)
    assert report["rows"]["held"] == 24 and report["rows"]["audited"] == 48
    assert report["data"] == [str(rows), str(held)] and "holdout-overlap" not in keys(report)
    report = preflight.audit(data=str(rows), holdout="last:0.25", quiet=True)
    assert report["rows"]["held"] == 6 and report["rows"]["audited"] == 24


def test_copies_among_held_out_rows(tmp_path):
    rows = planted.long_answers()
    copies = [each | {"instruction": each["instruction"] + " Tell me."} for each in rows[:2]]
    file = planted.write(tmp_path / "rows.jsonl", [*rows, *copies])
    report = preflight.audit(data=str(file), holdout="last:0.1", quiet=True)
    overlap = next(f for f in report["findings"] if f["key"] == "holdout-overlap")
    assert overlap["rows"] == report["rows"]["held"] == 2
    assert overlap["examples"][0]["text"].startswith("held out, as training row 1: How do I")


def test_a_local_folder_needs_no_weights(tmp_path, rows):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((ASSETS / "nano" / name).read_bytes())
    report = preflight.audit(data=str(rows), model=str(tmp_path), quiet=True)
    assert report["rows"]["trained"] == 24 and report["template"] == "article"


def test_a_model_that_is_not_there(rows, tmp_path):
    with pytest.raises(InputError, match="nano2: there is no such folder"):
        preflight.audit(data=str(rows), model="nano2")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="its tokenizer does not load"):
        preflight.audit(data=str(rows), model=str(tmp_path))


def test_only_the_tokenizer_of_a_hub_model_is_fetched(monkeypatch, tmp_path):
    import huggingface_hub

    asked = []

    def download(hub_id, **options):
        asked.append((hub_id, options["allow_patterns"]))
        return str(tmp_path)

    monkeypatch.setattr(preflight.hub, "config_file", lambda name: tmp_path / "config.json")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert preflight.tokenizer_folder("7b") == tmp_path
    hub_id, patterns = asked[0]
    assert hub_id == "Qwen/Qwen2.5-7B"
    assert not any("safetensors" in pattern for pattern in patterns)


def test_options_are_checked_as_everywhere(command):
    code, _, err = command("audit", "--max-length", "8")
    assert code == 2 and "--max-length 8: it must be at least 16" in err
    assert AuditConfig().max_length == 1024
