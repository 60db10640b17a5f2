"""The verifiable instructions of a run: read, encoded, and judged before and after.

By hand: no notebook exports it.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from instruct_course import generate
from instruct_course.common.errors import InputError
from instruct_course.common.files import write_lines
from instruct_course.data import dataset
from instruct_course.data import template as templates
from instruct_course.data.encoded_rows import EncodedRows
from instruct_course.data.example import Example
from instruct_course.data.source import parse_sources
from instruct_course.data.template import IGNORE_INDEX, Encoded
from instruct_course.data.weights import weighted
from instruct_course.evaluate import ifeval
from instruct_course.evaluate.answers import subsample
from instruct_course.evaluate.ifeval import VerifiablePrompt
from instruct_course.evaluate.intervals import difference
from instruct_course.job import Job, Rows, Student

__all__ = [
    "asked",
    "encode",
    "fingerprint",
    "judge",
    "load",
    "prompt",
    "read",
    "samples",
    "save",
    "scores",
]
BUILTIN_ROWS = 32  # of each split, whose loss says what else a run has changed


@dataclass
class PromptReader:
    """Reads verifiable prompts for `dataset.load`: the prompts go there, the checks are kept.

    Attributes:
        checks: those of each good row, as JSON.
        apart: what the built-in file asks, which is kept to judge by.
    """

    checks: list[str] = field(default_factory=list)
    apart: set[str] = field(default_factory=lambda: {p.instruction for p in ifeval.read()})

    def parse(self, row) -> Example:
        """The prompt of a row, with its answer as the output if it has one; or ValueError."""
        if isinstance(row, dict) and not {"instruction_id_list", "checks"} & row.keys():
            raise ValueError(
                "the field 'instruction_id_list' is missing; --reward instructions needs rows "
                "whose answers a program can check: prompt, instruction_id_list and kwargs"
            )
        made = ifeval.parse(row)
        if made.instruction in self.apart:
            raise ValueError(
                "this prompt is one of the built-in ones, by which eval --ifeval builtin judges; "
                "take it out of the rows"
            )
        self.checks.append(json.dumps(made.checks, ensure_ascii=False))
        return replace(made.example, output=made.answer)


def load(sources, **options):
    """Read and check verifiable prompts.

    Args:
        sources, options: as of `dataset.load`, but for `reader`.

    Returns:
        A data set as `dataset.load` gives it, whose outputs may be empty, with one more column:
        `checks`, as JSON.

    Raises:
        InputError: one sentence that names file, row and field; nothing stays behind.
    """
    reader = PromptReader()
    rows = dataset.load(sources, reader=reader, **options)
    made = rows.add_column("checks", reader.checks)
    made.on_disk = rows  # its file goes when nobody holds it any more
    return made


def prompt(row: dict) -> VerifiablePrompt:
    """A row of loaded prompts as a `VerifiablePrompt`."""
    checks = tuple(json.loads(row["checks"]))
    return VerifiablePrompt(row["instruction"], row["input"], row["lang"], checks, row["output"])


def read(job: Job, splits: Sequence[str]) -> Rows:
    """The training and the held-out prompts, and a few built-in rows to take the loss of.

    Args:
        job: what was asked.
        splits: of the built-in rows.

    Raises:
        InputError: a file or a row is wrong.
    """
    config = job.config
    source = ", ".join(config.data)
    rows = load(
        list(config.data),
        encoding=config.encoding,
        skip_bad=config.skip_bad,
        rejects=job.folder / "rejects.jsonl" if job.is_first else None,
        limit=config.limit,
        say=job.progress.say,
    )
    if len(rows) < 2:
        raise InputError(f"{source}: one prompt is not enough to train and to judge; give two")
    reader = PromptReader()
    options = {"encoding": config.encoding}
    holdout = config.holdout or "0.1"
    train, held = dataset.split(rows, holdout, seed=config.seed, reader=reader, **options)
    held = load(holdout, **options) if reader.checks else held
    train = weighted(train, parse_sources(config.data), seed=config.seed)
    builtin = {split: _few(dataset.builtin(split)) for split in splits}
    return Rows(train, builtin, source, held_prompts=held)


def _few(rows):
    """At most `BUILTIN_ROWS` of some rows, at even distances."""
    return rows.select(subsample(range(len(rows)), BUILTIN_ROWS))


def encode(job: Job, rows: Rows, student: Student) -> list[dict]:
    """Fill `encoded` with the training prompts, and leave out the prompts that do not fit.

    Returns:
        What was left out, as rejects.jsonl has it.

    Raises:
        InputError: a prompt does not fit, and there is no --skip-bad.
    """
    train = _encode(job, rows.train, student)
    held = _encode(job, rows.held_prompts, student)
    rows.train = rows.train.select(train.kept)
    rows.encoded = train.encoded
    rows.held_prompts = rows.held_prompts.select(held.kept)
    return train.bad + held.bad


def _encode(job: Job, rows, student: Student) -> EncodedRows:
    """Prompts as rows without a label, with room for an answer. Raises InputError."""
    tokenizer = student.base.tokenizer
    room = min(generate.context(student.model) or 1 << 60, job.config.max_length)
    made = EncodedRows()
    for number, row in enumerate(rows):
        try:
            ids = templates.prompt(
                student.template,
                tokenizer,
                dataset.example(row),
                max_length=max(1, room - job.new_tokens),
            )
        except InputError as error:
            content = {name: row[name] for name in ("instruction", "input", "output")}
            where = {"file": row["file"], "row": row["row"]}
            made.bad.append(where | {"reason": str(error), "content": content})
        else:
            made.encoded.append(Encoded(ids, [IGNORE_INDEX] * len(ids)))
            made.kept.append(number)
    made.check(job.config)
    return made


def asked(job: Job, rows: Rows) -> list[VerifiablePrompt]:
    """The held-out prompts that are answered before and after."""
    held = [prompt(row) for row in rows.held_prompts]
    return subsample(held, job.budget.answers_after)


def judge(job: Job, student: Student, rows: Rows, what: str) -> list[str]:
    """What the student says to the held-out prompts of `asked`."""
    prompts = asked(job, rows)
    return generate.answer(
        student.model,
        student.base.tokenizer,
        student.template,
        [one.example for one in prompts],
        max_new_tokens=job.new_tokens,
        batch_size=job.budget.batch_size,
        progress=lambda n: job.progress(f"{what}: verifiable instructions", n, len(prompts)),
    )


def scores(
    before: Sequence[str], after: Sequence[str], prompts: Sequence[VerifiablePrompt]
) -> dict:
    """How many verifiable instructions are followed before and after.

    Args:
        before, after: answers to the same prompts.
        prompts: what was asked.

    Returns:
        {n: prompts; before, after: as `ifeval.score`; change: {prompts, checks}, after minus
        before of the strict shares, paired over prompts: {mean, low, high, significant}}.
    """
    then, now = (ifeval.score(list(texts), list(prompts)) for texts in (before, after))
    marks = [[[int(mark) for mark in one] for one in scored["followed"]] for scored in (then, now)]
    whole = [[float(all(row)) for row in rows] for rows in marks]
    part = [[sum(row) / len(row) for row in rows] for rows in marks]
    weights = [len(row) for row in marks[0]]
    changes = {"prompts": difference(*whole), "checks": difference(*part, weights=weights)}
    facts = ("mean", "low", "high", "significant")
    return {
        "n": len(prompts),
        "before": then,
        "after": now,
        "change": {k: {name: getattr(v, name) for name in facts} for k, v in changes.items()},
    }


def samples(
    before: Sequence[str], after: Sequence[str], prompts: Sequence[VerifiablePrompt], most: int = 8
) -> list[dict]:
    """A few held-out prompts with both models' answers, as report.json has them."""
    return [
        {
            "instruction": one.instruction,
            "input": one.input,
            "expected": one.answer,
            "base": then,
            "tuned": now,
        }
        for one, then, now in subsample(list(zip(prompts, before, after)), most)
    ]


def save(path: Path, rows: Rows) -> None:
    """Write the held-out prompts, so that `ifeval.read` reads them back."""
    write_lines(path, (asdict(prompt(row)) for row in rows.held_prompts))


def fingerprint(rows) -> str:
    """sha256 over the content of prompts and their checks, in their order."""
    digest = hashlib.sha256(dataset.fingerprint(rows).encode())
    for row in rows:
        digest.update(row["checks"].encode() + b"\n")
    return digest.hexdigest()
