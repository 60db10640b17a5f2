"""The preference pairs of a run: read, encoded, and judged before and after.

By hand: no notebook exports it.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from instruct_course.common.errors import InputError
from instruct_course.common.files import write_lines
from instruct_course.data import dataset
from instruct_course.data import template as templates
from instruct_course.data.encoded_pairs import encode_pair_rows
from instruct_course.data.pairs import builtin_pairs, load_pairs, pair, split_pairs
from instruct_course.data.source import parse_sources
from instruct_course.data.weights import weighted
from instruct_course.job import Job, Rows, Student
from instruct_course.objectives.pair_scores import score_pairs
from instruct_course.train.logprobs import pair_logprobs

__all__ = ["encode", "judge", "read", "save", "scores"]


def read(job: Job, splits: Sequence[str]) -> Rows:
    """The training and the held-out pairs.

    Args:
        job: what was asked.
        splits: of the built-in rows, to judge by where the pairs are the built-in ones.

    Raises:
        InputError: a file or a row is wrong.
    """
    config = job.config
    if config.data is None:
        pairs = builtin_pairs("train")
        if config.limit:
            pairs = pairs.select(range(min(config.limit, len(pairs))))
        held = {split: dataset.builtin(split) for split in splits}
        return Rows(pairs, held, "built-in pairs", held_pairs=builtin_pairs("held"))
    how = {"columns": config.columns, "encoding": config.encoding}
    pairs = load_pairs(
        config.data,
        **how,
        skip_bad=config.skip_bad,
        rejects=job.folder / "rejects.jsonl" if job.is_first else None,
        limit=config.limit,
        say=job.progress.say,
    )
    source = ", ".join(config.data)
    if len(pairs) < 2:
        raise InputError(f"{source}: one pair is not enough to train and to judge; give two")
    train, held = split_pairs(pairs, config.holdout or "0.1", seed=config.seed, **how)
    train = weighted(train, parse_sources(config.data), seed=config.seed)
    return Rows(train, {"held out": held}, source, held_pairs=held)


def encode(job: Job, rows: Rows, tokenizer, template: templates.Template) -> list[dict]:
    """Fill `encoded` and `encoded_pairs`, and leave out the pairs that do not fit.

    Returns:
        What was left out, as rejects.jsonl has it.

    Raises:
        InputError: a pair does not fit, and there is no --skip-bad.
    """
    train = encode_pair_rows(rows.train, template, tokenizer, job.config)
    train.check(job.config)
    held = encode_pair_rows(rows.held_pairs, template, tokenizer, job.config)
    held.check(job.config)
    rows.train = rows.train.select(train.kept)
    rows.encoded = train.encoded
    rows.held_pairs = rows.held_pairs.select(held.kept)
    rows.encoded_pairs = held.encoded
    if "held out" in rows.held:
        rows.held["held out"] = rows.held_pairs
    return train.bad + held.bad


def judge(job: Job, student: Student, rows: Rows, what: str) -> list[list[float]]:
    """The log-probabilities of the held-out pairs' answers in nats, chosen and rejected."""
    total = len(rows.encoded_pairs)
    found = pair_logprobs(
        student.model,
        rows.encoded_pairs,
        pad_id=templates.pad_id(student.base.tokenizer),
        batch_tokens=max(job.config.batch_tokens, 2048),
        progress=lambda n: job.progress(f"{what}: pairs", n, total),
    )
    return found.tolist()


def scores(
    before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], kinds: Sequence[str]
) -> dict:
    """How the log-probabilities of held-out pairs changed.

    A pair is right where the chosen answer gained more than the rejected one: where the implicit
    reward of DPO, Eq. 11.11 with beta 1, prefers it.

    Args:
        before, after: (n, 2) in nats, chosen and rejected.
        kinds: in which way each rejected answer is worse; "" where nobody said so.

    Returns:
        What `score_pairs` says of the gains in nats, and likelier: the share of pairs whose chosen
        answer has the higher log-probability, {before, after}, each a `mean_score`.
    """
    gains = np.asarray(after) - np.asarray(before)
    likelier = {"before": before, "after": after}
    shares = {when: score_pairs(pairs, kinds)["accuracy"] for when, pairs in likelier.items()}
    return score_pairs(gains, kinds) | {"likelier": shares}


def save(path: Path, rows) -> None:
    """Write pairs that `load_pairs` reads back as they were; whole or not at all.

    Args:
        path: the .jsonl file.
        rows: pairs as `load_pairs` gives them.
    """
    pairs = [pair(row) for row in rows]
    sides = [_as_rows([getattr(two, side) for two in pairs]) for side in ("chosen", "rejected")]
    kinds = [{"kind": two.kind} if two.kind else {} for two in pairs]
    write_lines(path, (_joined(*both) | kind for *both, kind in zip(*sides, kinds)))


def _as_rows(examples: list) -> list[dict]:
    """Examples as the objects that `dataset.save` writes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        dataset.save(file, examples)
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _joined(chosen: dict, rejected: dict) -> dict:
    """Two rows that differ in their answer as one; with turns both sides are conversations."""
    both = [chosen, rejected]
    if not any("messages" in row for row in both):
        answers = [row.pop("output") for row in both]
        return chosen | dict(zip(("chosen", "rejected"), answers))
    (asked,) = [row["messages"][:-1] for row in both if "messages" in row][:1]
    rest = {name: value for name, value in chosen.items() if name not in PLAIN}
    for name, row in (("chosen", chosen), ("rejected", rejected)):
        said = {"role": "assistant", "content": row.get("output", "")}
        rest[name] = row.get("messages", [*asked, said])
    return rest


PLAIN = ("messages", "instruction", "output", "system")  # what conversations hold themselves
