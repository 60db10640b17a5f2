"""Run directories: a finished one, opened to be asked; and an unfinished one, from which a run goes on."""

import json
import re
import shutil
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

__all__ = ["Run", "open_run", "fit_vocabulary", "Unfinished"]
SUFFIX = ".unfinished"


@dataclass(frozen=True)
class Run:
    """A finished run: where it lies, its report, and its model once somebody asks it something."""

    path: Path
    report: dict
    allow_mismatch: bool = False
    _loaded: dict = field(default_factory=dict, repr=False, compare=False)

    @property
    def made(self) -> dict:
        """run.json: how it was made. Errors: InputError."""
        return _made(self.path)

    def release(self):
        """Give the model's memory back; the next question loads it again."""
        self._loaded.clear()

    def ready(self):
        """(model, tokenizer, template), loaded on the first call."""
        if not self._loaded:
            self._loaded.update(_load(self.path, self.allow_mismatch))
        return self._loaded["model"], self._loaded["tokenizer"], self._loaded["template"]

    def answer(self, instruction: str, input: str = "", **options) -> str:
        """The tuned model's answer to one instruction; options as in `generate.complete`."""
        model, tokenizer, template = self.ready()
        return generate.answer(
            model, tokenizer, template, [Example(instruction, input)], **options
        )[0]

    def stream(self, instruction: str, input: str = "", **options):
        """The same, as pieces of text while they are made."""
        model, tokenizer, template = self.ready()
        ids = templates.prompt(template, tokenizer, Example(instruction, input))
        return generate.stream(
            model, tokenizer, ids, stop_ids=templates.stop_ids(template, tokenizer), **options
        )


def fit_vocabulary(model, tokenizer):
    """Give `model` embedding rows for tokens that were added to `tokenizer`; never fewer than it has."""
    from transformers.utils import logging

    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        level = logging.get_verbosity()
        logging.set_verbosity_error()
        model.resize_token_embeddings(len(tokenizer))
        logging.set_verbosity(level)
        model.requires_grad_(False)


def _made(path: Path) -> dict:
    """The run.json of a run directory. Errors: InputError."""
    try:
        made = json.loads((path / "run.json").read_text(encoding="utf-8"))
        (
            made["base"]["name"],
            made["base"]["quantization"],
            made["config"]["data"],
            made["config"]["max_length"],
        )
    except (OSError, KeyError, TypeError, json.JSONDecodeError):
        raise InputError(
            f"--run {path}: this is no run directory (its run.json cannot be read); name one that tune wrote"
        ) from None
    return made


def _load(path: Path, allow_mismatch: bool = False) -> dict:
    """{'model', 'tokenizer', 'template'} of a run directory. Errors: InputError, also when the base or the template is another one."""
    made = _made(path)
    name, quantization = made["base"]["name"], made["base"]["quantization"]
    template = templates.read(path / "template.json")
    if not (path / "adapter" / "adapter_model.safetensors").exists():
        raise InputError(f"--run {path}: its adapter/ is missing; name a complete run directory")
    base = load_base(name, quantization=quantization)
    templates.prepare(template, base.tokenizer)
    fit_vocabulary(base.model, base.tokenizer)
    return {
        "model": lora.load(
            base, path / "adapter", template=template, allow_mismatch=allow_mismatch
        ),
        "tokenizer": base.tokenizer,
        "template": template,
    }


def open_run(path: str | Path, *, allow_mismatch: bool = False) -> Run:
    """A run directory that `tune` wrote, ready to answer. `allow_mismatch` goes on where base or template are not those of training.

    Errors: InputError when it is no run directory, and on its first answer when base or template differ.
    """
    path = Path(path)
    try:
        report = json.loads((path / "report.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        hint = (
            f"; it is unfinished: go on with tune --resume --out {path}"
            if Path(f"{path}{SUFFIX}").exists()
            else "; name one that tune wrote"
        )
        raise InputError(
            f"--run {path}: this is no run directory (its report.json cannot be read){hint}"
        ) from None
    return Run(path, report, allow_mismatch)


@dataclass(frozen=True)
class Unfinished:
    """A run on its way to `out`: the folder NAME.unfinished beside it, with config.json, before.json, checkpoints/, best/, and in run/ what `out` will be."""

    out: Path

    @property
    def folder(self) -> Path:
        return self.out.with_name(self.out.name + SUFFIX)

    @staticmethod
    def place(out: str | None, name: str) -> "Unfinished":
        """Where a new run will lie. Errors: InputError when something is there already."""
        if out is None:
            stem = (
                Path("runs")
                / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name.rstrip('/').split('/')[-1])}-{datetime.now():%Y%m%d-%H%M%S}"
            )
            some = (
                Unfinished(p)
                for p in (stem, *(stem.with_name(f"{stem.name}-{i}") for i in range(2, 1000)))
            )
            return next(u for u in some if not u.out.exists() and not u.folder.exists())
        found = Unfinished(Path(out))
        if found.folder.exists():
            raise InputError(
                f"--out {out}: an unfinished run waits in {found.folder}; go on with --resume, name another folder, or remove it"
            )
        if found.out.exists():
            raise InputError(f"--out {out}: this already exists; name another folder or remove it")
        return found

    @staticmethod
    def find(out: str | None) -> "Unfinished":
        """The unfinished run on its way to `out`; without a name the newest under runs/. Errors: InputError when there is none."""
        some = (
            sorted(Path("runs").glob(f"*{SUFFIX}"), key=lambda p: p.stat().st_mtime)
            if out is None
            else [Path(f"{out}{SUFFIX}")]
        )
        if not some or not (some[-1] / "config.json").exists():
            raise InputError(
                f"--resume: there is no unfinished run {'under runs/' if out is None else f'in {out}{SUFFIX}'}; name its --out, or start without --resume"
            )
        return Unfinished(some[-1].with_name(some[-1].name.removesuffix(SUFFIX)))

    def begin(self, config: dict) -> list[Path]:
        """Make the folder and write config.json; returns the folders above it that had to be made. Errors: InputError when it cannot be written."""
        made = [p for p in self.out.parents if not p.exists()]
        try:
            (self.folder / "run").mkdir(parents=True)
            write_json(self.folder / "config.json", {"version": 1, **config})
        except OSError as error:
            raise InputError(
                f"--out {self.out}: it cannot be written there ({error.strerror}); name another place"
            ) from None
        return made

    def read(self, name: str) -> dict | None:
        """A JSON file of the folder, None if it is not there or not whole."""
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return None

    def finish(self, *, keep: bool):
        """Put run/ into its place; a stopped run that lies there gives way. keep: the rest stays, to go on from."""
        if self.out.exists():
            shutil.rmtree(self.folder / "stopped", ignore_errors=True)
            self.out.rename(self.folder / "stopped")
        (self.folder / "run").rename(self.out)
        shutil.rmtree(self.folder / "stopped" if keep else self.folder, ignore_errors=True)

    def abandon(self, made: list[Path]):
        """Leave nothing behind, not the folders `made` by `begin` either, unless there is a checkpoint to go on from."""
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        if not any((self.folder / "checkpoints").glob("step-*")):
            shutil.rmtree(self.folder, ignore_errors=True)
            for empty in made:
                empty.rmdir()
