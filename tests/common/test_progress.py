"""What a person sees: on a pipe, on a terminal, in a real kernel; times and speeds."""

import base64
import io
import os
import re
import select
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_course.common import progress as progress_
from instruct_course.common.progress import Progress, Speed, duration, samples

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
    return Progress(file=file), file


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True

    def screen(self):
        """The lines as a terminal shows them: what carriage returns and cursor moves leave."""
        lines = [""]
        row = column = 0
        for part in re.findall(r"\x1b\[A|[\r\n]|[^\r\n\x1b]+", self.getvalue()):
            if part == "\x1b[A":
                row -= 1
            elif part == "\r":
                column = 0
            elif part == "\n":
                row += 1
                column = 0
                lines += [""] * (row >= len(lines))
            else:
                lines[row] = (
                    lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
                )
                column += len(part)
        return [line.rstrip() for line in lines]


@pytest.fixture
def page(monkeypatch):
    """A `Progress` as in a notebook, and the (name, bundle) pairs that it shows."""
    shown = []
    monkeypatch.setattr(progress_, "_in_notebook", lambda: True)
    progress = Progress()

    def update(name, bundle):
        shown.append((name, bundle))
        progress.display.displays[name] = True

    monkeypatch.setattr(progress.display, "update", update)
    return progress, shown


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
    speed = Speed()
    for i in range(n):
        speed.add(7.0 + i * each, i, tokens)
    assert speed.now() == pytest.approx((1 / each, tokens / each), rel=1e-6)


def test_the_speed_is_that_of_the_last_half_minute_and_begins_anew():
    speed = Speed(window=30)
    for t in range(100):
        speed.add(t, t, 10)
    for t in range(40):
        speed.add(99 + (t + 1) * 2, 100 + t, 10)  # half as fast
    assert speed.now() == pytest.approx((0.5, 5.0)) and len(speed.points) < 20
    speed.add(1.0, 3, 10)
    assert speed.now() == (0.0, 0.0)
    slow = Speed(window=30)
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
    progress.say("[bold]x[/] :cat: 你好")
    assert file.getvalue() == "[bold]x[/] :cat: 你好\n"


def test_a_terminal_shows_a_bar_with_loss_speed_and_time_left():
    file = Terminal()
    progress = Progress(file=file)
    steps = history(40)
    for h in steps[:20]:
        progress.step(h)
    progress.display.bars["training"].refresh()
    (bar,) = filter(None, file.screen())
    assert re.fullmatch(r"training +█+\S* +50% loss 0\.894  500 tokens/s  20 s left", bar)
    for n in (1, 2):  # judged in between: its bar comes and goes
        progress("judging [nano] {x}", n, 2)
    assert list(progress.display.bars) == ["training"]
    assert not any("judging" in line for line in file.screen())
    progress.say("half [bold]way[/] 你好")
    for h in steps[20:]:
        progress.step(h)
    assert not progress.display.bars
    said, bar = filter(None, file.screen())
    assert said == "half [bold]way[/] 你好"
    assert bar.startswith("training") and bar.endswith("100% loss 0.632  500 tokens/s  in 40 s")
    progress.close()
    progress.step(steps[0])
    progress.step(steps[1])
    progress.close()  # stopped early: no time is left
    progress.close()
    *_, bar = filter(None, file.screen())
    assert bar.endswith("5% loss 2.828  500 tokens/s") and file.screen()[-1] == ""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals here")
def test_a_terminal_that_reports_no_size_shows_a_bar_too():
    ours, theirs = os.openpty()  # 0 rows, 0 columns, as under docker before its first resize
    with open(theirs, "w", encoding="utf-8") as file:
        progress = Progress(file=file)
        progress("answers", 1, 2)
        progress("answers", 2, 2)
        file.flush()
        seen = b""
        while b"100%" not in seen and select.select([ours], [], [], 10)[0]:
            seen += os.read(ours, 10_000)
    os.close(ours)
    assert b"answers" in seen and b"100%" in seen


def test_another_bar_in_between_takes_nothing_away():
    from tqdm import tqdm

    file = Terminal()
    progress = Progress(file=file)
    progress.step(history(2)[0])
    with tqdm(total=3, desc="Loading weights", file=file, mininterval=0) as other:
        other.update(3)
        progress("answers", 1, 2)
        progress("answers", 2, 2)
    progress.step(history(2)[1])
    progress.close()
    lines = [line for line in file.screen() if "training" in line]
    assert lines and lines[-1].endswith("100% loss 2.828  500 tokens/s  in 2 s")
    piped_, file = piped()
    with tqdm(total=3, desc="Loading weights", file=io.StringIO()) as other:
        piped_("answers", 1, 2)
        other.update(3)
    piped_("answers", 2, 2)
    assert file.getvalue().splitlines() == ["answers: 1/2", "answers: 2/2"]


def test_without_a_kernel_nothing_asks_ipython():
    code = (
        "import sys; from instruct_course.common.progress import Progress; p = Progress()\n"
        "print(type(p.display).__name__, *(m in sys.modules for m in ('IPython', 'matplotlib')))"
    )
    assert subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    ).stdout.split() == ["_Lines", "False", "False"]


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
        "    h = {'step': i, 'steps': 80, 'loss': 3 / i, 'lr': 1.0, 'grad_norm': 1.0}",
        "    h |= {'tokens': 100, 'seconds': i / 10}",
        "    progress.step(h | ({'heldout_loss': 1.0} if i % 20 == 0 else {}))",
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


def test_steps_between_two_lines_write_nothing(clock):
    progress, file = piped()
    for h in history(2000, seconds=0.01)[:-1]:
        progress.step(h)
    assert len(file.getvalue().splitlines()) == 1


def test_pictures_wait_a_hundred_times_their_cost(clock, page, monkeypatch):
    progress, shown = page

    def png(fig, dpi):
        clock[0] += 0.05
        return b""

    monkeypatch.setattr(progress_.plots, "png", png)
    for h in history(300, seconds=0.1)[:-1]:
        clock[0] += 0.1
        progress.step(h)
    drawn = [name for name, _ in shown]
    # in 30 s: after 2 s and 4 s, then every 5 s one that takes 0.05 s
    assert drawn.count("picture") == 7 and drawn.index("picture") > 2
    assert drawn.count("page") <= 31  # a page per second at most
    progress.close()
    progress.close()
    assert [name for name, _ in shown].count("picture") == 8
    for h in history(10, seconds=0.1):  # another training begins: its own curve
        progress.step(h)
    assert len(progress.display.history) == 10
    assert [name for name, _ in shown].count("picture") == 9


def test_on_a_page_what_is_said_leaves_the_bar_with_its_time(clock, page, monkeypatch):
    progress, shown = page
    monkeypatch.setattr(progress_, "PICTURE_SECONDS", 1e9)
    for h in history(10)[:4]:
        clock[0] += 1
        progress.step(h)
    progress("judging", 1, 2)
    progress("judging", 2, 2)  # leaves no line while the training goes on
    progress.say("a → b")
    name, bundle = shown[-1]
    assert name == "page"
    assert bundle["text/plain"] == "a → b\ntraining: 4/10  loss 2.000  500 tokens/s  6 s left"
    assert bundle["text/html"] == (
        '<pre>a → b\n<progress value="4" max="10"></progress> '
        "training: 4/10  loss 2.000  500 tokens/s  6 s left</pre>"
    )


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
