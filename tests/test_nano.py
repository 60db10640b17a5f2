"""The nano model is an honest base, and the built-in rows are what they are said to be."""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from instruct_course.common.files import ASSETS
from instruct_course.data.dataset import BUILTIN, builtin, example
from tools import make_nano
from tools.nano import corpus, tasks

ROOT = Path(__file__).parents[1]
KEPT = json.loads((ROOT / "tools" / "nano" / "log.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def documents():
    return list(corpus.documents(KEPT["seed"], make_nano.DOCUMENTS))


def test_frozen_by_hash():
    assert (
        hashlib.sha256((ASSETS / "nano" / "model.safetensors").read_bytes()).hexdigest()
        == KEPT["weights"]
    )
    for name in BUILTIN:
        assert (
            hashlib.sha256((ASSETS / "instructions" / f"{name}.jsonl").read_bytes()).hexdigest()
            == KEPT["instructions"][name]
        )


def test_the_rows_are_what_their_generator_makes():
    made = tasks.build(KEPT["seed"])
    for name in BUILTIN:
        assert made[name] == [
            json.loads(line)
            for line in (ASSETS / "instructions" / f"{name}.jsonl")
            .read_text(encoding="utf-8")
            .splitlines()
        ]


def test_the_shape_of_the_model():
    config = json.loads((ASSETS / "nano" / "config.json").read_text(encoding="utf-8"))
    assert (
        config["tie_word_embeddings"]
        and config["num_key_value_heads"] < config["num_attention_heads"]
        and config["max_position_embeddings"] == 1024
    )
    assert (
        all(config[k] % 64 == 0 for k in ("hidden_size", "intermediate_size", "vocab_size"))
        and 4000 <= config["vocab_size"] <= 8192
    )
    assert (
        ASSETS / "nano" / "model.safetensors"
    ).stat().st_size / 2 < 8e6  # bf16: two bytes per parameter


def test_tokens_of_digits_han_and_markers(nano):
    tok = nano.tokenizer
    assert len(tok("2026").input_ids) == 4 and len(tok("首都北京").input_ids) == 4
    assert tok.convert_tokens_to_ids(["<pad>", "<eos>", "<inst>", "<inp>", "<out>"]) == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_the_corpus_holds_no_instruction_with_its_response(documents):
    """No wording of an instruction, and no marker of a template, stands in a document."""
    groups = [group for by in tasks.WORDINGS.values() for lang in by.values() for group in lang] + [
        group for by in tasks.MORE.values() for group in by
    ]
    long_enough = [
        w for group in groups for w in group.split("\n") if "{x}" not in w and len(w) >= 5
    ]
    text = "\n".join(documents)
    assert not [w for w in long_enough if w in text]
    assert len(long_enough) > 500
    assert not [
        m
        for m in ("<inst>", "<inp>", "<out>", "<eos>", "### ", "Instruction:", "Response:", "指令")
        if m in text
    ]


def test_the_corpus_holds_no_evaluation_item(documents):
    """No statement of a judged input with its answer; facts and dictionary lines as statements are the exception that is meant."""
    text, lines = "\n".join(documents), {line for d in documents for line in d.split("\n")}
    rows = [example(r) for s in ("dev", "inputs", "wordings", "knowledge") for r in builtin(s)]
    told = {
        corpus.STATEMENTS[ex.task][ex.lang].split("|")[i].format(a=ex.input, b=ex.output)
        for ex in rows
        if ex.task in corpus.STATEMENTS
        for i in range(len(corpus.STATEMENTS[ex.task][ex.lang].split("|")))
    }
    texts = {
        ex.input for ex in rows if ex.task in tasks.GENERATORS and ex.task not in corpus.STATEMENTS
    }
    assert len(told) > 5000 and not told & lines
    assert len(texts) > 500 and not [t for t in texts if t in text]
    ex = next(ex for ex in rows if ex.task == "sort")
    assert (
        corpus.STATEMENTS["sort"][ex.lang].split("|")[0].format(a=ex.input, b=ex.output) in told
    )  # the check can bite


def test_every_task_and_language_is_judged_by_30_rows():
    for split in ("inputs", "wordings"):
        counts = Counter((r["task"], r["lang"]) for r in builtin(split))
        assert min(counts.values()) >= 30 and len({t for t, _ in counts}) >= 12
    assert len(builtin("knowledge")) >= 200


def test_unseen_inputs_are_unseen():
    """No row is shown in training, nor its input with another wording of its task.

    What knowledge asks has its own test below.
    """

    def asked(r):
        return r["instruction"], r["input"]

    def told(r):
        parts = r["wording"].split("{x}")
        named = r["instruction"].removeprefix(parts[0]).removesuffix(parts[-1])
        return r["task"], r["input"] or named

    seen = {asked(r) for r in builtin("train")}
    inputs = {told(r) for r in builtin("train") if r["task"] != "knowledge"}
    for split in ("inputs", "wordings", "dev", "knowledge"):
        for r in builtin(split):
            assert asked(r) not in seen and (r["task"] == "knowledge" or told(r) not in inputs), r


def runs(wording, lang):
    """Runs of four words, or six characters of Chinese; the input's place counts as one."""
    text = wording.replace("{x}", "§").lower()
    units = re.findall(r"[\w§']+", text) if lang == "en" else re.findall(r"[\w§]", text)
    n = 4 if lang == "en" else 6
    return {tuple(units[i : i + n]) for i in range(len(units) - n + 1)}


def test_unseen_wordings_share_no_run_with_training():
    trained = {
        lang: set().union(
            *(runs(r["wording"], lang) for r in builtin("train") if r["lang"] == lang)
        )
        for lang in tasks.LANGS
    }
    for r in builtin("wordings"):
        assert not runs(r["wording"], r["lang"]) & trained[r["lang"]], r["wording"]


def relation_of(wording, lang):
    """The relation that a wording asks for."""
    for n in tasks.RELATIONS:
        groups = [*tasks.WORDINGS[n][lang], tasks.MORE[n][tasks.L[lang]]]
        if any(wording in group.split("\n") for group in groups):
            return n
    raise AssertionError(f"no relation is asked for by {wording}")


def test_knowledge_stands_in_no_training_row():
    """Neither direction nor language of a held-out fact: no training row shows both of its names."""
    answers = {}
    for (relation, key), asked in tasks.facts().items():
        for lang in tasks.LANGS:
            answers[relation, lang, asked[lang]] = key

    def keys(split):
        out = set()
        for r in builtin(split):
            if r["task"] == "knowledge":
                relation = relation_of(r["wording"], r["lang"])
                named = (
                    r["input"]
                    or r["instruction"][
                        len(r["wording"].split("{x}")[0]) : len(r["instruction"])
                        - len(r["wording"].split("{x}")[1])
                    ]
                )
                out.add(answers[relation, r["lang"], (named, r["output"])])
        return out

    held = keys("knowledge")
    assert len(held) > 40 and not held & keys("train")


def test_pretraining_agrees_with_all_that_it_depends_on():
    """`python -m tools.make_nano --check 10` trains ten steps, and records that they agree."""
    recorded = make_nano.read_log().get("depends")
    assert recorded == make_nano.depends(), "run python -m tools.make_nano --check 10"
