"""Drawings of the course as a whole, of a row's way and of templates."""

from tools.drawings.canvas import LABEL, SMALL, TINY, Box, Canvas
from tools.drawings.registry import register

STEPS = [
    ("Data", "数据准备", "instruction", "rows of three fields", "指令、输入、输出", "01"),
    ("Base model", "模型初始化", "frozen", "pretrained, frozen", "预训练，权重冻结", "04, 05, 06"),
    ("Encode", "指令编码", "template", "a row, one sequence", "一行变成一个序列", "02"),
    ("Train", "训练", "trained", "lower loss on outputs", "降低输出上的损失", "03, 07, 08"),
    ("Evaluate", "评估", "input", "on held-out rows", "用留出的测试集", "09, 10"),
    ("Deploy", "部署", "output", "in real use", "用于实际任务", "12"),
]

# 翻译成英文。 / 大猫 / A big cat. in the template `article`, by nano's tokenizer
PROMPT = ["<inst>", "␣", *"翻译成英文。", "<inp>", "␣", "大", "猫", "<out>"]
PROMPT_IDS = [2, 225, 969, 744, 392, 343, 341, 263, 3, 225, 310, 1107, 4]
PROMPT_ROLES = ["template", *["instruction"] * 7, "template", *["input"] * 3, "template"]
RESPONSE = ["␣A", "␣big", "␣cat", ".", "<eos>"]
RESPONSE_IDS = [421, 2594, 948, 18, 1]


@register("six-steps")
def six_steps() -> Canvas:
    """The six steps of instruction tuning, article section 3.1."""
    c = Canvas(
        "The six steps of instruction tuning 指令微调的六个步骤",
        "Six boxes joined by arrows, each with what happens there and the lessons on it: data, "
        "base model, encode, train, evaluate, deploy.",
        height=420,
    )
    c.heading("The six steps of instruction tuning", "指令微调的六个步骤")
    places = []
    for i, (english, chinese, role, first, second, lessons) in enumerate(STEPS):
        x, y = 24 + 264 * (i % 3), 62 + 162 * (i // 3)
        place = c.rect(x, y, 224, 126, role, radius=10)
        c.circle(x + 24, y + 28, 14, role, solid=True)
        c.text(x + 24, y + 28, str(i + 1), LABEL, role="white", bold=True)
        c.label(x + 48, y + 28, english, chinese, 19, anchor="start", bold=True)
        c.text(x + 16, y + 66, first, LABEL, anchor="start")
        c.text(x + 16, y + 87, second, LABEL, anchor="start")
        c.text(x + 16, y + 110, f"lesson 课 {lessons}", SMALL, role=role, anchor="start")
        places.append(place)
    for i in (0, 1, 3, 4):
        c.arrow(places[i].right, places[i].cy, places[i + 1].x, places[i].cy)
    start, end = places[2], places[3]
    middle = (start.bottom + end.y) / 2
    c.route([(start.cx, start.bottom), (start.cx, middle), (end.cx, middle), (end.cx, end.y)])
    c.caption(
        "Lesson 13 takes all six with a model of 7 billion parameters.",
        "第 13 课用 70 亿参数的模型走完全部六步。",
    )
    return c


def card(c: Canvas, x, y, w, english, chinese, sample, role) -> Box:
    """A box of one station: its name in both languages, and what is there."""
    place = c.rect(x, y, w, 88, role, radius=8)
    c.label(place.cx, y + 30, english, chinese, LABEL, bold=True)
    c.text(place.cx, y + 70, sample, TINY, mono=True)
    return place


@register("one-row")
def one_row() -> Canvas:
    """How one row goes through training, and how a prompt goes through evaluation."""
    c = Canvas(
        "The journey of one row 一行数据的旅程",
        "Training: file, Example, template.encode, ids and labels, packed batch, hidden states, "
        "loss on supervised positions, adapter. Evaluation and serving: an Example without output, "
        "template.prompt, generate with the adapter, text, score.",
        height=536,
    )
    c.heading("The journey of one row", "一行数据的旅程")
    c.label(24, 64, "Training", "训练", anchor="start", role="trained", bold=True, beside=True)
    stations = [
        ("File", "文件", "rows.jsonl", "neutral"),
        ("Example", "一条样本", "c, x, y", "instruction"),
        ("encode", "按模板编码", "<inst>…<inp>…<out>…", "template"),
        ("ids, labels", "编号与标签", "[2, 225, …, 18, 1]", "output"),
        ("Packed batch", "打包的批次", "N tokens", "neutral"),
        ("Hidden states", "隐藏状态", "N × H", "frozen"),
        ("Loss", "损失", "where label ≠ -100", "output"),
        ("Adapter", "适配器", "A, B get gradients", "trained"),
    ]
    places = [
        card(c, 24 + 194 * (i % 4), 82 + 116 * (i // 4), 170, *station)
        for i, station in enumerate(stations)
    ]
    for i in (0, 1, 2, 4, 5, 6):
        c.arrow(places[i].right, places[i].cy, places[i + 1].x, places[i].cy)
    start, end = places[3], places[4]
    middle = (start.bottom + end.y) / 2
    c.route([(start.cx, start.bottom), (start.cx, middle), (end.cx, middle), (end.cx, end.y)])
    c.line(24, 318, 776, 318, "rule", edge=1)
    line = "Evaluation, serving 评估与服务"
    c.text(24, 344, line, anchor="start", role="input", bold=True)
    steps = [
        ("Example", "没有输出", "c, x", "instruction"),
        ("prompt", "提示", "<inst>…<out>", "template"),
        ("generate", "生成", "token by token", "trained"),
        ("text", "文本", "A big cat.", "output"),
        ("score", "得分", "1.0", "input"),
    ]
    below = [card(c, 24 + 156 * i, 368, 128, *step) for i, step in enumerate(steps)]
    for a, b in zip(below, below[1:]):
        c.arrow(a.right, a.cy, b.x, b.cy)
    adapter, generate = places[7], below[2]
    turn = [(adapter.cx, adapter.bottom), (adapter.cx, 331), (generate.cx, 331)]
    c.route([*turn, (generate.cx, generate.y)], "trained", dashed=True)
    c.caption(
        "One template writes both: where nothing is cut, the prompt begins the row of training.",
        "两条路用同一个模板：未截断时，提示就是训练序列的开头。",
    )
    return c


@register("ids-labels-mask")
def ids_labels_mask() -> Canvas:
    """One row in the article's template: tokens, ids, labels and what is supervised."""
    c = Canvas(
        "Ids, labels and mask of one row 一行数据的编号、标签与掩码",
        "The row 翻译成英文。/ 大猫 / A big cat. in the template <inst>…<inp>…<out>…, by the "
        "tokenizer of nano. All tokens of the prompt have the label -100, which the loss leaves "
        "out. The tokens of the response and the end token have their ids as labels; each of them "
        "is predicted from the token before it, the first one from <out>.",
        height=500,
    )
    c.heading("One row: ids, labels, mask", "一行数据：编号、标签、掩码")
    c.label(24, 64, "Prompt", "提示", anchor="start", bold=True, beside=True)
    names = [("token", "词元"), ("id", "编号"), ("label", "标签")]
    widths = [62 if token.startswith("<") else 44 for token in PROMPT]

    def rows(x, y, texts, roles, widths, names):
        for i, (line, kinds) in enumerate(zip(texts, roles)):
            left = x
            for text, kind, width in zip(line, kinds, widths):
                c.cell(left, y + 38 * i, width, 34, text, kind)
                left += width + 3
            english, chinese = names[i]
            c.text(24, y + 38 * i + 17, f"{english} {chinese}", SMALL, role="grey", anchor="start")
        return left - 3

    masked = ["pad"] * len(PROMPT)
    texts = [PROMPT, PROMPT_IDS, [-100] * len(PROMPT)]
    end = rows(116, 110, texts, [PROMPT_ROLES, PROMPT_ROLES, masked], widths, names)
    c.bracket(181, 507, 100, "instruction", "指令", side="above", role="instruction")
    c.bracket(575, 713, 100, "input", "输入", side="above", role="input")
    c.bracket(116, end, 228, "read, not learnt: -100 is left out of the loss", side="below")
    c.text((116 + end) / 2, 264, "只读不学：损失略去标签为 -100 的位置", SMALL, role="grey")

    c.label(24, 300, "Response", "回答", anchor="start", bold=True, beside=True)
    green = ["output"] * 5
    before = ["<out>", *RESPONSE[:-1]]
    sides = ["template", *green[1:]]
    texts = [RESPONSE, RESPONSE_IDS, RESPONSE_IDS]
    end = rows(116, 322, texts, [green] * 3, [62] * 5, names)
    c.bracket(
        116, end, 440, "supervised: the loss is taken here", "监督：在这里计算损失", role="output"
    )
    c.text(480, 330, "predicted one position earlier", SMALL, role="grey", anchor="start")
    c.text(480, 350, "在前一个位置上预测", SMALL, role="grey", anchor="start")
    for i, (token, after) in enumerate(zip(before, RESPONSE)):
        x, y = 480 + 150 * (i // 3), 368 + 38 * (i % 3)
        c.cell(x, y, 60, 30, token, sides[i])
        c.arrow(x + 60, y + 15, x + 78, y + 15)
        c.cell(x + 78, y, 60, 30, after, "output")
    return c


@register("truncation")
def truncation() -> Canvas:
    """A row that is too long: cut at its end, or at the end of its input."""
    c = Canvas(
        "Truncation: what a row loses that is too long 截断：过长的一行失去什么",
        "A row of 14 tokens and a limit of 10. Cut at its end it loses <out>, the whole output and "
        "<eos>, and nothing is left to learn. The course cuts the last four tokens of the input "
        "and keeps the output and its end token.",
        height=436,
    )
    c.heading("Too long a row: what is cut?", "一行太长：截掉什么？")
    side, x0, limit = 54, 24, 10
    start = [("<inst>", "template"), *[("c", "instruction")] * 2, ("<inp>", "template")]
    inputs = [(f"x_{{{i}}}", "input") for i in range(1, 7)]
    end = [("<out>", "template"), ("y_{1}", "output"), ("y_{2}", "output"), ("<eos>", "output")]
    whole = [*start, *inputs, *end]

    def row(y, cells, line, role="ink"):
        c.text(x0, y - 18, line, LABEL, role=role, anchor="start", bold=True)
        for i, (text, kind) in enumerate(cells):
            size = TINY if text.startswith("<") else LABEL
            c.cell(x0 + side * i, y, side - 3, 40, text, kind, size=size)

    row(90, whole, "The row, 14 tokens 整行，14 个词元")
    edge = x0 + side * limit - 1.5
    c.text(edge + 10, 72, "max_length = 10", SMALL, role="grey", anchor="start", mono=True)
    row(192, whole[:limit], "✗ Cut at the end 从末尾截断", "trained")
    for i in range(limit, len(whole)):
        c.cell(x0 + side * i, 192, side - 3, 40, "", "pad", dashed=True)
    english = "No output, no <eos>: every label is -100, nothing to learn."
    c.text(x0, 252, english, SMALL, role="grey", anchor="start")
    chinese = "没有输出，也没有结束符：标签全是 -100，什么也学不到。"
    c.text(x0, 274, chinese, SMALL, role="grey", anchor="start")
    row(332, [*start, *inputs[:2], *end], "✓ Cut the end of the input 截去输入的末尾", "output")
    c.line(edge, 60, edge, 378, "trained", dashed=True)
    c.label(
        edge + 12, 352, "dropped: x_{3} … x_{6}", "丢弃的输入", SMALL, role="grey", anchor="start"
    )
    c.caption("The output and its end token stay whole.", "输出和结束符保持完整。")
    return c


@register("template-journey")
def template_journey() -> Canvas:
    """One template from training through evaluation to the server."""
    c = Canvas(
        "The way of one template 一个模板的旅程",
        "Training writes template.json beside the adapter. Evaluation, chat, server and export "
        "read that file, so that, where nothing is cut, their prompts are the beginning of the "
        "rows of training. Another template is refused.",
        height=520,
    )
    c.heading("One template, from training to the server", "一个模板，从训练到服务")
    _readers(c)
    prompt = [("<inst>", "template", 66), ("c", "instruction", 108), ("<inp>", "template", 62)]
    prompt += [("x", "input", 90), ("<out>", "template", 62)]

    def row(y, name, cells):
        c.text(24, y + 19, name, SMALL, anchor="start", bold=True)
        x = 170
        for text, role, width in cells:
            c.cell(x, y, width, 38, text, role, dashed=text.startswith("?"))
            x += width + 3
        return x - 3

    row(216, "Training 训练", [*prompt, ("y", "output", 108), ("<eos>", "output", 66)])
    generated = [("? generated 生成", "pad", 177)]
    row(266, "Evaluation 评估", [*prompt, *generated])
    end = row(316, "Server 服务", [*prompt, *generated]) - 180
    c.bracket(
        170,
        end,
        204,
        "the same tokens, at the same places 相同的词元，相同的位置",
        side="above",
        role="template",
    )
    row(
        400,
        "✗ Other 别的模板",
        [
            ("Instruction:␣", "pad", 130),
            ("c", "instruction", 108),
            ("␣Output:␣", "pad", 157),
            *generated,
        ],
    )
    c.text(
        170,
        452,
        "the model never saw this prompt: refused 模型没见过这种提示：拒绝",
        SMALL,
        role="trained",
        anchor="start",
    )
    c.caption("c instruction 指令 · x input 输入 · y output 输出")
    return c


def _readers(c: Canvas) -> None:
    """The run directory that training writes, and the commands that read its template."""
    tune = c.box(24, 66, 130, 76, "tune", "训练", "trained", bold=True)
    run = c.rect(208, 58, 240, 92, "neutral", radius=8)
    c.text(run.cx, 74, "run directory 运行目录", SMALL, role="grey")
    c.box(218, 90, 100, 48, "adapter", "适配器", "trained", size=SMALL)
    saved = c.box(326, 90, 112, 48, "template", "模板", "template", size=SMALL)
    c.arrow(tune.right, tune.cy, run.x, tune.cy)
    users = [("eval", "评估"), ("chat, serve", "对话、服务"), ("merge, export", "合并、导出")]
    for i, (english, chinese) in enumerate(users):
        place = c.box(560, 52 + 40 * i, 216, 34, f"{english} {chinese}", size=SMALL)
        c.arrow(run.right, saved.cy, place.x, place.cy, "template")
