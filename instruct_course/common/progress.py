"""What a person sees while a run goes on: bars, time left, curves and sample answers."""

import html
import io
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["Progress", "duration", "curves", "samples"]
PIPE, PAGE, PICTURE = (
    5.0,
    1.0,
    2.0,
)  # seconds between two lines on a pipe, two updates of a page, two pictures


def duration(seconds: float) -> str:
    """A time in words that a person reads at once: 35 s, 4 min, 1 h 20 min, 3 d 4 h."""
    if not math.isfinite(seconds):
        return "?"
    for unit, parts, size, small in (
        ("s", 120, 1, None),
        ("min", 60, 60, None),
        ("h", 48 * 60, 60, "min"),
        ("d", math.inf, 3600, "h"),
    ):
        n = max(0, round(seconds / size))
        if n < parts:
            break
    if small is None:
        return f"{n} {unit}"
    n, rest = divmod(n, 60 if unit == "h" else 24)
    return f"{n} {unit}" + (f" {rest} {small}" if rest else "")


class _Speed:
    """Steps and tokens a second over the last `window` seconds, and five steps at least."""

    def __init__(self, window: float = 30.0):
        self.window, self.points = window, deque()

    def add(self, now: float, done: float, tokens: int = 0):
        """At the time `now` (seconds) `done` steps are done, the last with so many tokens."""
        if self.points and (now < self.points[-1][0] or done < self.points[-1][1]):  # begun anew
            self.points.clear()
        self.points.append((now, done, tokens + (self.points[-1][2] if self.points else 0)))
        while len(self.points) > 6 and now - self.points[1][0] >= self.window:
            self.points.popleft()

    def now(self) -> tuple[float, float]:
        """(steps, tokens) a second; zeros while too little is known."""
        (t, done, tokens), (t2, done2, tokens2) = self.points[0], self.points[-1]
        return ((done2 - done) / (t2 - t), (tokens2 - tokens) / (t2 - t)) if t2 > t else (0.0, 0.0)


def _in_notebook() -> bool:
    """Whether a kernel runs this (Jupyter, Colab, VS Code); asks IPython only where it is loaded already."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class Progress:
    """What a person sees while waiting: a bar on a terminal, one display in a notebook, a line every few seconds on a pipe, or nothing."""

    def __init__(self, quiet: bool = False, console=None):
        from rich.console import Console

        self.quiet, self.notebook = quiet, not quiet and console is None and _in_notebook()
        self.console = console or Console(stderr=True)
        self.running, self.speeds, self.lines, self.history = {}, {}, [], []
        self.bar = self.page = self.picture = None
        self.last, self.next_picture, self.drawn = -math.inf, 0.0, 0

    def say(self, text: str):
        """A line for the person who waits."""
        if self.notebook:
            self.lines.append(text)
            self._page()
        elif not self.quiet:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def __call__(self, what: str, done: int, total: int, detail: str = "", end: bool = False):
        """`done` of `total` parts of `what` are done; `end` when no more will come."""
        if not self.quiet:
            speed = self.speeds.setdefault(what, _Speed())
            speed.add(time.monotonic(), done)
            left = (total - done) / speed.now()[0] if speed.now()[0] else 0.0
            self._show(
                what,
                done,
                total,
                detail,
                f"{duration(left)} left" if left else "",
                end or done >= total,
            )

    def step(self, h: dict):
        """A training step as `train.fit` reports it; `heldout_loss` in it becomes a point of the live curve."""
        if self.quiet:
            return
        if h["step"] == 1 or not self.history:
            self.history, self.drawn, self.next_picture = [], 0, time.monotonic() + PICTURE
        self.history.append(h)
        speed, end = self.speeds.setdefault("training", _Speed()), h["step"] >= h["steps"]
        if h["step"] == 1:
            speed.add(0.0, 0)
        speed.add(h["seconds"], h["step"], h["tokens"])
        steps, tokens = speed.now()
        when = (
            f"in {duration(h['seconds'])}"
            if end
            else f"{duration((h['steps'] - h['step']) / steps)} left"
            if steps
            else ""
        )
        self._show(
            "training",
            h["step"],
            h["steps"],
            f"loss {h['loss']:.3f}" + (f"  {tokens:,.0f} tokens/s" if tokens else ""),
            when,
            end,
        )
        if self.notebook and (end or time.monotonic() >= self.next_picture):
            self._draw()

    def _show(self, what: str, done: int, total: int, detail: str, when: str, end: bool):
        inner = bool(
            self.running.keys() - {what}
        )  # another one is on its way, as training is while it is judged
        self.running[what] = (done, total, detail, when)
        line, now = self._line(what), time.monotonic()
        if self.console.is_terminal and not self.notebook:
            self._terminal(what, done, total, f"{detail}  {when}".strip(), end and inner)
        if end:
            del self.running[what], self.speeds[what]
        if self.bar is not None:
            if not self.running:
                self.close()
        elif end or now - self.last >= (PAGE if self.notebook else PIPE):
            self.last = now
            if self.notebook:
                self.lines += [line] * (end and not inner)
                self._page()
            else:
                self.say(line)

    def _line(self, what: str) -> str:
        done, total, *texts = self.running[what]
        return "  ".join(t for t in (f"{what}: {done}/{total}", *texts) if t)

    def _terminal(self, what: str, done: int, total: int, detail: str, gone: bool):
        if self.bar is None:
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self.bar, self.tasks = (
                Bar(
                    TextColumn("{task.description:22}", markup=False),
                    BarColumn(),
                    TextColumn("{task.percentage:3.0f}%"),
                    TextColumn("{task.fields[detail]}", markup=False),
                    console=self.console,
                    refresh_per_second=2,
                ),
                {},
            )
            self.bar.start()
        if what not in self.tasks:
            self.tasks[what] = self.bar.add_task(what, total=total, detail=detail)
        self.bar.update(self.tasks[what], completed=done, total=total, detail=detail)
        if gone:
            self.bar.remove_task(self.tasks.pop(what))

    def _update(self, name: str, bundle: dict):
        """Put `bundle` in place of the display `name`, which the first call makes."""
        from IPython.display import display

        shown = getattr(self, name)
        if shown is None:
            setattr(self, name, display(bundle, raw=True, display_id=True))
        else:
            shown.update(bundle, raw=True)

    def _page(self):
        plain = [("", line) for line in self.lines]
        plain += [
            (f'<progress value="{r[0]}" max="{r[1]}"></progress> ', self._line(what))
            for what, r in self.running.items()
        ]
        self._update(
            "page",
            {
                "text/html": "<pre>"
                + "\n".join(bar + html.escape(line) for bar, line in plain)
                + "</pre>",
                "text/plain": "\n".join(line for _, line in plain),
            },
        )

    def _draw(self):
        """The live curve. It takes about 1 % of the time: the next one waits for a hundred times what this one took (0.03 s)."""
        began, first, self.drawn = time.monotonic(), self.picture is None, len(self.history)
        fig = _figure(6, 2.6, layout=None)  # the constrained layout takes three times as long
        fig.subplots_adjust(0.1, 0.19, 0.98, 0.9)
        _loss(fig.subplots(), self.history)
        self._update("picture", {"image/png": _png(fig, 80), "text/plain": "the loss so far"})
        now = time.monotonic()
        self.next_picture = now + (
            PICTURE if first else max(PICTURE, 100 * (now - began))
        )  # the first one also loads matplotlib

    def close(self):
        """End what is shown; the last lines and the last picture stay."""
        for what, (
            done,
            total,
            detail,
            _,
        ) in self.running.items():  # it is not going on, so no time is left
            self.running[what] = (done, total, detail, "")
            if self.bar is not None:
                self.bar.update(self.tasks[what], detail=detail)
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        lines, self.running, self.speeds = [self._line(what) for what in self.running], {}, {}
        if self.notebook or not self.console.is_terminal:
            for line in lines:
                self.say(line)
        if self.notebook and self.drawn < len(self.history):
            self._draw()


def _figure(width: float, height: float, layout: str | None = "constrained"):
    """A figure that no window and no notebook shows by itself."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(fig)
    return fig


def _png(fig, dpi: int) -> bytes:
    file = io.BytesIO()
    fig.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def _loss(ax, history: list[dict]):
    """Loss of each step, its running mean, and the held-out loss where it was measured."""
    step, loss, share = (
        [h["step"] for h in history],
        [h["loss"] for h in history],
        max(1.0, len(history) / 20),
    )
    mean, weight, smooth = 0.0, 0.0, []
    for x in loss:
        mean, weight = mean + (x - mean) / share, weight + (1 - weight) / share
        smooth.append(mean / weight)
    held = [(h["step"], h["heldout_loss"]) for h in history if h.get("heldout_loss") is not None]
    every = len(history) // 1000 + 1
    ax.plot(step[::every], loss[::every], lw=0.8, alpha=0.4, label="a step")
    ax.plot(step[::every], smooth[::every], lw=1.6, color="C0", label="running mean")
    if held:
        ax.plot(*zip(*held), "o-", ms=4, lw=1, color="C1", label="held out")
    ax.set(xlabel="step", ylabel="loss (nats a token)", title="loss")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)


def curves(history: list[dict], path: Path):
    """Draw loss (and `heldout_loss`), learning rate and gradient norm of a training run into the PNG file `path`."""
    fig = _figure(10, 2.8)
    first, *others = fig.subplots(1, 3)
    _loss(first, history)
    for ax, key, label in zip(others, ("lr", "grad_norm"), ("learning rate", "gradient norm")):
        ax.plot([h["step"] for h in history], [h[key] for h in history], lw=1)
        ax.set(title=label, xlabel="step", ylabel=label)
        ax.grid(alpha=0.3)
    part = Path(path).with_name(f".{Path(path).name}.part")
    part.write_bytes(_png(fig, 110))
    os.replace(part, path)


def samples(
    answers: Iterable[tuple[str, str]],
    say: Callable[[str], None] = print,
    *,
    most: int = 3,
    width: int = 120,
):
    """Say the first `most` (instruction, answer) pairs, a line each, in `width` columns of a terminal at most (a Chinese character takes two)."""
    from rich.text import Text

    def cut(text: str, columns: int) -> str:
        short = Text("".join(c if c.isprintable() else " " for c in " ".join(text.split())).strip())
        short.truncate(columns, overflow="ellipsis")
        return short.plain

    for instruction, answer in list(answers)[:most]:
        asked = cut(instruction, width // 2)
        say(f"{asked} → {cut(answer, width - Text(asked).cell_len - 3)}")
