"""Drawings of lesson 04: the weighted sum, masks, heads and rotary positions."""

import math

from tools.drawings.canvas import LABEL, SMALL, TINY, Canvas
from tools.drawings.registry import register

# ---- one token's view

TOKENS = [(1, 0), (0, 1), (1, 1), (2, 0)]  # h_1 to h_4, the four tokens of lesson 04
W_K = ((0, 1), (1, 0))  # a key swaps the two entries; a query is the token itself
W_V = ((2, 0), (0, 1))  # a value doubles the first
COLUMNS = [186 + 119 * j for j in range(4)]
WIDE = 112


def times(row: tuple, matrix: tuple) -> tuple:
    """A row times a 2 by 2 matrix."""
    return tuple(sum(a * m[k] for a, m in zip(row, matrix)) for k in range(2))


def pair(numbers) -> str:
    """Two numbers as a vector: "[2, 0]", or with two decimals if they are no integers."""
    return "[" + ", ".join(f"{x}" if isinstance(x, int) else f"{x:.2f}" for x in numbers) + "]"


def row_name(c: Canvas, y: float, english: str, chinese: str, formula: str) -> None:
    """The name of a row at the left, its formula below."""
    c.text(24, y - 10, f"{english} {chinese}", SMALL, anchor="start")
    c.text(24, y + 11, formula, SMALL, role="grey", anchor="start")


@register("weighted-sum")
def weighted_sum() -> Canvas:
    """Eqs. 4.1 to 4.3 for token 4, with the numbers of the lesson."""
    keys = [times(h, W_K) for h in TOKENS]
    values = [times(h, W_V) for h in TOKENS]
    query = TOKENS[3]
    scores = [sum(a * b for a, b in zip(query, k)) for k in keys]
    total = sum(math.exp(e) for e in scores)
    alpha = [math.exp(e) / total for e in scores]
    mixed = [sum(a * v[k] for a, v in zip(alpha, values)) for k in range(2)]
    c = Canvas(
        "Attention as a weighted sum, seen by one token 注意力是加权和：一个词元的视角",
        "Token 4 has the query [2, 0]. Its dot products with the keys of tokens 1 to 4 are the "
        "scores 0, 2, 2, 0; softmax makes them weights 0.06, 0.44, 0.44, 0.06, which sum to 1; "
        "the values added with these weights give [1.24, 0.88]. Numbers of lesson 04.",
        height=562,
    )
    c.heading("What token 4 takes from the others", "词元 4 从其他词元得到什么")
    token_rows(c, keys, query)
    score_rows(c, query, scores, alpha)
    value_rows(c, values, alpha, mixed)
    c.caption(
        "The article's formula. Libraries divide each score by √d before the softmax.",
        "这是文章中的公式；实际的库在 softmax 之前把每个得分除以 √d。",
    )
    return c


def token_rows(c: Canvas, keys: list, query: tuple) -> None:
    """The tokens, their keys, and the query of the last."""
    row_name(c, 80, "token", "词元", "h_{j}")
    row_name(c, 140, "key", "键", "k_{j} = h_{j}W^{K}")
    for j, x in enumerate(COLUMNS):
        c.text(x + 20, 80, f"h_{{{j + 1}}}", SMALL, role="grey")
        c.cell(x + 36, 64, WIDE - 36, 32, pair(TOKENS[j]))
        c.arrow(x + WIDE / 2, 96, x + WIDE / 2, 124, "input")
        c.cell(x, 124, WIDE, 32, pair(keys[j]), "input")
    c.route([(COLUMNS[3] + WIDE, 80), (716, 80), (716, 124)], "instruction")
    c.cell(670, 124, 106, 32, pair(query), "instruction")
    c.label(728, 94, "query", "查询", SMALL, role="instruction", anchor="start")


def score_rows(c: Canvas, query: tuple, scores: list, alpha: list) -> None:
    """The scores on a band in the query's colour, and the weights as bars."""
    row_name(c, 212, "score", "得分", "e_{4j} = q_{4} · k_{j}")
    c.rect(COLUMNS[0] - 8, 188, 790 - COLUMNS[0] - 6, 48, "instruction", radius=8)
    c.text(723, 212, "· q_{4}", LABEL, role="instruction")
    c.arrow(716, 156, 716, 188, "instruction")
    row_name(c, 300, "weight", "注意力权重", "α_{4j} = softmax(e_{4j})")
    for x, e, a in zip(COLUMNS, scores, alpha):
        middle = x + WIDE / 2
        c.arrow(middle, 156, middle, 196, "input")
        c.cell(x, 196, WIDE, 32, str(e))
        c.arrow(middle, 236, middle, 303 - 110 * a, "template")
        c.rect(middle - 34, 328 - 110 * a, 68, 110 * a, "template", radius=0)
        c.text(middle, 316 - 110 * a, f"{a:.2f}", SMALL, role="template", mono=True)
    c.line(COLUMNS[0], 328, COLUMNS[3] + WIDE, 328, "template", edge=1)
    c.label(723, 300, "sum 1", "和为 1", SMALL, role="template")


def value_rows(c: Canvas, values: list, alpha: list, mixed: list) -> None:
    """The values, each times its weight, and their sum."""
    row_name(c, 378, "value", "值", "v_{j} = h_{j}W^{V}")
    row_name(c, 468, "weighted sum", "加权和", "Σ_{j} α_{4j}v_{j}")
    for x, v, a in zip(COLUMNS, values, alpha):
        middle = x + WIDE / 2
        c.arrow(middle, 328, middle, 362, "template")
        c.cell(x, 362, WIDE, 32, f"{a:.2f}·{pair(v)}", "output", size=TINY)
        c.path([(middle, 394), (middle, 416)], "output")
    middle = (COLUMNS[0] + COLUMNS[3] + WIDE) / 2
    c.path([(COLUMNS[0] + WIDE / 2, 416), (COLUMNS[3] + WIDE / 2, 416)], "output")
    c.arrow(middle, 416, middle, 450, "output")
    c.text(middle + 16, 432, "+", LABEL, role="output", bold=True)
    c.box(middle - 90, 450, 180, 36, pair(mixed), role="output", bold=True, mono=True)


# ---- masks

SIDE = 20
ROW_ROLES = ["instruction", "input", "output"]


def owners(prefix: int, lengths: list[int]) -> list[int]:
    """Which row each token belongs to; -1 is the shared prefix."""
    return [-1] * prefix + [r for r, length in enumerate(lengths) for _ in range(length)]


def positions(owner: list[int], prefix: int) -> list[int]:
    """Where in its own row each token stands; the prefix comes first in every row."""
    return [t if r < 0 else prefix + owner[:t].count(r) for t, r in enumerate(owner)]


def may_look(owner: list[int], i: int, j: int) -> bool:
    """Whether token i may look at token j: an earlier one of its own row or of the prefix."""
    return j <= i and owner[j] in (-1, owner[i])


def mask_panel(c: Canvas, x: float, names: tuple, prefix: int, lengths: list[int]) -> None:
    """One mask with its positions and rows below."""
    owner = owners(prefix, lengths)
    place = positions(owner, prefix)

    def role(i: int, j: int) -> str:
        if not may_look(owner, i, j):
            return "pad"
        return "template" if owner[j] < 0 else ROW_ROLES[owner[j]]

    c.label(x + 100, 84, *names, bold=True)
    for t in range(10):
        c.text(x + SIDE * (t + 0.5), 122, str(t), TINY, role="grey")
        c.text(x - 10, 134 + SIDE * (t + 0.5), str(t), TINY, role="grey")
    c.grid(x, 134, 10, 10, SIDE, role)
    for t, r in enumerate(owner):
        paint = "template" if r < 0 else ROW_ROLES[r]
        c.cell(x + SIDE * t, 350, SIDE, 24, str(place[t]), paint, size=TINY)
    start = 0
    parts = ([("prefix", "前缀", prefix)] if prefix else []) + [
        (f"row {r + 1}", f"样本 {r + 1}", n) for r, n in enumerate(lengths)
    ]
    for english, chinese, n in parts:
        left, right = x + SIDE * start + 2, x + SIDE * (start + n) - 2
        c.bracket(left, right, 384, english, chinese, size=TINY)
        start += n


@register("masks")
def masks() -> Canvas:
    """Eqs. 4.6 and 4.7, and rows behind a shared prefix, for ten tokens."""
    c = Canvas(
        "Three masks 三种掩码",
        "Three grids of ten by ten tokens; a coloured cell (i, j) says that token i may look at "
        "token j. Causal: all j up to i. Block-diagonal: rows of five, two and three tokens, each "
        "with a triangle of its own. Shared prefix: four tokens that two rows of three look at, "
        "each row also at itself. Below, the positions: they start again in each row, and go on "
        "behind the prefix.",
        height=490,
    )
    c.heading("Who may look at whom", "谁可以看谁")
    mask_panel(c, 46, ("causal", "因果掩码"), 0, [10])
    mask_panel(c, 311, ("block-diagonal", "分块对角掩码"), 0, [5, 2, 3])
    mask_panel(c, 576, ("shared prefix", "共享前缀"), 4, [3, 3])
    c.caption(
        "Token i may look at token j where cell (i, j) is coloured. Below: positions in each row.",
        "格子 (i, j) 有颜色：词元 i 可以看词元 j。下方：每个词元在自己样本中的位置。",
    )
    return c


# ---- heads


def head_panel(c: Canvas, x: float, names: tuple, groups: int, note: tuple) -> None:
    """Four query heads over `groups` heads of keys and values."""
    c.label(x + 116, 84, *names, bold=True)
    share = 4 // groups
    for m in range(4):
        left = x + 58 * m + 4
        c.box(left, 128, 50, 40, f"q_{{{m}}}", role="instruction")
        g = m // share
        middle = x + 58 * (share * g + (share - 1) / 2) + 29
        c.line(left + 25, 168, middle, 216, "grey", edge=1.5)
    for g in range(groups):
        middle = x + 58 * (share * g + (share - 1) / 2) + 29
        c.box(middle - 25, 216, 50, 34, f"k_{{{g}}}", role="input")
        c.box(middle - 25, 254, 50, 34, f"v_{{{g}}}", role="output")
    c.label(x + 116, 322, *note, SMALL)


@register("grouped-heads")
def grouped_heads() -> Canvas:
    """Eq. 4.9: how many query heads share one head of keys and values."""
    c = Canvas(
        "Multi-head, grouped-query and multi-query attention 多头、分组查询与多查询注意力",
        "Three panels with four query heads each. Multi-head: four heads of keys and values, one "
        "each. Grouped-query: two, each shared by two query heads, as in the nano model. "
        "Multi-query: one for all. The cache keeps keys and values only, so it shrinks from 4 to "
        "2 to 1. Ainslie et al. 2023; Shazeer 2019.",
        height=424,
    )
    c.heading("Query heads share keys and values", "多个查询头共享键和值")
    head_panel(
        c, 24, ("multi-head", "多头注意力"), 4, ("cache: 4 keys, 4 values", "缓存：4 个键、4 个值")
    )
    head_panel(
        c,
        284,
        ("grouped-query", "分组查询注意力"),
        2,
        ("cache: 2 keys, 2 values", "缓存：2 个键、2 个值"),
    )
    head_panel(
        c,
        544,
        ("multi-query", "多查询注意力"),
        1,
        ("cache: 1 key, 1 value", "缓存：1 个键、1 个值"),
    )
    c.caption(
        "Per token and layer. In Qwen2.5-7B 28 query heads share 4, a seventh of the cache.",
        "缓存按每个词元、每层计。Qwen2.5-7B：28 个查询头共用 4 组键和值，缓存只需七分之一。",
    )
    return c


# ---- rotary positions

SPEED = 0.4  # radians per token, in the upper row


def at(x: float, y: float, r: float, angle: float) -> tuple[float, float]:
    """The point at an angle (anticlockwise from the right) on a circle."""
    return x + r * math.cos(angle), y - r * math.sin(angle)


def arc(c: Canvas, x: float, y: float, r: float, start: float, end: float, role: str) -> None:
    """An arc with an arrow's tip at its end."""
    steps = 24
    c.route(
        [at(x, y, r, start + (end - start) * k / steps) for k in range(steps + 1)], role, edge=1.5
    )


def hand(c: Canvas, x: float, y: float, r: float, angle: float, role: str, text: str = "") -> None:
    """An arrow from the middle, its label outside the circle."""
    c.arrow(x, y, *at(x, y, r, angle), role, edge=2.5)
    if text:
        c.text(*at(x, y, r + 20, angle), text, SMALL, role=role)


def distance_panel(c: Canvas, x: float, query: int, key: int) -> None:
    """A query and a key that were one vector, turned by their positions."""
    y, r = 210, 76
    c.circle(x, y, r, "neutral", edge=1)
    hand(c, x, y, r, SPEED * key, "input", f"k, {key}")
    hand(c, x, y, r, SPEED * query, "instruction", f"q, {query}")
    arc(c, x, y, 34, SPEED * key, SPEED * query, "trained")
    c.text(*at(x, y, 52, SPEED * (key + query) / 2), f"{query - key}ω", SMALL, role="trained")


def speed_dial(c: Canvas, x: float, m: int, speed: float, note: str) -> None:
    """How far one pair of a head of width 64 has turned after ten tokens."""
    y, r = 406, 34
    c.circle(x, y, r, "neutral", edge=1)
    c.line(x, y, x + r, y, "rule", dashed=True)
    hand(c, x, y, r, 10 * speed, "instruction")
    c.text(x + 52, y - 22, f"pair m = {m}", SMALL, anchor="start")
    c.text(x + 52, y, f"ω = {speed:.2g}", SMALL, anchor="start")
    c.text(x + 52, y + 22, note, SMALL, role="grey", anchor="start")


@register("rotary")
def rotary() -> Canvas:
    """Eqs. 4.10 and 4.11."""
    c = Canvas(
        "Rotary positions 旋转位置编码",
        "Above: a pair of numbers is an arrow, which position p turns by p times ω, here 0.4 "
        "radians per token. The angle between a query at position 4 and a key at 2 is 2ω; at 9 "
        "and 7 it is 2ω again. Below: four pairs of a head of width 64 after ten tokens, with "
        "ω = 10000^(-2m/64). Su et al. 2021.",
        height=532,
    )
    c.heading("A position turns the arrow", "位置使向量旋转")
    c.label(144, 78, "one pair at p = 0, 1, 2, 3", "同一对数，位置 p = 0、1、2、3", SMALL)
    c.circle(144, 210, 76, "neutral", edge=1)
    for p in (0, 1, 2, 3):
        hand(c, 144, 210, 76, SPEED * p, "instruction", f"{p}")
    arc(c, 144, 210, 40, 0, SPEED, "trained")
    c.text(*at(144, 210, 56, SPEED / 2), "ω", SMALL, role="trained")
    c.label(404, 78, "query at 4, key at 2", "查询在 4，键在 2", SMALL)
    distance_panel(c, 404, 4, 2)
    c.label(660, 78, "query at 9, key at 7", "查询在 9，键在 7", SMALL)
    distance_panel(c, 660, 9, 7)
    c.label(
        532, 326, "the same distance: the same angle, the same score", "距离相同，夹角和得分也相同"
    )
    c.label(144, 326, "each token: one more ω", "每过一个词元多转 ω")
    for x, m, note in zip((58, 242, 426, 610), (0, 8, 16, 31), ("10", "1", "0.1", "0.0013")):
        speed_dial(c, x, m, 10_000 ** (-2 * m / 64), f"10ω = {note}")
    c.caption(
        "Above, q and k are one vector at position 0. Below: four pairs of a head after 10 tokens.",
        "上排：q 和 k 在位置 0 时是同一个向量。下排：一个头的四对数经过十个词元之后（单位：弧度）。",
    )
    return c
