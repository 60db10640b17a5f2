"""The whole road to a reward model: pairs and a base model in, adapter, head and a report out."""

import time
from collections.abc import Callable
from dataclasses import asdict

from instruct_course import pair_rows, recipe
from instruct_course.common.files import write_json
from instruct_course.common.options import write_yaml
from instruct_course.config import TuneConfig
from instruct_course.job import NOT_REMADE, Job, Rows, Student, prepare
from instruct_course.objectives.pair_scores import length_judge, score_pairs
from instruct_course.objectives.paired import BradleyTerry, check_states
from instruct_course.objectives.reward import RewardHead
from instruct_course.objectives.reward_model import HEAD, RewardModel, save_head
from instruct_course.record import fingerprint, made, without_paths
from instruct_course.reward_config import RewardTrainConfig
from instruct_course.run import Run

__all__ = ["train"]


def train(
    config: RewardTrainConfig | None = None,
    *,
    quiet: bool = False,
    on_step: Callable[[dict], bool | None] | None = None,
    **options,
) -> Run:
    """Train a reward model on pairs of answers: Bradley and Terry's loss, Eq. 11.3.

    Writes a run directory: adapter/, reward_head.safetensors, template.json, run.yaml, run.json,
    metrics.jsonl, curves.png, report.json, and for pairs of one's own heldout.jsonl. It is whole
    or not there, and goes on with `resume`, as that of `recipe.tune`.

    Args:
        config: what to do; or its fields as keywords.
        quiet: say nothing.
        on_step: gets the record of each step (as `loop.fit` gives it); True ends the training.

    Returns:
        The run; its model has the head as its `reward_head`.

    Raises:
        InputError: an option, a file or a pair is wrong; nothing stays behind.
        TrainingDiverged, OutOfMemory: what was trained before is kept, to go on from.
    """
    config = config or RewardTrainConfig(**options)
    job = prepare(TuneConfig(**vars(config)), quiet, on_step, kind="reward")
    with job.finished_or_discarded():
        rows = pair_rows.read(job, splits=())
        student = recipe.load(job, rows)
        attach(job, student)
        history = fit(job, student, rows)
        held_out = judge(job, student, rows)
        save(job, student, rows, history, held_out)
    return job.run(student)


def attach(job: Job, student: Student) -> None:
    """Give the student its adapters and a reward head. Raises InputError."""
    check_states(student.base.model, job.config.model)
    recipe.attach(job, student)
    width = student.base.model.get_input_embeddings().weight.shape[1]
    head = RewardHead(width, seed=job.config.seed)
    student.model.reward_head = head.to(student.model.device)


def fit(job: Job, student: Student, rows: Rows) -> list[dict]:
    """Train adapter and head, keeping checkpoints on the way; the history of all steps."""
    history = recipe.fit(job, student, rows, BradleyTerry(), "nats per pair")
    if job.is_first:
        head = student.model.reward_head
        save_head(job.folder / HEAD, head, base_fingerprint=student.base.fingerprint)
    return history


def judge(job: Job, student: Student, rows: Rows) -> dict | None:
    """What the model says to the held-out pairs; None after Ctrl-C, or in another process."""
    if not job.is_first:
        return None
    config = job.config
    tokens = max(config.batch_tokens, 2048)
    model = RewardModel(
        student.model, student.base.tokenizer, student.template, config.max_length, tokens
    )

    def progress(done: int) -> None:
        job.progress("held-out pairs", done, len(rows.encoded_pairs))

    try:
        rewards = model.pair_rewards(rows.encoded_pairs, progress)
    except KeyboardInterrupt:
        return None
    scores = score_pairs(rewards, rows.held_pairs["kind"])
    return scores | {"length_only": length_judge(rows.encoded, rows.encoded_pairs)}


def save(
    job: Job, student: Student, rows: Rows, history: list[dict], held_out: dict | None
) -> None:
    """Write the report, and how the run was made: run.yaml makes it again."""
    if not job.is_first:
        return
    job.report = {
        "version": 1,
        "kind": "reward",
        "model": job.config.model,
        "template": student.template.name,
        "stopped": bool(history[-1].get("interrupted")) or held_out is None,
        "held_out": held_out,
        "steps": len(history),
        "train_pairs": len(rows.encoded),
        "seconds": {
            "training": history[-1]["seconds"],
            "all": time.perf_counter() - job.started,
        },
    }
    if job.config.data is not None:
        pair_rows.save(job.folder / "heldout.jsonl", rows.held_pairs)
    write_json(job.folder / "report.json", job.report)
    write_json(job.folder / "run.json", made(job, student, rows))
    shown = asdict(job.config) | without_paths(job.config)
    config = RewardTrainConfig(**{name: shown[name] for name in vars(RewardTrainConfig())})
    head = "instruct-course reward train --config run.yaml makes this run again; "
    head += f"pairs: {fingerprint(rows)}"
    write_yaml(job.folder / "run.yaml", config, leave_out=NOT_REMADE, head=head)
