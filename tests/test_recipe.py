"""The main job: from Python, from the command line, and when things go wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

import instruct_course
from instruct_course import recipe
from instruct_course import run as runs
from instruct_course.common.errors import InputError, OutOfMemory, TrainingDiverged
from instruct_course.common.files import ASSETS
from instruct_course.data.dataset import builtin

FILES = {
    "adapter",
    "template.json",
    "run.json",
    "run.yaml",
    "metrics.jsonl",
    "curves.png",
    "report.json",
    "heldout.jsonl",
}


def schema(name):
    return json.loads((ASSETS / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    with path.open("w", encoding="utf-8") as f:
        for r in builtin("train").select(range(60)):
            f.write(
                json.dumps(
                    {k: r[k] for k in ("instruction", "input", "output", "task", "lang")},
                    ensure_ascii=False,
                )
                + "\n"
            )
    return path


@pytest.fixture(scope="module")
def small_run(rows, tmp_path_factory):
    return instruct_course.tune(
        data=str(rows),
        holdout="0.2",
        epochs=2,
        out=str(tmp_path_factory.mktemp("runs") / "a"),
        quiet=True,
    )


def test_a_run_directory_is_whole_and_follows_its_schemas(small_run):
    assert {p.name for p in small_run.path.iterdir()} == FILES
    for name in ("report", "run", "template"):
        jsonschema.validate(
            json.loads((small_run.path / f"{name}.json").read_text(encoding="utf-8")), schema(name)
        )
    lines = (small_run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    for line in lines:
        jsonschema.validate(json.loads(line), schema("metrics"))
    assert (
        len(lines) == small_run.report["steps"]
        and (small_run.path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    )
    assert not list(small_run.path.glob("**/*.bin")) and not list(small_run.path.glob("**/*.pt"))


def test_no_path_of_the_machine_is_written(small_run, rows):
    for file in (*small_run.path.rglob("*.json*"), small_run.path / "run.yaml"):
        assert str(rows.parent) not in file.read_text(encoding="utf-8") and str(
            Path.home()
        ) + os.sep not in file.read_text(encoding="utf-8"), file.name


def test_the_schemas_refuse_what_is_wrong(small_run):
    report = json.loads((small_run.path / "report.json").read_text(encoding="utf-8"))
    for change in ({"version": 2}, {"before": None}, {"after": {"loss": 1}}, {"extra": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(report | change, schema("report"))


def test_tuning_lowers_the_loss_and_reports_it(small_run):
    before, after = small_run.report["before"], small_run.report["after"]
    assert after["loss"] < before["loss"] - 1 and after["n"] == before["n"] == 12
    metrics = [
        json.loads(line)
        for line in (small_run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert set(before["best_prompt"]) == {"best", "plain", "few-shot"}


def test_one_seed_gives_one_adapter_to_the_bit(small_run, rows, tmp_path):
    again = instruct_course.tune(
        data=str(rows), holdout="0.2", epochs=2, out=str(tmp_path / "b"), quiet=True
    )
    other = instruct_course.tune(
        data=str(rows), holdout="0.2", epochs=2, seed=1, out=str(tmp_path / "c"), quiet=True
    )
    bits = [
        (r.path / "adapter" / "adapter_model.safetensors").read_bytes()
        for r in (small_run, again, other)
    ]
    assert bits[0] == bits[1] != bits[2]


def test_run_yaml_makes_the_run_again_bitwise(small_run, rows, tmp_path, monkeypatch, command):
    """The file names its rows without their folder, so it is run from there; options override."""
    monkeypatch.chdir(rows.parent)
    file = small_run.path / "run.yaml"
    code, out, err = command("tune", "--config", file, "--out", tmp_path / "again", "--json")
    assert code == 0, err
    adapters = [
        (path / "adapter" / "adapter_model.safetensors").read_bytes()
        for path in (small_run.path, tmp_path / "again")
    ]
    assert adapters[0] == adapters[1]
    assert (tmp_path / "again" / "run.yaml").read_bytes() == file.read_bytes()
    code, out, _ = command(
        "tune", "--config", file, "--seed", "1", "--out", tmp_path / "other", "--json"
    )
    other = (tmp_path / "other" / "adapter" / "adapter_model.safetensors").read_bytes()
    assert code == 0 and json.loads(out)["steps"] == small_run.report["steps"]
    assert other != adapters[0]


@pytest.mark.parametrize(
    "text, says",
    [
        ("lora_rank: 8\n", "lora_rank is not an option; did you mean lora_r"),
        ("lr: fast\n", "lr is 'fast'; it must be of type float"),
        ("seed: true\n", "seed is True; it must be of type int"),
        ("skip_bad: 1\n", "skip_bad is 1; it must be of type bool"),
        ("lora_r: 0\n", "--lora-r 0: it must be at least 1"),
        ("version: 9\n", "version 9 is not known"),
        ("- lr\n", "it holds no options"),
        ("lr: [1\n", "this is not YAML"),
        (None, "it cannot be read"),
    ],
)
def test_a_wrong_config_is_one_sentence(tmp_path, command, text, says):
    path = tmp_path / "c.yaml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    code, out, err = command("tune", "--config", path, "--out", tmp_path / "run")
    assert code == 2 and says in err and "Traceback" not in err and not out
    assert not (tmp_path / "run").exists()


def test_yaml_reads_what_it_writes(tmp_path):
    """Numbers keep their bits and types, Chinese its characters; 1e-3 is a number too."""
    from instruct_course.common.options import read_yaml, write_yaml

    config = recipe.TuneConfig(lr=1 / 3, seed=7, noise="neftune:5", data="行.jsonl", epochs=2.0)
    write_yaml(tmp_path / "c.yaml", config, head="made by a test")
    assert recipe.TuneConfig(**read_yaml(tmp_path / "c.yaml", recipe.TuneConfig)) == config
    assert "行.jsonl" in (tmp_path / "c.yaml").read_text(encoding="utf-8")
    (tmp_path / "d.yaml").write_text("lr: 1e-3\nepochs: 3\n", encoding="utf-8")
    values = read_yaml(tmp_path / "d.yaml", recipe.TuneConfig)
    assert values == {"lr": 0.001, "epochs": 3.0} and type(values["epochs"]) is float


def test_defaults_follow_size_and_kind_and_not_the_name(tmp_path, nano):
    """A copy of nano under another name gets nano's defaults; a 7B in a folder those of the 7B."""
    import shutil

    from instruct_course.defaults import choose_template, count_parameters, fill_defaults

    shutil.copytree(ASSETS / "nano", tmp_path / "mine")
    tiny, small, large = (count_parameters(str(m)) for m in (tmp_path / "mine", "smollm2", "7b"))
    assert tiny == sum(p.numel() for p in load_float_nano().parameters()) and tiny < 5e6
    assert 134e6 < small < 135e6 and 7.6e9 < large < 7.7e9
    filled = [fill_defaults(recipe.TuneConfig(), n) for n in (tiny, small, large)]
    assert [c.lora_alpha for c in filled] == [256, 32, 32]
    assert [c.batch_tokens for c in filled] == [512, 512, 4096]
    assert [c.lr for c in filled] == [1e-3, 8e-4, 2e-4]
    kept = fill_defaults(recipe.TuneConfig(lr=0.5, epochs=1), large)
    assert (kept.lr, kept.epochs, kept.batch_tokens) == (0.5, 1, 4096)

    class Tokenizer:
        name_or_path = ""
        chat_template = "{{ messages }}"

        def get_vocab(self):
            return {"a": 0}

    assert choose_template(str(tmp_path / "mine"), nano.tokenizer) == "article"
    assert choose_template("Qwen/Qwen2.5-7B", Tokenizer()) == "alpaca"
    assert choose_template("Qwen/Qwen2.5-7B-Instruct", Tokenizer()) == "chat"
    Tokenizer.chat_template = None
    assert choose_template("Qwen/Qwen2.5-7B-Instruct", Tokenizer()) == "alpaca"


def load_float_nano():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(ASSETS / "nano")


def test_a_run_answers_with_the_model_that_was_trained(rows, tmp_path, monkeypatch):
    """`tune` gives its model on; asking it loads nothing, and says what a loaded one says."""
    run = instruct_course.tune(
        data=str(rows), holdout="0.2", epochs=1, out=str(tmp_path / "r"), quiet=True
    )
    opened = instruct_course.open_run(run.path)
    expected = opened.answer("Count the words.", "cat, dog", max_new_tokens=8)

    def refuse(*args, **options):
        pytest.fail("a base was loaded")

    monkeypatch.setattr(runs, "load_base", refuse)
    assert run.answer("Count the words.", "cat, dog", max_new_tokens=8) == expected
    run.release()
    monkeypatch.undo()
    assert run.answer("Count the words.", "cat, dog", max_new_tokens=8) == expected


@pytest.mark.parametrize("error", [TrainingDiverged, OutOfMemory])
def test_faults_of_the_training_are_not_the_users(rows, tmp_path, monkeypatch, command, error):
    """One sentence and exit code 1, and what was trained is kept."""

    def fail(*args, checkpoints, **options):
        (checkpoints.folder / "step-00000001").mkdir(parents=True)
        raise error("the loss is nan at step 2; lower --lr")

    monkeypatch.setattr(recipe.loop, "fit", fail)
    code, out, err = command("tune", "--data", rows, "--out", tmp_path / "r")
    assert code == 1 and "error: the loss is nan at step 2" in err and "Traceback" not in err
    assert "what was trained is kept" in err and not (tmp_path / "r").exists()
    assert (tmp_path / "r.unfinished" / "checkpoints").is_dir()


def test_peft_loads_the_adapter_and_it_answers_the_same(small_run):
    import torch
    from peft import PeftModel

    from instruct_course.model.load import load_base

    opened = instruct_course.open_run(small_run.path)
    model, tokenizer, _ = opened.ready()
    theirs = PeftModel.from_pretrained(load_base("nano").model, str(small_run.path / "adapter"))
    ids = torch.tensor([tokenizer("Count the words. cat, dog").input_ids])
    assert torch.equal(theirs(ids).logits, model(ids).logits)
    assert isinstance(opened.answer("Count the words.", "cat, dog", max_new_tokens=8), str)
    assert "".join(
        opened.stream("Count the words.", "cat, dog", max_new_tokens=8)
    ).strip() == opened.answer("Count the words.", "cat, dog", max_new_tokens=8)


def test_another_base_or_template_is_refused(small_run, tmp_path, command):
    """By the fingerprint of the weights and the text of the template, with a way to go on all the same."""
    import shutil

    for file, key, value, says in (
        (
            "adapter/origin.json",
            "base",
            {"name": "nano", "fingerprint": "0" * 64, "quantization": "nf4"},
            "the base",
        ),
        (
            "adapter/origin.json",
            "base",
            {"name": "nano", "fingerprint": None, "quantization": "none"},
            "the quantisation",
        ),
        ("template.json", "with_input", "<inst> {instruction}!<inp> {input}<out> ", "the template"),
    ):
        copy = tmp_path / says.replace(" ", "")
        shutil.copytree(small_run.path, copy)
        made = json.loads((copy / file).read_text(encoding="utf-8"))
        assert key in made
        (copy / file).write_text(json.dumps(made | {key: value}), encoding="utf-8")
        with pytest.raises(InputError, match=says):
            instruct_course.open_run(copy).answer("a")
        assert isinstance(
            instruct_course.open_run(copy, allow_mismatch=True).answer("a", max_new_tokens=2), str
        )
    code, out, err = command("chat", "--run", copy, "--prompt", "Count.")
    assert code == 2 and "the template" in err and not out
    assert (
        command(
            "chat", "--run", copy, "--prompt", "Count.", "--max-tokens", "2", "--allow-mismatch"
        )[0]
        == 0
    )


def test_an_existing_run_is_never_overwritten(small_run, rows, command):
    code, _, err = command("tune", "--data", rows, "--out", small_run.path)
    assert (
        code == 2
        and "already exists" in err
        and {p.name for p in small_run.path.iterdir()} == FILES
    )


def test_ctrl_c_saves_what_was_learnt(rows, tmp_path):
    def stop(h):
        if h["step"] == 3:
            raise KeyboardInterrupt

    run = instruct_course.tune(
        data=str(rows), out=str(tmp_path / "s"), epochs=50, quiet=True, on_step=stop
    )
    assert (
        run.report["stopped"]
        and run.report["steps"] == 3
        and {p.name for p in run.path.iterdir()} == FILES
    )
    jsonschema.validate(run.report, schema("report"))


def test_ctrl_c_before_the_first_step_leaves_nothing(rows, tmp_path, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe.lora, "attach", stop)
    with pytest.raises(KeyboardInterrupt):
        instruct_course.tune(data=str(rows), out=str(tmp_path / "deep" / "s"), quiet=True)
    assert not list(tmp_path.iterdir())


BAD = {
    "truncated.json": b'[{"instruction": "a", "output": "b"}, {"instr',
    "column.csv": b"instruction,input\na,b\n",
    "empty.json": b"",
    "empty.jsonl": b"",
    "latin.jsonl": '{"prompt": "é", "completion": "b"}'.encode("latin-1"),
    "big.jsonl": b'{"prompt": "a", "completion": "' + b"x" * 10_000_000 + b'"}\n',
    "null.json": b"null",
    "nulls.json": b'[{"prompt": "a", "completion": null}]',
    "numbers.json": b'[{"prompt": 1, "completion": 2}]',
    "rows.txt": b"hello",
    "blank.csv": b"\n\n",
    "broken.parquet": b"PAR1xxxx",
    "fit.jsonl": b'{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "'
    + b"word " * 3000
    + b'"}\n',
    "zero.csv": b"instruction,output\n\x00,b\n",
    "folder.json": None,
    "missing.json": None,
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_sentence_and_leave_nothing(tmp_path, command, name):
    path = tmp_path / name
    if BAD[name] is not None:
        path.write_bytes(BAD[name])
    elif name.startswith("folder"):
        path.mkdir()
    code, out, err = command("tune", "--data", path, "--out", tmp_path / "deep" / "run")
    said = [line for line in err.strip().splitlines() if line.startswith("error: ")]
    assert (
        code == 2 and len(said) == 1 and name in said[0] and err.strip().splitlines()[-1] == said[0]
    ), err[-600:]
    assert "Traceback" not in err and not out and {p.name for p in tmp_path.iterdir()} <= {name}


@pytest.mark.parametrize(
    "args,says",
    [
        (["--epochs", "0"], "--epochs"),
        (["--lr", "-1"], "--lr"),
        (["--lora-r", "0"], "--lora-r"),
        (["--template", "vicuna"], "--template"),
        (["--model", "./nowhere"], "--model"),
        (["--holdout", "0.1"], "--data"),
        (["--max-length", "3"], "--max-length"),
        (["--nonsense"], "nonsense"),
        (["--epochs", "many"], "epochs"),
    ],
)
def test_bad_options_are_named(tmp_path, command, args, says):
    code, _, err = command("tune", *args, "--out", tmp_path / "run")
    assert code == 2 and says in err and "Traceback" not in err and not list(tmp_path.iterdir())


def test_skip_bad_goes_on_and_tells(tmp_path, rows):
    path = tmp_path / "some.jsonl"
    path.write_text(
        rows.read_text(encoding="utf-8")
        + '{"instruction": "a"}\nnot json\n{"instruction": "long", "output": "'
        + "word " * 2000
        + '"}\n',
        encoding="utf-8",
    )
    run = instruct_course.tune(
        data=str(path),
        holdout="0.1",
        epochs=0.2,
        skip_bad=True,
        out=str(tmp_path / "run"),
        quiet=True,
    )
    rejects = [
        json.loads(line)
        for line in (run.path / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert {r["row"] for r in rejects} == {61, 62, 63} and all(r["reason"] for r in rejects)


def test_chat_answers_once(small_run, command):
    code, out, _ = command(
        "chat", "--run", small_run.path, "--prompt", "数一数。", "--input", "猫、狗", "--json"
    )
    assert (
        code == 0 and json.loads(out)["instruction"] == "数一数。" and "output" in json.loads(out)
    )
    code, _, err = command("chat", "--run", small_run.path.parent, "--prompt", "a")
    assert code == 2 and "no run directory" in err


def test_chat_talks(small_run, monkeypatch, command):
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("Count the words.\ncat, dog\n\n"))
    code, out, _ = command("chat", "--run", small_run.path)
    assert code == 0 and out.strip()


def test_help_and_import_are_instant():
    code = "import sys, instruct_course, instruct_course.cli; assert not {'torch', 'transformers', 'datasets', 'peft'} & set(sys.modules), 'heavy'; print('light')"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
        == "light"
    )


def test_the_main_job_learns(tuned_run):
    """One seed; the README's table has three. The limits are the promise, not what was measured."""
    main_report = json.loads((tuned_run / "report.json").read_text(encoding="utf-8"))
    jsonschema.validate(main_report, schema("report"))
    before, after = main_report["before"], main_report["after"]
    assert before["exact_match"] < 0.05 and before["best_prompt"]["best"] in ("plain", "few-shot")
    splits = {k: v["exact_match"] for k, v in after["splits"].items()}
    assert (
        splits["inputs"] >= 0.88 and splits["wordings"] >= 0.73 and splits["knowledge"] >= 0.83
    ), splits
    assert min(v["exact_match"] for v in after["langs"].values()) >= 0.8
