"""The drawing of lesson 13: what is frozen, what is trained, and what is taken away."""

from tools.drawings.canvas import LABEL, SMALL, Box, Canvas
from tools.drawings.registry import register


@register("seven-b-road")
def seven_b_road() -> Canvas:
    """From published weights and rows to an adapter, and from there to other programs."""
    c = Canvas(
        "The road of a 7B model 7B 模型之路",
        "The published base of 15.2 GB is quantised to 5.5 GB and stays frozen. Rows are audited "
        "and written with a template; only their answers are supervised. Both meet in the training "
        "loop, which changes an adapter of 160 MB. The adapter is judged on held-out rows, and "
        "merged or exported.",
        height=500,
    )
    c.heading("The road of a 7B model", "7B 模型之路")
    base = _step(c, 24, 64, "Published base", "公开的基座", "16 bits: 15.2 GB", "frozen")
    four = _step(c, 24, 190, "Base in 4 bits", "4 位的基座", "NF4: 5.5 GB, frozen 冻结", "frozen")
    rows = _step(
        c, 288, 64, "Rows, audited", "检查过的数据", "some held out 留出一部分", "instruction"
    )
    mask = _step(c, 288, 190, "Prompt and mask", "提示与掩码", "answers supervised", "output")
    loop = _step(c, 552, 190, "Twenty lines", "二十行训练循环", "or 或 tune", "neutral")
    adapter = _step(c, 552, 334, "Adapter", "适配器", "LoRA r = 16: 160 MB", "trained")
    judged = _step(c, 288, 334, "Judged", "评估", "on held-out rows 留出的数据", "output")
    away = _step(c, 24, 334, "Merged, GGUF, hub", "合并、导出、发布", "one model again", "trained")
    c.arrow(base.cx, base.bottom, four.cx, four.y)
    c.arrow(rows.cx, rows.bottom, mask.cx, mask.y)
    c.arrow(mask.right, mask.cy, loop.x, loop.cy)
    under = four.bottom + 14
    c.route([(four.cx, four.bottom), (four.cx, under), (536, under), (536, 258), (loop.x, 258)])
    c.arrow(loop.cx, loop.bottom, adapter.cx, adapter.y)
    c.arrow(adapter.x, adapter.cy, judged.right, judged.cy)
    c.arrow(judged.x, judged.cy, away.right, away.cy)
    c.caption(
        "Only the adapter changes; the 4-bit base under it stays as it was loaded.",
        "只有适配器在变；它下面的 4 位基座始终不变。",
    )
    return c


def _step(c: Canvas, x, y, english, chinese, remark, role) -> Box:
    """A box with a name in both languages and a remark below it."""
    place = c.rect(x, y, 224, 94, role, radius=10)
    c.label(place.cx, y + 33, english, chinese, LABEL, bold=True)
    c.text(place.cx, y + 75, remark, SMALL, role="ink")
    return place
