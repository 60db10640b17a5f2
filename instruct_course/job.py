"""A run on its way: what was asked, its rows, its model, and where it is written."""

import atexit
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch

from instruct_course.common.errors import InputError
from instruct_course.common.options import check_options, flag
from instruct_course.common.progress import Progress
from instruct_course.common.threads import settle_threads
from instruct_course.config import TuneConfig
from instruct_course.data import dataset
from instruct_course.data.example import Example
from instruct_course.data.template import Encoded, Template
from instruct_course.defaults import (
    Budget,
    budget_for,
    count_parameters,
    fill_defaults,
    parse_noise,
    planned_shape,
)
from instruct_course.evaluate.answers import Answers
from instruct_course.model.load import Base
from instruct_course.objective_options import BY_OBJECTIVE, PAIRS
from instruct_course.plan.gpus import machine
from instruct_course.plan.memory import Setting, mapped_bytes
from instruct_course.plan.savings import choose, need
from instruct_course.run import COMMANDS, LoadedRun, PartialRun, Run, open_run
from instruct_course.train.distributed import processes
from instruct_course.train.state import check_optimizer

__all__ = ["Job", "Judged", "Rows", "Student", "NOT_REMADE", "prepare"]
NOT_REMADE = (
    "out",
    "resume",
    "report_to",
    "processes",
    "push_to_hub",
    "yes",
    "mapped",
    "threads",
)  # options that belong to the machine, and not to what is learnt


@dataclass
class Rows:
    """The rows of a run.

    Attributes:
        train, held: the training rows, and the held-out rows by split, as data sets.
        source: what they are called in messages.
        held_pairs: held-out preference pairs; None where the rows are none.
        held_prompts: held-out verifiable prompts; None where the rows are none.
        encoded: the training rows as ids and labels, once the template is known; of pairs
            (chosen, rejected).
        encoded_pairs: the held-out pairs likewise.
    """

    train: object
    held: dict[str, object]
    source: str
    held_pairs: object = None
    held_prompts: object = None
    encoded: list = field(default_factory=list)
    encoded_pairs: list[tuple[Encoded, Encoded]] = field(default_factory=list)

    @property
    def examples(self) -> list[Example]:
        """The held-out rows."""
        return [dataset.example(row) for part in self.held.values() for row in part]

    def first_train(self, most: int) -> list[Example]:
        """The first `most` training rows."""
        return [
            dataset.example(row) for row in self.train.select(range(min(len(self.train), most)))
        ]


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


@dataclass(frozen=True)
class Judged:
    """How a model did on held-out rows.

    Attributes:
        answers: what it said, and what the expected responses cost it.
        best_prompt: the scores of a base with prompts of its own kind, where they were taken.
        pairs: the log-probabilities of the held-out pairs' answers in nats, chosen and rejected.
        instructions: what it said to held-out verifiable prompts.
    """

    answers: Answers
    best_prompt: dict | None = None
    pairs: list[list[float]] = field(default_factory=list)
    instructions: list[str] = field(default_factory=list)


@dataclass
class Job:
    """A run on its way: what was asked, where it is written, and who hears of it.

    Attributes:
        kind: 'tune', or 'reward' for a reward model.
    """

    config: TuneConfig
    budget: Budget
    partial: PartialRun
    progress: Progress
    is_first: bool  # of several processes; only this one judges and writes
    started: float
    on_step: Callable[[dict], bool | None] | None = None
    report: dict = field(default_factory=dict)
    kind: str = "tune"

    @property
    def folder(self) -> Path:
        """What the run directory will be."""
        return self.partial.folder / "run"

    @property
    def new_tokens(self) -> int:
        """Tokens per answer at most."""
        return self.config.max_completion_length or self.budget.new_tokens

    @property
    def start(self) -> Path | None:
        """The run that this one starts from."""
        return Path(self.config.start_from) if self.config.start_from else None

    @contextlib.contextmanager
    def finished_or_discarded(self) -> Iterator[None]:
        """After the block the run directory is in place; after an error nothing is half done."""
        if not self.is_first:
            yield
            return
        resume = f"instruct-course {COMMANDS[self.kind]} --resume --out {self.partial.out}"
        try:
            if not self.config.resume:
                kind = {} if self.kind == "tune" else {"kind": self.kind}
                self.partial.create(kind | asdict(self.config))
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


def prepare(config: TuneConfig, quiet: bool, on_step, kind: str = "tune") -> Job:
    """A checked job with all defaults chosen; nothing is written yet. Raises InputError."""
    started = time.perf_counter()
    rank, world = processes()
    if world > 1:  # a process that ends while others still talk to it would be aborted
        atexit.register(leave)
    progress = Progress(quiet or rank > 0)
    _check(config, world)
    if config.resume:
        partial = PartialRun.find(config.out)
        _check_kind(partial, kind)
        config = _as_before(config, partial.read("config.json"))
        parameters = count_parameters(config.model)
    else:
        config = _as_started(config)
        if config.objective == "grpo":  # an answer is drawn after the last turn
            config = replace(config, turns="last")
        parameters = count_parameters(config.model)
        config = fill_defaults(config, parameters)
        new = PartialRun.new if rank == 0 else _partial_of_the_first
        partial = new(config.out, config.model)
        config = _fit_memory(config, progress.say)
    threads = settle_threads(config.threads)
    if config.threads and threads != config.threads:
        progress.say(f"--threads {config.threads}: this machine has {threads}, which compute")
    config = replace(config, threads=threads)
    budget = budget_for(parameters, config.eval_rows)
    return Job(config, budget, partial, progress, rank == 0, started, on_step, kind=kind)


def leave() -> None:
    """Leave the processes that train together, if this one is still among them."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _check_kind(partial: PartialRun, kind: str) -> None:
    """Raise InputError where another command has begun the unfinished run."""
    if partial.kind != kind:
        raise InputError(
            f"--resume: {partial.folder} is a run of {COMMANDS[partial.kind]}; go on with "
            f"instruct-course {COMMANDS[partial.kind]} --resume --out {partial.out}"
        )


def _partial_of_the_first(out: str | None, model: str) -> PartialRun:
    """Where the first process writes, as far as the others need to know."""
    return PartialRun(Path(out or "runs"))


def _check(config: TuneConfig, world: int) -> None:
    """Check what can be known before anything is read. Raises InputError by the option's name."""
    check_options(config)
    check_optimizer(config.optimizer)
    parse_noise(config.noise)
    _check_objective(config)
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


def _check_objective(config: TuneConfig) -> None:
    """Refuse options of another objective, by the first one's name."""
    has = BY_OBJECTIVE[config.objective]
    others = {name for options in BY_OBJECTIVE.values() for name in options} - set(has)
    for name in sorted(others):
        if getattr(config, name) is not None:
            of = ", ".join(known for known, options in BY_OBJECTIVE.items() if name in options)
            raise InputError(
                f"{flag(name)}: --objective {config.objective} has no such option; it belongs to "
                f"{of}"
            )
    if config.objective in PAIRS:
        for name in ("json_output", "response_marker", "truncate_response"):
            if getattr(config, name):
                raise InputError(
                    f"{flag(name)}: preference pairs are read without it; leave it out with "
                    f"--objective {config.objective}"
                )
    if config.reward == "instructions":
        _check_instructions(config)


def _check_instructions(config: TuneConfig) -> None:
    """Refuse what makes no sense with verifiable instructions, by the first option's name."""
    for name in ("columns", "json_output", "response_marker", "truncate_response"):
        if getattr(config, name):
            raise InputError(
                f"{flag(name)}: verifiable instructions are read without it; leave it out with "
                "--reward instructions"
            )
    if config.eval_steps:
        raise InputError(
            "--eval-steps: it validates by the loss of expected outputs, and --reward "
            "instructions has none; leave it out"
        )
    if config.data is None and not config.resume:
        raise InputError(
            "--reward instructions: it needs --data with prompts to train on; the built-in ones "
            "are kept to judge by (eval --ifeval builtin)"
        )


TAKEN_OVER = (
    "model",
    "template",
    "quantization",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_targets",
    "use_rslora",
    "use_dora",
)  # options of a run that another one starts from


def _as_started(config: TuneConfig) -> TuneConfig:
    """`config` with what the run that it starts from says of base, template and adapter.

    Raises:
        InputError: there is no such run, or an option that was given says something else.
    """
    if config.start_from is None:
        return config
    try:
        before = open_run(config.start_from).made["config"]
    except InputError as error:
        raise InputError(str(error).replace("--run", "--start-from", 1)) from None
    for declared in fields(TuneConfig):
        if declared.name not in TAKEN_OVER:
            continue
        now = getattr(config, declared.name)
        then = before[declared.name]
        if now not in (declared.default, then):
            raise InputError(
                f"{flag(declared.name)} {now}: the run of --start-from has {then}; leave it out"
            )
    return replace(config, **{name: before[name] for name in TAKEN_OVER})


def _as_before(given: TuneConfig, kept: dict) -> TuneConfig:
    """The options of the unfinished run. Raises InputError when others were asked for."""
    try:
        before = TuneConfig(**{k: v for k, v in kept.items() if k not in ("version", "kind")})
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
    others = {name: getattr(given, name) for name in NOT_REMADE[2:]}
    others["mapped"] = given.mapped or before.mapped  # a machine that needs it needs it again
    others["threads"] = given.threads or before.threads  # the same sums, to the last bit
    return replace(before, out=out, resume=True, **others)


def _fit_memory(config: TuneConfig, say) -> TuneConfig:
    """`config` with what a large model needs to fit on this machine, learning the same.

    Raises:
        InputError: it does not fit at all; nothing was downloaded or written.
    """
    shape = planned_shape(config.model)
    if shape is None or config.quantization != "nf4":
        return config
    gpu = machine()
    asked = Setting(
        max_length=config.max_length,
        batch_tokens=config.batch_tokens,
        lora_r=config.lora_r,
        lora_targets=config.lora_targets,
        optimizer=config.optimizer,
        micro_batches=config.micro_batches,
        gradient_checkpointing=config.gradient_checkpointing,
        dtype=gpu.dtype,
        device=gpu.device,
        mapped=config.mapped,
    )
    chosen = choose(shape, gpu, asked)
    also = (
        " --gradient-checkpointing" if chosen.gradient_checkpointing else ", all activations kept"
    )
    if chosen.mapped:
        size = mapped_bytes(shape, chosen) / 1e9
        also += f" --mapped: another {size:.1f} GB of weights stay in their files"
    say(
        f"planned for {gpu.name} ({gpu.memory / 1e9:.1f} GB, {gpu.dtype}): "
        f"{need(shape, chosen) / 1e9:.1f} GB at its widest, "
        f"--micro-batches {chosen.micro_batches}{also}"
    )
    return replace(
        config,
        micro_batches=chosen.micro_batches,
        gradient_checkpointing=chosen.gradient_checkpointing,
        mapped=chosen.mapped,
    )
