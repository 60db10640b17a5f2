"""The protocol: conversations become rows, mistakes one error in OpenAI's shape."""

import pytest
from pydantic import ValidationError

from instruct_course.data import template as templates
from instruct_course.data.example import Example, Turn
from instruct_course.deploy.serve.protocol import (
    APIError,
    ChatCompletionRequest,
    Message,
    StripStream,
    check_supported,
    to_example,
    validation_error,
)


def test_a_chat_template_takes_turns():
    chat = templates.Template(
        "chat", chat="{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}"
    )
    turns = [
        Message(role=r, content=c)
        for r, c in (("developer", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"))
    ]
    assert to_example(chat, turns, "x") == Example(
        "c", "x", system="s", history=(Turn("user", "a"), Turn("assistant", "b"))
    )
    with pytest.raises(APIError, match="only come first"):
        to_example(chat, [turns[1], turns[0], turns[1]])


def test_one_sentence_for_several_attempts_at_a_field():
    hi = [{"role": "user", "content": "Hi"}]
    with pytest.raises(ValidationError) as caught:
        ChatCompletionRequest(model="x", messages=hi, stop=["a"] * 5)
    error = validation_error(caught.value.errors())
    assert (error.status, error.body["error"]["param"]) == (400, "stop")
    assert "at most 4 items" in str(error)


def test_what_asks_for_nothing_is_supported():
    check_supported({"n": 1, "tools": [], "user": "me", "logprobs": None})
    for extra in ({"n": 2}, {"n": True}, {"echo": 0}):
        with pytest.raises(APIError, match=next(iter(extra))):
            check_supported(extra)


def test_pieces_are_stripped_as_the_whole_text_is():
    for pieces in (["  a", " ", "b \n", " "], [" ", "\n"], ["a"], [" a b ", "c"]):
        strip = StripStream()
        assert "".join(map(strip, pieces)) == "".join(pieces).strip()
