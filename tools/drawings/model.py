"""Drawings of lessons 05 and 07: a Llama layer, GPT and BERT, and a low-rank adapter."""

from tools.drawings.canvas import LABEL, SMALL, TINY, Canvas
from tools.drawings.registry import register


def node(c: Canvas, x: float, y: float, sign: str = "+") -> None:
    """A circle of radius 13 with "+" or "⊙" in it."""
    c.circle(x, y, 13, "neutral")
    if sign == "+":
        c.line(x - 7, y, x + 7, y)
        c.line(x, y - 7, x, y + 7)
    else:
        c.circle(x, y, 3, "neutral", solid=True)


# ---- a Llama layer

STREAM = 114  # y of the residual stream
COLUMN = 216  # the width of attention and of the MLP


def column(c: Canvas, x: float, english: str, chinese: str) -> None:
    """The branch from the stream: RMSNorm, the frame of what follows, and the way back."""
    middle = x + COLUMN / 2
    c.arrow(middle, STREAM, middle, 146)
    c.box(middle - 80, 146, 160, 46, "RMSNorm", "均方根归一化", "frozen", size=SMALL)
    c.arrow(middle, 192, middle, 218)
    c.rect(x, 218, COLUMN, 292, "neutral", radius=10)
    c.label(middle, 238, english, chinese, SMALL, bold=True, beside=True)
    c.route([(x + COLUMN, 364), (x + COLUMN + 26, 364), (x + COLUMN + 26, STREAM + 13)])


def attention_parts(c: Canvas, x: float) -> None:
    """What attention does, inside its frame."""
    for k, (name, heads) in enumerate((("Q", "4 heads"), ("K", "2 heads"), ("V", "2 heads"))):
        left = x + 10 + 67 * k
        c.rect(left, 258, 62, 44, "frozen")
        c.text(left + 31, 271, f"W^{{{name}}}", SMALL)
        c.text(left + 31, 290, heads, TINY)
        c.arrow(left + 31, 302, left + 31, 318 if k < 2 else 424)
    c.box(x + 10, 318, 129, 30, "rotate 旋转", size=SMALL)
    c.arrow(x + 74, 348, x + 74, 364)
    c.box(x + 10, 364, 129, 42, "mask, softmax", "掩码、softmax", size=TINY)
    c.arrow(x + 74, 406, x + 74, 424)
    c.box(x + 10, 424, 196, 30, "weighted sum 加权和", size=SMALL)
    c.arrow(x + 108, 454, x + 108, 470)
    c.box(x + 10, 470, 196, 30, "W^{O}  256 → 256", "", "frozen", size=SMALL)


def mlp_parts(c: Canvas, x: float) -> None:
    """What the MLP does, inside its frame."""
    for left, name in ((x + 10, "gate W_{g}"), (x + 112, "up W_{u}")):
        c.rect(left, 258, 94, 44, "frozen")
        c.text(left + 47, 271, name, SMALL)
        c.text(left + 47, 290, "256 → 704", TINY)
    c.arrow(x + 57, 302, x + 57, 336)
    c.box(x + 10, 336, 94, 34, "silu", size=SMALL)
    c.route([(x + 57, 370), (x + 57, 408), (x + 95, 408)])
    c.route([(x + 159, 302), (x + 159, 408), (x + 121, 408)])
    node(c, x + 108, 408, "⊙")
    c.arrow(x + 108, 421, x + 108, 456)
    c.rect(x + 41, 456, 134, 44, "frozen")
    c.text(x + 108, 469, "down W_{d}", SMALL)
    c.text(x + 108, 488, "704 → 256", TINY)


@register("llama-block")
def llama_block() -> Canvas:
    """Eqs. 5.2 and 5.3, with the widths of the nano model."""
    c = Canvas(
        "A Llama layer 一个 Llama 层",
        "The residual stream of T vectors of width 256 runs from the embedding to the head. "
        "Two branches leave it and are added back: RMSNorm and attention, then RMSNorm and the "
        "SwiGLU MLP. Attention has four query heads and two heads of keys and values, of width "
        "64; the MLP has width 704. Widths of the nano model, which has four such layers.",
        height=596,
    )
    c.heading("A Llama layer", "一个 Llama 层")
    c.rect(112, 58, 566, 466, "pad", dashed=True, radius=12)
    c.text(
        138,
        76,
        "one layer, 4 times in nano  一层，nano 中重复 4 次",
        SMALL,
        role="grey",
        anchor="start",
    )
    c.box(12, 88, 88, 52, "embedding", "词嵌入", "frozen", size=TINY)
    c.line(100, STREAM, 640, STREAM, "ink", edge=4)
    c.arrow(640, STREAM, 690, STREAM, "ink", edge=4)
    c.box(690, 88, 98, 52, "norm, head", "归一化、输出层", "frozen", size=TINY)
    for x, part, names in (
        (124, attention_parts, ("attention", "注意力")),
        (398, mlp_parts, ("SwiGLU MLP", "多层感知机")),
    ):
        column(c, x, *names)
        part(c, x)
        node(c, x + COLUMN + 26, STREAM)
    for x, name in ((138, "h"), (398, "h′"), (665, "h″")):
        c.text(x, STREAM - 16, name, LABEL, bold=True)
    c.text(290, STREAM - 16, "(T, 256)", TINY, role="grey", mono=True)
    c.text(560, STREAM - 16, "(T, 256)", TINY, role="grey", mono=True)
    c.caption(
        "h′ = h + attention(RMSNorm(h)),  h″ = h′ + MLP(RMSNorm(h′)).  Grey boxes hold weights.",
        "残差连接：每个分支的结果加回主干。灰色方框含有权重。每个注意力头宽 64。",
    )
    return c


# ---- GPT and BERT

GPT = ["The", "capital", "of", "Peru", "is"]
BERT = ["a", "[MASK]", "review", ":", "horrible"]
CELL = 22


def reader(c: Canvas, x: float, words: list[str], at: int, answer: str) -> None:
    """A text, which token `at` may look at, and what is predicted there."""
    roles = ["instruction"] * len(words)
    if words[at] == "[MASK]":
        roles[at] = "pad"
    places = c.tokens(x, 296, words, roles)
    if at == len(words) - 1:
        c.cell(places[-1].right + 3, 296, 56, 34, "…", "pad", dashed=True)
    middle = places[at].cx
    for place in places:
        c.line(place.cx, 296, middle, 236, "instruction", edge=1.5)
    c.box(x, 186, 340, 50, "the same layers", "同样的层", "frozen", size=SMALL)
    c.arrow(middle, 186, middle, 158, "output")
    width = 11 * len(answer) + 24
    c.box(middle - width / 2, 122, width, 36, answer, role="output", mono=True)


def sees(c: Canvas, x: float, both: bool, lines: list[str]) -> None:
    """The mask of five tokens, and what it is for."""
    c.grid(x, 356, 5, 5, CELL, lambda i, j: "instruction" if both or j <= i else "pad")
    for k, line in enumerate(lines):
        c.text(x + 128, 372 + 26 * k, line, SMALL, anchor="start")


@register("gpt-bert")
def gpt_bert() -> Canvas:
    """One architecture, two masks."""
    c = Canvas(
        "GPT and BERT: the same layers, two masks GPT 与 BERT：同样的层，两种掩码",
        "Left, GPT: each token looks at itself and at what came before; behind 'The capital of "
        "Peru is' the layers predict the next token, Lima. Right, BERT: each token looks at all "
        "tokens; in 'a [MASK] review : horrible' the layers predict the hidden one, negative.",
        height=540,
    )
    c.heading("The same layers, two masks", "同样的层，两种掩码")
    c.label(194, 84, "GPT: what comes next?", "下一个词元是什么？", bold=True)
    reader(c, 24, GPT, 4, "Lima")
    sees(c, 24, False, ["causal mask", "因果掩码", "continues a text", "续写文本"])
    c.label(594, 84, "BERT: what is missing?", "缺了哪个词？", bold=True)
    reader(c, 424, BERT, 1, "negative")
    sees(c, 424, True, ["full mask: both sides", "双向掩码：前后都看", "fills a gap", "填空"])
    c.line(400, 70, 400, 466, "rule", edge=1)
    c.caption(
        "One kind of layer; the mask and the task of training differ.",
        "同一种层，不同的是掩码和训练任务。",
    )
    return c


# ---- a low-rank adapter

SCALE = 0.3
OUT, IN, RANK = 704, 256, 16  # up_proj of the nano model


def lora_flow(c: Canvas) -> None:
    """What is computed: two ways from x to h."""
    c.box(24, 118, 96, 46, "x", "256", size=LABEL)
    c.box(250, 74, 210, 54, "W", "704 × 256, frozen 冻结", "frozen", bold=True)
    c.box(196, 156, 118, 54, "A", "16 × 256", "trained", bold=True)
    c.box(396, 156, 118, 54, "B", "704 × 16", "trained", bold=True)
    c.route([(120, 134), (158, 134), (158, 101), (250, 101)])
    c.route([(120, 148), (158, 148), (158, 183), (196, 183)], "trained")
    c.arrow(314, 183, 396, 183, "trained")
    c.text(355, 170, "r = 16", TINY, role="trained")
    c.box(556, 163, 60, 40, "× α/r", size=LABEL)
    c.arrow(514, 183, 556, 183, "trained")
    node(c, 640, 141)
    c.route([(460, 101), (640, 101), (640, 128)])
    c.route([(616, 183), (640, 183), (640, 154)], "trained")
    c.arrow(653, 141, 684, 141)
    c.box(684, 118, 92, 46, "h", "704", size=LABEL)
    c.text(255, 224, "random start 随机初始化", TINY, role="trained")
    c.text(455, 224, "starts at zero 从零开始", TINY, role="trained")


def lora_shapes(c: Canvas) -> None:
    """W, B and A to scale, and how many numbers they hold."""
    tall, wide, thin = SCALE * OUT, SCALE * IN, SCALE * RANK
    y = 282
    c.text(24, 262, "to scale 按比例", SMALL, role="grey", anchor="start")
    c.rect(96, y, wide, tall, "frozen", radius=0)
    c.text(96 + wide / 2, y + tall / 2, "W", LABEL, bold=True)
    c.text(222, y + tall / 2, "+  α/r ·", LABEL)
    c.rect(296, y, thin, tall, "trained", radius=0)
    c.text(286, y + tall / 2, "B", LABEL, role="trained", bold=True, anchor="end")
    c.text(320, y + tall / 2, "·", LABEL)
    c.rect(340, y + tall / 2 - thin / 2, wide, thin, "trained", radius=0)
    c.text(340 + wide / 2, y + tall / 2 - 20, "A", LABEL, role="trained", bold=True)
    frozen, trained = OUT * IN, RANK * (OUT + IN)
    percent = 100 * trained / frozen
    lines = (
        (f"W: {frozen:,} numbers, frozen", "frozen"),
        (f"W：{frozen:,} 个数，冻结", "frozen"),
        (f"A and B: {trained:,} numbers, trained", "trained"),
        (f"A 和 B：{trained:,} 个数，训练", "trained"),
        (f"{percent:.1f} % of W 为 W 的 {percent:.1f} %", "trained"),
    )
    for k, (line, role) in enumerate(lines):
        c.text(494, y + 36 + 28 * k + 14 * (k > 1), line, SMALL, role=role, anchor="start")


@register("lora")
def lora() -> Canvas:
    """Eq. 7.1, for the MLP's up_proj of the nano model."""
    c = Canvas(
        "A low-rank adapter 低秩适配器",
        "x goes through the frozen matrix W, and through A, which squeezes 256 numbers into 16, "
        "and B, which spreads them to 704; the second result times alpha / r is added to the "
        "first. A starts at random, B at zero, so that the first step starts at the base model. "
        "Below, the three matrices to scale: W has 180,224 numbers, A and B have 15,360. Hu et "
        "al. 2021.",
        height=566,
    )
    c.heading("A low-rank adapter: h = W x + (α/r) B A x", "低秩适配器")
    lora_flow(c)
    c.line(24, 242, 776, 242, "rule", edge=1)
    lora_shapes(c)
    c.caption(
        "up_proj of the nano model, r = 16. While B is zero, h is what the base model gives.",
        "nano 模型的 up_proj，r = 16。B 为零时，h 与基座模型的结果相同。",
    )
    return c
