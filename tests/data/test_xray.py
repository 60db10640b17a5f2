from transformers import AutoTokenizer

from instruct_course.common.files import ASSETS
from instruct_course.data.example import Example
from instruct_course.data.template import encode, named
from instruct_course.data.xray import _positions, show, token_text


def test_the_picture_shows_every_token():
    tok = AutoTokenizer.from_pretrained(ASSETS / "nano")
    e = encode(named("article"), tok, Example("翻译", "cat $x$", "猫"))
    fig = show(tok, e, title="t")
    assert len(fig.texts) == len(e.ids) + 1
    green = [p for p in fig.artists if p.get_facecolor()[1] > p.get_facecolor()[0] + 0.1]
    assert len(green) == sum(label != -100 for label in e.labels)


def test_tokens_are_text_that_can_be_drawn():
    tok = AutoTokenizer.from_pretrained(ASSETS / "nano")
    ids = tok(" a\n$🙂", add_special_tokens=False).input_ids
    texts = [token_text(tok, i) for i in ids]
    assert texts[0] == "·a" and "⏎" in texts and r"\$" in "".join(texts)
    assert "\ufffd" not in "".join(texts) and all(text.isprintable() for text in texts)


def test_boxes_break_where_the_page_ends():
    assert _positions([], 3.0) == []
    assert [line for _, line in _positions([1.0] * 5, 3.0)] == [0, 0, 1, 1, 2]
    assert all(x + 1.0 <= 3.0 for x, _ in _positions([1.0] * 5, 3.0))
