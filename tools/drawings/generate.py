"""Drawings of generation: the cache of keys and values, top-p, beam search."""

import math

from tools.drawings.canvas import LABEL, SMALL, Canvas, text_width
from tools.drawings.registry import register

PROMPT_TOKENS = 4
STEPS = 4


@register("kv-cache")
def kv_cache() -> Canvas:
    """What each step of generation computes, without and with a cache."""
    lengths = [PROMPT_TOKENS + i for i in range(STEPS)]
    with_cache = PROMPT_TOKENS + STEPS - 1
    c = Canvas(
        "The key-value cache 键值缓存",
        "Four steps of generation after a prompt of four tokens. Without a cache each step runs "
        f"all tokens through the model, {' + '.join(map(str, lengths))} = {sum(lengths)} in all. "
        "With a cache the first step runs the prompt, and each later step only the newest token, "
        f"{with_cache} in all; keys and values of the earlier ones are read.",
        height=424,
    )
    c.heading("The key-value cache", "键值缓存")
    sides = [
        (24, "Without a cache 没有缓存", f"{' + '.join(map(str, lengths))} = {sum(lengths)}"),
        (418, "With a cache 有缓存", f"4 + 1 + 1 + 1 = {with_cache}"),
    ]
    for x0, name, total in sides:
        c.text(x0, 66, name, LABEL, anchor="start", bold=True)
        for i, length in enumerate(lengths):
            y = 90 + 52 * i
            for j in range(length):
                text = f"x_{{{j + 1}}}" if j < PROMPT_TOKENS else f"y_{{{j - PROMPT_TOKENS + 1}}}"
                cached = x0 > 24 and i > 0 and j < length - 1
                c.cell(x0 + 41 * j, y, 38, 38, text, "frozen" if cached else "trained", size=LABEL)
            x = x0 + 41 * length
            c.arrow(x + 1, y + 19, x + 23, y + 19)
            c.text(x + 38, y + 19, f"y_{{{i + 1}}}", LABEL, mono=True, role="output")
        c.text(x0, 312, f"computed 计算 {total}", SMALL, anchor="start", bold=True)
    c.line(398, 58, 398, 322, "rule", edge=1)
    legend = [
        ("trained", "computed now 现在计算"),
        ("frozen", "keys and values from the cache 缓存的键和值"),
    ]
    for x, (role, text) in zip((24, 270), legend):
        c.rect(x, 336, 24, 20, role, radius=2, edge=1)
        c.text(x + 34, 346, text, SMALL, anchor="start")
    c.caption(
        "The tokens are the same. The price is memory, which grows with each token.",
        "结果相同；代价是内存，随词元数增长。",
    )
    return c


WORDS = ["cat 猫", "dog 狗", "bird 鸟", "fish 鱼", "moon 月", "car 车"]
PROBABILITIES = [0.42, 0.25, 0.15, 0.10, 0.05, 0.03]


@register("top-p")
def top_p() -> Canvas:
    """Nucleus sampling: the fewest best tokens that reach P together."""
    p, kept, total = 0.9, 0, 0.0
    while total < p:
        total += PROBABILITIES[kept]
        kept += 1
    c = Canvas(
        "Top-p, nucleus sampling 核采样",
        "Six tokens with the probabilities 0.42, 0.25, 0.15, 0.10, 0.05 and 0.03. Their running "
        f"sum reaches 0.9 with the fourth one. The first {kept} stay and are divided by their sum, "
        f"{total:.2f}; the others get the probability 0.",
        height=420,
    )
    c.heading("Top-p (nucleus) sampling, p = 0.9", "核采样")
    heads = [(24, "token", "词元"), (120, "probability", "概率"), (420, "running sum", "累计")]
    for x, english, chinese in [*heads, (590, "drawn from", "抽样所用")]:
        c.label(x, 76, english, chinese, LABEL, anchor="start", bold=True)
    running = 0.0
    for i, (word, chance) in enumerate(zip(WORDS, PROBABILITIES)):
        y = 124 + 40 * i
        running += chance
        role = "output" if i < kept else "pad"
        ink = "ink" if i < kept else "grey"
        c.text(24, y, word, LABEL, anchor="start", role=ink)
        c.rect(120, y - 14, 500 * chance, 28, role, radius=2)
        c.text(128 + 500 * chance, y, f"{chance:.2f}", LABEL, anchor="start", role=ink, mono=True)
        c.text(420, y, f"{running:.2f}", LABEL, anchor="start", role=ink, mono=True)
        new = chance / total if i < kept else 0
        if new:
            c.rect(590, y - 14, 220 * new, 28, role, radius=2)
        c.text(598 + 220 * new, y, f"{new:.2f}", LABEL, anchor="start", role=ink, mono=True)
    y = 124 + 40 * kept - 20
    c.line(24, y, 776, y, "trained", dashed=True)
    c.text(478, y - 20, "≥ 0.9", LABEL, anchor="start", role="trained", bold=True)
    c.caption(
        f"The fewest best tokens that reach 0.9 together stay; each is divided by {total:.2f}.",
        f"保留累计概率达到 0.9 的最少几个词元，再各除以 {total:.2f}。",
    )
    return c


# word: (Chinese, probability after its parent, words that may follow)
TREE = {
    "cat": ("猫", 0.5, {"sat": ("坐", 0.4), "ran": ("跑", 0.3)}),
    "dog": ("狗", 0.4, {"barked": ("叫", 0.9), "slept": ("睡", 0.1)}),
    "bird": ("鸟", 0.1, {}),
}


@register("beam-tree")
def beam_tree() -> Canvas:
    """Beam search with two beams, beside what greedy choice takes."""
    sums = [f"{math.log(p):.2f}".replace("-", "−") for p in (0.4 * 0.9, 0.5 * 0.4)]
    c = Canvas(
        "Beam search 束搜索",
        "After The: cat 0.5, dog 0.4, bird 0.1. Two beams keep cat and dog. Their continuations: "
        "cat sat 0.20, cat ran 0.15, dog barked 0.36, dog slept 0.04; kept are dog barked and cat "
        "sat. Greedy choice takes cat and then sat, 0.20, and misses dog barked, 0.36.",
        height=500,
    )
    c.heading("Beam search, 2 beams", "束搜索，束宽 2")
    root = c.box(24, 196, 96, 48, "The", role="template", bold=True)
    y = 66
    for word, (chinese, chance, after) in TREE.items():
        middle = y + (57 if after else 24)
        place = _node(c, 220, middle - 26, word, chinese, chance, chance, after != {})
        role = "output" if after else "rule"
        c.arrow(root.right, root.cy, place.x, place.cy, role)
        _edge(c, root.right, root.cy, place, chance)
        for i, (next_word, (next_chinese, next_chance)) in enumerate(after.items()):
            joint = chance * next_chance
            keep = joint >= 0.2
            leaf = _node(c, 500, y + 68 * i - 3, next_word, next_chinese, joint, next_chance, keep)
            c.arrow(place.right, place.cy, leaf.x, leaf.cy, "output" if keep else "rule")
            _edge(c, place.right, place.cy, leaf, next_chance)
        y += 146 if after else 0
    notes = [(89, "greedy 贪心"), (235, "best 最好")]
    for at, text in notes:
        c.text(680, at, text, SMALL, anchor="start", role="trained", bold=True)
    c.text(24, 428, "✓ kept 保留   ✗ dropped 舍去", SMALL, anchor="start", role="grey")
    c.caption(
        "Logs add where probabilities multiply: "
        f"ln 0.4 + ln 0.9 = {sums[0]} > ln 0.5 + ln 0.4 = {sums[1]}.",
        "概率相乘就是对数相加；贪心先选“猫”，错过了更可能的“狗叫”。",
    )
    return c


def _node(c: Canvas, x, y, word, chinese, joint, chance, keep):
    """A beginning: its last word and the probability of the whole."""
    role = "output" if keep else "pad"
    place = c.rect(x, y, 166, 52, role, dashed=not keep)
    mark = "✓" if keep else "✗"
    c.text(place.cx, y + 17, f"{word} {chinese}", LABEL, role="ink" if keep else "grey", bold=keep)
    c.text(
        place.cx, y + 38, f"{joint:.2f} {mark}", SMALL, role="ink" if keep else "grey", mono=True
    )
    return place


def _edge(c: Canvas, x, y, place, chance) -> None:
    """The probability of a step, above the middle of its arrow."""
    text = f"{chance:g}"
    dx, dy = place.x - x, place.cy - y
    nx, ny = dy / math.hypot(dx, dy), -dx / math.hypot(dx, dy)
    away = 5 + abs(nx) * text_width(text, SMALL) / 2 + abs(ny) * SMALL / 2
    c.text(x + dx / 2 + away * nx, y + dy / 2 + away * ny, text, SMALL, role="grey", mono=True)
