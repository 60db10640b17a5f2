"""What models answered: paired changes that are right, copies that are named, a base's answers kept whole."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_course import generate
from instruct_course.common.errors import InputError
from instruct_course.data.example import Example
from instruct_course.evaluate import answers as answering
from instruct_course.evaluate.contamination import Overlap
from instruct_course.evaluate.intervals import difference
from instruct_course.generate import Completion
from instruct_course.model.load import load_base

ROWS = [
    Example(f"Say {w}.", output=w, task="say" if i % 2 else "tell", lang="en")
    for i, w in enumerate("one two three four five six".split())
]


def answers(texts, nats=None, tokens=None, rows=ROWS):
    n = len(texts)
    return answering.Answers(
        rows[:n],
        [Completion([], t, "end") for t in texts],
        rows[:n],
        list(zip(nats or [1.0] * n, tokens or [2] * n)),
    )


def test_changes_are_those_of_the_same_rows():
    before, after = (
        answers(["one", "x", "x", "x", "x", "x"]),
        answers(["x", "two", "three", "four", "five", "six"]),
    )
    got = answering.changes(before, after)
    assert (
        got["n"] == 6
        and got["exact_match"]["mean"] == pytest.approx(4 / 6)
        and got["tasks"]["say"]["exact_match"]["mean"] == 1
        and got["tasks"]["tell"]["n"] == 3
    )
    wanted = difference([1, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1])
    assert (got["exact_match"]["low"], got["exact_match"]["high"]) == (wanted.low, wanted.high)


@given(
    st.lists(
        st.tuples(st.floats(0, 50), st.floats(0, 50), st.integers(1, 9)), min_size=1, max_size=6
    )
)
@settings(deadline=None, max_examples=30)
def test_the_change_of_the_loss_is_the_difference_of_the_losses(rows):
    a, b, n = zip(*rows)
    texts = [ex.output for ex in ROWS[: len(rows)]]
    before, after = answers(texts, a, n), answers(texts, b, n)
    assert answering.changes(before, after)["loss"]["mean"] == pytest.approx(
        after.scores()["loss"] - before.scores()["loss"], abs=1e-9
    )


def test_nothing_has_changed_in_one_and_the_same():
    same = answers(["one", "x", "three", "x", "five", "x"])
    got = answering.changes(same, same)
    assert got["exact_match"]["mean"] == got["loss"]["mean"] == got["rouge_l"]["mean"] == 0
    assert not any(
        d["significant"]
        for d in (
            got["exact_match"],
            got["rouge_l"],
            got["loss"],
            got["tasks"]["say"]["exact_match"],
        )
    )


def test_tasks_are_held_to_a_stricter_level():
    got = answering.changes(answers(["x"] * 6), answers([ex.output for ex in ROWS]))["tasks"][
        "say"
    ]["exact_match"]
    plain, strict = (difference([0] * 3, [1] * 3, level=level) for level in (0.95, 0.975))
    assert (got["low"], got["high"]) == (strict.low, strict.high) and strict.low < plain.low


def test_only_common_rows_count_and_other_tokens_give_no_loss():
    got = answering.changes(answers(["one", "two", "x"]), answers([ex.output for ex in ROWS]))
    assert got["n"] == 3 and got["exact_match"]["mean"] == pytest.approx(1 / 3)
    assert (
        answering.changes(answers(["one"], tokens=[2]), answers(["one"], tokens=[3]))["loss"]
        is None
    )
    with pytest.raises(InputError, match="different rows"):
        answering.changes(answers(["one"]), answers(["x"], rows=[Example("Other.", output="x")]))


def test_answers_come_back_from_a_file():
    some = answering.Answers(
        ROWS[1:4:2],
        [Completion([], " two ", "end"), Completion([], "", "length")],
        ROWS,
        [(float(i), i + 1) for i in range(6)],
    )
    again = answering.Answers.parse(json.loads(json.dumps(some.facts())), ROWS)
    assert (
        again.scores() == some.scores() and again.texts == ["two", ""] and again.asked == some.asked
    )
    assert (
        some.scores()["loss"] == sum(range(6)) / sum(range(1, 7)) and some.scores()["n"] == 2
    )  # the loss is over all rows, the answers over two


def test_copies_are_named_and_left_out_of_the_second_score():
    said = answers(["one", "x", "three", "x", "five", "six"])
    got = answering.copied([Overlap(7, 1, "exact", 1.0), Overlap(2, 5, "near", 0.9)], ROWS, said)
    assert (got["exact"], got["near"]) == (1, 1) and got["rows"][0] == {
        "row": 2,
        "training_row": 8,
        "kind": "exact",
        "share": 1.0,
    }
    assert got["without"]["n"] == 4 and got["without"]["exact_match"] == 0.75
    assert answering.copied([], ROWS, said)["without"] is None


@given(st.lists(st.integers(), max_size=30), st.integers(1, 40))
def test_a_subsample_keeps_order_and_ends_of_the_file_in_reach(items, most):
    got = answering.subsample(list(enumerate(items)), most)
    assert (
        len(got) == min(most, len(items))
        and got == sorted(got, key=lambda x: x[0])
        and len({i for i, _ in got}) == len(got)
    )


# -- a base's answers, kept whole

TEXTS = [
    ("Name two fruits.", "apple\npear"),
    ("Name two colours.", "red\nblue"),
    ("Name two animals.", "cat\nowl"),
]


class Scripted:
    """Stands for `generate.complete`: each prompt's answer, then the text of another example."""

    def __init__(self, tokenizer, outputs, end):
        self.tokenizer = tokenizer
        self.outputs = outputs
        self.end = end
        self.prompts = []

    def __call__(self, model, tokenizer, prompts, *, stop_ids, stop=(), **_):
        self.prompts += [tokenizer.decode(ids) for ids in prompts]
        return [self.completion(out, set(stop_ids), stop) for out in self.outputs]

    def completion(self, output, stop_ids, stop):
        ids = self.tokenizer(f"{output}{self.end}Name two", add_special_tokens=False).input_ids
        first = next((i for i, token in enumerate(ids) if token in stop_ids), len(ids))
        text = self.tokenizer.decode(ids[:first])
        for end in stop:
            text = text.split(end)[0]
        return Completion(ids[:first], text, "stop")


@pytest.mark.parametrize(
    "join, end", [("\n", "\n\n"), ("\n\n", "\n###\n"), ("\n###\n\n", "\n####\n"), (" ", "\n")]
)
def test_answers_of_several_lines_are_scored_whole(monkeypatch, join, end):
    """The base's answer is right, goes on with another example, and is cut where that begins."""
    rows = [Example(asked, output=out.replace("\n", join)) for asked, out in TEXTS]
    tokenizer = load_base("nano").tokenizer
    script = Scripted(tokenizer, [ex.output for ex in rows], end)
    monkeypatch.setattr(generate, "complete", script)
    monkeypatch.setattr(generate, "context", lambda model: None)
    got = answering.best_prompt(None, tokenizer, rows, rows)
    assert got["few-shot"]["exact_match"] == got["plain"]["exact_match"] == 1
    few = script.prompts[len(rows)]  # the first row, after worked examples
    assert few.count(end) == 2 and few.endswith("Name two fruits. →")


@given(st.lists(st.text(alphabet="ab\n#", max_size=12), max_size=5))
def test_the_end_of_an_answer_stands_in_none(texts):
    end = answering.answer_end(texts)
    assert end.strip("\n#") == "" and not any(end in text.strip() for text in texts)
    if not any("\n" in text.strip() for text in texts):
        assert end == "\n"
