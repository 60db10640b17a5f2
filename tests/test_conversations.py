"""Tuning on conversations, from a file to a run: every answer is learnt, and what is cut is said."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

import instruct_course
from instruct_course.common.files import ASSETS
from instruct_course.data import dataset
from instruct_course.data import template as templates
from instruct_course.data.encoded_rows import encode_rows
from instruct_course.data.example import Example, Turn

CHAT = (
    "{% for m in messages %}{% if m.role == 'user' %}<inst> {{ m.content }}<inp>"
    "{% else %}<out> {{ m.content }}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<out>{% endif %}"
)
FORGETFUL = CHAT.replace("m.content }}<eos>", "m.content.split('</think>')[-1] }}<eos>")


@pytest.fixture(scope="module")
def nano_chat(tmp_path_factory):
    """nano with a chat template, as a folder."""
    folder = tmp_path_factory.mktemp("models") / "nano-chat"
    shutil.copytree(ASSETS / "nano", folder)
    (folder / "chat_template.jinja").write_text(CHAT, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    """A file of forty conversations of two turns."""
    path = tmp_path_factory.mktemp("rows") / "talks.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(40):
            turns = [("user", f"Say {i}."), ("assistant", f"cat {i}")]
            turns += [("user", "Again."), ("assistant", f"dog {i}")]
            row = {"messages": [{"role": role, "content": text} for role, text in turns]}
            file.write(json.dumps(row) + "\n")
    return path


def tune(model, data, capsys, **options):
    """(the run, what was said) of a short tuning."""
    run = instruct_course.tune(
        model=str(model),
        data=str(data),
        template="chat",
        epochs=0.5,
        holdout="0.2",
        **options,
    )
    return run, capsys.readouterr().err


def test_all_answers_are_learnt_or_the_last(nano_chat, talks, tmp_path, capsys):
    learnt = {}
    for turns in ("all", "last"):
        run, said = tune(nano_chat, talks, capsys, turns=turns, out=str(tmp_path / turns))
        first = json.loads((run.path / "metrics.jsonl").read_text(encoding="utf-8").split("\n")[0])
        learnt[turns] = first
        how = "64 answers" if turns == "all" else "their last answers"
        assert f"32 rows are conversations: {how} are learnt" in said
    assert run.report["train_rows"] == 32
    assert learnt["all"]["loss"] != learnt["last"]["loss"]
    config = json.loads((run.path / "run.json").read_text(encoding="utf-8"))["config"]
    assert config["turns"] == "last"


class Config:
    max_length = 24
    truncate_response = False
    skip_bad = False
    turns = "all"


def held(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    dataset.save(path, rows)
    return dataset.load(path)


def test_what_is_cut_is_counted(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "nano")
    chat = templates.Template("chat", chat=CHAT)
    turn = (Turn("user", "a b"), Turn("assistant", "c d"))
    rows = held(tmp_path, [Example("a", output="b"), Example("e", output="f", history=turn * 5)])
    made = encode_rows(rows, chat, tokenizer, Config())
    assert (made.conversations, made.shortened, made.split, made.kept) == (1, 1, 0, [0, 1])
    assert made.answers + made.cut == 6 and made.cut > 0
    assert len(made.encoded[1].ids) <= 24
    assert f"their last {made.cut} answers are left out (--max-length)" in made.lines(Config())[-1]
    judged = encode_rows(rows, chat, tokenizer, Config(), judged=True)
    assert judged.kept == [0] and [row["row"] for row in judged.too_long] == [2]
    judged.check(Config())  # no reason to refuse the file


def test_a_row_per_answer_is_said(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "nano")
    chat = templates.Template("chat", chat=FORGETFUL)
    history = (Turn("user", "a"), Turn("assistant", "<think>hm</think>b"))
    rows = held(tmp_path, [Example("c", output="<think>ho</think>d", history=history)])
    config = Config()
    config.max_length = 100
    made = encode_rows(rows, chat, tokenizer, config)
    ends = [tokenizer.decode([i for i in row.labels if i != -100]) for row in made.encoded]
    assert ends == ["<think>hm</think>b<eos>", "<think>ho</think>d<eos>"] and made.split == 1
    assert "1 conversations became a row per answer" in made.lines(Config())[1]
