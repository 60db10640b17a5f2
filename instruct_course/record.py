"""What a run leaves behind beside its adapter: report.json, run.json, run.yaml, heldout.jsonl."""

import platform
import time
from dataclasses import asdict, replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from instruct_course.common.files import write_json
from instruct_course.common.options import write_yaml
from instruct_course.config import TuneConfig
from instruct_course.data import dataset
from instruct_course.evaluate import metrics
from instruct_course.evaluate.answers import Answers, changes, copied, subsample
from instruct_course.evaluate.contamination import contamination
from instruct_course.job import NOT_REMADE, Job, Rows, Student

__all__ = ["made", "save", "without_paths"]
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
    if job.config.data is not None:
        dataset.save(job.folder / "heldout.jsonl", rows.examples)
    job.report = _report(job, student, rows, history, before, after)
    write_json(job.folder / "report.json", job.report)
    fingerprint = dataset.fingerprint(rows.train)
    write_json(job.folder / "run.json", made(job, student, rows, fingerprint))
    head = f"instruct-course tune --config run.yaml makes this run again; rows: {fingerprint}"
    config = replace(job.config, **without_paths(job.config))
    write_yaml(job.folder / "run.yaml", config, leave_out=NOT_REMADE, head=head)


def _report(job: Job, student: Student, rows: Rows, history, before, after) -> dict:
    """What report.json holds."""
    answers, prompted = before
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
        "stopped": bool(history[-1].get("interrupted")) or after is None,
        "before": answers.scores() | {"best_prompt": prompted},
        "after": after and after.scores(),
        "changes": after and changes(answers, after),
        "contamination": copied(copies, examples, after),
        "majority_knowledge": majority,
        "samples": _samples(answers, after),
        "steps": len(history),
        "best_step": job.report.get("best_step"),
        "train_rows": len(rows.encoded),
        "dropped_input_tokens": sum(row.dropped for row in rows.encoded),
        "seconds": seconds,
    }


def _warn_of_copies(job: Job, copies: list, n: int) -> None:
    """Say so where held-out rows stand in the training rows too."""
    exact = sum(copy.kind == "exact" for copy in copies)
    if exact:
        job.progress.say(
            f"warning: {exact} of the {n:,} held-out rows stand in the training rows too, "
            f"first: {copies[0]}"
        )


def _samples(before: Answers, after: Answers | None, most: int = 8) -> list[dict]:
    """A few held-out rows with both models' answers."""
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


def made(job: Job, student: Student, rows: Rows, fingerprint: str) -> dict:
    """What run.json holds: how the run was made, from rows with this fingerprint."""
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
        "data": {"sha256": fingerprint, "rows": len(rows.encoded)},
        "token_ids": student.token_ids,
        "stopped": job.report["stopped"],
        "versions": _versions(),
    }


def without_paths(config: TuneConfig) -> dict:
    """Options that name files, without the paths of this machine."""
    data = config.data and [_portable(source) for source in config.data]
    return {"data": data, "holdout": _portable(config.holdout), "out": None}


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
