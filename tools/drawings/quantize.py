"""Drawings of lesson 06: NF4's levels, double quantisation, and the product in 4 bits."""

import random
from statistics import NormalDist

from tools.drawings.canvas import LABEL, SMALL, TINY, Canvas
from tools.drawings.registry import register

BELL = NormalDist()
EDGE = 0.9677083  # δ of Eq. 6.3


def nf4_levels() -> list[float]:
    """The sixteen levels of NF4 by Eq. 6.3; a test holds them to bitsandbytes' table."""

    def half(count: int) -> list[float]:
        step = (EDGE - 0.5) / (count - 1)
        return [BELL.inv_cdf(EDGE - step * i) for i in range(count - 1)]

    raw = sorted([-z for z in half(8)] + [0.0] + half(9))
    return [z / max(raw) for z in raw]


def block_of_weights() -> list[float]:
    """64 weights from N(0, 0.02²), always the same."""
    draw = random.Random(3)
    return [0.02 * BELL.inv_cdf(draw.random()) for _ in range(64)]


def signed(value: float, digits: int) -> str:
    """A number with a real minus sign."""
    return f"{value:.{digits}f}".replace("-", "−")


# ---- NF4's levels

AXIS = 420  # y of the number line
UNIT = 352  # pixels from 0 to 1


def place(value: float) -> float:
    """x of a value on the number line."""
    return 400 + UNIT * value


def block_bars(c: Canvas, weights: list[float], chosen: int) -> None:
    """The weights of a block as bars, the largest in the colour of scales."""
    top = max(weights, key=abs)
    unit = 46 / abs(top)
    for i, w in enumerate(weights):
        role = "input" if w == top else "trained" if i == chosen else "frozen"
        x = 72 + 10.25 * i
        c.rect(x, 118 - max(w, 0) * unit, 7, max(1, abs(w) * unit), role, radius=0, edge=1)
    c.line(66, 118, 734, 118, "grey", edge=1)


def level_line(c: Canvas, levels: list[float]) -> None:
    """The bell, the levels under it, their codes and values."""
    widest = BELL.inv_cdf(EDGE)
    steps = [-1 + k / 50 for k in range(101)]
    curve = [(place(x), AXIS - 290 * BELL.pdf(widest * x)) for x in steps]
    c.area([(place(-1), AXIS), *curve, (place(1), AXIS)], "instruction")
    c.line(place(-1) - 14, AXIS, place(1) + 14, AXIS, "ink", edge=1.5)
    for code, q in enumerate(levels):
        x = place(q)
        c.line(x, AXIS - 290 * BELL.pdf(widest * q), x, AXIS + 8, "ink", edge=2)
        c.text(x, AXIS + 22, str(code), TINY, bold=True, mono=True)
        written = signed(q, 2) if q else "0"
        c.text(x, AXIS + 42 + 18 * (code % 2), written, TINY, role="grey")


@register("nf4-levels")
def nf4() -> Canvas:
    """Eqs. 6.3 and 6.4 for one block."""
    levels, weights = nf4_levels(), block_of_weights()
    absmax = max(abs(w) for w in weights)
    nearest = [min(range(16), key=lambda k, w=w: abs(w / absmax - levels[k])) for w in weights]
    # a weight of an outer level, where the way to the level is long enough to be seen
    error = [abs(w / absmax - levels[k]) for w, k in zip(weights, nearest)]
    chosen = max(range(64), key=lambda i: error[i])
    x, code = weights[chosen] / absmax, nearest[chosen]
    c = Canvas(
        "A block of 64 weights and the 16 levels of NF4 一块 64 个权重与 NF4 的 16 个量化级",
        "Above, 64 weights from a normal distribution, the largest magnitude, the absmax, marked. "
        "Each weight is divided by the absmax and moved to the nearest of 16 levels, which stand "
        "at quantiles of the normal distribution, scaled to -1 to 1, with an exact zero: "
        f"{', '.join(f'{q:.2f}' for q in levels)}. Stored are the code of the level, four bits, "
        "and the absmax. Dettmers et al. 2023.",
        height=576,
    )
    c.heading("NF4: 16 levels for bell-shaped weights", "NF4 的 16 个量化级")
    block_bars(c, weights, chosen)
    c.text(72, 184, "one block: 64 weights  一块：64 个权重", SMALL, anchor="start")
    c.text(728, 184, f"absmax 最大绝对值 a = {absmax:.3f}", SMALL, role="input", anchor="end")
    c.arrow(400, 196, 400, 246)
    c.text(414, 220, "÷ a", LABEL, anchor="start")
    bell = f"N(0, 1), cut at ±{BELL.inv_cdf(EDGE):.2f}"
    c.label(40, 262, bell, "截断的正态分布", SMALL, role="instruction", anchor="start")
    c.label(
        760,
        262,
        "stored: 64 codes of 4 bits, and a",
        "存储：64 个 4 位编码和 a",
        SMALL,
        anchor="end",
    )
    level_line(c, levels)
    end = place(levels[code])
    c.circle(place(x), AXIS - 16, 5, "trained", solid=True)
    c.arrow(place(x), AXIS - 16, end, AXIS - 16, "trained")
    c.text(place(x), AXIS - 56, signed(x, 2), SMALL, role="trained")
    c.line(place(x), AXIS - 46, place(x), AXIS - 22, "trained", edge=1)
    c.text(
        24,
        504,
        "code in bold, level in grey  编码为粗体，量化级为灰色",
        TINY,
        role="grey",
        anchor="start",
    )
    found = f"{signed(weights[chosen], 4)} / a = {signed(x, 2)}"
    level, back = signed(levels[code], 2), signed(levels[code] * absmax, 4)
    c.caption(
        f"{found}: nearest level {level}, code {code}, in bits {code:04b}; read back: {back}.",
        f"{found}：最近的量化级 {level}，编码 {code}，二进制 {code:04b}；还原为 {back}。",
    )
    return c


# ---- double quantisation

BIT = 118  # pixels per bit in the bars


def scale_rows(c: Canvas) -> None:
    """Blocks with their absmax, and the absmax in 8 bits."""
    for x, j in ((24, "1"), (182, "2"), (340, "3"), (524, "256")):
        c.rect(x, 66, 152, 50, "frozen")
        c.text(x + 76, 81, "64 × 4 bits", SMALL)
        c.text(x + 76, 102, f"block {j} 第 {j} 块", TINY)
        c.arrow(x + 76, 116, x + 76, 140)
        c.rect(x + 18, 140, 116, 36, "input")
        c.text(x + 76, 158, f"a_{{{j}}}: 32 bits", SMALL)
        c.line(x + 76, 176, x + 76, 196)
        c.arrow(x + 76, 244, x + 76, 264)
        c.rect(x + 18, 264, 116, 36, "output")
        c.text(x + 76, 282, f"c_{{{j}}}: 8 bits", SMALL)
    for y in (91, 158, 282):
        c.text(508, y, "…", LABEL)
    c.rect(42, 196, 616, 48, "neutral", radius=8)
    c.text(350, 209, "(a_{j} − m) / A to the nearest of 256 levels; m is the mean", SMALL)
    c.text(350, 229, "(a_{j} − m) / A 取 256 个量化级中最近的；m 为均值", TINY)
    c.box(682, 264, 94, 36, "A: 32 bits", role="input", size=TINY)
    c.route([(658, 220), (729, 220), (729, 264)])
    c.label(722, 322, "per 256 blocks", "每 256 块一个", TINY, role="grey")
    c.label(690, 158, "absmax", "最大绝对值", SMALL, role="input", anchor="start")


def bits_bar(c: Canvas, y: float, name: tuple, parts: list[tuple[float, str]], total: str) -> None:
    """Bits per weight as a bar, to scale."""
    c.label(24, y + 17, *name, SMALL, anchor="start")
    x = 124
    for bits, role in parts:
        c.rect(x, y, BIT * bits, 34, role, radius=0, edge=1)
        x += BIT * bits
    c.text(x + 10, y + 17, total, LABEL, anchor="start", bold=True)


@register("double-quantisation")
def double_quantisation() -> Canvas:
    """Eqs. 6.6 and 6.7."""
    single, double = 32 / 64, (8 / 64, 32 / (64 * 256))
    c = Canvas(
        "Double quantisation 双重量化",
        "Each block of 64 weights has an absmax in 32 bits. 256 of them are quantised again: "
        "minus the mean m of all, over the largest magnitude A of the 256, to the nearest of 256 "
        "levels, 8 bits each; one A in 32 bits per 256 blocks, one m per matrix. Bits per weight: "
        "without 4 + 32/64 = 4.5; with 4 + 8/64 + 32/(64 · 256) = 4.127. Dettmers et al. 2023.",
        height=546,
    )
    c.heading("Double quantisation: the scales in 8 bits", "双重量化：缩放因子也量化")
    scale_rows(c)
    c.line(24, 350, 776, 350, "rule", edge=1)
    c.text(
        124,
        368,
        "bits per weight, to scale  每个权重的比特数，按比例",
        SMALL,
        role="grey",
        anchor="start",
    )
    codes = (4, "frozen")
    bits_bar(c, 384, ("once", "一次量化"), [codes, (single, "input")], f"{4 + single:.1f}")
    parts = [codes, (double[0], "output"), (double[1], "input")]
    bits_bar(c, 432, ("twice", "双重量化"), parts, f"{4 + sum(double):.3f}")
    c.caption(
        f"once: 4 + 32/64 = {4 + single:.1f};   "
        f"twice: 4 + 8/64 + 32/(64 · 256) = {4 + sum(double):.3f} bits per weight",
        f"每个权重的比特数：一次 4 + 32/64 = {4 + single:.1f}；"
        f"双重 4 + 8/64 + 32/(64 · 256) = {4 + sum(double):.3f}",
    )
    return c


# ---- the product


def weight_lane(c: Canvas, y: float, english: str, chinese: str) -> None:
    """The stored weight, dequantised for one product."""
    c.box(144, y, 130, 46, "W: 4 bits", "frozen 冻结", "frozen", size=SMALL)
    c.arrow(274, y + 23, 310, y + 23)
    c.box(310, y, 160, 46, english, chinese, size=SMALL)
    c.arrow(470, y + 23, 510, y + 23)
    c.rect(510, y, 130, 46, "pad", dashed=True)
    c.text(575, y + 23, "Ŵ: 16 bits", SMALL)
    c.label(650, y + 23, "thrown away", "用完即弃", SMALL, role="grey", anchor="start")
    c.arrow(575, y + 46, 575, y + 80, "frozen")


def adapter(c: Canvas, y: float, sign: str = "") -> None:
    """A and B, or their transposes, and the scale beside them."""
    c.box(230, y + 136, 90, 40, f"A{sign}", role="trained", bold=True)
    c.box(400, y + 136, 90, 40, f"B{sign}", role="trained", bold=True)
    c.text(575, y + 144, "× α/r", TINY, role="grey")


def plus(c: Canvas, x: float, y: float) -> None:
    """A circle with a plus."""
    c.circle(x, y, 12)
    c.line(x - 6, y, x + 6, y)
    c.line(x, y - 6, x, y + 6)


def forward_pass(c: Canvas, y: float) -> None:
    """x to h."""
    c.label(24, y + 23, "forward", "前向", bold=True, anchor="start")
    weight_lane(c, y, "dequantise", "反量化")
    adapter(c, y)
    c.box(24, y + 98, 96, 60, "x", "16 bits")
    c.box(510, y + 80, 130, 40, "Ŵ x", role="frozen", bold=True)
    c.route([(120, y + 118), (160, y + 118), (160, y + 100), (510, y + 100)])
    c.route([(120, y + 138), (160, y + 138), (160, y + 156), (230, y + 156)])
    c.arrow(320, y + 156, 400, y + 156)
    plus(c, 676, y + 128)
    c.route([(640, y + 100), (676, y + 100), (676, y + 116)])
    c.route([(490, y + 156), (676, y + 156), (676, y + 140)])
    c.arrow(688, y + 128, 712, y + 128)
    c.box(712, y + 104, 64, 48, "h")


def backward_pass(c: Canvas, y: float) -> None:
    """The gradient of h to the gradients of x, A and B."""
    c.label(24, y + 23, "backward", "反向", bold=True, anchor="start")
    weight_lane(c, y, "dequantise again", "再次反量化")
    adapter(c, y, "^{⊤}")
    c.box(706, y + 104, 70, 48, "∂L/∂h", role="template", size=SMALL)
    c.box(510, y + 80, 130, 40, "Ŵ^{⊤} ∂L/∂h", role="frozen", bold=True)
    c.route([(706, y + 118), (676, y + 118), (676, y + 100), (640, y + 100)], "template")
    c.route([(706, y + 138), (676, y + 138), (676, y + 156), (490, y + 156)], "template")
    c.arrow(400, y + 156, 320, y + 156, "template")
    plus(c, 160, y + 128)
    c.route([(510, y + 100), (160, y + 100), (160, y + 116)], "template")
    c.route([(230, y + 156), (160, y + 156), (160, y + 140)], "template")
    c.arrow(148, y + 128, 120, y + 128, "template")
    c.box(24, y + 98, 96, 60, "∂L/∂x", role="template")
    for x, name in ((275, "A"), (445, "B")):
        c.arrow(x, y + 176, x, y + 200, "trained")
        c.box(x - 45, y + 200, 90, 34, f"∂L/∂{name}", role="trained", size=SMALL)
    c.label(575, y + 217, "no gradient of W", "W 没有梯度", SMALL, role="frozen")


@register("four-bit-product")
def four_bit_product() -> Canvas:
    """The forward and the backward pass of a layer with a 4-bit weight and an adapter."""
    c = Canvas(
        "A frozen 4-bit weight, forward and backward 冻结的 4 比特权重：前向与反向",
        "Forward: the 4-bit weight is dequantised to 16 bits, multiplied with x, and the 16-bit "
        "copy is thrown away; the adapter's B A x times alpha / r is added. Backward: the weight "
        "is dequantised again, and the gradient of h times its transpose, with what comes through "
        "B and A, gives the gradient of x. Only A and B have gradients of their own.",
        height=590,
    )
    c.heading("The product with a frozen 4-bit weight", "4 比特权重的乘法")
    forward_pass(c, 62)
    c.line(24, 262, 776, 262, "rule", edge=1)
    backward_pass(c, 282)
    c.caption(
        "The gradient passes through the frozen weight to the input; only A and B are trained.",
        "梯度穿过冻结的权重传到输入；只有 A 和 B 被训练。",
    )
    return c
