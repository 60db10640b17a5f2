"""An export is a whole folder that says what it is, and nothing is uploaded without a yes."""

import json
import os
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from instruct_course.common.files import ASSETS, sha256
from instruct_course.deploy import export as export_module
from instruct_course.deploy.export import FORMATS, NOT_RUN, export
from instruct_course.deploy.merged import is_merged


def valid(value):
    schema = ASSETS / "schemas" / "export.schema.json"
    jsonschema.validate(value, json.loads(schema.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def exported(tuned_run, tmp_path_factory):
    """{format: (folder, export.json)}."""
    home = tmp_path_factory.mktemp("all")
    options = {"gguf_dtype": "f16", "license": "mit", "quiet": True}
    return {f: export(tuned_run.path, home / f, format=f, **options) for f in FORMATS}


FILES = {
    "gguf": {"model.gguf", "tokenizer"},
    "ollama": {"model.gguf", "tokenizer", "Modelfile", "ask.py"},
    "vllm": {"model", "serve.sh", "ask.py"},
    "adapter": {"adapter", "template.json", "tokenizer.json", "tokenizer_config.json"},
}


@pytest.mark.parametrize("form", FORMATS)
def test_every_export_is_whole_and_was_checked(exported, form):
    folder, made = exported[form]
    assert {p.name for p in folder.iterdir()} == FILES[form] | {"README.md", "export.json"}
    valid(made)
    assert json.loads((folder / "export.json").read_text(encoding="utf-8")) == made
    for file, facts in made["files"].items():
        assert sha256(folder / file) == facts["sha256"]
    if form in ("gguf", "ollama"):
        wanted = {"reader": "transformers", "equal": True, "largest_difference": 0.0}
        assert made["gguf"]["read_back"] == wanted
    else:
        assert made["gguf"] is None
    if form in ("vllm", "ollama"):
        assert made["prompts"]["equal"] == made["prompts"]["n"] == 9
    else:
        assert made["prompts"] is None


@pytest.mark.parametrize("form", FORMATS)
def test_every_card_says_what_the_export_is(exported, tuned_run, form):
    text = (exported[form][0] / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "mit"
    assert head["language"] == ["en", "zh"]
    after = tuned_run.report["after"]
    data = tuned_run.made["data"]
    for said in (
        data["sha256"],
        f"{data['rows']:,} rows",
        f"{after['loss']:.3f} [",
        f"{100 * after['exact_match']:.1f} [",
        "Intended use",
        "lora_r 16",
        f"`{tuned_run.made['config']['template']}`",
        f"Not run when this was written: {', '.join(NOT_RUN[form]) or 'nothing'}.",
    ):
        assert said in text, said
    assert "$" not in text


@pytest.mark.parametrize("form", FORMATS)
def test_no_path_of_this_machine_is_in_an_export(exported, tuned_run, form):
    folder = exported[form][0]
    for file in folder.rglob("*"):
        if file.suffix in (".json", ".md", ".py", ".sh", "") and file.is_file():
            text = file.read_text(encoding="utf-8")
            assert str(folder.parent) not in text, file.name
            assert str(tuned_run.path.parent) not in text, file.name


def test_what_engines_are_started_with(exported):
    lines = (exported["ollama"][0] / "Modelfile").read_text(encoding="utf-8").splitlines()
    assert 'TEMPLATE """<inst> {{ .Prompt }}<inp><out>"""' in lines
    assert "PARAMETER num_ctx 1024" in lines
    folder = exported["vllm"][0]
    assert os.access(folder / "serve.sh", os.X_OK)
    assert is_merged(folder / "model")


def test_an_exported_adapter_is_the_run_s(exported, tuned_run):
    folder = exported["adapter"][0]
    for name in ("adapter_model.safetensors", "origin.json"):
        wanted = (tuned_run.path / "adapter" / name).read_bytes()
        assert (folder / "adapter" / name).read_bytes() == wanted


def test_the_command_and_its_refusals(tuned_run, tmp_path, command):
    run = ("export", "--run", tuned_run.path)
    code, out, _ = command(*run, "--out", tmp_path / "g", "--format", "adapter", "--json")
    valid(json.loads(out))
    assert code == 0
    for args, says in (
        (["--out", tmp_path / "g"], "already exists"),
        (["--out", tmp_path / "n", "--format", "onnx"], "--format onnx"),
        (["--out", tmp_path / "n", "--gguf-dtype", "q4"], "--gguf-dtype"),
        (["--out", tmp_path / "n", "--onto", "both"], "--onto"),
        (["--out", tmp_path / "n", "--push", "nobody"], "owner/name"),
        (["--out", tmp_path / "n", "--push", "me/it"], "nobody to ask"),
    ):
        code, out, err = command(*run, *args)
        assert code == 2
        assert says in err
        assert not out
    assert {p.name for p in tmp_path.iterdir()} == {"g"}


def test_a_failure_half_way_leaves_nothing(tuned_run, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(export_module, "model_card", fail)
    with pytest.raises(KeyboardInterrupt):
        export(tuned_run.path, tmp_path / "deep" / "out", format="adapter", quiet=True)
    assert not list(tmp_path.iterdir())


# -- the hub


@pytest.fixture
def uploads(monkeypatch):
    """What the hub was asked, without a network: (what, repository, options)."""
    import huggingface_hub

    calls = []

    def create(self, repo, **options):
        calls.append(("create", repo, options))

    def upload(self, *, repo_id, **options):
        calls.append(("upload", repo_id, options))

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    return calls


@pytest.fixture
def push(tuned_run, tmp_path, command):
    """Export an adapter to a folder of that name and push it."""

    def call(name, *more):
        options = ("--out", tmp_path / name, "--format", "adapter", "--push", "me/it", *more)
        return command("export", "--run", tuned_run.path, *options)

    return call


def test_nothing_is_uploaded_without_a_yes(push, uploads, tmp_path, monkeypatch):
    import typer

    assert push("a")[0] == 2
    assert not uploads
    assert not (tmp_path / "a").exists()
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(typer, "confirm", lambda text, **options: "me/it" not in text)
    code, _, err = push("b")
    assert code == 0
    assert not uploads
    assert "not uploaded" in err
    assert (tmp_path / "b").exists()


def test_with_a_yes_the_folder_goes_to_a_private_repository(push, uploads):
    code, out, err = push("c", "--yes")
    assert code == 0
    assert [call[:2] for call in uploads] == [("create", "me/it"), ("upload", "me/it")]
    assert uploads[0][2]["private"] is True
    assert Path(uploads[1][2]["folder_path"]).name == "c"
    assert "hf_secret" not in out + err


def test_a_hub_that_refuses_leaves_the_folder_and_no_token(push, uploads, tmp_path, monkeypatch):
    import huggingface_hub

    def refuse(self, repo, **options):
        raise OSError("401 for token hf_secret")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    code, out, err = push("d", "--yes")
    assert code == 2
    assert "hub did not take it" in err
    assert "hf_secret" not in out + err
    assert (tmp_path / "d" / "export.json").exists()
