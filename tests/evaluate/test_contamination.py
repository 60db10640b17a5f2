"""Copies of evaluation rows among training rows: every plant is found, and nothing else."""

import random
from dataclasses import replace

from instruct_course.data.example import Example
from instruct_course.evaluate.contamination import contamination


def random_rows(count, seed):
    draw = random.Random(seed)
    vocabulary = ["".join(draw.choices("abcdefghijklmnop", k=6)) for _ in range(3000)]
    characters = [chr(0x4E00 + i) for i in range(3000)]

    def make(i):
        if i % 2:
            return " ".join(draw.choices(vocabulary, k=20))
        return "".join(draw.choices(characters, k=20))

    return [Example(make(i), make(i), make(i)) for i in range(count)]


def test_contamination_finds_every_plant_and_nothing_else():
    training, rows = random_rows(2000, 1), random_rows(2000, 2)
    assert contamination(training, rows) == []
    exact, near = {7: 0, 100: 1500, 1999: 1999}, {8: 5, 101: 700, 1998: 1200}
    for row, at in exact.items():
        training[at] = replace(rows[row], instruction=f"  {rows[row].instruction}")
    for row, at in near.items():
        training[at] = replace(
            rows[row], input=rows[row].input.upper() + "!", output=rows[row].output + " 完"
        )
    found = contamination(iter(training), rows)
    assert {o.row: o.train_row for o in found if o.kind == "exact"} == exact
    assert {o.row: o.train_row for o in found if o.kind == "near"} == near and all(
        o.share >= 0.8 for o in found
    )
