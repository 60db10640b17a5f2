"""Pictures on every machine: Chinese characters, figures without a window, the curves of a run."""

import io
from pathlib import Path

from instruct_course.common.files import ASSETS, write_file

__all__ = ["chinese_plots", "curves", "figure", "plot_loss", "png"]


def chinese_plots() -> None:
    """Let matplotlib fall back to the bundled font for Chinese characters, on every machine."""
    from matplotlib import font_manager, rcParams

    path = ASSETS / "fonts" / "DroidSansFallback-common.ttf"
    font_manager.fontManager.addfont(path)
    rcParams["font.family"] = ["DejaVu Sans", font_manager.FontProperties(fname=path).get_name()]
    rcParams["axes.unicode_minus"] = False


def figure(width: float, height: float, *, layout: str | None = "constrained"):
    """A figure that no window and no notebook shows by itself.

    Args:
        width, height: inches.
        layout: matplotlib's layout engine.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(fig)
    return fig


def png(fig, dpi: int) -> bytes:
    """A figure as the bytes of a PNG file."""
    file = io.BytesIO()
    fig.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def _running_mean(values: list[float]) -> list[float]:
    """Exponential mean over about a twentieth of the values, its start corrected as Adam's is."""
    share = max(1.0, len(values) / 20)
    mean = 0.0
    weight = 0.0
    means = []
    for value in values:
        mean += (value - mean) / share
        weight += (1 - weight) / share
        means.append(mean / weight)
    return means


def plot_loss(ax, history: list[dict], unit: str = "nats per token") -> None:
    """Loss of each step, its running mean, and the held-out loss where it was measured.

    Args:
        ax: matplotlib axes.
        history: a dict per step, as `train.fit` reports them.
        unit: of the losses.
    """
    every = len(history) // 1000 + 1
    steps = [h["step"] for h in history]
    loss = [h["loss"] for h in history]
    held = [(h["step"], h["heldout_loss"]) for h in history if h.get("heldout_loss") is not None]
    ax.plot(steps[::every], loss[::every], lw=0.8, alpha=0.4, label="one step")
    mean = _running_mean(loss)
    ax.plot(steps[::every], mean[::every], lw=1.6, color="C0", label="running mean")
    if held:
        ax.plot(*zip(*held), "o-", ms=4, lw=1, color="C1", label="held out")
    ax.set(xlabel="step", ylabel=f"loss ({unit})", title="loss")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)


def curves(history: list[dict], path: str | Path, unit: str = "nats per token") -> None:
    """Draw loss (and held-out loss), learning rate and gradient norm of a training run.

    Args:
        history: a dict per step, as `train.fit` reports them.
        path: the PNG file; written whole or not at all.
        unit: of the losses.
    """
    fig = figure(10, 2.8)
    first, *others = fig.subplots(1, 3)
    plot_loss(first, history, unit)
    for ax, key, label in zip(others, ("lr", "grad_norm"), ("learning rate", "gradient norm")):
        ax.plot([h["step"] for h in history], [h[key] for h in history], lw=1)
        ax.set(title=label, xlabel="step", ylabel=label)
        ax.grid(alpha=0.3)
    with write_file(path) as scratch:
        scratch.write_bytes(png(fig, 110))
