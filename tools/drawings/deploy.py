"""Drawings of evaluation and deployment: paired intervals, and three ways to merge."""

import math
import statistics

from tools.drawings.canvas import LABEL, SMALL, Canvas
from tools.drawings.registry import register

# an invented example: scores of twelve rows by a base model, and what tuning adds to each
BASE = [0.12, 0.18, 0.25, 0.31, 0.38, 0.42, 0.50, 0.55, 0.61, 0.70, 0.78, 0.85]
GAIN = [0.10, 0.04, 0.12, 0.02, 0.09, 0.14, 0.05, 0.11, -0.03, 0.10, 0.06, 0.07]
T_11 = 2.201  # 0.975 quantile of Student's t with 11 degrees of freedom


def mean_interval(values: list[float]) -> tuple[float, float, float]:
    """(low, mean, high) of a 95 % interval by Student's t, for twelve values."""
    mean = statistics.fmean(values)
    half = T_11 * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean, mean + half


@register("paired-intervals")
def paired_intervals() -> Canvas:
    """Two separate intervals overlap, the interval of the paired differences holds no zero."""
    tuned = [a + gain for a, gain in zip(BASE, GAIN)]
    intervals = [mean_interval(values) for values in (BASE, tuned, GAIN)]
    said = [f"{mean:.2f} ({low:.2f} to {high:.2f})" for low, mean, high in intervals]
    c = Canvas(
        "Paired differences 配对差",
        "An invented example: twelve rows, each scored for the base model and for the tuned one. "
        f"Means with 95 % intervals by Student's t: base {said[0]}, tuned {said[1]}; the two "
        f"overlap. The mean of the differences row by row is {said[2]}, and holds no zero.",
        height=520,
    )
    c.heading("The interval of paired differences", "配对差的区间")
    _scores(c, tuned)
    x, wide = 420, 330
    c.text(x, 70, "Two separate intervals 两个区间", LABEL, anchor="start", bold=True)
    for i, (role, name) in enumerate((("frozen", "base 基座"), ("trained", "tuned 微调后"))):
        low, mean, high = intervals[i]
        y = 112 + 40 * i
        _interval(c, x + wide * low, x + wide * mean, x + wide * high, y, role)
        c.text(x, y, name, SMALL, anchor="start")
    _axis(c, x, 184, wide, (0, 0.5, 1), 0, "")
    c.label(
        x,
        228,
        "They overlap: no conclusion.",
        "相互重叠：得不出结论。",
        SMALL,
        role="grey",
        anchor="start",
    )
    c.text(x, 286, "Interval of the differences 差的区间", LABEL, anchor="start", bold=True)
    low, mean, high = intervals[2]
    zero, stretch = x + 82, 1650
    _interval(c, *(zero + stretch * v for v in (low, mean, high)), 328, "output")
    c.line(zero, 306, zero, 352, "ink", dashed=True)
    _axis(c, zero, 358, stretch, (-0.05, 0, 0.05, 0.1, 0.15), -0.05, "")
    c.label(
        x,
        404,
        "Zero is outside: tuned is better.",
        "0 在区间外：微调后更好。",
        SMALL,
        role="output",
        anchor="start",
    )
    c.caption(
        "Rows differ far more than the models do; a difference per row takes that out.",
        "行与行的差别远大于模型之间的差别；逐行相减就消去了它。",
    )
    return c


def _scores(c: Canvas, tuned: list[float]) -> None:
    """The scores of each row, base and tuned."""
    c.text(24, 70, "12 rows, two models 12 行，两个模型", LABEL, anchor="start", bold=True)
    left, scale = 40, 310
    for i, (a, b) in enumerate(zip(BASE, tuned)):
        y = 100 + 24 * i
        c.line(left, y, left + scale, y, "rule", edge=0.5)
        c.line(left + scale * a, y, left + scale * b, y, "trained")
        c.circle(left + scale * a, y, 6, "frozen", solid=True)
        c.circle(left + scale * b, y, 6, "trained", solid=True)
    _axis(c, left, 384, scale, (0, 0.5, 1), 0, "score 得分")
    c.circle(40, 440, 6, "frozen", solid=True)
    c.text(54, 440, "base 基座", SMALL, anchor="start")
    c.circle(154, 440, 6, "trained", solid=True)
    c.text(168, 440, "tuned 微调后", SMALL, anchor="start")


def _axis(c: Canvas, zero, y, scale, ticks, start, name) -> None:
    """A horizontal axis; `zero` is where 0 stands, `start` where it begins."""
    c.line(zero + scale * start, y, zero + scale * ticks[-1], y, edge=1.5)
    for tick in ticks:
        c.line(zero + scale * tick, y - 4, zero + scale * tick, y + 4, edge=1.5)
        text = f"{tick:g}".replace("-", "−")
        c.text(zero + scale * tick, y + 16, text, SMALL, role="grey")
    if name:
        c.text(zero + scale * (start + ticks[-1]) / 2, y + 34, name, SMALL, role="grey")


def _interval(c: Canvas, low, mean, high, y, role) -> None:
    """An interval with its ends and its mean."""
    c.line(low, y, high, y, role, edge=4)
    for end in (low, high):
        c.line(end, y - 10, end, y + 10, role, edge=3)
    c.circle(mean, y, 8, role, solid=True)


LEVELS = (0.0796, 0.1609, 0.2461)  # three neighbours of NF4's sixteen levels
WEIGHT, CHANGE = 0.145, -0.03
LOSSES = ("1.408", "1.495", "2.775")  # nano, in nbs/workshop/12_variants.ipynb


@register("three-merges")
def three_merges() -> Canvas:
    """One weight, three places to add the adapter's change to."""
    c = Canvas(
        "Three ways to merge an adapter 合并适配器的三种方式",
        "One weight W = 0.145 between two levels of NF4; its four bits mean Ŵ = 0.161, and the "
        "adapter, trained on Ŵ, adds D = -0.03. Ŵ + D = 0.131 is the trained model. W + D = 0.115 "
        "is another one, off by the quantisation error. Q(Ŵ + D) rounds to 0.161 again: the change "
        "is lost. Held-out losses of nano, from nbs/workshop/12_variants.ipynb: "
        f"{', '.join(LOSSES)}; trained model {LOSSES[0]}.",
        height=578,
    )
    c.heading("Three ways to merge an adapter", "合并适配器的三种方式")
    _lane(c, 66, "✓ Ŵ + D: into the dequantized weights 反量化的权重", "output", LOSSES[0])
    _lane(
        c, 220, "✗ W + D: into the original 16-bit weights 原来的 16 位权重", "trained", LOSSES[1]
    )
    _lane(c, 374, "✗ Q(Ŵ + D): into 4 bits again 再量化回四比特", "trained", LOSSES[2])
    c.caption(
        "D = sBA was trained on Ŵ. Losses: nano, held-out rows, nats per token.",
        "D = sBA 是在 Ŵ 上训练的。损失：nano，留出的行，每个词元的奈特数。",
    )
    return c


def _at(value: float) -> float:
    """x of a value on the lanes' axes."""
    return 60 + (value - LEVELS[0]) * 2900


def _lane(c: Canvas, y: float, name: str, role: str, loss: str) -> None:
    """One way: the axis with levels, the points of the weight, the change, and what comes out."""
    c.text(24, y, name, LABEL, anchor="start", role=role, bold=True)
    line = y + 84
    c.line(40, line, 560, line, "rule")
    for level in LEVELS:
        c.line(_at(level), line - 9, _at(level), line + 9, "ink", edge=2)
        c.text(_at(level), line + 22, f"{level:.3f}", SMALL, role="grey", mono=True)
    onto_w = "W + D" in name
    base = WEIGHT if onto_w else LEVELS[1]
    target = LEVELS[1] + CHANGE
    start, end = _at(base), _at(base + CHANGE)
    c.circle(_at(target), line, 7, "output", edge=2)
    c.circle(start, line, 7, "frozen", solid=True)
    c.text(start, line - 46, "W" if onto_w else "Ŵ", LABEL, role="frozen", bold=True)
    c.route([(start, line - 10), (start, line - 30), (end, line - 30), (end, line - 8)], "trained")
    c.text((start + end) / 2, line - 44, "+D", LABEL, role="trained", bold=True)
    if name.startswith("✗ Q"):
        c.arrow(end + 8, line, start - 8, line, "trained", edge=3)
        back = "Q: back to the nearest level 舍入到最近的量化级"
        c.text(_at(0.145), line + 46, back, SMALL, role="trained")
    elif onto_w:
        c.circle(end, line, 7, "trained", edge=2)
        c.text(_at(target), line + 22, "Ŵ + D", SMALL, role="output")
    else:
        c.text(588, line - 24, "NF4 level 量化级", SMALL, role="grey", anchor="end")
        c.text(end, line + 22, "Ŵ + D", SMALL, role="output")
    c.text(600, line - 30, "held-out loss 损失", SMALL, anchor="start", role="grey")
    c.text(600, line - 4, loss, 26, anchor="start", role=role, bold=True)
    words = {
        "output": ("the trained model", "训练出的模型"),
        "trained": ("off by E = Ŵ − W", "差了量化误差") if onto_w else ("D is lost", "改变丢失"),
    }
    c.label(600, line + 34, *words[role], SMALL, anchor="start", role=role)
