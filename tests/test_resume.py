"""tune, stopped and gone on with: by a kill, by Ctrl-C, under other settings, by several processes; and looks in between."""

import json
import signal
from pathlib import Path

import forked
import jsonschema
import pytest

import instruct_course
from instruct_course import recipe
from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.data.dataset import builtin
from instruct_course.train import loop

SETTINGS = {"holdout": "0.2", "epochs": 2, "noise": "neftune:5", "lora_dropout": 0.1, "quiet": True}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    with path.open("w", encoding="utf-8") as f:
        for r in builtin("train").select(range(60)):
            f.write(
                json.dumps(
                    {k: r[k] for k in ("instruction", "input", "output")}, ensure_ascii=False
                )
                + "\n"
            )
    return path


@pytest.fixture(scope="module")
def whole(rows, tmp_path_factory):
    return instruct_course.tune(
        data=str(rows), out=str(tmp_path_factory.mktemp("runs") / "whole"), **SETTINGS
    )


def adapter(path):
    return (Path(path) / "adapter" / "adapter_model.safetensors").read_bytes()


def losses(path):
    return [
        json.loads(line)["loss"]
        for line in (Path(path) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def test_a_killed_run_resumes_to_the_same_bits(whole, rows, tmp_path):
    """kill -9 in the middle of the second epoch; the command line says what waits, and --resume needs no other option."""
    code = (
        "import os, signal, instruct_course\n"
        "def stop(h):\n"
        "    if h['step'] == 7:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"instruct_course.tune(data={str(rows)!r}, out='killed', save_steps=2, on_step=stop,\n"
        f"    **{SETTINGS!r})"
    )
    assert forked.python(code, tmp_path).returncode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()] == ["killed.unfinished"]

    def command(*args):
        return forked.instruct_course(*args, cwd=tmp_path)

    refused = command("tune", "--data", rows, "--out", "killed")
    assert refused.returncode == 2 and "go on with --resume" in refused.stderr
    other = command("tune", "--resume", "--out", "killed", "--lr", "0.5")
    assert (
        other.returncode == 2
        and "--lr 0.5: the unfinished run was begun with 0.001" in other.stderr
    )
    done = command("tune", "--resume", "--out", "killed")
    assert done.returncode == 0 and "going on after step 6" in done.stderr, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["killed"]
    assert adapter(tmp_path / "killed") == adapter(whole.path) and losses(
        tmp_path / "killed"
    ) == losses(whole.path)
    again = json.loads((tmp_path / "killed" / "report.json").read_text(encoding="utf-8"))
    jsonschema.validate(
        again, json.loads((ASSETS / "schemas" / "report.schema.json").read_text(encoding="utf-8"))
    )
    for key in ("before", "after", "samples", "steps"):
        assert again[key] == whole.report[key], key


def test_ctrl_c_then_resume(whole, rows, tmp_path):
    def stop(h):
        if h["step"] == 3:
            raise KeyboardInterrupt

    out = tmp_path / "s"
    run = instruct_course.tune(data=str(rows), out=str(out), on_step=stop, **SETTINGS)
    assert run.report["stopped"] and run.report["steps"] == 3
    run = instruct_course.tune(resume=True, out=str(out), quiet=True)
    assert (
        not run.report["stopped"]
        and [p.name for p in tmp_path.iterdir()] == ["s"]
        and adapter(out) == adapter(whole.path)
    )


def test_there_is_nothing_to_resume(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for out in (None, "nowhere"):
        with pytest.raises(InputError, match="there is no unfinished run"):
            instruct_course.tune(resume=True, out=out, quiet=True)
    assert not list(tmp_path.iterdir())


def test_changed_rows_are_noticed(rows, tmp_path):
    copy, out = tmp_path / "copy.jsonl", tmp_path / "r"
    copy.write_text(rows.read_text(encoding="utf-8"), encoding="utf-8")

    def stop(h):
        if h["step"] == 2:
            raise KeyboardInterrupt

    instruct_course.tune(data=str(copy), out=str(out), on_step=stop, **SETTINGS)
    copy.write_text(
        rows.read_text(encoding="utf-8").replace('"output": "', '"output": "so ', 3),
        encoding="utf-8",
    )
    with pytest.raises(InputError, match="other settings: data"):
        instruct_course.tune(resume=True, out=str(out), quiet=True)
    copy.write_text(rows.read_text(encoding="utf-8"), encoding="utf-8")
    assert not instruct_course.tune(resume=True, out=str(out), quiet=True).report["stopped"], (
        "nothing was lost by the attempt"
    )


def test_a_look_in_between_keeps_the_best(rows, tmp_path):
    """The rate is far too large at the end of a constant schedule on few rows: the last step is not the best one."""
    run = instruct_course.tune(
        data=str(rows),
        holdout="0.3",
        epochs=12,
        lr=2e-3,
        schedule="constant",
        eval_steps=2,
        patience=3,
        out=str(tmp_path / "r"),
        quiet=True,
    )
    lines = [
        json.loads(line)
        for line in (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    looks = {h["step"]: h["heldout_loss"] for h in lines if "heldout_loss" in h}
    best = min(looks, key=looks.get)
    assert (
        set(looks) == {s for s in range(1, len(lines) + 1) if s % 2 == 0}
        and run.report["best_step"] == best
    )
    assert len(lines) == best + 6 < lines[0]["steps"], "three looks without a better one end it"
    assert run.report["after"]["loss"] == pytest.approx(looks[best], rel=1e-4), (
        "the adapter that is kept is that of the best look"
    )
    schema = json.loads((ASSETS / "schemas" / "metrics.schema.json").read_text(encoding="utf-8"))
    for line in lines:
        jsonschema.validate(line, schema)


def test_looks_change_nothing(whole, rows, tmp_path):
    run = instruct_course.tune(data=str(rows), out=str(tmp_path / "r"), eval_steps=3, **SETTINGS)
    assert losses(run.path) == losses(whole.path)


def test_a_failed_run_says_where_its_checkpoint_is(rows, tmp_path):
    def poison(h):
        return h["step"] == 5 and (_ for _ in ()).throw(OSError(28, "No space left on device"))

    out = tmp_path / "deep" / "r"
    with pytest.raises(OSError):
        instruct_course.tune(data=str(rows), out=str(out), save_steps=2, on_step=poison, **SETTINGS)
    assert {p.name for p in out.parent.iterdir()} == {"r.unfinished"} and not (
        out.parent / "r.unfinished" / "run"
    ).exists()
    assert not instruct_course.tune(resume=True, out=str(out), quiet=True).report["stopped"]


@pytest.mark.parametrize(
    "options, says",
    [
        ({"noise": "laplace:1"}, "--noise laplace:1"),
        ({"noise": "neftune"}, "--noise"),
        ({"schedule": "step"}, "--schedule step"),
        ({"patience": 2}, "--eval-steps"),
        ({"processes": 2}, "torchrun"),
        ({"report_to": "paper"}, "--report-to paper"),
        ({"micro_batches": 0}, "--micro-batches 0"),
        ({"lora_dropout": 1.0}, "--lora-dropout 1.0"),
        ({"save_steps": 0}, "--save-steps 0"),
        ({"resume": True}, "--resume"),
    ],
)
def test_bad_options_are_named(options, says, tmp_path):
    with pytest.raises(InputError, match=says):
        instruct_course.tune(out=str(tmp_path / "r"), quiet=True, **options)
    assert not list(tmp_path.iterdir())


def test_noise_by_name():
    assert recipe.parse_noise("gaussian:0.5") == loop.Noise("gaussian", 0.5) and recipe.parse_noise(
        "neftune:5:spare"
    ) == loop.Noise("neftune", 5, spare_response=True)


def test_two_processes_tune_one_adapter(rows, tmp_path):
    """The command under torchrun: one run directory, the losses of one process to 1e-4 (the answers are judged by the first alone)."""
    options = ["--holdout", "0.2", "--epochs", "1", "--processes", "2", "--out", "two"]
    for done in forked.two_instruct_courses("tune", "--data", rows, *options, cwd=tmp_path):
        assert done.returncode == 0, done.stderr[-3000:]
    one = instruct_course.tune(
        data=str(rows), holdout="0.2", epochs=1, out=str(tmp_path / "one"), quiet=True
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"] and losses(
        tmp_path / "two"
    ) == pytest.approx(losses(one.path), rel=1e-4)
