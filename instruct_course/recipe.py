"""The whole road in one call: rows and a base model in, a tuned adapter and a report out."""

import contextlib
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from instruct_course.common.errors import InputError
from instruct_course.common.files import write_json, write_lines
from instruct_course.common.options import check_options, flag, write_yaml
from instruct_course.common.progress import Progress, curves
from instruct_course.config import TuneConfig
from instruct_course.data import dataset
from instruct_course.data import template as templates
from instruct_course.data.example import Example
from instruct_course.data.template import Encoded, Template
from instruct_course.defaults import (
    Budget,
    budget_for,
    choose_template,
    count_parameters,
    fill_defaults,
    planned_shape,
)
from instruct_course.evaluate import metrics
from instruct_course.evaluate import report as reports
from instruct_course.evaluate.validation import Validation
from instruct_course.model import lora
from instruct_course.model.load import Base, load_base
from instruct_course.plan import memory as plans
from instruct_course.run import LoadedRun, PartialRun, Run, fit_vocabulary
from instruct_course.train import loop
from instruct_course.train.batch import prefix_groups
from instruct_course.train.loggers import open_tracker

__all__ = ["TuneConfig", "tune"]
SPLITS = ("inputs", "wordings", "knowledge")  # of the built-in rows, to judge by
PACKAGES = (
    "instruct_course",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "datasets",
    "accelerate",
)
NOT_REMADE = ("out", "resume", "report_to", "processes")  # options that change no bit of a run


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
    """
    job = prepare(config or TuneConfig(**options), quiet, on_step)
    with job.finished_or_discarded():
        rows = read_rows(job)
        student = load(job, rows)
        before = judge_base(job, student, rows)
        attach(job, student)
        history = fit(job, student, rows)
        after = judge_tuned(job, student, rows, history)
        save(job, student, rows, history, before, after)
    return job.run(student)


@dataclass
class Job:
    """A run on its way: what was asked, where it is written, and who hears of it."""

    config: TuneConfig
    budget: Budget
    partial: PartialRun
    progress: Progress
    is_first: bool  # of several processes; only this one judges and writes
    started: float
    on_step: Callable[[dict], bool | None] | None = None
    report: dict = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """What the run directory will be."""
        return self.partial.folder / "run"

    @contextlib.contextmanager
    def finished_or_discarded(self) -> Iterator[None]:
        """After the block the run directory is in its place; after an error nothing is half done."""
        if not self.is_first:
            yield
            return
        resume = f"instruct-course tune --resume --out {self.partial.out}"
        try:
            if not self.config.resume:
                self.partial.create(asdict(self.config))
            self.folder.mkdir(exist_ok=True)
            yield
            self.partial.finish(keep=self.report["stopped"])
        except BaseException as error:
            self.partial.discard()
            if self.partial.folder.exists() and not isinstance(error, InputError):
                kept = self.partial.folder
                self.progress.say(f"what was trained is kept in {kept}; go on with: {resume}")
            raise
        finally:
            self.progress.close()
        to_go_on = f"; to go on: {resume}" if self.report["stopped"] else ""
        self.progress.say(f"written to {self.partial.out}{to_go_on}")

    def run(self, student: "Student") -> Run:
        """The finished run, with its model ready to answer."""
        loaded = LoadedRun(student.model, student.base.tokenizer, student.template)
        return Run(self.partial.out, self.report, loaded=[loaded] if self.is_first else [])


def prepare(config: TuneConfig, quiet: bool, on_step) -> Job:
    """A checked job with all defaults chosen; nothing is written yet. Raises InputError."""
    started = time.perf_counter()
    rank, world = loop.processes()
    progress = Progress(quiet or rank > 0)
    _check(config, world)
    if config.resume:
        partial = PartialRun.find(config.out)
        config = _as_before(config, partial.read("config.json"))
        parameters = count_parameters(config.model)
    else:
        parameters = count_parameters(config.model)
        config = fill_defaults(config, parameters)
        new = PartialRun.new if rank == 0 else _partial_of_the_first
        partial = new(config.out, config.model)
        config = _fit_memory(config, progress.say)
    return Job(config, budget_for(parameters), partial, progress, rank == 0, started, on_step)


def _partial_of_the_first(out: str | None, model: str) -> PartialRun:
    """Where the first process writes, as far as the others need to know."""
    return PartialRun(Path(out or "runs"))


def _check(config: TuneConfig, world: int) -> None:
    """Check what can be known before anything is read. Raises InputError by the option's name."""
    check_options(config)
    parse_noise(config.noise)
    if config.patience and not config.eval_steps:
        raise InputError(
            "--patience: it counts validations on held-out rows, and there are none; "
            "use it together with --eval-steps"
        )
    if config.processes not in (None, world):
        raise InputError(
            f"--processes {config.processes}: {world} trains here; start them with torchrun "
            f"--nproc_per_node {config.processes} -m instruct_course.cli tune …"
        )
    if config.data is None and config.holdout is not None and not config.resume:
        raise InputError(
            "--holdout: the built-in rows have their own evaluation splits; "
            "use it together with --data"
        )


def parse_noise(text: str | None) -> loop.Noise | None:
    """`gaussian:S` or `neftune:A`, each with `:spare` behind it where the response gets none.

    Raises:
        InputError: it is written in another way.
    """
    if text is None:
        return None
    kind, _, rest = text.partition(":")
    strength, _, spare = rest.partition(":")
    try:
        if spare not in ("", "spare"):
            raise ValueError
        return loop.Noise(kind, float(strength), spare_response=bool(spare))
    except ValueError:  # an InputError is one too
        raise InputError(
            f"--noise {text}: use gaussian:S or neftune:A with a strength of at least 0, such as "
            "neftune:5, or neftune:5:spare to spare the response"
        ) from None


def _as_before(given: TuneConfig, kept: dict) -> TuneConfig:
    """The options of the unfinished run. Raises InputError when others were asked for."""
    try:
        before = TuneConfig(**{k: v for k, v in kept.items() if k != "version"})
    except TypeError:
        raise InputError(
            "--resume: this run was begun by another version of instruct_course; start it anew"
        ) from None
    for declared in fields(TuneConfig):
        now = getattr(given, declared.name)
        then = getattr(before, declared.name)
        if declared.name not in NOT_REMADE and now not in (declared.default, then):
            raise InputError(
                f"{flag(declared.name)} {now}: the unfinished run was begun with {then}; "
                "leave the option out, or start a new run"
            )
    out = given.out or before.out
    others = {"report_to": given.report_to, "processes": given.processes}
    return replace(before, out=out, resume=True, **others)


def _fit_memory(config: TuneConfig, say) -> TuneConfig:
    """`config` with micro-batches and checkpointing as a large model needs them on this machine.

    Raises:
        InputError: it does not fit at all; nothing was downloaded or written.
    """
    shape = planned_shape(config.model)
    if shape is None or config.quantization != "nf4":
        return config
    gpu = plans.machine()
    asked = plans.Setting(
        max_length=config.max_length,
        batch_tokens=config.batch_tokens,
        lora_r=config.lora_r,
        micro_batches=config.micro_batches,
        gradient_checkpointing=config.gradient_checkpointing,
        dtype=gpu.dtype,
        device=gpu.device,
    )
    chosen = plans.choose(shape, gpu, asked)
    also = (
        " --gradient-checkpointing" if chosen.gradient_checkpointing else ", all activations kept"
    )
    say(
        f"planned for {gpu.name} ({gpu.memory / 1e9:.1f} GB, {gpu.dtype}): "
        f"{plans.need(shape, chosen) / 1e9:.1f} GB at its widest, "
        f"--micro-batches {chosen.micro_batches}{also}"
    )
    return replace(
        config,
        micro_batches=chosen.micro_batches,
        gradient_checkpointing=chosen.gradient_checkpointing,
    )


@dataclass
class Rows:
    """The rows of a run.

    Attributes:
        train, held: the training rows, and the held-out rows by split, as data sets.
        source: what they are called in messages.
        encoded: the training rows as ids and labels, once the template is known.
    """

    train: object
    held: dict[str, object]
    source: str
    encoded: list[Encoded] = field(default_factory=list)

    @property
    def examples(self) -> list[Example]:
        """The held-out rows."""
        return [dataset.example(row) for part in self.held.values() for row in part]

    def first_train(self, most: int) -> list[Example]:
        """The first `most` training rows."""
        return [
            dataset.example(row) for row in self.train.select(range(min(len(self.train), most)))
        ]


def read_rows(job: Job) -> Rows:
    """The training and the held-out rows. Raises InputError."""
    config = job.config
    if config.data is None:
        rows = dataset.builtin("train")
        if config.limit:
            rows = rows.select(range(min(config.limit, len(rows))))
        return Rows(rows, {split: dataset.builtin(split) for split in SPLITS}, "built-in rows")
    rejects = job.folder / "rejects.jsonl" if job.is_first else None
    rows = dataset.load(config.data, skip_bad=config.skip_bad, rejects=rejects, limit=config.limit)
    if len(rows) < 2:
        raise InputError(
            f"{config.data}: one row is not enough to train and to judge; give at least two"
        )
    rows, held = dataset.split(rows, config.holdout or "0.1", seed=config.seed)
    return Rows(rows, {"held out": held}, config.data)


@dataclass
class Student:
    """The model of a run: first the base, then with its adapter.

    Attributes:
        base: the frozen base with its tokenizer.
        template: how rows are written for it.
        token_ids: special tokens that are new or were never trained, and are trained here.
        model: the base model, or the PeftModel around it.
    """

    base: Base
    template: Template
    token_ids: list[int]
    model: object


def load(job: Job, rows: Rows) -> Student:
    """The base model with its template, and the rows encoded for it. Raises InputError."""
    config = job.config
    how = "4 bits (NF4)" if config.quantization == "nf4" else "full precision"
    job.progress.say(f"loading {config.model} in {how}")
    base = load_base(config.model, quantization=config.quantization, say=job.progress.say)
    if config.template is None:
        job.config = config = replace(
            config, template=choose_template(config.model, base.tokenizer)
        )
    template = templates.named(config.template, base.tokenizer)
    embedding = base.model.get_input_embeddings().weight
    token_ids = templates.prepare(template, base.tokenizer, embedding)
    fit_vocabulary(base.model, base.tokenizer)
    rows.encoded, rows.train = _encode(job, rows.train, rows.source, base, template)
    if "held out" in rows.held:
        _, rows.held["held out"] = _encode(job, rows.held["held out"], rows.source, base, template)
    return Student(base, template, token_ids, base.model)


def _encode(job: Job, rows, source: str, base: Base, template: Template):
    """(encoded rows, the data set of those rows) without the rows whose output cannot fit.

    Raises:
        InputError: there is such a row and no --skip-bad, or no row fits.
    """
    config = job.config
    encoded, kept, bad = [], [], []
    for i, row in enumerate(rows):
        example = dataset.example(row)
        try:
            made = templates.encode(
                template,
                base.tokenizer,
                example,
                max_length=config.max_length,
                truncate_response=config.truncate_response,
            )
        except InputError as error:
            content = {name: row[name] for name in ("instruction", "input", "output")}
            bad.append({"row": row["row"], "reason": str(error), "content": content})
        else:
            encoded.append(made)
            kept.append(i)
    if not bad:
        return encoded, rows
    if not config.skip_bad:
        raise InputError(
            f"{source}, row {bad[0]['row']}: {bad[0]['reason']} ({len(bad):,} of {len(rows):,} "
            "rows do not fit; --skip-bad goes on without them)"
        )
    if not encoded:
        raise InputError(
            f"{source}: no row fits into {config.max_length} tokens; raise --max-length"
        )
    if job.is_first:
        with (job.folder / "rejects.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in bad)
    return encoded, rows.select(kept)


def _judge(job: Job, student: Student, rows: Rows, what: str, most: int | None) -> reports.Answers:
    """What the student says to the held-out rows, and what their responses cost it."""
    return reports.ask(
        student.model,
        student.base.tokenizer,
        student.template,
        rows.examples,
        most=most,
        max_length=job.config.max_length,
        max_new_tokens=job.budget.new_tokens,
        batch_size=job.budget.batch_size,
        batch_tokens=max(job.config.batch_tokens, 2048),
        what=what,
        progress=job.progress,
    )


def judge_base(job: Job, student: Student, rows: Rows) -> tuple[reports.Answers, dict] | None:
    """(the base's answers, the scores of its best prompt); those that an earlier start kept."""
    if not job.is_first:
        return None
    if kept := job.partial.read("before.json"):
        return reports.Answers.parse(kept, rows.examples), kept["best_prompt"]
    answers = _judge(job, student, rows, "base", job.budget.answers_before)
    prompted = reports.best_prompt(
        student.model,
        student.base.tokenizer,
        reports.subsample(answers.asked, job.budget.prompted),
        rows.first_train(4000),
        max_new_tokens=min(job.budget.new_tokens, 48),
        progress=job.progress,
    )
    write_json(job.partial.folder / "before.json", answers.facts() | {"best_prompt": prompted})
    return answers, prompted


def attach(job: Job, student: Student) -> None:
    """Give the student its adapters."""
    config = job.config
    student.model = lora.attach(
        student.base.model,
        lora_r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        token_ids=student.token_ids,
        seed=config.seed,
    )


def fit(job: Job, student: Student, rows: Rows) -> list[dict]:
    """Train, validating, logging and keeping checkpoints on the way; the history of all steps."""
    validation = _validation(job, student, rows)
    with _logger(job) as log:

        def on_step(record: dict) -> bool:
            is_enough = validation(record) if validation else False
            job.progress.step(record)
            log(record)
            return bool(job.on_step and job.on_step(record)) or is_enough

        history = loop.fit(
            student.model,
            rows.encoded,
            train_config(job),
            pad_id=templates.pad_id(student.base.tokenizer),
            on_step=on_step,
            checkpoints=_checkpoints(job, rows),
        )
    if job.is_first and not history:
        raise KeyboardInterrupt  # nothing was learnt, so nothing is written
    if job.is_first:
        _keep_adapter(job, student, history, validation)
    return history


def train_config(job: Job) -> loop.TrainConfig:
    """The part of the options that the training loop reads."""
    config = job.config
    is_large = planned_shape(config.model) is not None
    return loop.TrainConfig(
        epochs=config.epochs,
        lr=config.lr,
        batch_tokens=config.batch_tokens,
        micro_batches=config.micro_batches,
        schedule=config.schedule,
        noise=parse_noise(config.noise),
        gradient_checkpointing=config.gradient_checkpointing,
        seed=config.seed,
        cache=False if is_large else None,
    )


def _checkpoints(job: Job, rows: Rows) -> loop.Checkpoints:
    """Where and how often the training keeps its state; by default ten times per run."""
    lengths = [len(row.ids) for row in rows.encoded]
    steps = len(loop.plan(lengths, train_config(job), prefix_groups(rows.encoded)))
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
    shown = asdict(config) | _without_paths(config)
    logger = open_tracker(config.report_to, job.folder, shown, say=job.progress.say)
    try:
        yield logger.log
    finally:
        job.progress.close()
        logger.close()


def _keep_adapter(job: Job, student: Student, history: list[dict], validation) -> None:
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
    curves(history, folder / "curves.png")


def judge_tuned(job: Job, student: Student, rows: Rows, history: list[dict]):
    """The tuned model's answers; None where Ctrl-C came, or in other processes than the first."""
    if not job.is_first:
        return None
    stopped = history[-1].get("interrupted")
    most = job.budget.answers_if_stopped if stopped else job.budget.answers_after
    try:
        return _judge(job, student, rows, "tuned", most)
    except KeyboardInterrupt:
        return None


def save(job: Job, student: Student, rows: Rows, history: list[dict], before, after) -> None:
    """Write the report, and how the run was made: run.yaml makes it again."""
    if not job.is_first:
        return
    if job.config.data is not None:
        dataset.save(job.folder / "heldout.jsonl", rows.examples)
    job.report = _report(job, student, rows, history, before, after)
    write_json(job.folder / "report.json", job.report)
    write_json(job.folder / "run.json", _made(job, student, rows))
    fingerprint = dataset.fingerprint(rows.train)
    head = f"instruct-course tune --config run.yaml makes this run again; rows: {fingerprint}"
    config = replace(job.config, **_without_paths(job.config))
    write_yaml(job.folder / "run.yaml", config, leave_out=NOT_REMADE, head=head)


def _report(job: Job, student: Student, rows: Rows, history, before, after) -> dict:
    """What report.json holds."""
    answers, prompted = before
    examples = rows.examples
    train = [dataset.example(row) for row in rows.train]
    copies = metrics.contamination(train, examples)
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
        "changes": after and reports.changes(answers, after),
        "contamination": reports.copied(copies, examples, after),
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


def _samples(before: reports.Answers, after: reports.Answers | None, most: int = 8) -> list[dict]:
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
        for ex, text in reports.subsample(pairs, most)
    ]


def _made(job: Job, student: Student, rows: Rows) -> dict:
    """What run.json holds: how the run was made."""
    base = student.base
    return {
        "version": 1,
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "config": asdict(job.config) | _without_paths(job.config),
        "base": {
            "name": base.name,
            "fingerprint": base.fingerprint,
            "quantization": base.quantization,
        },
        "data": {"sha256": dataset.fingerprint(rows.train), "rows": len(rows.encoded)},
        "token_ids": student.token_ids,
        "stopped": job.report["stopped"],
        "versions": _versions(),
    }


def _without_paths(config: TuneConfig) -> dict:
    """Options that name files, without the paths of this machine."""
    return {"data": _portable(config.data), "holdout": _portable(config.holdout), "out": None}


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
