"""A finished run goes to the hub after asking, and nothing goes without."""

import json
import sys
from pathlib import Path

import pytest

import instruct_course
from instruct_course import recipe
from instruct_course.common.errors import InputError

FAST = {"max_steps": 1, "eval_rows": 0, "quiet": True}


@pytest.fixture
def uploads(monkeypatch, tmp_path_factory):
    """The calls that a hub would get; it gets none. The few rows are those of FAST."""
    import huggingface_hub

    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    row = json.dumps({"instruction": "Say {}.", "output": "yes {}"})
    path.write_text("".join(row.replace("{}", str(i)) + "\n" for i in range(12)), encoding="utf-8")
    monkeypatch.setitem(FAST, "data", str(path))

    calls = []

    class Hub:
        endpoint = "https://hub.test"

        def __init__(self, **options):
            pass

        def create_repo(self, repo, **options):
            calls.append(("create", repo, options))

        def upload_folder(self, *, repo_id, folder_path, **options):
            names = sorted(str(p.relative_to(folder_path)) for p in Path(folder_path).rglob("*"))
            calls.append(("upload", repo_id, names))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    return calls


def ask(monkeypatch, answer):
    import typer

    asked = []

    def confirm(text, **options):
        asked.append(text)
        return answer

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(typer, "confirm", confirm)
    return asked


@pytest.mark.parametrize("use_dora", [False, True])
def test_with_yes_the_adapter_and_its_card_go_up(uploads, tmp_path, use_dora):
    out = tmp_path / "r"
    instruct_course.tune(out=str(out), push_to_hub="me/it", yes=True, use_dora=use_dora, **FAST)
    (_, repo, options), (_, _, names) = uploads
    assert repo == "me/it" and options["private"] is True
    assert {"README.md", "export.json", "adapter/adapter_model.safetensors"} <= set(names)
    assert not any("metrics" in name or "heldout" in name for name in names)
    made = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert made["config"]["push_to_hub"] == "me/it"


def test_it_asks_before_the_training(uploads, tmp_path, monkeypatch):
    asked = ask(monkeypatch, True)
    seen = []
    instruct_course.tune(
        out=str(tmp_path / "r"), push_to_hub="me/it", on_step=lambda h: seen.extend(asked), **FAST
    )
    assert len(asked) == 1 and "private repository me/it" in asked[0] and seen == asked
    assert [call[0] for call in uploads] == ["create", "upload"]


def test_a_no_trains_and_uploads_nothing(uploads, tmp_path, monkeypatch):
    ask(monkeypatch, False)
    run = instruct_course.tune(out=str(tmp_path / "r"), push_to_hub="me/it", **FAST)
    assert not uploads and (run.path / "adapter").is_dir() and not (run.path / "hub").exists()


@pytest.mark.parametrize(
    "options, says",
    [
        ({"push_to_hub": "me/it"}, "--push-to-hub me/it: there is nobody to ask"),
        ({"push_to_hub": "it", "yes": True}, "--push-to-hub it: .* owner/name"),
        ({"yes": True}, "--yes: there is nothing to upload"),
    ],
)
def test_it_refuses_before_any_work(options, says, uploads, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "load_base", None)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(InputError, match=says):
        instruct_course.tune(out=str(tmp_path / "r"), **options, **FAST)
    assert not list(tmp_path.iterdir()) and not uploads


def test_a_stopped_run_is_not_uploaded(uploads, tmp_path):
    def stop(line):
        raise KeyboardInterrupt

    out = tmp_path / "r"
    options = FAST | {"max_steps": 2}
    instruct_course.tune(out=str(out), push_to_hub="me/it", yes=True, on_step=stop, **options)
    assert not uploads
    instruct_course.tune(out=str(out), resume=True, push_to_hub="me/it", yes=True, quiet=True)
    assert [call[0] for call in uploads] == ["create", "upload"]


def test_a_hub_that_refuses_leaves_a_whole_run(uploads, tmp_path, monkeypatch):
    import huggingface_hub

    def refuse(self, repo, **options):
        raise OSError("401 for token hf_secret")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(InputError, match="--push-to-hub me/it: the hub did not take it") as error:
        instruct_course.tune(out=str(tmp_path / "r"), push_to_hub="me/it", yes=True, **FAST)
    assert "hf_secret" not in str(error.value)
    assert (tmp_path / "r" / "report.json").exists() and (tmp_path / "r" / "hub").exists()
