"""What a person sees: on a pipe, on a terminal, in a real kernel; times and speeds; trackers that cannot stop a training."""

import base64
import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from instruct_course.common import progress as progress_
from instruct_course.common.errors import InputError
from instruct_course.common.progress import Progress, _Speed, curves, duration, samples
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


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set: clock[0] = seconds."""
    now = [1000.0]
    monkeypatch.setattr(progress_.time, "monotonic", lambda: now[0])
    return now


def piped():
    file = io.StringIO()
    return Progress(console=Console(file=file, width=200)), file


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0 s"),
        (35.2, "35 s"),
        (119.4, "119 s"),
        (119.9, "2 min"),
        (240, "4 min"),
        (3569, "59 min"),
        (3571, "1 h"),
        (4800, "1 h 20 min"),
        (7199, "2 h"),
        (86400, "24 h"),
        (172800, "2 d"),
        (273600, "3 d 4 h"),
        (float("inf"), "?"),
        (float("nan"), "?"),
    ],
)
def test_durations_known(seconds, text):
    assert duration(seconds) == text


@settings(deadline=None)
@given(st.floats(0, 1e8))
def test_a_duration_read_back_is_near(seconds):
    text, unit = duration(seconds), {"s": 1, "min": 60, "h": 3600, "d": 86400}
    parts = [(int(n), u) for n, u in re.findall(r"(\d+) ([a-z]+)", text)]
    assert text == " ".join(f"{n} {u}" for n, u in parts) and all(
        n < {"min": 60, "h": 48}.get(u, 1e9) for n, u in parts
    )
    assert abs(sum(n * unit[u] for n, u in parts) - seconds) <= (
        0.51 if parts[-1][1] == "s" and len(parts) == 1 else 30.01 if seconds < 172000 else 1800.01
    )


@settings(deadline=None)
@given(st.floats(1e-3, 1e3), st.integers(1, 5000), st.integers(2, 60))
def test_a_constant_speed_is_found(each, tokens, n):
    speed = _Speed()
    for i in range(n):
        speed.add(7.0 + i * each, i, tokens)
    assert speed.now() == pytest.approx((1 / each, tokens / each), rel=1e-6)


def test_the_speed_is_that_of_the_last_half_minute_and_begins_anew():
    speed = _Speed(window=30)
    for t in range(100):
        speed.add(t, t, 10)
    for t in range(40):
        speed.add(99 + (t + 1) * 2, 100 + t, 10)  # half as fast
    assert speed.now() == pytest.approx((0.5, 5.0)) and len(speed.points) < 20
    speed.add(1.0, 3, 10)
    assert speed.now() == (0.0, 0.0)
    slow = _Speed(window=30)
    for t in range(20):
        slow.add(t * 100.0, t, 7)
    assert len(slow.points) == 6 and slow.now() == pytest.approx(
        (0.01, 0.07)
    )  # never fewer than five steps


def test_a_pipe_gets_a_line_every_five_seconds_and_the_last_one(clock):
    progress, file = piped()
    for h in history(100, tokens=500):
        clock[0] += 1
        progress.step(h)
    progress.close()
    lines = file.getvalue().splitlines()
    assert (
        lines[0] == "training: 1/100  loss 4.000  500 tokens/s  99 s left"
        and lines[1] == "training: 6/100  loss 1.633  500 tokens/s  94 s left"
    )
    assert lines[-1] == "training: 100/100  loss 0.400  500 tokens/s  in 100 s" and len(lines) == 21
    assert "\x1b" not in file.getvalue()


def test_other_work_has_its_time_left_and_is_throttled(clock):
    progress, file = piped()
    for n in range(1, 13):
        clock[0] += 2
        progress("base: answers", n, 12, "few-shot" if n == 4 else "")
    assert file.getvalue().splitlines() == [
        "base: answers: 1/12",
        "base: answers: 4/12  few-shot  16 s left",
        "base: answers: 7/12  10 s left",
        "base: answers: 10/12  4 s left",
        "base: answers: 12/12",
    ]


def test_stopped_early_the_last_state_is_said(clock):
    progress, file = piped()
    for h in history(100)[:3]:
        progress.step(h)
    progress.close()
    progress.close()
    assert file.getvalue().splitlines()[1:] == ["training: 3/100  loss 2.309  500 tokens/s"]


def test_quiet_is_quiet_and_markup_is_text(capsys):
    progress = Progress(quiet=True)
    progress.say("a")
    progress("a", 1, 2)
    for h in history(3):
        progress.step(h)
    progress.close()
    assert capsys.readouterr() == ("", "")
    progress, file = piped()
    progress.say("[bold]x[/] 你好")
    assert file.getvalue() == "[bold]x[/] 你好\n"


def test_a_terminal_shows_a_bar_with_loss_speed_and_time_left():
    file = io.StringIO()
    progress = Progress(console=Console(file=file, force_terminal=True, width=120, record=True))
    steps = history(40)
    for h in steps[:20]:
        progress.step(h)
    progress.bar.refresh()
    middle = file.getvalue()
    for n in (1, 2):  # judged in between: its bar comes and goes
        progress("judging [nano]", n, 2)
    assert list(progress.tasks) == ["training"] and progress.bar is not None
    for h in steps[20:]:
        progress.step(h)
    assert progress.bar is None
    plain = lambda text: re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert re.search(r"training +━.* 50% loss 0\.894  500 tokens/s  20 s left", plain(middle))
    assert (
        plain(file.getvalue())
        .rstrip()
        .splitlines()[-1]
        .rstrip()
        .endswith("100% loss 0.632  500 tokens/s  in 40 s")
    )
    progress.close()
    progress.step(steps[0])
    progress.close()  # stopped early: no time is left
    assert plain(file.getvalue()).rstrip().endswith("2% loss 4.000  500 tokens/s")


def test_without_a_kernel_nothing_asks_ipython():
    code = "import sys; from instruct_course.common.progress import Progress; p = Progress(); print(p.notebook, 'IPython' in sys.modules, 'matplotlib' in sys.modules)"
    assert subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    ).stdout.split() == ["False", "False", "False"]


def test_in_a_real_kernel_one_display_and_one_picture_remain(tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    code = [
        "import time, sys",
        "from instruct_course.common.progress import Progress",
        "progress = Progress()",
        "progress.say('loading <nano> 你好')",
        "for n in (1, 2): progress('base: answers', n, 2)",
        "for i in range(1, 61):",
        "    progress.step({'step': i, 'steps': 80, 'loss': 3 / i, 'lr': 1.0, 'grad_norm': 1.0, 'tokens': 100, 'seconds': i / 10, **({'heldout_loss': 1.0} if i % 20 == 0 else {})})",
        "    time.sleep(0.01)",
        "progress.close(); progress.close(); progress.say('written')",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("\n".join(code))])
    NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    page, picture = notebook.cells[0].outputs  # no streams, no second copy
    assert page.output_type == picture.output_type == "display_data"
    assert page.data["text/plain"].splitlines() == [
        "loading <nano> 你好",
        "base: answers: 2/2",
        "training: 60/80  loss 0.050  1,000 tokens/s",
        "written",
    ]
    assert (
        "loading &lt;nano&gt; 你好" in page.data["text/html"]
        and "<progress" not in page.data["text/html"]
    )
    png = base64.b64decode(picture.data["image/png"])
    assert (
        png[:8] == b"\x89PNG\r\n\x1a\n"
        and int.from_bytes(png[16:20], "big") == 480
        and len(png) < 60_000
    )


def test_a_step_costs_little(clock):
    import time

    progress, _ = piped()
    steps = history(2000, seconds=0.01)
    began = time.perf_counter()
    for h in steps:
        progress.step(h)
    assert (
        time.perf_counter() - began
    ) / 2000 < 5e-4  # half a millisecond, where the fastest step takes 20


def test_pictures_wait_a_hundred_times_their_cost(clock, monkeypatch):
    progress, _ = piped()
    drawn = []
    monkeypatch.setattr(progress, "notebook", True)
    monkeypatch.setattr(
        progress,
        "_update",
        lambda name, bundle: (drawn.append(name), setattr(progress, name, True)),
    )
    monkeypatch.setattr(
        progress_, "_png", lambda fig, dpi: clock.__setitem__(0, clock[0] + 0.05) or b""
    )
    for h in history(300, seconds=0.1)[:-1]:
        clock[0] += 0.1
        progress.step(h)
    assert (
        drawn.count("picture") == 7 and drawn.index("picture") > 2
    )  # in 30 s: after 2 s and 4 s, then every 5 s one that takes 0.05 s
    assert drawn.count("page") <= 31  # a page a second at most
    progress.close()
    progress.close()
    assert drawn.count("picture") == 8
    for h in history(10, seconds=0.1):  # another training begins: its own curve
        progress.step(h)
    assert len(progress.history) == 10 and drawn.count("picture") == 9


def test_on_a_page_what_is_said_leaves_the_bar_with_its_time(clock, monkeypatch):
    progress, _ = piped()
    shown = []
    monkeypatch.setattr(progress, "notebook", True)
    monkeypatch.setattr(progress, "_update", lambda name, bundle: shown.append(bundle))
    monkeypatch.setattr(progress_, "PICTURE", 1e9)
    for h in history(10)[:4]:
        clock[0] += 1
        progress.step(h)
    progress("judging", 1, 2)
    progress("judging", 2, 2)  # leaves no line while the training goes on
    progress.say("a → b")
    assert shown[-1]["text/plain"] == "a → b\ntraining: 4/10  loss 2.000  500 tokens/s  6 s left"
    assert (
        shown[-1]["text/html"]
        == '<pre>a → b\n<progress value="4" max="10"></progress> training: 4/10  loss 2.000  500 tokens/s  6 s left</pre>'
    )


def test_curves_are_drawn_whole_with_held_out_points(tmp_path, monkeypatch):
    plain, held = (
        history(50),
        [h | ({"heldout_loss": 2.0} if h["step"] % 10 == 0 else {}) for h in history(50)],
    )
    curves(plain, tmp_path / "a.png")
    curves(held, tmp_path / "b.png")
    assert {p.name for p in tmp_path.iterdir()} == {"a.png", "b.png"} and (
        tmp_path / "a.png"
    ).read_bytes() != (tmp_path / "b.png").read_bytes()
    fig = progress_._figure(6, 3)
    ax = fig.subplots()
    progress_._loss(ax, held)
    lines = {line.get_label(): line.get_xydata().tolist() for line in ax.get_lines()}
    assert lines["held out"] == [[s, 2.0] for s in (10, 20, 30, 40, 50)] and lines["a step"][3] == [
        4,
        2.0,
    ]
    assert lines["running mean"][0] == pytest.approx([1, 4.0]) and (
        ax.get_xlabel(),
        ax.get_ylabel(),
    ) == ("step", "loss (nats a token)")
    constant = [h | {"loss": 1.5} for h in plain]
    ax.clear()
    progress_._loss(ax, constant)
    assert [y for _, y in ax.get_lines()[1].get_xydata().tolist()] == pytest.approx([1.5] * 50)
    before = (tmp_path / "a.png").read_bytes()
    monkeypatch.setattr(Path, "write_bytes", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        curves(held, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.text(max_size=300), st.text(max_size=300)), max_size=5),
    st.integers(20, 150),
)
def test_samples_are_single_short_lines(answers, width):
    from rich.cells import cell_len

    said = []
    samples(answers, said.append, most=3, width=width)
    assert len(said) == min(3, len(answers))
    assert all(
        line.isprintable() and " → " in line + " " and cell_len(line) <= width for line in said
    )


def test_samples_known():
    said = []
    samples(
        [("Translate\n  into Chinese", "你好"), ("a " * 100, "\x1b[31mred")], said.append, width=40
    )
    assert said == ["Translate into Chin… → 你好", "a a a a a a a a a a… → [31mred"]
    said.clear()
    samples([("问" * 30, "答" * 30)] * 9, said.append, width=40)
    assert said == ["问问问问问问问问问 … → 答答答答答答答答…"] * 3


class Broken:
    def __init__(self):
        self.calls = []

    def log(self, values, step):
        self.calls.append((values, step))
        if step == 2:
            raise ConnectionError("https://host/?write_token=abcdefghijklmnopqrstuvwxyz refused")

    def finish(self):
        self.calls.append("finish")


def test_a_logger_that_fails_is_told_once_and_left_alone():
    said, broken = [], Broken()
    logger = loggers.Logger("wandb", broken, said.append)
    for h in history(4, heldout_loss=1, interrupted=True, note="text", best=None):
        logger.log(h)
    logger.close()
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


def test_unknown_or_missing_loggers_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(
        InputError, match="--report-to mlflow: choose one of tensorboard, wandb, trackio"
    ):
        open_logger("mlflow", tmp_path, {})
    for name, hidden in (
        ("wandb", "wandb"),
        ("trackio", "trackio"),
        ("tensorboard", "torch.utils.tensorboard"),
    ):
        monkeypatch.setitem(sys.modules, hidden, None)
        monkeypatch.setitem(sys.modules, "tensorboardX", None)
        with pytest.raises(InputError, match=f"--report-to {name}: .* pip install -U {name}"):
            open_logger(name, tmp_path, {})


def test_only_the_first_process_tracks(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    logger = open_logger("tensorboard", tmp_path / "run", {"lr": 1e-3})
    logger.log(history(1)[0])
    logger.close()
    assert not list(tmp_path.iterdir()) and not logger.works


def need(name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")


def test_tensorboard_files_hold_the_numbers(tmp_path, capfd):
    need("tensorboard")
    logger = open_logger(
        "tensorboard", tmp_path / "run", {"lr": 1e-3, "data": None, "model": "nano"}
    )
    for h in history(5, heldout_loss=2.0):
        logger.log(h)
    logger.close()
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


def run_logger(name, folder, **env):
    """(stdout and stderr of a process of its own that tracks three steps, its folder)."""
    code = (
        "import sys; from pathlib import Path; from instruct_course.train.loggers import open_logger\n"
        "for run in ('a', 'b'):\n"
        "    t = open_logger(sys.argv[1], Path(sys.argv[2]) / run, {'lr': 0.1, 'model': 'nano'})\n"
        "    for i in (1, 2, 3): t.log({'step': i, 'steps': 3, 'loss': 1 / i, 'tokens': 5})\n"
        "    t.close()\n"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "TRACKIO"))} | {
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
    assert run_logger("wandb", tmp_path) == ""
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
    assert run_logger("trackio", tmp_path) == ""
    read = "import sys; from trackio.sqlite_storage import SQLiteStorage as s; print([(r['step'], r['loss']) for r in s.get_logs('instruct_course', sys.argv[1])])"
    for run in ("a", "b"):
        env = os.environ | {"TRACKIO_DIR": str(tmp_path / run / "track")}
        rows = subprocess.run(
            [sys.executable, "-c", read, run], env=env, capture_output=True, text=True, timeout=120
        ).stdout
        assert rows.strip() == str([(i, 1 / i) for i in (1, 2, 3)])
    assert not list((tmp_path / "hf").rglob("*.db"))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_logger_in_a_kernel_shows_nothing(name, tmp_path, monkeypatch):
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
        f"import sys; sys.path[:0] = {sys.path!r}\nfrom pathlib import Path\nfrom instruct_course.train.loggers import open_logger\n"
        f"t = open_logger({name!r}, Path('run'), {{'lr': 0.1}})\nt.log({{'step': 1, 'loss': 2.0}})\nt.close()\nprint(t.works, len(list(Path('run/track').rglob('*'))) > 0)"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    assert [o.get("text") for o in notebook.cells[0].outputs] == ["False True\n"]
