"""The drawings of lessons 11 and 11b: four losses as one question; a group of answers."""

from tools.drawings.canvas import HEADING, LABEL, SMALL, Canvas
from tools.drawings.registry import register

ROWS = (
    (
        ("Cross-entropy", "下一个词元"),
        ("bear", "nurse", "cake", "…"),
        "all tokens 全部词元",
        ("logit  z", "词元的分数"),
    ),
    (
        ("InfoNCE", "对比损失"),
        ("own key", "key 2", "key 3", "…"),
        "keys of a batch 一批键",
        ("cosine / τ", "余弦除以温度"),
    ),
    (
        ("Bradley–Terry", "奖励模型"),
        ("chosen 好", "rejected 差"),
        "two answers 两个回答",
        ("reward  r", "奖励头的输出"),
    ),
    (
        ("DPO", "直接偏好优化"),
        ("chosen 好", "rejected 差"),
        "two answers 两个回答",
        ("β log π / π_{ref}", "与参考模型之比"),
    ),
)


@register("which-one")
def which_one() -> Canvas:
    """A row per loss: its candidates with the right one first, and what their scores are."""
    c = Canvas(
        "Which one is right? 哪一个是对的？",
        "Four losses ask the same question, which of several candidates is right, and take minus "
        "the logarithm of the softmax of the right one's score. Cross-entropy chooses among all "
        "tokens by logits; InfoNCE among the keys of a batch by cosine over temperature; "
        "Bradley-Terry between two answers by a reward; DPO between two answers by beta times the "
        "log-ratio of policy and reference.",
        height=534,
    )
    c.heading("Which one is right?", "哪一个是对的？")
    c.text(190, 72, "candidates, the right one first 候选，第一个是对的", SMALL, anchor="start")
    c.text(700, 72, "score 分数", SMALL)
    for i, (name, candidates, number, score) in enumerate(ROWS):
        y = 92 + 82 * i
        c.rect(16, y, 768, 70, "white", edge=1)
        c.label(96, y + 35, *name, LABEL, bold=True)
        width = 96 if len(candidates) > 2 else 136
        roles = ["output", *["neutral"] * (len(candidates) - 1)]
        for j, (text, role) in enumerate(zip(candidates, roles)):
            wide = 40 if text == "…" else width
            c.box(190 + j * (width + 8), y + 8, wide, 32, text, role=role, size=SMALL)
        c.text(190, y + 54, number, SMALL, role="grey", anchor="start")
        c.label(682, y + 35, *score, LABEL, role="trained")
    loss = ("loss = −log softmax(scores) of the right one", "损失 = −log softmax（对的那个的分数）")
    c.label(400, 446, *loss, HEADING, bold=True)
    c.caption(
        "What differs is what competes, and where its score comes from.",
        "不同的只是：哪些候选在竞争，分数从哪里来。",
    )
    return c


GROUP = (("PEACH", 1), ("peach", 0), ("PEACH", 1), ("PLUM", 0))


@register("group-of-answers")
def group_of_answers() -> Canvas:
    """One prompt, four answers, a program's rewards, and what becomes more or less probable."""
    c = Canvas(
        "A group of answers to one prompt 同一提示的一组回答",
        "The policy draws several answers to one prompt. A program gives each the reward 1 or 0. "
        "An answer's advantage is its reward minus the mean of the group. Answers above the mean "
        "are made more probable, those below it less probable; then the policy draws again.",
        height=440,
    )
    c.heading("GRPO: better than the group's mean?", "比组内平均更好吗？")
    c.box(24, 96, 150, 64, "prompt", "提示", "instruction")
    c.box(24, 236, 150, 64, "policy π", "策略", "trained", bold=True)
    c.arrow(99, 160, 99, 236)
    titles = (
        (296, "answers", "回答"),
        (436, "reward", "奖励"),
        (566, "− mean", "减去均值"),
        (702, "then", "于是"),
    )
    for x, english, chinese in titles:
        c.label(x, 72, english, chinese, SMALL, role="grey")
    for i, (said, reward) in enumerate(GROUP):
        y = 102 + 58 * i
        role = "output" if reward else "neutral"
        c.arrow(174, 268, 226, y + 21)
        c.box(228, y, 136, 42, said, role=role, size=SMALL, mono=True)
        c.arrow(366, y + 21, 404, y + 21)
        c.box(406, y, 60, 42, str(reward), role=role)
        c.arrow(468, y + 21, 524, y + 21)
        c.box(526, y, 80, 42, "+ 0.5" if reward else "− 0.5", role=role)
        word = ("more probable ↑", "更可能") if reward else ("less probable ↓", "更不可能")
        c.label(702, y + 21, *word, SMALL, role=role if reward else "trained")
    c.route([(702, 340), (702, 366), (99, 366), (99, 302)], "trained")
    c.label(400, 352, "one step of training, and draw again 训练一步，再采样", "", SMALL)
    c.caption(
        "Asked for peach in capitals. A program checks each answer; nobody writes one.",
        "要求把单词写成大写：由程序检查每个回答，不需要人写答案。",
    )
    return c
