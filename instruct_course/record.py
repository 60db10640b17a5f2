"""What a run leaves behind beside its adapter: report.json, run.json, run.yaml, heldout.jsonl."""

import platform
import time
from dataclasses import asdict, replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from instruct_course import pair_rows, verifiable_rows
from instruct_course.common.files import write_json
from instruct_course.common.options import write_yaml
from instruct_course.config import TuneConfig
from instruct_course.data import dataset
from instruct_course.data.pairs import pairs_fingerprint
from instruct_course.evaluate import ifeval, metrics
from instruct_course.evaluate.answers import Answers, changes, copied, subsample
from instruct_course.evaluate.contamination import contamination
from instruct_course.job import NOT_REMADE, Job, Judged, Rows, Student

__all__ = ["fingerprint", "made", "save", "without_paths"]
PACKAGES = (
    "instruct_course",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "datasets",
    "accelerate",
)


def save(job: Job, student: Student, rows: Rows, history: list[dict], before, after) -> None:
    """Write the report, and how the run was made: run.yaml makes it again."""
    if not job.is_first:
        return
    if rows.held_prompts is not None:
        verifiable_rows.save(job.folder / ifeval.HELD_OUT, rows)
    elif job.config.data is not None:
        dataset.save(job.folder / "heldout.jsonl", rows.examples)
    job.report = _report(job, student, rows, history, before, after)
    write_json(job.folder / "report.json", job.report)
    write_json(job.folder / "run.json", made(job, student, rows))
    head = f"instruct-course tune --config run.yaml makes this run again; rows: {fingerprint(rows)}"
    config = replace(job.config, **without_paths(job.config))
    write_yaml(job.folder / "run.yaml", config, leave_out=NOT_REMADE, head=head)


def _report(job: Job, student: Student, rows: Rows, history, before, after) -> dict:
    """What report.json holds."""
    answers = before.answers
    tuned = after and after.answers
    examples = rows.examples
    train = [dataset.example(row) for row in rows.train]
    copies = contamination(train, examples)
    _warn_of_copies(job, copies, len(examples))
    seconds = {"training": history[-1]["seconds"], "all": time.perf_counter() - job.started}
    majority = None
    if "knowledge" in rows.held:
        majority = metrics.majority([dataset.example(row) for row in rows.held["knowledge"]])
    return {
        "version": 1,
        "model": job.config.model,
        "template": student.template.name,
        "objective": job.config.objective,
        "start_from": job.start and job.start.name,
        "stopped": bool(history[-1].get("interrupted")) or after is None,
        "before": answers.scores() | {"best_prompt": before.best_prompt},
        "after": tuned and tuned.scores(),
        "changes": tuned and changes(answers, tuned),
        "pairs": _pairs(rows, before, after),
        "instructions": _instructions(job, rows, before, after),
        "contamination": copied(copies, examples, tuned),
        "majority_knowledge": majority,
        "samples": _samples(job, rows, before, after),
        "steps": len(history),
        "best_step": job.report.get("best_step"),
        "train_rows": len(rows.encoded),
        "dropped_input_tokens": _dropped(rows),
        "seconds": seconds,
    }


def _pairs(rows: Rows, before: Judged, after: Judged | None) -> dict | None:
    """How held-out pairs changed; None where there are none, or the run was stopped."""
    if not rows.encoded_pairs or not after:
        return None
    return pair_rows.scores(before.pairs, after.pairs, list(rows.held_pairs["kind"]))


def _instructions(job: Job, rows: Rows, before: Judged, after: Judged | None) -> dict | None:
    """How many held-out verifiable instructions are followed; None where none was answered."""
    if rows.held_prompts is None or not after or not after.instructions:
        return None
    prompts = verifiable_rows.asked(job, rows)
    return verifiable_rows.scores(before.instructions, after.instructions, prompts)


def _dropped(rows: Rows) -> int:
    """The tokens of inputs that were cut, each prompt counted once."""
    firsts = [row[0] if isinstance(row, tuple) else row for row in rows.encoded]
    return sum(row.dropped for row in firsts)


def _warn_of_copies(job: Job, copies: list, n: int) -> None:
    """Say so where held-out rows stand in the training rows too."""
    exact = sum(copy.kind == "exact" for copy in copies)
    if exact:
        job.progress.say(
            f"warning: {exact} of the {n:,} held-out rows stand in the training rows too, "
            f"first: {copies[0]}"
        )


def _samples(job: Job, rows: Rows, before: Judged, after: Judged | None) -> list[dict]:
    """A few held-out rows with both models' answers."""
    if rows.held_prompts is None:
        return _answered(before.answers, after and after.answers)
    said = (before.instructions, after.instructions if after else [])
    return verifiable_rows.samples(*said, verifiable_rows.asked(job, rows))


def _answered(before: Answers, after: Answers | None, most: int = 8) -> list[dict]:
    """A few of the rows that both models answered."""
    said = dict(zip(after.asked, after.texts)) if after else {}
    pairs = [(ex, text) for ex, text in zip(before.asked, before.texts) if ex in said]
    return [
        {
            "instruction": ex.instruction,
            "input": ex.input,
            "expected": ex.output,
            "base": text,
            "tuned": said[ex],
        }
        for ex, text in subsample(pairs, most)
    ]


def made(job: Job, student: Student, rows: Rows) -> dict:
    """What run.json holds: how the run was made."""
    base = student.base
    return {
        "version": 1,
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "config": asdict(job.config) | without_paths(job.config),
        "base": {
            "name": base.name,
            "fingerprint": base.fingerprint,
            "quantization": base.quantization,
        },
        "data": {"sha256": fingerprint(rows), "rows": len(rows.encoded)},
        "token_ids": student.token_ids,
        "stopped": job.report["stopped"],
        "versions": _versions(),
    }


def fingerprint(rows: Rows) -> str:
    """The sha256 of the training rows, pairs or prompts."""
    if rows.held_prompts is not None:
        return verifiable_rows.fingerprint(rows.train)
    of = dataset.fingerprint if rows.held_pairs is None else pairs_fingerprint
    return of(rows.train)


def without_paths(config: TuneConfig) -> dict:
    """Options that name files, without the paths of this machine."""
    data = config.data and [_portable(source) for source in config.data]
    return {
        "data": data,
        "holdout": _portable(config.holdout),
        "start_from": _portable(config.start_from),
        "out": None,
    }


def _portable(text: str | None) -> str | None:
    """An absolute path as its last part, anything else as it is."""
    return Path(text).name if text and Path(text).expanduser().is_absolute() else text


def _versions() -> dict:
    """The versions of Python and of the packages that a result depends on."""
    out = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "unknown"
    return out
