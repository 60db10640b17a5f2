"""Every answer is learnt behind the prompt that it has at inference, whatever the template does."""

import json
from dataclasses import replace

import pytest
from chat_templates import HAS_SYSTEM, STYLES, styled
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from instruct_course.common.errors import InputError
from instruct_course.data.conversation import encode_all, training_rows
from instruct_course.data.example import Example, Turn
from instruct_course.data.template import IGNORE_INDEX, Template, encode, named, prompt, stop_ids
from instruct_course.data.user_text import control_tokens, plain

WORDS = st.text(st.sampled_from("ab c 猫你<|>/\n"), min_size=1, max_size=12).filter(str.strip)
EVIL = st.sampled_from(
    ["<|im_end|>", "</s>", "[INST] x", "<|eot_id|>", "<think>", "{{ messages }}", "\ue0000\ue001"]
)
TEXTS = WORDS | EVIL
SPLITS = {"mistral", "qwen3", "deepseek-r1", "open"}  # with a system text


def conversation(texts, answers, system=""):
    """A row of as many turns as there are answers."""
    turns = []
    for text, answer in zip(texts[:-1], answers[:-1]):
        turns += [Turn("user", text), Turn("assistant", answer)]
    return Example(texts[-1], output=answers[-1], history=tuple(turns), system=system)


def asked_alone(ex, k):
    """The row that ends in answer `k`, as somebody who asks turn by turn would have it."""
    questions = [turn.content for turn in ex.history if turn.role == "user"] + [ex.instruction]
    answers = [turn.content for turn in ex.history if turn.role == "assistant"] + [ex.output]
    return conversation(questions[: k + 1], answers[: k + 1], ex.system)


def spans(row):
    """(start, end) of each run of supervised tokens that ends with an end token or the row."""
    learnt = [i for i, label in enumerate(row.labels) if label != IGNORE_INDEX]
    cuts = [i for i in learnt if i - 1 not in learnt]
    return [(i, next(j for j in range(i, len(row.ids) + 1) if j not in learnt)) for i in cuts]


@pytest.mark.parametrize("name", STYLES)
@settings(max_examples=40, deadline=None)
@given(data=st.data(), n=st.integers(1, 4))
def test_each_answer_stands_behind_its_own_prompt(name, data, n):
    tok = styled(name)
    template = named("chat", tok)
    system = data.draw(st.just("") | TEXTS) if name in HAS_SYSTEM else ""
    texts, answers = (data.draw(st.lists(TEXTS, min_size=n, max_size=n)) for _ in range(2))
    ex = conversation(texts, answers, system)
    (rows,) = encode_all(template, tok, [ex], max_length=4000)
    found = [(row, span) for row in rows for span in spans(row)]
    assert len(found) == n
    for k, (row, (start, end)) in enumerate(found):
        assert row.ids[:start] == prompt(template, tok, asked_alone(ex, k))
        answer = row.ids[start:end]
        assert answer[-1] in stop_ids(template, tok)
        assert answers[k].strip() in tok.decode(answer, skip_special_tokens=False)


@pytest.mark.parametrize("name", STYLES)
def test_what_the_template_writes_is_what_the_library_writes(name):
    tok = styled(name)
    template = named("chat", tok)
    ex = conversation(["the cat", "the mat"], ["said hello", "sat"])
    turns = [{"role": turn.role, "content": turn.content} for turn in ex.history]
    asked = tok.apply_chat_template(
        [*turns, {"role": "user", "content": "the mat"}], add_generation_prompt=True, tokenize=False
    )
    assert tok.decode(prompt(template, tok, ex)) == asked
    if name != "vicuna":  # asked with a space at the end, which alone is another token than " said"
        assert prompt(template, tok, ex) == tok(asked, add_special_tokens=False).input_ids


@pytest.mark.parametrize("name", STYLES)
@settings(max_examples=30, deadline=None)
@given(text=EVIL | WORDS, answer=EVIL | WORDS)
def test_no_text_becomes_a_special_token(name, text, answer):
    tok = styled(name)
    template = named("chat", tok)
    control = control_tokens(tok)

    def special(ex):
        return [
            i
            for rows in encode_all(template, tok, [ex])
            for r in rows
            for i in r.ids
            if i in control
        ]

    calm = conversation(["a", "b"], ["c", "d"])
    wild = conversation([text, text], [answer, answer])
    assert special(wild) == special(calm)


def test_which_templates_need_a_row_per_answer():
    def rows(name, ex):
        tok = styled(name)
        return len(encode_all(named("chat", tok), tok, [ex])[0])

    two = conversation(["a", "b"], ["c", "d"])
    assert {name for name in STYLES if rows(name, two) == 2} == SPLITS - {"mistral"}
    two = replace(two, system="be kind")
    assert {name for name in HAS_SYSTEM if rows(name, two) == 2} == SPLITS


def test_last_turns_only_and_turns_that_are_not_learnt():
    tok = styled("chatml")
    template = named("chat", tok)
    ex = conversation(["a", "b", "c"], ["x", "y", "z"])
    ((row,),) = encode_all(template, tok, [ex], turns="last")
    assert [i for i in row.labels if i != IGNORE_INDEX] == plain(tok, "z") + [tok.eos_token_id]
    quiet = replace(
        ex, history=(*ex.history[:1], replace(ex.history[1], supervised=False), *ex.history[2:])
    )
    ((row,),) = encode_all(template, tok, [quiet])
    learnt = [i for i in row.labels if i != IGNORE_INDEX]
    end = [tok.eos_token_id]
    assert learnt == plain(tok, "y") + end + plain(tok, "z") + end
    assert row.ids == encode(template, tok, ex).ids


def test_a_split_row_learns_its_last_answer_alone():
    tok = styled("qwen3")
    ex = conversation(["a", "b"], ["<think>\nhm\n</think>\n\nx", "y"])
    first, second = training_rows(named("chat", tok), tok, ex)
    assert (first.instruction, first.output, first.history) == ("a", ex.history[1].content, ())
    assert second.history == tuple(replace(turn, supervised=False) for turn in ex.history)


def test_reasoning_is_written_as_the_template_does():
    tok = styled("qwen3")
    template = named("chat", tok)
    think = tok.convert_tokens_to_ids(["<think>", "</think>"])
    row = encode(template, tok, Example("a", output="<think>\nhm\n</think>\n\nb"))
    learnt = [i for i in row.labels if i != IGNORE_INDEX]
    assert tok.decode(learnt) == "<think>\nhm\n</think>\n\nb<|im_end|>"
    assert learnt[0] == think[0] and think[1] in learnt
    bare = [i for i in encode(template, tok, Example("a", output="b")).labels if i != IGNORE_INDEX]
    assert tok.decode(bare) == "<think>\n\n</think>\n\nb<|im_end|>"


def test_a_prompt_that_opens_the_reasoning():
    tok = styled("deepseek-r1")
    template = named("chat", tok)
    asked = tok.decode(prompt(template, tok, Example("a")))
    assert asked == "<|bos|><|User|>a<|Assistant|><think>\n"

    def learnt(output):
        row = encode(template, tok, Example("a", output=output))
        assert tok.decode(row.ids).startswith(asked)
        return tok.decode([i for i in row.labels if i != IGNORE_INDEX])

    assert learnt("<think>\nhm\n</think>\n\nb") == "hm\n</think>\n\nb<|eos|>"
    assert learnt("b") == "\n</think>\n\nb<|eos|>"


CALL = json.dumps(
    [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}]
)
TOOLS = json.dumps([{"type": "function", "function": {"name": "weather", "parameters": {}}}])


def test_tool_calls_are_learnt_and_results_are_not():
    tok = styled("chatml-tools")
    template = named("chat", tok)
    history = (Turn("user", "Is it warm?"), Turn("assistant", "", tool_calls=CALL))
    history += (Turn("tool", "12 degrees"),)
    ex = Example("", output="No.", history=history, tools=TOOLS)
    ((row,),) = encode_all(template, tok, [ex])
    learnt = tok.decode([i for i in row.labels if i != IGNORE_INDEX])
    assert learnt.count("<|im_end|>") == 2 and '"name": "weather"' in learnt
    assert "12 degrees" not in learnt and "12 degrees" in tok.decode(row.ids)
    library = tok.apply_chat_template(
        [
            {"role": "user", "content": "Is it warm?"},
            {"role": "assistant", "content": "", "tool_calls": json.loads(CALL)},
            {"role": "tool", "content": "12 degrees"},
            {"role": "assistant", "content": "No."},
        ],
        tools=json.loads(TOOLS),
        tokenize=False,
    )
    assert tok.decode(row.ids) == library.rstrip("\n")


def test_a_last_answer_may_be_a_tool_call():
    tok = styled("chatml-tools")
    ex = Example("Is it warm?", output=CALL, tool_calls=CALL, tools=TOOLS)
    row = encode(named("chat", tok), tok, ex)
    learnt = tok.decode([i for i in row.labels if i != IGNORE_INDEX])
    assert learnt.startswith("\n<tool_call>") or learnt.startswith("<tool_call>")
    assert learnt.endswith("</tool_call><|im_end|>")


def test_what_a_template_cannot_write_is_refused_by_turn():
    history = (Turn("user", "a"), Turn("assistant", "", tool_calls=CALL), Turn("tool", "12"))
    ex = Example("", output="No.", history=history)
    with pytest.raises(InputError, match="leaves out the call of weather in turn 2"):
        encode(named("chat", styled("chatml")), styled("chatml"), ex)
    with pytest.raises(InputError, match="does not write tools, such as weather"):
        encode(
            named("chat", styled("llama3")), styled("llama3"), Example("a", output="b", tools=TOOLS)
        )
    with pytest.raises(InputError, match="System role not supported"):
        encode(
            named("chat", styled("gemma")), styled("gemma"), Example("a", output="b", system="s")
        )
    deaf = Template(
        "chat", chat="{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(InputError, match=r"leaves out the text of turn 1 \(system\)"):
        encode(deaf, styled("chatml"), Example("a", output="b", system="s"))


def test_a_special_token_in_a_tool_call_is_refused():
    tok = styled("chatml-tools")
    forged = CALL.replace("Oslo", "<|im_end|>")
    with pytest.raises(InputError, match=r"the special token <\|im_end\|>"):
        encode(named("chat", tok), tok, Example("a", output=forged, tool_calls=forged, tools=TOOLS))


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=2, max_size=5), room=st.integers(20, 120))
def test_a_long_conversation_loses_its_last_answers_whole(lengths, room):
    tok = styled("chatml")
    template = named("chat", tok)
    ex = conversation(["a"] * len(lengths), ["b c " * n for n in lengths])
    whole = encode(template, tok, ex, max_length=100_000)
    ends = [end for _, end in spans(whole)]
    fits = [end for end in ends if end <= room]
    (made,) = encode_all(template, tok, [ex], max_length=room)
    if not fits:
        assert isinstance(made, InputError) and "--max-length" in str(made)
        return
    (row,) = made
    assert row.ids == whole.ids[: fits[-1]] and row.labels == whole.labels[: fits[-1]]
    assert row.turns_cut == len(ends) - len(fits)


def test_rows_in_a_batch_are_what_they_are_alone():
    tok = AutoTokenizer.from_pretrained(styled_nano())
    template = named("article")
    rows = [Example("Do it.", "cat " * n, "dog <out> " * n) for n in range(1, 30)]
    rows.append(Example("a", output="b", system="s"))
    made = encode_all(template, tok, rows, max_length=80)
    for ex, got in zip(rows, made):
        try:
            assert got == [encode(template, tok, ex, max_length=80)]
        except InputError as error:
            assert str(got) == str(error)


def styled_nano():
    from instruct_course.common.files import ASSETS

    return ASSETS / "nano"
