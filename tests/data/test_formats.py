"""Readings of rows that are more than one form each: properties, summaries, options, refusals.

The forms themselves are in tests/data/forms, one row each; test_forms.py reads them.
"""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_course.common.errors import InputError
from instruct_course.data.example import Example, Turn
from instruct_course.data.fields import parse_columns
from instruct_course.data.formats import Reader, parse
from instruct_course.data.preferences import parse_pair

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
FILLED = TEXT.filter(str.strip)
SAID = FILLED.filter(lambda text: text.lstrip()[0] not in "[{")
ROUNDS = st.lists(st.tuples(SAID, SAID), min_size=1, max_size=4)


def user(text):
    return {"role": "user", "content": text}


def answer(text, **fields):
    return {"role": "assistant", "content": text} | fields


def refusal(row, **options):
    """The sentence that refuses a row."""
    with pytest.raises(ValueError) as error:
        Reader(**options).parse(row)
    said = str(error.value)
    assert "\n" not in said and not said.endswith(".")
    return said


def test_a_context_is_the_input():
    row = {"instruction": "Who wrote it?", "context": "Emma, by Jane Austen.", "response": "Austen"}
    assert parse(row) == Example("Who wrote it?", "Emma, by Jane Austen.", "Austen")


def test_a_history_is_kept():
    row = {"instruction": "And 3+3?", "history": [["2+2?", "4"]], "output": "6"}
    earlier = (Turn("user", "2+2?"), Turn("assistant", "4"))
    assert parse(row) == Example("And 3+3?", output="6", history=earlier)


def renderings(system, rounds):
    """One conversation in each of the forms that can hold it."""
    turns = [turn for asked, said in rounds for turn in (("user", asked), ("assistant", said))]
    opening = [("system", system)] if system.strip() else []
    share = {"user": "human", "assistant": "gpt", "system": "system"}
    *before, (asked, said) = rounds
    columns = {
        "instruction": asked,
        "input": "",
        "output": said,
        "history": list(map(list, before)),
    }
    messages = [{"role": role, "content": text} for role, text in opening + turns]
    return {
        "messages": {"messages": messages},
        "sharegpt": {"conversations": [{"from": share[r], "value": t} for r, t in opening + turns]},
        "sharegpt beside": {
            "system": system,
            "conversations": [{"from": share[r], "value": t} for r, t in turns],
        },
        "parts": {
            "messages": [
                {"role": role, "content": [{"type": "text", "text": text}]}
                for role, text in opening + turns
            ]
        },
        "nulls": {
            "messages": [m | {"tool_calls": None, "weight": None, "name": None} for m in messages]
        },
        "pairs": {
            "system": system,
            "conversation": [{"human": q, "assistant": a} for q, a in rounds],
        },
        "columns": columns | {"system": system},
        "columns with messages": columns
        | {"system": system, "history": [{"role": r, "content": t} for r, t in turns[:-2]]},
        "chinese": {"指令": asked, "输出": said, "系统": system, "历史": columns["history"]},
    }


@settings(max_examples=60, deadline=None)
@given(system=st.just("") | FILLED, rounds=ROUNDS)
def test_all_renderings_of_a_conversation_are_one_example(system, rounds):
    *before, (asked, said) = rounds
    history = tuple(t for q, a in before for t in (Turn("user", q), Turn("assistant", a)))
    for name, row in renderings(system, rounds).items():
        through_json = json.loads(json.dumps(row))
        expected = Example(asked, output=said, system=system, history=history)
        assert parse(through_json) == expected, name


@settings(max_examples=100, deadline=None)
@given(
    turns=st.lists(
        st.tuples(st.sampled_from(["user", "assistant"]), FILLED, st.sampled_from([None, 0, 1])),
        min_size=1,
        max_size=8,
    )
)
def test_no_text_before_the_last_answer_is_lost_and_no_other_is_learnt(turns):
    messages = [
        {"role": r, "content": t} | ({} if w is None or r == "user" else {"weight": w})
        for r, t, w in turns
    ]
    try:
        example = parse({"messages": messages})
    except ValueError:
        return
    kept = [*example.history, Turn("user", example.instruction), Turn("assistant", example.output)]
    written = "\n".join(turn.content for turn in kept)
    learnt = [
        i for i, (role, _, w) in enumerate(turns) if i and role == "assistant" and w in (None, 1)
    ]
    for _, text, _ in turns[: learnt[-1] + 1]:
        assert text in written
    marked = [t.content for t in kept if t.role == "assistant" and t.supervised]
    assert marked == [turns[i][1] for i in learnt]


FIELDS = st.sampled_from(
    ["instruction", "prompt", "question", "input", "context", "output", "response", "answer"]
    + ["system", "history", "id", "split", "task", "target", "source"]
)


@settings(max_examples=200, deadline=None)
@given(row=st.dictionaries(FIELDS, st.none() | TEXT, min_size=1))
def test_a_text_in_a_used_column_is_in_the_example(row):
    reader = Reader()
    try:
        example = reader.parse(row)
    except ValueError as error:
        assert "\n" not in str(error).replace(str(row), "")
        return
    used = reader.summary().partition("columns used: ")[2].partition(";")[0].split(", ")
    written = [example.instruction, example.input, example.output, example.system]
    written += [example.task, example.split, *(turn.content for turn in example.history)]
    for name in used:
        assert not (row[name] or "").strip() or row[name] in written
    for name in {"system", "history", "context"} & set(row):
        assert name in used or not (row[name] or "").strip()


def test_a_file_of_many_forms_is_counted_by_form():
    reader = Reader()
    for number in range(1200):
        reader.parse({"messages": [user("a"), answer("b")], "system": "s", "id": number})
    reader.parse({"prompt": "a", "completion": "b", "source": "web"})
    with pytest.raises(ValueError):
        reader.parse({"prompt": "a", "completion": None, "unread": 1})
    assert reader.summary() == (
        "read as messages (1,200 rows), prompt/completion (1 row); "
        "columns used: messages, system, prompt, completion; not used: id, source"
    )


def test_what_was_done_to_rows_is_in_the_summary():
    reader = Reader()
    reader.parse({"messages": [user("a"), answer("b", id=3), user("thanks")]})
    reader.parse({"messages": [user("a"), user("b"), answer("c", thinking="d")]})
    reader.parse({"messages": [user("a"), answer("b"), user("c"), answer("d", weight=0)]})
    assert reader.summary() == (
        "read as messages (3 rows); columns used: messages; not used: messages.id; "
        "last turns without an answer are cut (1 row); "
        "reasoning is put in front of its answer as <think> text (1 row); "
        "turns after the last answer that is learnt from are cut (1 row); "
        "turns of the user in a row are joined by a blank line (1 row)"
    )
    assert Reader().summary() == "no row was read"


def test_texts_without_the_marker_are_refused_and_counted():
    reader = Reader(response_marker="A:")
    assert reader.parse({"text": "Q: 2+2? A: 4"}) == Example("Q: 2+2? A:", output=" 4")
    assert "does not hold the response marker 'A:'" in refusal({"text": "hm"}, response_marker="A:")
    with pytest.raises(ValueError):
        reader.parse({"text": "hm"})
    assert reader.summary().endswith("rows without the response marker are refused (1 row)")
    assert "has no answer after 'A:'" in refusal({"text": "Q A: "}, response_marker="A:")
    assert "'system' stands beside" in refusal(
        {"text": "A: b", "system": "s"}, response_marker="A:"
    )


@settings(max_examples=60, deadline=None)
@given(before=TEXT, after=FILLED.filter(lambda text: "#" not in text))
def test_a_split_text_is_its_two_parts_joined(before, after):
    example = Reader(response_marker="###").parse({"text": f"{before}###{after}"})
    assert example.instruction + example.output == f"{before}###{after}"
    assert "###" not in example.output and example.instruction.endswith("###")


@pytest.mark.parametrize(
    "text, marker",
    [
        ("### Human: a### Assistant: b", "### Assistant:"),
        ("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb", "<|im_start|>assistant"),
        ("<s>[INST] a [/INST] b </s>", "[/INST]"),
        ("USER: a ASSISTANT: b", "ASSISTANT:"),
        ("anything", "### Response:"),
    ],
)
def test_one_text_is_refused_with_the_marker_that_it_holds(text, marker):
    assert f"--response-marker '{marker}'" in refusal({"text": text, "id": 3})


def test_own_names():
    assert parse_columns("instruction=ask, output = the reply") == {
        "instruction": "ask",
        "output": "the reply",
    }
    row = {"ask": "a", "history": [["b", "c"]], "the reply": "d", "output": "e", "doc": "f"}
    reader = Reader(columns="instruction=ask,output=The Reply,input=doc,history=")
    assert reader.parse(row) == Example("a", "f", "d")
    assert reader.summary() == (
        "read as ask/the reply (1 row); columns used: ask, doc, the reply; not used: history, output"
    )


@pytest.mark.parametrize(
    "text, says",
    [
        ("instrction=ask", "there is no field 'instrction'; did you mean instruction"),
        ("zzz=ask", "there is no field 'zzz'; use instruction, input"),
        ("ask", "'ask' is not FIELD=COLUMN"),
        ("", "'' is not FIELD=COLUMN"),
        ("output=a,output=b", "stands twice"),
        ("output=a,input=a", "'a' stands for two fields"),
    ],
)
def test_a_wrong_list_of_names_is_one_sentence(text, says):
    with pytest.raises(InputError) as error:
        parse_columns(text)
    assert says in str(error.value) and "--columns" in str(error.value)


def test_a_task_may_have_its_own_name_or_be_left_out():
    row = {"prompt": "a", "completion": "b", "task": "t", "Kind": "k"}
    assert Reader(columns="task=kind").parse(row) == Example("a", output="b", task="k")
    assert Reader(columns="task=").parse(row) == Example("a", output="b")


def test_a_chosen_column_that_is_missing_names_those_that_are_there():
    said = refusal({"ask": "a", "reply": "b"}, columns="instruction=ask,output=answer")
    assert "the column 'answer' of --columns output=answer is missing" in said
    assert "its columns are ask, reply" in said


def test_the_users_choice_of_the_chosen_answer_is_followed():
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    assert parse_columns("output=chosen") == {"output": "chosen"}
    assert Reader(columns="output=chosen").parse(row) == Example("a", output="b")


@pytest.mark.parametrize(
    "value, text", [(5, "5"), (2.5, "2.5"), (-0.0, "-0.0"), (10**20, "1" + "0" * 20)]
)
def test_numbers_are_texts(value, text):
    assert parse({"instruction": "a", "input": value, "output": value}) == Example("a", text, text)


@pytest.mark.parametrize(
    "row, says",
    [
        ({"instruction": "a", "output": float("nan")}, "the field 'output' is nan"),
        ({"instruction": "a", "output": None}, "the field 'output' is null; make it a text"),
        ({"instruction": "a", "input": True, "output": "b"}, "'input' is true or false"),
        ({"instruction": "a", "input": {"b": 1}, "output": "b"}, "'input' is an object"),
        ({"instruction": "a", "output": "b", "history": "yes"}, "'history' is not a list of turns"),
        ({"instruction": "a", "output": "b", "history": [["c"]]}, "turn 1 of 'history' is a list"),
        ({"instruction": "a", "output": "b", "history": [user("c")]}, "not end with an answer"),
        ({"instruction": "a", "output": "b", "tools": "hammer"}, "'tools' is no JSON list"),
        ({"instruction": "a", "output": "b", "rejected": "c"}, "preference objective"),
        ({"instruction": "a", "output": "b", "videos": ["v"]}, "'videos' holds images, audio"),
        ({"prompt": "a", "question": "b", "output": "c"}, "--columns instruction=prompt"),
        (
            {"instruction": "a", "input": "b", "context": "c", "output": "d"},
            "--columns input=input",
        ),
        ({"output": "b"}, "the field 'instruction' is missing (its columns are output)"),
        ({"text": 3}, "the field 'instruction' is missing (its columns are text)"),
        ({}, "the field 'instruction' is missing (its columns are none)"),
        ({"messages": []}, "'messages' is not a list of turns"),
        ({"messages": "hi"}, "'messages' is not a list of turns"),
        ({"messages": ["hi"]}, "turn 1 of 'messages' is text"),
        ({"messages": [user("a"), answer("")]}, "turn 2 of 'messages' is empty"),
        ({"messages": [user(None), answer("b")]}, "turn 1 of 'messages' needs a content"),
        ({"messages": [answer("b")]}, "does not end with a user turn and an answer"),
        ({"messages": [user("a")]}, "does not end with a user turn and an answer"),
        ({"messages": [user("a"), answer("b", weight=0.5)]}, "'weight' that is not 0, 1"),
        ({"messages": [user("a"), answer("b", weight=0, train=True)]}, "marks that disagree"),
        ({"messages": [user("a") | {"tool_calls": [{}]}, answer("b")]}, "a tool without a name"),
        ({"messages": [user("a") | {"reasoning": "r"}, answer("b")]}, "only an answer may"),
        ({"messages": [user("a") | {"images": ["i"]}, answer("b")]}, "only text is read"),
        (
            {"messages": [user("a"), {"role": "tool", "content": "b"}, answer("c")]},
            "follows no call",
        ),
        ({"messages": [user("a\ud83d"), answer("b")]}, "half of a surrogate pair"),
        ({"messages": [user("a"), answer("b" * 1_000_001)]}, "more than 1,000,000"),
        (
            {"messages": [user("a"), answer("b")], "history": [["c", "d"]]},
            "'history' stands beside",
        ),
        ({"system": "s", "messages": [{"role": "system", "content": "t"}]}, "two system texts"),
        (
            {"messages": [user("a"), {"from": "function_call", "value": "no"}]},
            "calls of tools that are no JSON list",
        ),
        (
            {"prompt": [user("a")], "completion": "b", "input": "c"},
            "'input' stands beside 'prompt'",
        ),
    ],
)
def test_what_would_lose_something_is_refused(row, says):
    assert says in refusal(row)


def test_texts_that_look_like_json_stay_texts():
    text = '[{"role": "user", "content": "a"}]'
    assert parse({"prompt": "List the roles.", "completion": text}).output == text
    assert parse({"prompt": text, "completion": [answer("b")]}).instruction == text
    assert parse({"text": "x", "instruction": text, "output": "{}"}) == Example(text, output="{}")
    pair = parse_pair({"prompt": "a", "chosen": '{"b": 1}', "rejected": "[]"})
    assert [example.output for example in pair] == ['{"b": 1}', "[]"]


def test_the_rows_of_a_table_with_null_in_the_columns_of_other_rows():
    absent = dict.fromkeys(
        ["messages", "prompt", "completion", "text", "history", "tools", "chosen"]
    )
    example = Example("a", output="b")
    assert parse(absent | {"messages": [user("a"), answer("b")]}) == example
    assert parse(absent | {"prompt": "a", "completion": "b"}) == example
    assert parse(absent | {"input": "a", "completion": "b"}) == example
    assert Reader(response_marker="a").parse(absent | {"text": "ab"}) == example
    assert "--response-marker" in refusal(absent | {"text": "ab"})
    assert "preference" in refusal(absent | {"prompt": "a", "chosen": "b", "rejected": "c"})


def test_the_first_of_several_answers_is_told():
    reader = Reader()
    row = {"question": "a", "answers": {"text": ["b", "b"], "answer_start": [1, 5]}}
    assert reader.parse(row).output == "b" and "first" not in reader.summary()
    reader.parse(row | {"answers": ["b", "c"]})
    assert "of several answers the first is read (1 row)" in reader.summary()


COLUMNS = st.sampled_from(
    ["instruction", "prompt", "input", "output", "completion", "answers", "system", "history"]
    + ["messages", "conversations", "tools", "text", "thinking", "images", "label", "task", "\n"]
)
KEYS = st.sampled_from(
    ["role", "from", "content", "value", "type", "text", "tool_calls", "function_call", "weight"]
    + ["name", "function", "arguments", "human", "assistant", "reasoning_content", "\n"]
)
ROLES = st.sampled_from(
    ["user", "assistant", "system", "tool", "gpt", "human", "function_call", "\n"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | ROLES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
MESSAGE = st.fixed_dictionaries(
    {}, optional={"role": ROLES, "content": VALUES, "tool_calls": VALUES}
)


@settings(max_examples=400, deadline=None)
@given(
    row=VALUES | st.dictionaries(COLUMNS, VALUES | st.lists(MESSAGE, max_size=4), max_size=5),
    json_output=st.booleans(),
    marker=st.sampled_from([None, "a"]),
)
def test_any_row_is_read_or_refused_in_one_sentence(row, json_output, marker):
    reader = Reader(json_output=json_output, response_marker=marker)
    try:
        example = reader.parse(row)
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 600
        return
    assert example.output.strip() and "\n" not in reader.summary()
    assert example.instruction.strip() or example.history[-1].role == "tool"


@settings(max_examples=100, deadline=None)
@given(row=VALUES | st.dictionaries(COLUMNS, VALUES, max_size=4), sides=st.tuples(VALUES, VALUES))
def test_any_pair_is_read_or_refused_in_one_sentence(row, sides):
    if isinstance(row, dict):
        row = row | {"chosen": sides[0], "rejected": sides[1]}
    try:
        chosen, rejected = parse_pair(row)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    assert (chosen.instruction, chosen.history) == (rejected.instruction, rejected.history)


def test_a_row_that_is_nested_too_deeply_is_refused():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert "nested too deeply" in refusal({"messages": [{"role": deep, "content": "a"}]})
    assert "nested too deeply" in refusal({"prompt": "a", "completion": deep}, json_output=True)
    assert "'output' is a list" in refusal({"prompt": "a", "output": deep})


def test_columns_of_other_meaning_do_no_harm():
    row = {
        "instruction": "a",
        "output": "b",
        "split": 3,
        "task": ["x"],
        "lang": None,
        "wording": "w",
    }
    assert parse(row) == Example("a", output="b", wording="w")


def test_parallel_calls_keep_the_order_of_their_results():
    calls = [{"id": f"c{i}", "function": {"name": "f", "arguments": "{}"}} for i in (1, 2)]
    results = [{"role": "tool", "tool_call_id": f"c{i}", "content": f"r{i}"} for i in (1, 2)]
    asked = [user("a"), {"role": "assistant", "content": None, "tool_calls": calls}]
    example = parse({"messages": [*asked, *results, answer("b")]})
    assert [turn.content for turn in example.history] == ["a", "", "r1", "r2"]
    assert json.loads(example.history[1].tool_calls) == calls
    said = refusal({"messages": [*asked, *results[::-1], answer("b")]})
    assert "turn 3 of 'messages' is the result of 'c2', which is not the next call" in said


def test_a_call_joins_the_answer_that_it_follows():
    turns = [("human", "a"), ("gpt", "I look."), ("function_call", '{"name": "f"}')]
    turns += [("function_call", '{"name": "g"}'), ("observation", "r"), ("gpt", "b")]
    example = parse({"conversations": [{"from": r, "value": t} for r, t in turns]})
    assert example.history == (
        Turn("user", "a"),
        Turn("assistant", "I look.", tool_calls='[{"name": "f"}, {"name": "g"}]'),
        Turn("tool", "r", supervised=False),
    )
    assert (example.instruction, example.output) == ("", "b")


PAIR = (Example("a", output="b", system="s"), Example("a", output="c", system="s"))


@pytest.mark.parametrize(
    "row",
    [
        {"system": "s", "prompt": "a", "chosen": "b", "rejected": "c"},
        {"system": "s", "instruction": "a", "input": "", "chosen": "b", "rejected": "c"},
        {"system": "s", "prompt": "a", "chosen": [answer("b")], "rejected": [answer("c")]},
        {"system": "s", "prompt": [user("a")], "chosen": [answer("b")], "rejected": [answer("c")]},
        {"system": "s", "prompt": "a", "chosen": [user("a"), answer("b")]}
        | {"rejected": [user("a"), answer("c")]},
        {"system": "s", "chosen": [user("a"), answer("b")], "rejected": [user("a"), answer("c")]},
        {"system": "s", "conversations": [{"from": "human", "value": "a"}]}
        | {"chosen": {"from": "gpt", "value": "b"}, "rejected": {"from": "gpt", "value": "c"}},
    ],
)
def test_a_pair_in_all_its_forms(row):
    before = json.dumps(row)
    assert parse_pair(row) == PAIR
    assert json.dumps(row) == before
    assert "preference objective" in refusal(row)


def test_a_pair_of_different_prompts_is_refused():
    row = {"chosen": [user("a"), answer("b")], "rejected": [user("x"), answer("c")]}
    with pytest.raises(ValueError, match="answer different prompts"):
        parse_pair(row)
    with pytest.raises(ValueError, match="'rejected' is missing"):
        parse_pair({"prompt": "a", "chosen": "b"})


def test_the_earlier_answers_of_a_pair_are_context():
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "history": [["d", "e"]]}
    earlier = (Turn("user", "d"), Turn("assistant", "e", supervised=False))
    assert [example.history for example in parse_pair(row)] == [earlier, earlier]


def pair_refusal(row, **options):
    with pytest.raises(ValueError) as error:
        parse_pair(row, **options)
    assert "\n" not in str(error.value) and not str(error.value).endswith(".")
    return str(error.value)


QUESTION = [user("d"), answer("e"), user("a")]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": QUESTION, "chosen": [answer("b")], "rejected": [answer("c")]},  # TRL
        {"chosen": [*QUESTION, answer("b")], "rejected": [*QUESTION, answer("c")]},  # implicit
        {"messages": QUESTION, "chosen": answer("b"), "rejected": answer("c")},
        {
            "conversations": [
                {"from": "human", "value": "d"},
                {"from": "gpt", "value": "e"},
                {"from": "human", "value": "a"},
            ],
            "chosen": {"from": "gpt", "value": "b"},
            "rejected": {"from": "gpt", "value": "c"},
        },  # LLaMA-Factory
        {"instruction": "a", "history": [["d", "e"]], "chosen": "b", "rejected": "c"},
        {"instruction": "a", "history": [["d", "e"]], "output": ["b", "c"]},  # its older form
        {
            "chosen": "\n\nHuman: d\n\nAssistant: e\n\nHuman: a\n\nAssistant: b",
            "rejected": "\n\nHuman: d\n\nAssistant: e\n\nHuman: a\n\nAssistant: c",
        },  # HH-RLHF
    ],
)
def test_a_pair_with_earlier_turns_in_all_its_forms(row):
    before = json.dumps(row)
    earlier = (Turn("user", "d"), Turn("assistant", "e", supervised=False))
    example = Example("a", history=earlier)
    assert parse_pair(row) == tuple(dataclasses.replace(example, output=o) for o in "bc")
    assert json.dumps(row) == before


def test_the_older_form_keeps_its_input():
    row = {"instruction": "a", "input": "x", "output": ["b", "c"]}
    assert parse_pair(row) == tuple(Example("a", "x", output) for output in "bc")
    assert parse_pair({"instruction": "a", "output": '["b", "c"]'})[1] == Example("a", output="c")
    assert "'chosen' is missing" in pair_refusal({"instruction": "a", "output": ["b", "c", "d"]})


@pytest.mark.parametrize(
    "chosen, rejected, prompt, answers",
    [
        ("The sky is blue.", "The sky is green.", "The sky is", ("blue.", "green.")),
        ("The sky is blue", "The sky is black", "The sky is", ("blue", "black")),
        (
            "秘鲁的首都是哪里？利马",
            "秘鲁的首都是哪里？罗马",
            "秘鲁的首都是哪里？",
            ("利马", "罗马"),
        ),
    ],
)
def test_an_implicit_prompt_is_read_where_that_is_said(chosen, rejected, prompt, answers):
    row = {"chosen": chosen, "rejected": rejected}
    assert "the prompt is missing" in pair_refusal(row)
    pair = parse_pair(row, implicit_prompt=True)
    assert pair == tuple(Example(prompt, output=output) for output in answers)
    said = pair_refusal({"chosen": "blue", "rejected": "black"}, implicit_prompt=True)
    assert "do not begin with the same prompt" in said


@pytest.mark.parametrize(
    "row, says",
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "are the same answer; make them differ"),
        ({"prompt": "a", "chosen": "b", "rejected": " b\n"}, "are the same answer"),
        (
            {"prompt": [user("a")], "chosen": [answer("b")], "rejected": [answer("b")]},
            "are the same answer",
        ),
        ({"prompt": "a", "chosen": "", "rejected": "b"}, "the field 'chosen' is empty; fill it"),
        ({"prompt": "a", "chosen": "b", "rejected": None}, "the field 'rejected' is empty"),
        (
            {"prompt": "a", "chosen": [answer("b")], "rejected": [answer(" ")]},
            "the field 'rejected' is empty",
        ),
        ({"prompt": "a", "chosen": "b", "rejected": []}, "the field 'rejected' is empty"),
        ({"chosen": "b", "rejected": "c"}, "the prompt is missing (its columns are chosen, reject"),
        ({"chosen": [answer("b")], "rejected": [answer("c")]}, "the prompt is missing"),
        ({"prompt": " ", "chosen": "b", "rejected": "c"}, "the field 'prompt' is empty"),
        ({"prompt": "a", "chosen": {"x": 1}, "rejected": "c"}, "the field 'chosen' is an object"),
        (
            {"chosen": [user("a"), {"role": "x", "content": "b"}], "rejected": [user("a")]},
            "turn 2 of 'chosen' needs a role",
        ),
        ({"prompt": "a", "response": "x", "chosen": "b", "rejected": "c"}, "is a third answer"),
        ({"prompt": "a", "completion": "b", "label": True}, "the field 'chosen' is missing"),
    ],
)
def test_what_is_no_pair_is_refused_by_its_own_columns(row, says):
    assert says in pair_refusal(row)


def test_an_answer_that_is_one_of_the_two_is_no_third():
    row = {"prompt": "a", "answer": "b", "chosen": "b", "rejected": "c"}
    assert parse_pair(row) == (Example("a", output="b"), Example("a", output="c"))
