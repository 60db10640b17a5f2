"""The built-in preference pairs: what the tool makes, frozen, and each kind what it says it is."""

import hashlib
import json
import re
from collections import Counter

import pytest

from instruct_course.common.files import ASSETS
from instruct_course.data.dataset import builtin
from instruct_course.evaluate.metrics import exact_match, normalised_match, repetition
from tools import make_pairs
from tools.nano.tasks import SEP

FILES = {name: ASSETS / "preferences" / f"{name}.jsonl" for name in ("train", "held")}
SPLITS = {"train": ("train",), "held": make_pairs.HELD}
HAN = re.compile("[\u4e00-\u9fff]")
LATIN = re.compile("[A-Za-z]")


def read(name):
    return [json.loads(line) for line in FILES[name].read_text(encoding="utf-8").splitlines()]


def of_kind(kind, name=None):
    return [p for n in FILES if name in (None, n) for p in read(n) if p["kind"] == kind]


def test_the_tool_makes_exactly_these_bytes():
    kept = json.loads(make_pairs.LOG.read_text(encoding="utf-8"))
    made = make_pairs.texts(kept["seed"])
    for name, path in FILES.items():
        written = path.read_bytes()
        assert hashlib.sha256(written).hexdigest() == kept["sha256"][name]
        assert made[name].encode() == written
    assert sum(path.stat().st_size for path in FILES.values()) < 1.5e6


def test_there_are_enough_of_each_kind_task_and_language():
    for name, total, cell in (("train", 2000, 14), ("held", 400, 3)):
        pairs = read(name)
        assert len(pairs) >= total
        counts = Counter((p["kind"], p["task"], p["language"]) for p in pairs)
        sparse = {key for key, n in counts.items() if n < cell}
        assert sparse <= {("cut", "knowledge", "en")}
        assert {kind for kind, *_ in counts} == set(make_pairs.KINDS)
        tasks = {row["task"] for row in builtin("train")}
        for kind in ("wrong", "repeated", "long"):
            assert {(t, lang) for k, t, lang in counts if k == kind} == {
                (task, lang) for task in tasks for lang in ("en", "zh")
            }


@pytest.mark.parametrize("name", FILES)
def test_chosen_is_the_answer_of_a_row_of_its_splits_and_each_row_is_used_once(name):
    answers = {
        (row["instruction"], row["input"]): (row["output"], row["task"], row["lang"])
        for split in SPLITS[name]
        for row in builtin(split)
    }
    asked = [(p["instruction"], p["input"]) for p in read(name)]
    assert len(set(asked)) == len(asked)
    for question, pair in zip(asked, read(name)):
        assert (pair["chosen"], pair["task"], pair["language"]) == answers[question]
        assert pair["rejected"].strip() and not exact_match(pair["rejected"], pair["chosen"])


def test_no_held_out_question_is_trained_on():
    held = {(p["task"], p["instruction"], p["input"]) for p in read("held")}
    trained = {(r["task"], r["instruction"], r["input"]) for r in builtin("train")}
    assert not held & trained


def test_no_worse_answer_tells_what_an_evaluation_split_asks_for():
    evaluation = [row for split in make_pairs.HELD for row in make_pairs.read_rows(split)]
    world = make_pairs.World(evaluation)
    told = {}
    for row in evaluation:
        if row["task"] in ("knowledge", "translate"):
            told.setdefault(make_pairs.asked(row), set()).add(row["output"])
    assert len(told) > 200 and len(world.held_keys) > 100
    trained = {row["instruction"] + row["input"] for row in make_pairs.read_rows("train")}
    for pair in read("train"):
        assert pair["instruction"] + pair["input"] in trained
        if pair["kind"] == "off_task" and pair["task"] in ("knowledge", "translate"):
            texts = [t for t in told if t == pair["input"] or t in pair["instruction"]]
            assert not [t for t in texts if pair["rejected"] in told[t]], pair
        if pair["kind"] == "language" and pair["task"] in ("first", "last", "reverse"):
            items = pair["chosen"].split(SEP[pair["language"]])
            assert not set(items) & world.held_words, pair
        if pair["kind"] == "language" and pair["task"] in ("upper", "lower"):
            assert not set(pair["chosen"].lower().split()) & world.held_words, pair


def test_wrong_has_the_right_form_and_would_be_judged_wrong():
    for pair in of_kind("wrong"):
        assert not normalised_match(pair["rejected"], pair["chosen"]), pair
        separator = SEP[pair["language"]]
        assert pair["rejected"].count(separator) == pair["chosen"].count(separator)
        if pair["task"] in ("reverse", "sort"):
            sides = (pair[side].split(separator) for side in ("chosen", "rejected"))
            assert len({tuple(sorted(side)) for side in sides}) == 1
        if pair["task"] == "upper":
            assert pair["rejected"].isupper()
        if pair["task"] in ("count", "largest"):
            assert pair["rejected"].isdigit()
        if pair["task"] in ("first", "last", "largest"):
            assert pair["rejected"] in pair["input"].split(separator)


def test_off_task_answers_another_instruction_on_the_same_input():
    world = make_pairs.World([])
    words = world.words["en"] | world.words["zh"]
    for pair in of_kind("off_task"):
        task, text, worse = pair["task"], pair["input"], pair["rejected"]
        separator = SEP[pair["language"]]
        if task in ("extract", "summary"):
            assert worse in text, pair
        elif task in ("first", "last", "count", "reverse", "sort", "largest"):
            items = text.split(separator)
            made = worse.split(separator)
            assert worse == str(len(items)) or set(made) <= set(items)
        elif task in ("upper", "lower"):
            assert worse.isdigit() or set(worse.lower().split()) <= set(text.lower().split())
        elif task == "translate":
            asked = next(w for w in words.values() if pair["chosen"] in w[:2])
            assert worse in asked[2:], pair
    assert {p["task"] for p in of_kind("off_task")}.isdisjoint({"sentiment", "topic"})


def test_cut_is_a_proper_beginning():
    for pair in of_kind("cut"):
        chosen, worse = pair["chosen"], pair["rejected"]
        assert chosen.startswith(worse) and len(worse) < len(chosen)
        assert worse == worse.strip(" ,、") and not exact_match(worse, chosen)


def test_language_is_in_the_other_script():
    for pair in of_kind("language"):
        chosen, worse = pair["chosen"], pair["rejected"]
        if pair["task"] == "count":
            assert chosen.isdigit()
            assert bool(HAN.search(worse)) == (pair["language"] == "en"), pair
        else:
            assert bool(HAN.search(chosen)) != bool(HAN.search(worse)), pair
            assert bool(LATIN.search(chosen)) != bool(LATIN.search(worse)), pair


def test_repeated_is_the_answer_again_and_again():
    for pair in of_kind("repeated"):
        parts = pair["rejected"].count(pair["chosen"])
        left = pair["rejected"].replace(pair["chosen"], "")
        assert 3 <= parts <= 5 or len(pair["chosen"]) <= 2
        assert not left.strip(" \n,、"), pair
    assert repetition("yellow yellow yellow yellow yellow") > 0


def test_long_is_the_answer_and_more():
    for pair in of_kind("long"):
        chosen, worse = pair["chosen"], pair["rejected"]
        assert worse.startswith(chosen)
        assert len(worse) >= len(chosen) + 20
