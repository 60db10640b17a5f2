"""Run directories: a finished one, to be asked; and a partial one, from which a run goes on."""

import contextlib
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from instruct_course import generate
from instruct_course.common.errors import InputError
from instruct_course.common.files import write_json
from instruct_course.data import template as templates
from instruct_course.data.example import Example
from instruct_course.model import lora
from instruct_course.model.load import load_base

__all__ = ["COMMANDS", "Run", "LoadedRun", "open_run", "fit_vocabulary", "PartialRun"]
SUFFIX = ".unfinished"
COMMANDS = {"tune": "tune", "reward": "reward train"}  # by which each kind of run is made


@dataclass(frozen=True)
class Run:
    """A finished run: where it lies, its report, and its model once somebody asks it something.

    Attributes:
        path: the run directory.
        report: what report.json holds.
        allow_mismatch: go on where base or template are not those of training.
        loaded: the model that answers, while there is one in memory.
    """

    path: Path
    report: dict
    allow_mismatch: bool = False
    loaded: list["LoadedRun"] = field(default_factory=list, repr=False, compare=False)

    @property
    def made(self) -> dict:
        """run.json: how it was made. Raises InputError where it cannot be read."""
        return _read_made(self.path)

    def release(self) -> None:
        """Give the model's memory back; the next question loads it again."""
        self.loaded.clear()

    def ready(self):
        """The pair of model and tokenizer, and the template: loaded on the first call."""
        if not self.loaded:
            self.loaded.append(_load(self.path, self.allow_mismatch))
        kept = self.loaded[0]
        return kept.model, kept.tokenizer, kept.template

    def answer(self, instruction: str, input: str = "", **options) -> str:
        """The tuned model's answer to one instruction; options as in `generate.complete`."""
        model, tokenizer, template = self.ready()
        question = Example(instruction, input)
        return generate.answer(model, tokenizer, template, [question], **options)[0]

    def stream(self, instruction: str, input: str = "", **options) -> Iterator[str]:
        """The same, as pieces of text while they are made."""
        model, tokenizer, template = self.ready()
        ids = templates.prompt(template, tokenizer, Example(instruction, input))
        stop_ids = templates.stop_ids(template, tokenizer)
        return generate.stream(model, tokenizer, ids, stop_ids=stop_ids, **options)


@dataclass(frozen=True)
class LoadedRun:
    """A tuned model in memory, with what it needs to be asked."""

    model: object
    tokenizer: object
    template: templates.Template


def fit_vocabulary(model, tokenizer) -> None:
    """Give `model` embedding rows for tokens that were added to `tokenizer`; never fewer."""
    from transformers.utils import logging

    if len(tokenizer) <= model.get_input_embeddings().weight.shape[0]:
        return
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    model.resize_token_embeddings(len(tokenizer))
    logging.set_verbosity(level)
    model.requires_grad_(False)


def _read_made(path: Path) -> dict:
    """The run.json of a run directory. Raises InputError."""
    try:
        made = json.loads((path / "run.json").read_text(encoding="utf-8"))
        needed = (made["base"]["name"], made["base"]["quantization"])
        needed += (made["config"]["data"], made["config"]["max_length"])
    except (OSError, KeyError, TypeError, json.JSONDecodeError):
        raise InputError(
            f"--run {path}: this is no run directory (its run.json cannot be read); "
            "name one that tune wrote"
        ) from None
    return made


def _has_gpu() -> bool:
    """Whether a base goes to a GPU, where no weight stays in a file."""
    import torch

    return torch.cuda.is_available()


def _load(path: Path, allow_mismatch: bool) -> LoadedRun:
    """The model of a run directory. Raises InputError, also on another base or template."""
    made = _read_made(path)
    template = templates.read(path / "template.json")
    adapter = path / "adapter"
    if not (adapter / "adapter_model.safetensors").exists():
        raise InputError(f"--run {path}: its adapter/ is missing; name a complete run directory")
    base = load_base(
        made["base"]["name"],
        quantization=made["base"]["quantization"],
        mapped=made["config"].get("mapped", False) and not _has_gpu(),
    )
    templates.prepare(template, base.tokenizer)
    fit_vocabulary(base.model, base.tokenizer)
    model = lora.load(base, adapter, template=template, allow_mismatch=allow_mismatch)
    return LoadedRun(model, base.tokenizer, template)


def open_run(
    path: str | Path, *, allow_mismatch: bool = False, kind: str = "tune", option: str = "--run"
) -> Run:
    """A run directory that `tune` wrote, ready to answer; or one that `reward train` wrote.

    Args:
        path: the run directory.
        allow_mismatch: go on where base or template are not those of training.
        kind: 'tune', or 'reward' for a reward model, which answers nothing.
        option: what named it, for error messages.

    Raises:
        InputError: it is no run directory of this kind; on its first answer, base or template
            differ.
    """
    path = Path(path)
    try:
        report = json.loads((path / "report.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        hint = f"name one that {COMMANDS[kind]} wrote"
        if PartialRun(path).folder.exists():
            command = COMMANDS[PartialRun(path).kind]
            hint = f"it is unfinished: go on with {command} --resume --out {path}"
        raise InputError(
            f"{option} {path}: this is no run directory (its report.json cannot be read); {hint}"
        ) from None
    _check_kind(report, kind, f"{option} {path}")
    return Run(path, report, allow_mismatch)


def _check_kind(report: dict, kind: str, named: str) -> None:
    """Refuse a reward model that was to answer, and a tuned model that was to judge."""
    if report.get("kind", "tune") == kind:
        return
    if kind == "tune":
        raise InputError(
            f"{named}: this is a reward model, which answers nothing; name a run directory that "
            "tune wrote, or score answers with instruct-course reward score"
        )
    raise InputError(
        f"{named}: this run has no reward head; name a run directory that reward train wrote"
    )


@dataclass(frozen=True)
class PartialRun:
    """A run on its way to `out`: the folder NAME.unfinished beside it.

    In it lie config.json, before.json (what the base scored), checkpoints/, best/ (the adapter of
    the best validation), and in run/ what `out` will be.

    Attributes:
        out: the run directory that it becomes.
        made: folders above `out` that `create` had to make.
    """

    out: Path
    made: list[Path] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.out.with_name(self.out.name + SUFFIX)

    @property
    def kind(self) -> str:
        """What is on its way: 'tune' or 'reward'."""
        kept = self.read("config.json") or {}
        return "reward" if kept.get("kind") == "reward" else "tune"

    @staticmethod
    def new(out: str | None, model: str) -> "PartialRun":
        """Where a new run will lie; without `out` under runs/, by model and time.

        Raises:
            InputError: something is there already.
        """
        if out is None:
            return PartialRun._unused(model)
        found = PartialRun(Path(out))
        if found.folder.exists():
            raise InputError(
                f"--out {out}: an unfinished run waits in {found.folder}; go on with --resume, "
                "name another folder, or remove it"
            )
        if found.out.exists():
            raise InputError(f"--out {out}: this already exists; name another folder or remove it")
        return found

    @staticmethod
    def _unused(model: str) -> "PartialRun":
        """The first name under runs/ that is not taken."""
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", model.rstrip("/").split("/")[-1])
        stem = f"{stem}-{datetime.now():%Y%m%d-%H%M%S}"
        names = itertools.chain([stem], (f"{stem}-{i}" for i in itertools.count(2)))
        some = (PartialRun(Path("runs") / name) for name in names)
        return next(run for run in some if not run.out.exists() and not run.folder.exists())

    @staticmethod
    def find(out: str | None) -> "PartialRun":
        """The unfinished run on its way to `out`; without a name the newest under runs/.

        Raises:
            InputError: there is none.
        """
        if out is None:
            some = sorted(Path("runs").glob(f"*{SUFFIX}"), key=lambda p: p.stat().st_mtime)
            where = "under runs/"
        else:
            some = [Path(f"{out}{SUFFIX}")]
            where = f"in {out}{SUFFIX}"
        if not some or not (some[-1] / "config.json").exists():
            raise InputError(
                f"--resume: there is no unfinished run {where}; name its --out, or start "
                "without --resume"
            )
        return PartialRun(some[-1].with_name(some[-1].name.removesuffix(SUFFIX)))

    def create(self, config: dict) -> None:
        """Make the folder and write config.json. Raises InputError when it cannot be written."""
        self.made.extend(p for p in self.out.parents if not p.exists())
        try:
            (self.folder / "run").mkdir(parents=True)
            write_json(self.folder / "config.json", {"version": 1, **config})
        except OSError as error:
            raise InputError(
                f"--out {self.out}: it cannot be written there ({error.strerror}); "
                "name another place"
            ) from None

    def read(self, name: str) -> dict | None:
        """A JSON file of the folder; None if it is not there or not whole."""
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return None

    def finish(self, *, keep: bool) -> None:
        """Put run/ into its place; a stopped run that lies there gives way.

        Args:
            keep: the rest stays, so that the run can go on.
        """
        stopped = self.folder / "stopped"
        if self.out.exists():
            shutil.rmtree(stopped, ignore_errors=True)
            self.out.rename(stopped)
        (self.folder / "run").rename(self.out)
        shutil.rmtree(stopped if keep else self.folder, ignore_errors=True)

    def discard(self) -> None:
        """Leave nothing behind, unless there is a checkpoint to go on from."""
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        if any((self.folder / "checkpoints").glob("step-*")):
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        for empty in self.made:
            with contextlib.suppress(OSError):  # it was never made, or somebody uses it by now
                empty.rmdir()
