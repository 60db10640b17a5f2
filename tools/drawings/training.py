"""Drawings of a training step: its memory, packing and checkpointing."""

from tools.drawings.canvas import LABEL, SMALL, TINY, Canvas
from tools.drawings.registry import register

# GB of a step with Qwen2.5-7B, rank 16, four rows of 1,024 tokens, from nbs/workshop/13_memory
PARTS = [
    ("4-bit weights", "四比特权重", "frozen"),
    ("embedding and head, 16-bit", "词嵌入与输出头，16 位", "neutral"),
    ("adapters, optimizer, gradients", "适配器、优化器、梯度", "trained"),
    ("activations", "激活值", "input"),
    (
        "working memory: some logits, a layer in 16 bits",
        "临时：部分 logits、一层的权重",
        "template",
    ),
]
SETTINGS = [
    ("Four rows at once", "四行一起", [3.37, 2.18, 0.16 + 0.32, 18.73, 0.58]),
    ("One row at a time", "一次一行", [3.37, 2.18, 0.16 + 0.32 + 0.16, 4.73, 0.46]),
    ("… and checkpointing", "再加激活重计算", [3.37, 2.18, 0.16 + 0.32 + 0.16, 0.21, 0.68]),
]


@register("step-memory")
def step_memory() -> Canvas:
    """Where the memory of a training step goes, in three settings."""
    c = Canvas(
        "Memory of a training step 训练一步的内存",
        "Qwen2.5-7B in NF4 with adapters of rank 16, a step of four rows of 1,024 tokens. Peak: "
        "25.3 GB with four rows at once, of which activations are 18.7; 11.4 GB with one row at a "
        "time; 7.1 GB with gradient checkpointing as well. Numbers traced in "
        "nbs/workshop/13_memory.ipynb; CUDA and its allocator are not included.",
        height=530,
    )
    c.heading("Where the memory of a step goes", "训练一步的内存去了哪里")
    c.text(
        24, 62, "Qwen2.5-7B, NF4, r = 16, 4 × 1,024 tokens 词元", SMALL, role="grey", anchor="start"
    )
    x0, scale = 24, 26.0
    for i, (english, chinese, sizes) in enumerate(SETTINGS):
        y = 112 + 78 * i
        c.text(x0, y - 15, f"{english} {chinese}", LABEL, anchor="start")
        x = x0
        for size, (_, _, role) in zip(sizes, PARTS):
            c.rect(x, y, size * scale, 38, role, radius=0, edge=1)
            if size > 2:
                c.text(x + min(size * scale / 2, 62), y + 19, f"{size:.1f}", SMALL)
            x += size * scale
        c.text(x + 10, y + 19, f"{sum(sizes):.1f} GB", LABEL, anchor="start", bold=True)
    edge = x0 + 16.1 * scale
    c.line(edge, 90, edge, 322, "trained", dashed=True)
    c.text(edge + 8, 318, "a 16 GB card 16 GB 显卡", SMALL, role="trained", anchor="start")
    for i, (english, chinese, role) in enumerate(PARTS):
        y = 346 + 25 * i
        c.rect(x0, y - 8, 24, 16, role, radius=0, edge=1)
        c.text(x0 + 34, y, f"{english} {chinese}", SMALL, anchor="start")
    c.caption(
        "All logits at once: 4,096 × 152,064 × 4 bytes = 2.5 GB. The fused loss holds 64 MB.",
        "全部 logits 一次算出要 2.5 GB；融合的损失每次只占 64 MB。",
    )
    return c


LENGTHS = (6, 4, 8)  # own tokens of three rows behind a prefix of five
PREFIX = 5
OWN = ("instruction", "input", "output")


@register("packing")
def packing() -> Canvas:
    """A padded batch, and the same rows packed with their common prefix once."""
    padded = len(LENGTHS) * (PREFIX + max(LENGTHS))
    packed = PREFIX + sum(LENGTHS)
    c = Canvas(
        "Packing rows with a shared prefix 共享前缀的打包",
        "Three rows begin with the same five tokens and have 6, 4 and 8 tokens of their own. "
        f"Padded they take {padded} positions; packed, with the prefix once, {packed}. The mask of "
        "the packed batch lets each row see the prefix and itself, no other row.",
        height=532,
    )
    c.heading("Packing rows with a shared prefix", "共享前缀的打包")
    side = 31
    line = f"Padded batch: 3 × 13 = {padded} positions 填充的批次"
    c.text(24, 68, line, LABEL, anchor="start", bold=True)
    for i, (length, role) in enumerate(zip(LENGTHS, OWN)):
        for j in range(PREFIX + max(LENGTHS)):
            kind = "template" if j < PREFIX else role if j < PREFIX + length else "pad"
            text = str(j) if kind != "pad" else ""
            c.cell(24 + side * j, 86 + side * i, side - 2, side - 2, text, kind, size=TINY)
    notes = [("template", "shared prefix", "共同前缀"), ("pad", "padding, wasted", "填充，浪费")]
    for i, (role, english, chinese) in enumerate(notes):
        c.rect(450, 92 + 42 * i, 26, 26, role, radius=2, edge=1)
        c.text(486, 105 + 42 * i, f"{english} {chinese}", SMALL, anchor="start")

    line = f"Packed batch: 5 + 6 + 4 + 8 = {packed} positions 打包的批次"
    c.text(24, 216, line, LABEL, anchor="start", bold=True)
    cells = [(j, "template") for j in range(PREFIX)]
    for length, role in zip(LENGTHS, OWN):
        cells += [(PREFIX + j, role) for j in range(length)]
    for i, (text, role) in enumerate(cells):
        c.cell(24 + 32.6 * i, 234, 30, 32, text, role, size=TINY)
    c.text(
        24,
        286,
        "the number is position_ids: each row counts on from the prefix",
        SMALL,
        role="grey",
        anchor="start",
    )
    c.text(
        24, 308, "数字是 position_ids：每一行都接着前缀往下数", SMALL, role="grey", anchor="start"
    )
    _packed_mask(c, 130, 338, 7.2)
    x = 350
    c.text(x, 352, "Who sees whom 谁看得见谁", LABEL, anchor="start", bold=True)
    lines = [
        "Across: keys that are read. Down: queries.",
        "横向是被读的键，纵向是查询。",
        "All rows see the prefix and their own past;",
        "no row sees another row.",
        "每一行只看前缀和自己前面的词元，看不见别的行。",
    ]
    for i, line in enumerate(lines):
        c.text(x, 384 + 25 * i, line, SMALL, anchor="start", role="grey")
    return c


def _packed_mask(c: Canvas, x: float, y: float, side: float) -> None:
    """The mask of the packed batch: a column for the prefix, and a triangle for each row."""
    total = PREFIX + sum(LENGTHS)
    c.rect(x, y, total * side, total * side, "neutral", radius=0, edge=1)
    width = PREFIX * side
    c.area([(x, y), (x + width, y + width), (x, y + width)], "template", edge=1)
    start = PREFIX
    for length, role in zip(LENGTHS, OWN):
        top, bottom = y + start * side, y + (start + length) * side
        c.rect(x, top, width, bottom - top, "template", radius=0, edge=1)
        left, right = x + start * side, x + (start + length) * side
        c.area([(left, top), (right, bottom), (left, bottom)], role, edge=1)
        start += length
    for at, english in (
        (PREFIX / 2, "prefix 前缀"),
        (PREFIX + 3, "row 行 1"),
        (13, "row 行 2"),
        (19, "row 行 3"),
    ):
        c.text(x - 8, y + at * side, english, TINY, anchor="end", role="grey")


@register("gradient-checkpointing")
def gradient_checkpointing() -> Canvas:
    """What a forward pass keeps, with and without gradient checkpointing."""
    c = Canvas(
        "Gradient checkpointing 激活重计算",
        "Without checkpointing the forward pass keeps all activations of every layer, 4.4 MB per "
        "token for Qwen2.5-7B. With it only the input of each layer is kept, 0.2 MB per token; the "
        "backward pass computes the activations of one layer again, uses them, and frees them. "
        "Numbers from nbs/workshop/13_memory.ipynb, without the scores of attention.",
        height=524,
    )
    c.heading("Gradient checkpointing", "激活重计算")
    _kept(c, 66, "Keep everything 全部保留", "4.4 MB per token 每个词元", again=None)
    _kept(c, 262, "Keep the inputs of layers 只留每层的输入", "0.2 MB per token 每个词元", again=2)
    c.arrow(24, 446, 70, 446)
    c.text(78, 446, "forward 前向", SMALL, anchor="start", role="grey")
    c.arrow(270, 446, 224, 446, "trained")
    c.text(278, 446, "backward 反向", SMALL, anchor="start", role="trained")
    c.caption(
        "Price: the forward pass of each layer runs twice. Numbers: Qwen2.5-7B, 16-bit.",
        "代价：每一层的前向计算做两遍。数字：Qwen2.5-7B，16 位。",
    )
    return c


def _kept(c: Canvas, y: float, name: str, size: str, again: int | None) -> None:
    """Four layers and what is kept of them; layer `again` is being computed again."""
    c.text(24, y, name, LABEL, anchor="start", bold=True)
    c.text(776, y, size, LABEL, anchor="end", role="input", bold=True)
    for i in range(4):
        x = 96 + 170 * i
        place = c.box(x, y + 24, 116, 40, f"layer 层 {i + 1}", role="frozen")
        c.arrow(x - 54, place.cy - 8, x, place.cy - 8)
        if again is None or i >= again:
            c.arrow(x, place.cy + 8, x - 54, place.cy + 8, "trained")
        used = again is not None and i > again
        c.rect(x - 38, y + 76, 20, 74, "pad" if used else "input", radius=2, dashed=used)
        full = again is None or i == again
        for j in range(4):
            kind = "input" if full else "none"
            if full:
                c.rect(x + 2 + 29 * j, y + 76, 25, 74, kind, radius=2, dashed=again is not None)
        if not full:
            done = i > again
            line = ("freed", "已释放") if done else ("not kept", "未保留")
            c.label(place.cx, y + 113, *line, SMALL, role="grey")
    line = "kept 保留" if again is None else "computed again 重算"
    at = 154 if again is None else 96 + 170 * again + 58
    c.text(at, y + 165, line, SMALL, role="input")
