"""A model of ModelScope, from a stand-in for its library: whole, announced, and nothing but safetensors."""

import json
import shutil
import sys
import types
from pathlib import Path

import pytest

from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.model import hub
from instruct_course.model.load import load_base
from instruct_course.plan import shapes

NANO = ASSETS / "nano"
NAME = "modelscope:own/nano"


class Library(types.ModuleType):
    """`modelscope` with one repository, own/nano, and a cache in a folder."""

    def __init__(self, cache: Path):
        super().__init__("modelscope")
        self.folder = cache / "own--nano"
        self.calls = []
        self.files = [
            {"Path": p.name, "Size": p.stat().st_size} for p in NANO.iterdir() if p.is_file()
        ]
        self.files += [
            {"Path": "pytorch_model.bin", "Size": 10**12},
            {"Path": "modeling_nano.py", "Size": 10},
        ]

    def HubApi(self):
        return self

    def get_model_files(self, repository, recursive):
        self.calls.append("list")
        assert repository == "own/nano", "NotExistError"
        return self.files

    def model_file_download(self, repository, file):
        self.calls.append(file)
        self.folder.mkdir(parents=True, exist_ok=True)
        return shutil.copy(NANO / file, self.folder)

    def snapshot_download(self, repository, allow_patterns, local_files_only=False):
        if local_files_only:
            if not self.folder.exists():
                raise LookupError("no snapshot")
            return str(self.folder)
        self.calls.append("download")
        assert not any(p.endswith((".py", ".bin", "*")) for p in allow_patterns)
        shutil.copytree(NANO, self.folder, dirs_exist_ok=True)
        return str(self.folder)


@pytest.fixture
def library(monkeypatch, tmp_path):
    made = Library(tmp_path / "cache")
    monkeypatch.setitem(sys.modules, "modelscope", made)
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    return made


def test_it_is_downloaded_once_and_said(library):
    said = []
    base = load_base(NAME, say=said.append)
    assert base.name == NAME and base.fingerprint == hub.fingerprint(NANO)
    assert said == ["downloading own/nano, 0.0 GB, from ModelScope"]
    assert hub.resolve(NAME, say=said.append) == library.folder
    assert library.calls == ["list", "download"] and len(said) == 1


def test_a_plan_fetches_the_configuration_alone(library):
    assert shapes.config(NAME) == shapes.config("nano")
    assert library.calls == ["config.json"]
    assert [p.name for p in library.folder.iterdir()] == ["config.json"]
    shapes.config(NAME)
    assert library.calls == ["config.json"], "the cache has it"


def test_a_folder_with_holes_is_filled(library):
    shapes.config(NAME)
    assert hub.is_whole(hub.resolve(NAME, say=lambda text: None))
    assert library.calls == ["config.json", "list", "download"]


def test_pickles_alone_are_refused(library):
    library.files = [f for f in library.files if not f["Path"].endswith(".safetensors")]
    with pytest.raises(InputError, match="has no .safetensors weights, and pickled ones are not"):
        hub.resolve(NAME)
    assert library.calls == ["list"]


def test_too_little_disk_is_said_before_anything_moves(library):
    library.files.append({"Path": "model-2.safetensors", "Size": 10**15})
    with pytest.raises(InputError, match="needs 1000000.0 GB more .* or set MODELSCOPE_CACHE"):
        hub.resolve(NAME)
    assert library.calls == ["list"]


@pytest.mark.parametrize(
    "name, says",
    [
        ("modelscope:nano", "is named as modelscope:owner/name"),
        ("modelscope:../own/nano", "is named as modelscope:owner/name"),
        ("modelscope:own/other", r"ModelScope did not give it \(AssertionError\)"),
    ],
)
def test_wrong_names_are_one_sentence(library, name, says):
    with pytest.raises(InputError, match=f"--model {name}: .*{says}"):
        hub.resolve(name)


def test_a_missing_library_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "modelscope", None)
    for ask in (hub.resolve, hub.config_file):
        with pytest.raises(InputError, match="pip install modelscope"):
            ask(NAME)


def test_a_run_finds_its_base_again(library, tmp_path):
    """tune, and the run's answer from a base that is found by its whole name."""
    import instruct_course
    from instruct_course.run import open_run

    rows = tmp_path / "rows.jsonl"
    row = json.dumps({"instruction": "Say {}.", "output": "yes {}"})
    rows.write_text("".join(row.replace("{}", str(i)) + "\n" for i in range(12)), encoding="utf-8")
    out = tmp_path / "r"
    options = {"data": str(rows), "max_steps": 1, "eval_rows": 0, "quiet": True}
    run = instruct_course.tune(model=NAME, out=str(out), **options)
    question = {"instruction": "Say yes.", "max_new_tokens": 3}
    assert run.made["base"]["name"] == NAME
    assert open_run(out).answer(**question) == run.answer(**question)
