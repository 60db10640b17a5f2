"""The drawing of lesson 11: four losses as one question with different candidates."""

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
