"""Drawings of the lessons on data, templates and the course as a whole."""

from tools.drawings.canvas import SMALL, Canvas
from tools.drawings.registry import register

STEPS = [
    ("Data", "数据准备", "instruction", "instruction, input, output", "01"),
    ("Base model", "模型初始化", "frozen", "a pretrained model", "05, 06"),
    ("Encode", "指令编码", "template", "one sequence of tokens", "02"),
    ("Train", "训练", "trained", "least loss on outputs", "03, 07, 08"),
    ("Evaluate", "评估", "input", "on held-out rows", "10"),
    ("Deploy", "部署", "output", "in real use", "12"),
]


@register("six-steps")
def six_steps() -> Canvas:
    """The six steps of instruction tuning, article section 3.1."""
    c = Canvas(
        "Six steps of instruction tuning 指令微调的六个步骤",
        "Six boxes joined by arrows: data, base model, encode, train, evaluate, deploy.",
        height=230,
    )
    c.heading("Six steps of instruction tuning", "指令微调的六个步骤")
    for i, (english, chinese, role, _, lessons) in enumerate(STEPS):
        place = c.box(24 + 128 * i, 80, 108, 64, english, chinese, role, bold=True)
        c.text(place.cx, 164, lessons, SMALL, role="grey")
        if i:
            c.arrow(place.x - 20, place.cy, place.x, place.cy)
    return c
