"""Copies, near copies and contradictions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_course.data import duplicates
from instruct_course.data.duplicates import DuplicateIndex, Groups, Pair
from instruct_course.data.example import Example, Turn

STORY = "Mia walked along the river until she found a small boat that nobody had used for years"
ZH = "春天的早晨，小明沿着河边慢慢地走，忽然看见一只白色的小船停在岸边，船上没有人，只有一本旧书和一把雨伞。"


def grams(text):
    """The 5-grams of a text, the plain way."""
    return {text[i : i + 5] for i in range(len(text) - 4)}


def plain_jaccard(one, other):
    return len(grams(one) & grams(other)) / len(grams(one) | grams(other))


def near(rows):
    """The near duplicates of rows, as a list."""
    index = DuplicateIndex(duplicates.common_grams([duplicates.whole_text(ex) for ex in rows]))
    index.add(rows)
    return list(index.near(lambda places: [rows[i] for i in places]))


@given(st.lists(st.text("ab 猫é🙂", max_size=30), max_size=6))
@settings(max_examples=50, deadline=None)
def test_gram_hashes_are_those_of_each_text_alone(texts):
    hashes, text = duplicates.gram_hashes(texts)
    for i, alone in enumerate(texts):
        assert sorted(hashes[text == i]) == sorted(duplicates.gram_hashes([alone])[0])
        assert len(set(hashes[text == i].tolist())) == len(grams(alone))


def test_jaccard_of_hashes_is_that_of_the_texts():
    one, other = STORY + " and left.", STORY + " and slept."
    sets = [np.unique(duplicates.gram_hashes([text])[0]) for text in (one, other)]
    assert duplicates.jaccard(*sets) == pytest.approx(plain_jaccard(one, other))
    assert duplicates.jaccard(sets[0], sets[0][:0]) == 0


def test_a_sketch_estimates_jaccard():
    rng = np.random.default_rng(0)
    errors = []
    for size in (30, 200, 2000):
        for shared in (0.3, 0.6, 0.9):
            both = rng.integers(0, 2**63, size=int(size * shared), dtype=np.uint64)
            sets = [
                np.r_[both, rng.integers(0, 2**63, size=size - len(both), dtype=np.uint64)]
                for _ in range(2)
            ]
            text = np.repeat([0, 1], size)
            made = duplicates.sketch(np.concatenate(sets), text, 2)
            errors.append((made[0] == made[1]).mean() - duplicates.jaccard(*map(np.sort, sets)))
    assert np.abs(errors).max() < 0.2 and abs(np.mean(errors)) < 0.05


def test_exact_copies_and_contradictions():
    rows = [
        Example("Where?", "", "Here."),
        Example("Where?", "", " Here. "),
        Example("Where?", "", "There."),
        Example("Where?", "now", "There."),
        Example("Where?", "", "There.", history=(Turn("user", "a"), Turn("assistant", "b"))),
    ]
    index = DuplicateIndex()
    index.add(rows[:2])
    index.add(rows[2:])
    assert index.exact() == [Pair(0, 1)]
    assert index.contradictions() == [Pair(0, 2)]


def test_near_copies_in_two_languages():
    rows = [
        Example("Tell me a story.", "", STORY + " and took it home."),
        Example("写一个故事。", "", ZH),
        Example("Tell me a story!", "", STORY + " and took it  home."),
        Example("写一个故事。", "", ZH.replace("白色", "红色")),
        Example("Another one.", "", "The train was late, so they played cards at the station."),
    ]
    assert [(p.first, p.row) for p in near(rows)] == [(0, 2), (1, 3)]


def test_a_group_of_copies_counts_each_but_the_first():
    rows = [Example("Tell me a story.", "", f"{STORY} {word}.") for word in ("a", "b", "c", "d")]
    found = near(rows)
    assert len(found) == 3 and {p.row for p in found} | {p.first for p in found} == {0, 1, 2, 3}


def test_other_numbers_are_another_problem():
    text = "Tom has {} apples and buys five more at the market on his way home; how many has he?"
    rows = [Example(text.format(n), "", "The sum is easy to see.") for n in (12, 15)]
    assert near(rows) == []
    assert near([rows[0], Example(rows[0].instruction, "", "The sum is easy to tell.")]) != []


def test_a_frame_around_all_rows_is_left_out():
    frame = "Classify the sentiment of the following review as positive or negative, one word only."
    words = "river stone cloud apple tiger spoon piano candle rabbit garden".split()
    rows = [Example(frame, f"{a} {b} {a}{b}", "positive") for a in words for b in words if a < b]
    assert near(rows) == []


def test_exact_copies_are_no_near_copies():
    row = Example("Tell me a story.", "", STORY)
    assert near([row, row, row]) == []


def test_pairs_are_found_in_a_crowd():
    """Of 200 pairs with a similarity of 0.8 to 1, nearly all are found, and nothing else."""
    rng = np.random.default_rng(1)
    words = ["".join(rng.choice(list("abcdefghijklmnop"), size=6)) for _ in range(3000)]
    rows = []
    for _ in range(400):
        rows.append(Example("q", "", " ".join(rng.choice(words, size=40))))
    changed = []
    for ex in rows[:200]:
        parts = ex.output.split()
        parts[rng.integers(40)] = "changed"
        changed.append(Example("q", "", " ".join(parts)))
    found = {(p.first, p.row) for p in near(rows + changed)}
    assert len(found) >= 198
    assert found <= {(i, 400 + i) for i in range(200)}


def test_groups():
    groups = Groups(5)
    assert groups.join(3, 1) and groups.join(3, 4) and not groups.join(1, 4)
    assert [groups.of(i) for i in range(5)] == [0, 1, 2, 1, 1]


def test_one_row_has_no_copy():
    assert near([Example("a", "", "b")]) == []
