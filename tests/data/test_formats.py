"""Rows in the forms that people have: each is read as one Example, or refused in one sentence."""

from instruct_course.data.example import Example, Turn
from instruct_course.data.formats import parse


def test_a_context_is_the_input():
    row = {"instruction": "Who wrote it?", "context": "Emma, by Jane Austen.", "response": "Austen"}
    assert parse(row) == Example("Who wrote it?", "Emma, by Jane Austen.", "Austen")


def test_a_history_is_kept():
    row = {"instruction": "And 3+3?", "history": [["2+2?", "4"]], "output": "6"}
    earlier = (Turn("user", "2+2?"), Turn("assistant", "4"))
    assert parse(row) == Example("And 3+3?", output="6", history=earlier)
