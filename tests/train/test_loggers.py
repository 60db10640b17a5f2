"""Trackers that cannot stop a training."""

import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pytest

from instruct_course.common.errors import InputError
from instruct_course.train import loggers
from instruct_course.train.loggers import open_logger

ROOT = Path(__file__).parents[2]


def history(n, seconds=1.0, tokens=500, **more):
    return [
        {
            "step": i,
            "steps": n,
            "loss": 4 / i**0.5,
            "lr": 1e-3 * i / n,
            "grad_norm": 1 / i,
            "tokens": tokens,
            "seconds": seconds * i,
            **more,
        }
        for i in range(1, n + 1)
    ]


class Broken:
    def __init__(self):
        self.calls = []

    def log(self, values, step):
        self.calls.append((values, step))
        if step == 2:
            raise ConnectionError("https://host/?write_token=abcdefghijklmnopqrstuvwxyz refused")

    def finish(self):
        self.calls.append("finish")


def test_a_tracker_that_fails_is_told_once_and_left_alone():
    said, broken = [], Broken()
    tracker = loggers.Logger("wandb", broken, said.append)
    for h in history(4, heldout_loss=1, interrupted=True, note="text", best=None):
        tracker.log(h)
    tracker.close()
    assert said == [
        "--report-to wandb failed and gets no more of this run: ConnectionError: … refused"
    ]
    assert [step for _, step in broken.calls] == [1, 2] and set(broken.calls[0][0]) == {
        "loss",
        "lr",
        "grad_norm",
        "tokens",
        "seconds",
        "heldout_loss",
    }


def test_unknown_or_missing_trackers_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(
        InputError, match="--report-to mlflow: choose one of tensorboard, wandb, trackio, swanlab"
    ):
        open_logger("mlflow", tmp_path, {})
    for name, hidden in (
        ("wandb", "wandb"),
        ("trackio", "trackio"),
        ("swanlab", "swanlab"),
        ("tensorboard", "torch.utils.tensorboard"),
    ):
        monkeypatch.setitem(sys.modules, hidden, None)
        monkeypatch.setitem(sys.modules, "tensorboardX", None)
        with pytest.raises(InputError, match=f"--report-to {name}: .* pip install -U {name}"):
            open_logger(name, tmp_path, {})


def test_only_the_first_process_tracks(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    tracker = open_logger("tensorboard", tmp_path / "run", {"lr": 1e-3})
    tracker.log(history(1)[0])
    tracker.close()
    assert not list(tmp_path.iterdir()) and not tracker.works


def need(name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")


def test_tensorboard_files_hold_the_numbers(tmp_path, capfd):
    need("tensorboard")
    tracker = open_logger(
        "tensorboard", tmp_path / "run", {"lr": 1e-3, "data": None, "model": "nano"}
    )
    for h in history(5, heldout_loss=2.0):
        tracker.log(h)
    tracker.close()
    assert capfd.readouterr() == ("", "")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "track" / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {
        "loss",
        "lr",
        "grad_norm",
        "tokens",
        "seconds",
        "heldout_loss",
    }
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [
        (i, pytest.approx(4 / i**0.5)) for i in range(1, 6)
    ]
    assert b"model: nano" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]


def run_tracker(name, folder, **env):
    """(stdout and stderr of a process of its own that tracks three steps, its folder)."""
    code = (
        "import sys; from pathlib import Path\n"
        "from instruct_course.train.loggers import open_logger\n"
        "for run in ('a', 'b'):\n"
        "    t = open_logger(sys.argv[1], Path(sys.argv[2]) / run, {'lr': 0.1, 'model': 'nano'})\n"
        "    for i in (1, 2, 3): t.log({'step': i, 'steps': 3, 'loss': 1 / i, 'tokens': 5})\n"
        "    t.close()\n"
    )
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "TRACKIO", "SWANLAB"))
    } | {
        "HOME": str(folder),
        "HF_HOME": str(folder / "hf"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, name, str(folder)],
        cwd=ROOT,
        env=clean | env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_wandb_stays_on_this_machine_and_silent(tmp_path):
    need("wandb")
    assert run_tracker("wandb", tmp_path) == ""
    for run in ("a", "b"):
        files = list((tmp_path / run / "track").rglob("*.wandb"))
        assert (
            len(files) == 1
            and "offline-run" in files[0].parent.name
            and b"nano" in files[0].read_bytes()
        )
    assert not list(tmp_path.rglob("wandb-metadata.json"))


def test_trackio_writes_here_and_prints_no_token(tmp_path):
    need("trackio")
    assert run_tracker("trackio", tmp_path) == ""
    read = (
        "import sys; from trackio.sqlite_storage import SQLiteStorage\n"
        "logs = SQLiteStorage.get_logs('instruct_course', sys.argv[1])\n"
        "print([(r['step'], r['loss']) for r in logs])"
    )
    for run in ("a", "b"):
        env = os.environ | {"TRACKIO_DIR": str(tmp_path / run / "track")}
        rows = subprocess.run(
            [sys.executable, "-c", read, run], env=env, capture_output=True, text=True, timeout=120
        ).stdout
        assert rows.strip() == str([(i, 1 / i) for i in (1, 2, 3)])
    assert not list((tmp_path / "hf").rglob("*.db"))


class FakeRun:
    def __init__(self, calls):
        self.calls = calls

    def log(self, values, step=None):
        self.calls.append((step, values))

    def finish(self):
        self.calls.append("finish")


@pytest.mark.parametrize("mode", [None, "online"])
def test_swanlab_is_offline_unless_it_is_told_otherwise(mode, tmp_path, monkeypatch):
    """A stand-in for the library: what it is started with, and what it gets."""
    calls = []
    module = types.ModuleType("swanlab")
    module.config = {}
    module.Settings = types.SimpleNamespace
    module.init = lambda **options: calls.append(options) or FakeRun(calls)
    monkeypatch.setitem(sys.modules, "swanlab", module)
    monkeypatch.delenv("SWANLAB_MODE", raising=False)
    if mode:
        monkeypatch.setenv("SWANLAB_MODE", mode)
    tracker = open_logger("swanlab", tmp_path / "mine", {"lr": 0.1, "data": None})
    for h in history(2):
        tracker.log(h)
    tracker.close()
    start, first, second, end = calls
    settings = vars(start.pop("settings"))
    assert start == {
        "project": "instruct_course",
        "experiment_name": "mine",
        "logdir": str(tmp_path / "mine" / "track"),
        "config": {"lr": 0.1},
        "mode": mode or "offline",
    }
    assert not any(settings["probe"].values()) and settings["terminal"]["proxy_type"] == "none"
    assert [step for step, _ in (first, second)] == [1, 2] and end == "finish"
    assert first[1]["loss"] == 4.0 and "steps" not in first[1]


def test_swanlab_stays_on_this_machine_and_silent(tmp_path):
    need("swanlab")
    assert run_tracker("swanlab", tmp_path, SWANLAB_API_KEY="") == ""
    for run in ("a", "b"):
        assert any(path.is_file() for path in (tmp_path / run / "track").rglob("*"))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_in_a_kernel_shows_nothing(name, tmp_path, monkeypatch):
    need(name)
    from nbclient import NotebookClient

    for key, value in (
        ("PYTHONPATH", str(ROOT)),
        ("HOME", str(tmp_path)),
        ("HF_HOME", str(tmp_path / "hf")),
        ("PYDEVD_DISABLE_FILE_VALIDATION", "1"),
    ):
        monkeypatch.setenv(key, value)
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from pathlib import Path\n"
        "from instruct_course.train.loggers import open_logger\n"
        f"t = open_logger({name!r}, Path('run'), {{'lr': 0.1}})\n"
        "t.log({'step': 1, 'loss': 2.0})\n"
        "t.close()\n"
        "print(t.works, len(list(Path('run/track').rglob('*'))) > 0)"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    assert [o.get("text") for o in notebook.cells[0].outputs] == ["False True\n"]
