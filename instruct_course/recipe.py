"""The whole road in one call: rows and a base model in, a tuned adapter and a report out."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace

from instruct_course import objective, pair_rows, verifiable_rows
from instruct_course.common.files import write_lines
from instruct_course.common.options import flag
from instruct_course.common.plots import curves
from instruct_course.common.threads import flush_denormals
from instruct_course.config import TuneConfig
from instruct_course.data import audit, dataset
from instruct_course.data import template as templates
from instruct_course.data.encoded_rows import encode_rows
from instruct_course.data.rows import train_and_held_out
from instruct_course.data.template import Template
from instruct_course.data.walk import Source
from instruct_course.defaults import choose_template, parse_noise, planned_shape
from instruct_course.evaluate.validation import Validation
from instruct_course.job import Job, Rows, Student, prepare
from instruct_course.judging import judge_base, judge_tuned
from instruct_course.model import lora
from instruct_course.model.load import Base, load_base
from instruct_course.objective_options import PAIRS, UNITS, slower
from instruct_course.objectives.paired import check_states
from instruct_course.record import save, without_paths
from instruct_course.run import Run, fit_vocabulary
from instruct_course.train import loop
from instruct_course.train.loggers import open_logger
from instruct_course.upload import may_upload, upload

__all__ = ["TuneConfig", "tune"]
SPLITS = ("inputs", "wordings", "knowledge")  # of the built-in rows, to judge by


def tune(
    config: TuneConfig | None = None,
    *,
    quiet: bool = False,
    on_step: Callable[[dict], bool | None] | None = None,
    **options,
) -> Run:
    """Tune a 4-bit base model on instructions and show what changed.

    Writes a run directory: adapter/, template.json, run.yaml, run.json, metrics.jsonl, curves.png,
    report.json, and for rows of one's own heldout.jsonl. Until it is whole it lies in
    NAME.unfinished, with checkpoints from which `resume` goes on, bitwise as if it had never
    stopped. Under torchrun all processes train one adapter; the first one writes.

    Args:
        config: what to do; or its fields as keywords.
        quiet: say nothing.
        on_step: gets the record of each step (as `loop.fit` gives it); True ends the training.

    Returns:
        The run; in the first process its report is filled and its model is ready to answer.

    Raises:
        InputError: an option, a file or a row is wrong; nothing stays behind.
        TrainingDiverged, OutOfMemory: what was trained before is kept, to go on from.
        InputError of an upload: the run directory is whole all the same.
    """
    job = prepare(config or TuneConfig(**options), quiet, on_step)
    uploads = job.is_first and may_upload(job.config)
    with job.finished_or_discarded():
        _hint(job)
        rows = read_rows(job)
        student = load(job, rows)
        before = judge_base(job, student, rows)
        attach(job, student)
        history = fit(job, student, rows)
        after = judge_tuned(job, student, rows, history)
        save(job, student, rows, history, before, after)
    run = job.run(student)
    if uploads:
        upload(run, job.config.push_to_hub, job.progress.say)
    return run


def _hint(job: Job) -> None:
    """Say where an objective starts from a base that it can hardly improve."""
    config = job.config
    if slower(config.objective) and not job.start:
        job.progress.say(
            f"hint: {config.objective} moves a model away from where it stands; tune on single "
            "answers first, and use --start-from with that run"
        )


def read_rows(job: Job) -> Rows:
    """The training and the held-out rows. Raises InputError."""
    config = job.config
    if config.objective in PAIRS:
        return pair_rows.read(job, SPLITS)
    if config.reward == "instructions":
        return verifiable_rows.read(job, SPLITS)
    if config.data is None:
        rows = dataset.builtin("train")
        if config.limit:
            rows = rows.select(range(min(config.limit, len(rows))))
        return Rows(rows, {split: dataset.builtin(split) for split in SPLITS}, "built-in rows")
    rejects = job.folder / "rejects.jsonl" if job.is_first else None
    train, held = train_and_held_out(config, rejects=rejects, say=job.progress.say)
    return Rows(train, {"held out": held}, ", ".join(config.data))


def load(job: Job, rows: Rows) -> Student:
    """The base model with its template, and the rows encoded for it. Raises InputError."""
    config = job.config
    how = {"nf4": "4 bits (NF4)", "8bit": "8 bits (LLM.int8)", "none": "full precision"}[
        config.quantization
    ]
    job.progress.say(f"loading {config.model} in {how}")
    base = load_base(
        config.model,
        quantization=config.quantization,
        mapped=config.mapped,
        say=job.progress.say,
    )
    lora.target_modules(base.model, config.lora_targets)  # a wrong name is told before any work
    if config.objective == "sft+contrastive":
        check_states(base.model, config.model)
    if job.start:
        template = templates.read(job.start / "template.json")
    elif config.template is None:
        name = choose_template(config.model, base.tokenizer, config.response_marker)
        job.config = config = replace(config, template=name)
        template = templates.named(name, base.tokenizer)
    else:
        template = templates.named(config.template, base.tokenizer)
    embedding = base.model.get_input_embeddings().weight
    token_ids = templates.prepare(template, base.tokenizer, embedding)
    fit_vocabulary(base.model, base.tokenizer)
    student = Student(base, template, token_ids, base.model)
    _encode(job, rows, student)
    _audit(job, rows, base, template)
    if job.start:
        student.model = lora.load(base, job.start / "adapter", template=template, trainable=True)
    return student


def _encode(job: Job, rows: Rows, student: Student) -> None:
    """Fill `rows.encoded`, and leave out the rows that do not fit. Raises InputError."""
    base = student.base
    template = student.template
    if rows.held_prompts is not None:
        _reject(job, verifiable_rows.encode(job, rows, student))
        return
    if rows.held_pairs is not None:
        _reject(job, pair_rows.encode(job, rows, base.tokenizer, template))
        return
    config = job.config
    train = encode_rows(rows.train, template, base.tokenizer, config)
    train.check(config)
    rows.encoded = train.encoded
    rows.train = rows.train.select(train.kept)
    bad = train.bad
    if "held out" in rows.held:
        held = encode_rows(rows.held["held out"], template, base.tokenizer, config, judged=True)
        held.check(config)
        rows.held["held out"] = rows.held["held out"].select(held.kept)
        bad = bad + held.bad + held.too_long
        if held.too_long:
            job.progress.say(
                f"{len(held.too_long):,} held-out conversations are longer than "
                f"{config.max_length:,} tokens and are not judged by"
            )
    for line in train.lines(config):
        job.progress.say(line)
    _reject(job, bad)


def _reject(job: Job, bad: list[dict]) -> None:
    """Add rows that do not fit to rejects.jsonl."""
    if bad and job.is_first:
        with (job.folder / "rejects.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in bad)


def _audit(job: Job, rows: Rows, base: Base, template: Template) -> None:
    """Say in one line what a quick audit finds in rows of one's own."""
    config = job.config
    if config.data is None or rows.held_prompts is not None or not job.is_first:
        return
    report = audit.audit(
        [Source(rows.train, rows.source)],
        base.tokenizer,
        template,
        max_length=config.max_length,
        truncate_response=config.truncate_response,
        turns=config.turns,
        fast=True,
    )
    more = "; instruct-course audit shows them" if report["findings"] else ""
    job.progress.say(audit.summary_line(report) + more)


def attach(job: Job, student: Student) -> None:
    """Give the student its adapters; those of the run that was started from it has already."""
    if job.start:
        return
    config = job.config
    student.model = lora.attach(
        student.base.model,
        lora_r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        token_ids=student.token_ids,
        seed=config.seed,
        targets=config.lora_targets,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
    )
    slow = [flag(name) for name in ("use_dora", "lora_dropout") if getattr(config, name)]
    slow += ["--quantization 8bit"] if config.quantization == "8bit" else []
    if slow:
        job.progress.say(f"{slow[0]}: the fast engine cannot do it, so PEFT's own modules train")


def fit(
    job: Job,
    student: Student,
    rows: Rows,
    goal: loop.Objective | None = None,
    unit: str | None = None,
) -> list[dict]:
    """Train, validating, logging and keeping checkpoints on the way; the history of all steps.

    Args:
        job, student, rows: the run.
        goal, unit: what is made smaller, and the unit of its loss; None: as the options say.
    """
    validation = _validation(job, student, rows)
    goal = goal or objective.create(job, student, rows)
    unit = unit or UNITS[job.config.objective]
    with _logger(job) as log:

        def on_step(record: dict) -> bool:
            is_enough = validation(record) if validation else False
            job.progress.step(record)
            log(record)
            return bool(job.on_step and job.on_step(record)) or is_enough

        with flush_denormals():
            history = loop.fit(
                student.model,
                rows.encoded,
                train_config(job),
                pad_id=templates.pad_id(student.base.tokenizer),
                objective=goal,
                on_step=on_step,
                checkpoints=_checkpoints(job, rows, goal),
            )
    if job.is_first and not history:
        raise KeyboardInterrupt  # nothing was learnt, so nothing is written
    if job.is_first:
        _keep_adapter(job, student, history, validation, unit)
    return history


def train_config(job: Job) -> loop.TrainConfig:
    """The part of the options that the training loop reads."""
    config = job.config
    is_large = planned_shape(config.model) is not None
    return loop.TrainConfig(
        epochs=config.epochs,
        max_steps=config.max_steps,
        lr=config.lr,
        batch_tokens=config.batch_tokens,
        micro_batches=config.micro_batches,
        optimizer=config.optimizer,
        weight_decay=config.weight_decay,
        warmup=config.warmup_ratio,
        schedule=config.schedule,
        max_grad_norm=config.max_grad_norm,
        noise=parse_noise(config.noise),
        gradient_checkpointing=config.gradient_checkpointing,
        seed=config.seed,
        cache=False if is_large else None,
    )


def _checkpoints(job: Job, rows: Rows, goal: loop.Objective) -> loop.Checkpoints:
    """Where and how often the training keeps its state; by default ten times per run."""
    steps = len(loop.schedule_items(rows.encoded, train_config(job), goal))
    every = job.config.save_steps or max(1, steps // 10)
    return loop.Checkpoints(job.partial.folder / "checkpoints", every=every, say=job.progress.say)


def _validation(job: Job, student: Student, rows: Rows) -> Validation | None:
    """The validation on held-out rows, where --eval-steps asks for it.

    Of the built-in rows it takes the development split: what is chosen by a split is no test.
    """
    if not job.config.eval_steps:
        return None
    examples = rows.examples
    if job.config.data is None:
        examples = [dataset.example(row) for row in dataset.builtin("dev")]
    return Validation(
        student.model,
        student.base.tokenizer,
        student.template,
        examples,
        every=job.config.eval_steps,
        patience=job.config.patience,
        max_length=job.config.max_length,
        batch_tokens=job.config.batch_tokens,
        folder=job.partial.folder / "best",
        progress=job.progress,
        is_first=job.is_first,
    )


@contextlib.contextmanager
def _logger(job: Job) -> Iterator[Callable[[dict], None]]:
    """A function that draws a step's numbers elsewhere, where --report-to asks for it."""
    config = job.config
    if not config.report_to or not job.is_first:
        try:
            yield lambda record: None
        finally:
            job.progress.close()
        return
    shown = asdict(config) | without_paths(config)
    logger = open_logger(config.report_to, job.folder, shown, say=job.progress.say)
    try:
        yield logger.log
    finally:
        job.progress.close()
        logger.close()


def _keep_adapter(
    job: Job, student: Student, history: list[dict], validation: Validation | None, unit: str
) -> None:
    """Write what was learnt, before anything else can go wrong."""
    if history[-1].get("interrupted"):
        done, steps = len(history), history[-1]["steps"]
        job.progress.say(f"stopped after {done} of {steps} steps; saving what was learnt")
    if validation and validation.best_step:
        job.report["best_step"] = validation.take_best()
    folder = job.folder
    lora.save(student.model, folder / "adapter", base=student.base, template=student.template)
    templates.save(student.template, folder / "template.json")
    write_lines(folder / "metrics.jsonl", ({"version": 1, **record} for record in history))
    curves(history, folder / "curves.png", unit)
