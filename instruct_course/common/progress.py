"""What a person sees while a run goes on: bars, time left, a live curve and sample answers."""

import html
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TextIO

from instruct_course.common import plots

__all__ = ["Progress", "Speed", "Task", "duration", "samples"]
LINE_SECONDS = 5.0  # between two lines in a file
PAGE_SECONDS = 1.0  # between two updates of a notebook's page
PICTURE_SECONDS = 2.0  # between two pictures, at least


def duration(seconds: float) -> str:
    """A time in words that a person reads at once: 35 s, 4 min, 1 h 20 min, 3 d 4 h."""
    if not math.isfinite(seconds):
        return "?"
    whole, minutes, hours = (max(0, round(seconds / size)) for size in (1, 60, 3600))
    if whole < 120:
        return f"{whole} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return _two_units(minutes, 60, "h", "min")
    return _two_units(hours, 24, "d", "h")


def _two_units(n: int, size: int, large: str, small: str) -> str:
    """`n` small units, of which `size` make a large one."""
    n, rest = divmod(n, size)
    return f"{n} {large}" + (f" {rest} {small}" if rest else "")


class Speed:
    """Steps and tokens per second over the last `window` seconds, and five steps at least.

    tqdm's own rate is over the time on the clock. This one is over the time that the steps
    themselves report, so that a model judged in between does not slow the training down.
    """

    def __init__(self, window: float = 30.0):
        self.window = window
        self.points = deque()

    def add(self, now: float, done: float, tokens: int = 0) -> None:
        """At the time `now` (seconds) `done` steps are done, the last with so many tokens."""
        if self.points and (now < self.points[-1][0] or done < self.points[-1][1]):  # begun anew
            self.points.clear()
        before = self.points[-1][2] if self.points else 0
        self.points.append((now, done, before + tokens))
        while len(self.points) > 6 and now - self.points[1][0] >= self.window:
            self.points.popleft()

    def now(self) -> tuple[float, float]:
        """(steps, tokens) per second; zeros while too little is known."""
        began, first, tokens = self.points[0]
        ended, last, all_tokens = self.points[-1]
        if ended <= began:
            return 0.0, 0.0
        return (last - first) / (ended - began), (all_tokens - tokens) / (ended - began)


@dataclass(frozen=True)
class Task:
    """The state of one job: `done` of `total` parts, a detail, and the time left or taken."""

    what: str
    done: int
    total: int
    detail: str = ""
    when: str = ""

    def __str__(self):
        texts = (f"{self.what}: {self.done}/{self.total}", self.detail, self.when)
        return "  ".join(text for text in texts if text)


class _Display:
    """Where tasks are shown: it keeps those that are on their way. One subclass per place."""

    def __init__(self):
        self.tasks: dict[str, Task] = {}
        self.last = -math.inf

    def show(self, task: Task, *, end: bool) -> None:
        """The new state of a task; with `end` it is on its way no longer."""
        self.tasks[task.what] = task
        inner = len(self.tasks) > 1  # within another one, as judging is within training
        if end:
            del self.tasks[task.what]
        self.draw(task, end=end, inner=inner)

    def due(self, seconds: float) -> bool:
        """Whether so much time has passed since this was last true."""
        now = time.monotonic()
        if now - self.last < seconds:
            return False
        self.last = now
        return True

    def say(self, text: str) -> None:
        """A line of text."""
        raise NotImplementedError

    def draw(self, task: Task, *, end: bool, inner: bool) -> None:
        """Show the new state of a task, which may lie within another one."""
        raise NotImplementedError

    def step(self, h: dict, *, end: bool) -> None:
        """A training step, for those who draw a curve."""

    def close(self) -> None:
        """End all that is shown; its last state stays."""
        raise NotImplementedError

    def stop(self) -> list[Task]:
        """The tasks that end early: no time is left for them."""
        tasks = [replace(task, when="") for task in self.tasks.values()]
        self.tasks.clear()
        return tasks


class _Lines(_Display):
    """In a file or a pipe: a line every few seconds, and one at the end of each task.

    tqdm has no such mode: it writes carriage returns there, too.
    """

    def __init__(self, file: TextIO | None):
        super().__init__()
        self.file = file

    def say(self, text: str) -> None:
        print(text, file=self.file or sys.stderr, flush=True)

    def draw(self, task: Task, *, end: bool, inner: bool) -> None:
        due = self.due(0.0 if end else LINE_SECONDS)
        if due:
            self.say(str(task))

    def close(self) -> None:
        for task in self.stop():
            self.say(str(task))


def _size(file: TextIO) -> dict:
    """tqdm's options for the size of a terminal; one that reports 0 rows would show no bar."""
    try:
        known = all(os.get_terminal_size(file.fileno()))
    except (OSError, ValueError):  # no real terminal
        known = False
    return {"dynamic_ncols": True} if known else {"ncols": 80, "nrows": 20}


class _Bars(_Display):
    """On a terminal: tqdm's bars, one below the other."""

    def __init__(self, file: TextIO):
        super().__init__()
        self.file = file
        self.bars = {}

    def say(self, text: str) -> None:
        from tqdm import tqdm

        tqdm.write(text, file=self.file)

    def draw(self, task: Task, *, end: bool, inner: bool) -> None:
        if task.what not in self.bars:
            self.bars[task.what] = self._bar(task, leave=not inner)
        bar = self.bars[task.what]
        bar.total = task.total
        bar.postfix[0] = f"{task.detail}  {task.when}".strip()
        bar.update(task.done - bar.n)
        if end:
            bar.close()
            del self.bars[task.what]

    def _bar(self, task: Task, *, leave: bool):
        from tqdm import tqdm

        return tqdm(
            desc=task.what,
            total=task.total,
            leave=leave,
            file=self.file,
            **_size(self.file),
            mininterval=0.5,
            miniters=1,
            bar_format="{desc:22} {bar} {percentage:3.0f}% {postfix[0]}",
            postfix=[task.detail],
        )

    def close(self) -> None:
        for task in reversed(self.stop()):
            self.draw(task, end=True, inner=False)


class _Page(_Display):
    """In a notebook: one display of text with bars, and one picture with the curve of the loss.

    tqdm's notebook bars are widgets, of which a saved page keeps nothing; these stay as text.
    """

    def __init__(self):
        super().__init__()
        self.lines: list[str] = []
        self.displays = {}
        self.history: list[dict] = []
        self.drawn = 0
        self.next_picture = 0.0

    def say(self, text: str) -> None:
        self.lines.append(text)
        self._draw_page()

    def draw(self, task: Task, *, end: bool, inner: bool) -> None:
        if self.due(0.0 if end else PAGE_SECONDS):
            if end and not inner:
                self.lines.append(str(task))
            self._draw_page()

    def step(self, h: dict, *, end: bool) -> None:
        if h["step"] == 1 or not self.history:
            self.history = []
            self.drawn = 0
            self.next_picture = time.monotonic() + PICTURE_SECONDS
        self.history.append(h)
        if end or time.monotonic() >= self.next_picture:
            self._draw_picture()

    def close(self) -> None:
        tasks = self.stop()
        self.lines += map(str, tasks)
        if tasks:
            self._draw_page()
        if self.drawn < len(self.history):
            self._draw_picture()

    def update(self, name: str, bundle: dict) -> None:
        """Put `bundle` in place of the display `name`, which the first call makes."""
        from IPython.display import display

        if name in self.displays:
            self.displays[name].update(bundle, raw=True)
        else:
            self.displays[name] = display(bundle, raw=True, display_id=True)

    def _draw_page(self) -> None:
        plain = [*self.lines, *map(str, self.tasks.values())]
        page = [html.escape(line) for line in self.lines]
        for task in self.tasks.values():
            bar = f'<progress value="{task.done}" max="{task.total}"></progress>'
            page.append(f"{bar} {html.escape(str(task))}")
        text = "\n".join(page)
        self.update("page", {"text/html": f"<pre>{text}</pre>", "text/plain": "\n".join(plain)})

    def _draw_picture(self) -> None:
        """Draw the live curve, which may take about 1 % of the time: the next one waits."""
        began = time.monotonic()
        first = "picture" not in self.displays  # it also loads matplotlib
        self.drawn = len(self.history)
        fig = plots.figure(6, 2.6, layout=None)  # a constrained layout takes three times as long
        fig.subplots_adjust(0.1, 0.19, 0.98, 0.9)
        plots.plot_loss(fig.subplots(), self.history)
        self.update("picture", {"image/png": plots.png(fig, 80), "text/plain": "the loss so far"})
        now = time.monotonic()
        wait = PICTURE_SECONDS if first else max(PICTURE_SECONDS, 100 * (now - began))
        self.next_picture = now + wait


def _in_notebook() -> bool:
    """Whether a kernel runs this (Jupyter, Colab, VS Code); never loads IPython to find out."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class Progress:
    """What a person sees while waiting.

    A bar on a terminal, one display in a notebook, a line every few seconds in a file or a pipe.

    Args:
        quiet: show nothing at all.
        file: where to write, stderr by default; a notebook writes to its page.
    """

    def __init__(self, quiet: bool = False, file: TextIO | None = None):
        self.speeds: dict[str, Speed] = {}
        self.display: _Display | None = None
        stream = file or sys.stderr
        if quiet:
            return
        if file is None and _in_notebook():
            self.display = _Page()
        elif stream is not None and stream.isatty():
            self.display = _Bars(stream)
        else:
            self.display = _Lines(file)

    def say(self, text: str) -> None:
        """A line for the person who waits."""
        if self.display:
            self.display.say(text)

    def __call__(
        self, what: str, done: int, total: int, detail: str = "", end: bool = False
    ) -> None:
        """`done` of `total` parts of `what` are done; `end` when no more will come."""
        if not self.display:
            return
        speed = self.speeds.setdefault(what, Speed())
        speed.add(time.monotonic(), done)
        per_second, _ = speed.now()
        left = ""
        if per_second and done != total:
            left = f"{duration((total - done) / per_second)} left"
        self._show(Task(what, done, total, detail, left), end or done >= total)

    def step(self, h: dict) -> None:
        """A training step as `train.fit` reports it.

        Args:
            h: step, steps, loss, tokens, seconds (since the start); `heldout_loss` in it becomes a
                point of the live curve.
        """
        if not self.display:
            return
        end = h["step"] >= h["steps"]
        speed = self.speeds.setdefault("training", Speed())
        if h["step"] == 1:
            speed.add(0.0, 0)
        speed.add(h["seconds"], h["step"], h["tokens"])
        steps, tokens = speed.now()
        detail = f"loss {h['loss']:.3f}" + (f"  {tokens:,.0f} tokens/s" if tokens else "")
        when = ""
        if end:
            when = f"in {duration(h['seconds'])}"
        elif steps:
            when = f"{duration((h['steps'] - h['step']) / steps)} left"
        self._show(Task("training", h["step"], h["steps"], detail, when), end)
        self.display.step(h, end=end)

    def _show(self, task: Task, end: bool) -> None:
        if end:
            del self.speeds[task.what]
        self.display.show(task, end=end)

    def close(self) -> None:
        """End what is shown; the last lines and the last picture stay."""
        self.speeds.clear()
        if self.display:
            self.display.close()


def samples(
    answers: Iterable[tuple[str, str]],
    say: Callable[[str], None] = print,
    *,
    most: int = 3,
    width: int = 120,
) -> None:
    """Say the first answers, a line each.

    Args:
        answers: (instruction, answer) pairs.
        say: gets each line.
        most: lines.
        width: columns of a terminal, of which a Chinese character takes two.
    """
    for instruction, answer in list(answers)[:most]:
        asked = _cut(instruction, width // 2)
        say(f"{asked.plain} → {_cut(answer, width - asked.cell_len - 3).plain}")


def _cut(text: str, columns: int):
    """A text on one line of at most so many columns, with … where it is cut."""
    from rich.text import Text

    line = " ".join(text.split())
    short = Text("".join(c if c.isprintable() else " " for c in line).strip())
    short.truncate(columns, overflow="ellipsis")
    return short
