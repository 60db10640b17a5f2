"""The whole road in one call: rows and a base model in, a tuned adapter and a report out."""

import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from instruct_course import generate
from instruct_course.common.errors import InputError
from instruct_course.common.files import write_json, write_lines
from instruct_course.common.plots import curves
from instruct_course.common.progress import Progress, samples
from instruct_course.data import dataset
from instruct_course.data import template as templates
from instruct_course.evaluate import metrics
from instruct_course.evaluate import report as reports
from instruct_course.model import lora
from instruct_course.model.load import load_base
from instruct_course.plan import memory as plans
from instruct_course.run import Run, Unfinished, fit_vocabulary
from instruct_course.train import checkpoint, loop
from instruct_course.train.batch import prefix_groups
from instruct_course.train.loggers import TRACKERS, open_tracker

__all__ = ["TuneConfig", "tune"]
EVALUATION = ("inputs", "wordings", "knowledge")
ANSWERS = 32  # held-out rows that a big model answers; the loss is over all of them
LOOKED_AT = 128  # held-out rows of which the loss is taken in between
DEFAULTS = {
    "nano": {
        "epochs": 3.0,
        "lr": 1e-3,
        "lora_alpha": 256.0,
        "batch_tokens": 512,
        "template": "article",
    },  # so small a model wants a large scale
    "7b": {
        "epochs": 2.0,
        "lr": 2e-4,
        "lora_alpha": 32.0,
        "batch_tokens": 4096,
        "template": "alpaca",
    },  # Dettmers et al. 2023, table 9
    "": {"epochs": 2.0, "lr": 8e-4, "lora_alpha": 32.0, "batch_tokens": 512, "template": "alpaca"},
}


@dataclass(frozen=True)
class TuneConfig:
    """What `tune` does; None means the default for the model (`run.json` tells which value was taken).

    resume: go on with the unfinished run on its way to `out`, under its own settings. noise: gaussian:S or neftune:A. save_steps: steps between
    checkpoints (default: a tenth of the run). eval_steps: steps between looks at held-out rows; then the best adapter is kept, and patience is
    the number of looks without a better one after which it ends. processes: how many must train together.
    """

    model: str = "nano"
    data: str | None = None
    holdout: str | None = None
    template: str | None = None
    out: str | None = None
    resume: bool = False
    epochs: float | None = None
    lr: float | None = None
    schedule: str = "linear"
    lora_r: int = 16
    lora_alpha: float | None = None
    lora_dropout: float = 0.0
    noise: str | None = None
    max_length: int = 1024
    batch_tokens: int | None = None
    micro_batches: int = 1
    gradient_checkpointing: bool = False
    limit: int | None = None
    seed: int = 0
    skip_bad: bool = False
    truncate_response: bool = False
    quantization: str = "nf4"
    save_steps: int | None = None
    eval_steps: int | None = None
    patience: int | None = None
    report_to: str | None = None
    processes: int | None = None


def _noise(text: str | None) -> loop.Noise | None:
    """gaussian:S or neftune:A, each with :spare behind it where the response gets none. Errors: InputError."""
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
            f"--noise {text}: use gaussian:S or neftune:A with a strength of at least 0, such as neftune:5, or neftune:5:spare to spare the response"
        ) from None


def _check(c: TuneConfig, world: int) -> TuneConfig:
    """`c` with the model's defaults filled in. Errors: InputError that names the option."""
    defaults = DEFAULTS.get(c.model, DEFAULTS[""])
    c = TuneConfig(**asdict(c) | {k: v for k, v in defaults.items() if getattr(c, k) is None})
    for name, value, ok, want in (
        ("epochs", c.epochs, 0 < c.epochs <= 1000, "between 0 and 1000"),
        ("lr", c.lr, 0 < c.lr < 10, "between 0 and 10"),
        ("lora-r", c.lora_r, 1 <= c.lora_r <= 1024, "from 1 to 1024"),
        ("lora-alpha", c.lora_alpha, c.lora_alpha > 0, "above 0"),
        ("max-length", c.max_length, c.max_length >= 16, "at least 16"),
        ("batch-tokens", c.batch_tokens, c.batch_tokens >= 16, "at least 16"),
        ("lora-dropout", c.lora_dropout, 0 <= c.lora_dropout < 1, "from 0 up to 1"),
        (
            "schedule",
            c.schedule,
            c.schedule in loop.SCHEDULES,
            f"one of {', '.join(loop.SCHEDULES)}",
        ),
        (
            "report-to",
            c.report_to,
            c.report_to in (None, *TRACKERS),
            f"one of {', '.join(TRACKERS)}",
        ),
        ("micro-batches", c.micro_batches, c.micro_batches >= 1, "at least 1"),
        *(
            (
                name.replace("_", "-"),
                getattr(c, name),
                getattr(c, name) is None or getattr(c, name) >= 1,
                "at least 1",
            )
            for name in ("limit", "save_steps", "eval_steps", "patience")
        ),
    ):
        if not ok:
            raise InputError(f"--{name} {value}: it must be {want}")
    _noise(c.noise)
    if c.patience and not c.eval_steps:
        raise InputError(
            "--patience: it counts the looks at held-out rows, and there are none; use it together with --eval-steps"
        )
    if c.processes not in (None, world):
        raise InputError(
            f"--processes {c.processes}: {world} trains here; start them with torchrun --nproc_per_node {c.processes} -m instruct_course.cli tune …"
        )
    if c.data is None and c.holdout is not None:
        raise InputError(
            "--holdout: the built-in rows have their own evaluation splits; use it together with --data"
        )
    return c


def _large(name: str) -> plans.Shape | None:
    """The shape of a model above `plan.LARGE` parameters, from its config.json alone; None for a smaller one, or for one that the plan does not know. Errors: InputError."""
    values = plans.config(name)
    try:
        shape = plans.shape(name, values)
    except InputError:
        return None
    return shape if shape.parameters > plans.LARGE else None


def _planned(c: TuneConfig, say) -> TuneConfig:
    """`c` with accumulation and checkpointing as a large model needs them on this machine. Errors: InputError, before anything is downloaded or written."""
    shape = _large(c.model)
    if shape is None or c.quantization != "nf4":
        return c
    card = plans.machine()
    asked = plans.Setting(
        max_length=c.max_length,
        batch_tokens=c.batch_tokens,
        lora_r=c.lora_r,
        micro_batches=c.micro_batches,
        gradient_checkpointing=c.gradient_checkpointing,
        dtype=card.dtype,
        device=card.device,
    )
    chosen = plans.choose(shape, card, asked)
    say(
        f"planned for {card.name} ({card.memory / 1e9:.1f} GB, {card.dtype}): {plans.need(shape, chosen) / 1e9:.1f} GB at its widest, --micro-batches {chosen.micro_batches}"
        + (" --gradient-checkpointing" if chosen.gradient_checkpointing else ", no checkpointing")
    )
    return replace(
        c, micro_batches=chosen.micro_batches, gradient_checkpointing=chosen.gradient_checkpointing
    )


def _encode(rows, template, tokenizer, c: TuneConfig, source: str, rejects: Path | None):
    """Encoded rows; a row whose output cannot fit stops it, or is put aside with --skip-bad. Errors: InputError."""
    out, bad, first, kept = [], [], "", []
    for i, row in enumerate(rows):
        try:
            out.append(
                templates.encode(
                    template,
                    tokenizer,
                    dataset.example(row),
                    max_length=c.max_length,
                    truncate_response=c.truncate_response,
                )
            )
            kept.append(i)
        except InputError as error:
            first = first or f"row {row['row']}: {error}"
            bad.append(
                {
                    "row": row["row"],
                    "reason": str(error),
                    "content": {k: row[k] for k in ("instruction", "input", "output")},
                }
            )
    if bad and not c.skip_bad:
        raise InputError(
            f"{source}, {first} ({len(bad):,} of {len(rows):,} rows do not fit; --skip-bad goes on without them)"
        )
    if not out:
        raise InputError(f"{source}: no row fits into {c.max_length} tokens; raise --max-length")
    if bad and rejects:
        with rejects.open("a", encoding="utf-8") as f:
            f.writelines(json.dumps(b, ensure_ascii=False) + "\n" for b in bad)
    return out, (rows.select(kept) if bad else rows)


def _rows(c: TuneConfig, rejects: Path):
    """(training rows, {split: held-out rows}, source). Errors: InputError."""
    if c.data is None:
        rows = dataset.builtin("train")
        rows = rows.select(range(min(c.limit, len(rows)))) if c.limit else rows
        return rows, {s: dataset.builtin(s) for s in EVALUATION}, "built-in rows"
    rows = dataset.load(c.data, skip_bad=c.skip_bad, rejects=rejects, limit=c.limit)
    if len(rows) < 2:
        raise InputError(
            f"{c.data}: one row is not enough to train and to judge; give at least two"
        )
    rows, held = dataset.split(rows, c.holdout or "0.1", seed=c.seed)
    return rows, {"held out": held}, c.data


def _versions() -> dict:
    out = {"python": platform.python_version()}
    for name in (
        "instruct_course",
        "torch",
        "transformers",
        "peft",
        "bitsandbytes",
        "datasets",
        "accelerate",
    ):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "unknown"
    return out


def tune(
    config: TuneConfig | None = None,
    *,
    quiet: bool = False,
    on_step: Callable[[dict], None] | None = None,
    **options,
) -> Run:
    """Tune a 4-bit base model on instructions and show what changed: the main job (DESIGN: one row's journey).

    Takes a `TuneConfig` or its fields as keywords. Writes a run directory: adapter/, template.json, run.json, metrics.jsonl, curves.png, report.json, and for
    rows of one's own heldout.jsonl.
    Until it is whole it lies in NAME.unfinished, with checkpoints from which `resume` goes on to the same bits. Under torchrun all processes train one
    adapter; the first one writes. Errors: InputError in one sentence; then nothing stays behind but an unfinished run that has a checkpoint.
    """
    given, started, (rank, world) = (
        config or TuneConfig(**options),
        time.perf_counter(),
        loop.processes(),
    )
    place = Unfinished.find(given.out) if given.resume else None
    c = _check(_as_before(given, place.read("config.json")) if place else given, world)
    place = place or (
        Unfinished.place(c.out, c.model) if rank == 0 else Unfinished(Path(c.out or "runs"))
    )
    progress = Progress(quiet or rank > 0)
    c = c if given.resume else _planned(c, progress.say)
    if rank > 0:
        return Run(place.out, _tune(c, place, progress, on_step, started, rank))
    made = [] if given.resume else place.begin(asdict(c))
    try:
        (place.folder / "run").mkdir(exist_ok=True)
        report = _tune(c, place, progress, on_step, started, rank)
        place.finish(keep=report["stopped"])
    except BaseException as error:
        place.abandon(made)
        if place.folder.exists() and not isinstance(error, InputError):
            progress.say(
                f"what was trained is kept in {place.folder}; go on with: instruct-course tune --resume --out {place.out}"
            )
        raise
    finally:
        progress.close()
    progress.say(
        f"written to {place.out}"
        + (
            f"; to go on: instruct-course tune --resume --out {place.out}"
            if report["stopped"]
            else ""
        )
    )
    return Run(place.out, report)


def _as_before(given: TuneConfig, kept: dict) -> TuneConfig:
    """The settings of the unfinished run. Errors: InputError when others were asked for."""
    try:
        before = TuneConfig(**{k: v for k, v in kept.items() if k != "version"})
    except TypeError:
        raise InputError(
            "--resume: this run was begun by another version of instruct_course; start it anew"
        ) from None
    for f in fields(TuneConfig):
        now, then = getattr(given, f.name), getattr(before, f.name)
        if f.name not in ("out", "resume", "report_to", "processes") and now not in (
            f.default,
            then,
        ):
            raise InputError(
                f"--{f.name.replace('_', '-')} {now}: the unfinished run was begun with {then}; leave the option out, or start a new run"
            )
    return TuneConfig(
        **asdict(before)
        | {
            "out": given.out or before.out,
            "report_to": given.report_to,
            "processes": given.processes,
        }
    )


class _Look:
    """A look at held-out rows every so often: their loss, two answers, and the best adapter so far, kept in best/."""

    def __init__(
        self,
        model,
        tokenizer,
        template,
        examples,
        c: TuneConfig,
        folder: Path,
        progress,
        writes: bool,
    ):
        (
            self.model,
            self.tokenizer,
            self.template,
            self.c,
            self.folder,
            self.progress,
            self.writes,
        ) = model, tokenizer, template, c, folder, progress, writes
        self.examples = reports.subsample(examples, LOOKED_AT)
        self.rows = [
            templates.encode(
                template, tokenizer, ex, max_length=c.max_length, truncate_response=True
            )
            for ex in self.examples
        ]
        kept = checkpoint.newest(folder, say=progress.say) if folder.exists() else None
        self.best, self.step = (kept[2]["heldout_loss"], kept[0]) if kept else (math.inf, 0)

    def __call__(self, h: dict) -> bool:
        """Add heldout_loss to `h`; True when the last better one is `patience` looks ago."""
        h["heldout_loss"], _ = loop.heldout_loss(
            self.model,
            self.rows,
            pad_id=templates.pad_id(self.tokenizer),
            batch_tokens=self.c.batch_tokens,
        )
        if self.writes:
            asked = reports.subsample(self.examples, 2)
            said = generate.answer(
                self.model, self.tokenizer, self.template, asked, max_new_tokens=32
            )
            self.progress.say(f"step {h['step']}: held-out loss {h['heldout_loss']:.3f}")
            samples([(ex.instruction, text) for ex, text in zip(asked, said)], self.progress.say)
        if h["heldout_loss"] < self.best:
            self.best, self.step = h["heldout_loss"], h["step"]
            if self.writes:
                trained = {
                    n: p.detach() for n, p in self.model.named_parameters() if p.requires_grad
                }
                checkpoint.save(
                    self.folder, h["step"], trained, {"heldout_loss": self.best}, keep=1
                )
        return (
            bool(self.c.patience) and h["step"] - self.step >= self.c.patience * self.c.eval_steps
        )

    def take_best(self) -> int:
        """Put the best adapter into the model; returns its step."""
        step, tensors, _ = checkpoint.newest(self.folder, say=self.progress.say)
        for n, p in self.model.named_parameters():
            if p.requires_grad:
                p.data.copy_(tensors[n])
        return step


def _tune(c: TuneConfig, place: Unfinished, progress, on_step, started, rank: int) -> dict:
    """The road itself, into place.folder / run; returns the report. Of several processes only the first (rank 0) judges and writes."""
    folder, small = place.folder / "run", c.model == "nano"
    rejects = folder / "rejects.jsonl" if rank == 0 else None
    tracker = (
        open_tracker(
            c.report_to,
            folder,
            asdict(c) | {"data": c.data and Path(c.data).name, "out": None},
            say=progress.say,
        )
        if c.report_to and rank == 0
        else None
    )
    rows, held, source = _rows(c, rejects)
    progress.say(
        f"loading {c.model} in {'4 bits (NF4)' if c.quantization == 'nf4' else 'full precision'}"
    )
    base = load_base(c.model, quantization=c.quantization, say=progress.say)
    tokenizer, template = base.tokenizer, templates.named(c.template, base.tokenizer)
    token_ids = templates.prepare(template, tokenizer, base.model.get_input_embeddings().weight)
    fit_vocabulary(base.model, tokenizer)
    encoded, rows = _encode(rows, template, tokenizer, c, source, rejects)
    if "held out" in held:
        _, held["held out"] = _encode(held["held out"], template, tokenizer, c, source, rejects)
    examples = [dataset.example(r) for part in held.values() for r in part]
    pool = [dataset.example(r) for r in rows.select(range(min(len(rows), 4000)))]
    longest = 40 if small else 96
    judge = lambda model, what, most: reports.ask(
        model,
        tokenizer,
        template,
        examples,
        most=most,
        max_length=c.max_length,
        max_new_tokens=longest,
        batch_size=128 if small else 16,
        batch_tokens=max(c.batch_tokens, 2048),
        what=what,
        progress=progress,
    )
    if rank == 0:
        kept = place.read("before.json") or {}
        if kept:
            before, prompted = reports.Answers.parse(kept, examples), kept["best_prompt"]
        else:
            before = judge(base.model, "base", 300 if small else ANSWERS)
            prompted = reports.best_prompt(
                base.model,
                tokenizer,
                reports.subsample(before.asked, 150 if small else 16),
                pool,
                max_new_tokens=min(longest, 48),
                progress=progress,
            )
            write_json(place.folder / "before.json", before.facts() | {"best_prompt": prompted})
    model = lora.attach(
        base.model,
        lora_r=c.lora_r,
        lora_alpha=c.lora_alpha,
        lora_dropout=c.lora_dropout,
        token_ids=token_ids,
        seed=c.seed,
    )
    dev = (
        [dataset.example(r) for r in dataset.builtin("dev")] if c.data is None else examples
    )  # what is chosen by it is no test any more
    look = (
        _Look(model, tokenizer, template, dev, c, place.folder / "best", progress, rank == 0)
        if c.eval_steps
        else None
    )

    def step(h: dict) -> bool:
        enough = (
            look(h)
            if look and (h["step"] % c.eval_steps == 0 or h["step"] == h["steps"])
            else False
        )
        progress.step(h)
        if tracker:
            tracker.log(h)
        return bool(on_step and on_step(h)) or enough

    setup = loop.TrainConfig(
        epochs=c.epochs,
        lr=c.lr,
        batch_tokens=c.batch_tokens,
        micro_batches=c.micro_batches,
        schedule=c.schedule,
        noise=_noise(c.noise),
        gradient_checkpointing=c.gradient_checkpointing,
        seed=c.seed,
        cache=None if _large(c.model) is None else False,
    )
    steps = len(loop.plan([len(r.ids) for r in encoded], setup, prefix_groups(encoded)))
    keep = loop.Checkpoints(
        place.folder / "checkpoints", every=c.save_steps or max(1, steps // 10), say=progress.say
    )
    try:
        history = loop.fit(
            model,
            encoded,
            setup,
            pad_id=templates.pad_id(tokenizer),
            on_step=step,
            checkpoints=keep,
        )
    finally:
        progress.close()
        if tracker:
            tracker.close()
    if rank > 0:
        return {}
    if not history:
        raise KeyboardInterrupt
    stopped = bool(history[-1].get("interrupted"))
    if stopped:
        progress.say(
            f"stopped after {len(history)} of {history[-1]['steps']} steps; saving what was learnt"
        )
    best = look.take_best() if look and look.step else None
    lora.save(model, folder / "adapter", base=base, template=template)
    templates.save(template, folder / "template.json")
    write_lines(folder / "metrics.jsonl", ({"version": 1, **h} for h in history))
    curves(history, folder / "curves.png")
    try:
        after = judge(model, "tuned", None if small and not stopped else ANSWERS)
    except KeyboardInterrupt:
        after, stopped = None, True
    copies = metrics.contamination((dataset.example(r) for r in rows), examples)
    if exact := sum(o.kind == "exact" for o in copies):
        progress.say(
            f"warning: {exact} of the {len(examples):,} held-out rows stand in the training rows too, first: {copies[0]}"
        )
    said = dict(zip(after.asked, after.texts)) if after else {}
    pairs = [(ex, text, said[ex]) for ex, text in zip(before.asked, before.texts) if ex in said]
    if c.data is not None:
        dataset.save(folder / "heldout.jsonl", examples)
    report = {
        "version": 1,
        "model": c.model,
        "template": template.name,
        "stopped": stopped,
        "before": before.scores() | {"best_prompt": prompted},
        "after": after and after.scores(),
        "changes": after and reports.changes(before, after),
        "contamination": reports.copied(copies, examples, after),
        "majority_knowledge": metrics.majority([dataset.example(r) for r in held["knowledge"]])
        if "knowledge" in held
        else None,
        "samples": [
            {
                "instruction": ex.instruction,
                "input": ex.input,
                "expected": ex.output,
                "base": b,
                "tuned": t,
            }
            for ex, b, t in reports.subsample(pairs, 8)
        ],
        "steps": len(history),
        "best_step": best,
        "train_rows": len(encoded),
        "dropped_input_tokens": sum(e.dropped for e in encoded),
        "seconds": {"training": history[-1]["seconds"], "all": time.perf_counter() - started},
    }
    write_json(folder / "report.json", report)
    write_json(
        folder / "run.json",
        {
            "version": 1,
            "created": datetime.now().astimezone().isoformat(timespec="seconds"),
            "config": asdict(c)
            | {
                "data": c.data and Path(c.data).name,
                "out": None,
            },  # a run directory tells no paths of the machine
            "base": {
                "name": c.model,
                "fingerprint": base.fingerprint,
                "quantization": base.quantization,
            },
            "data": {"sha256": dataset.fingerprint(rows), "rows": len(encoded)},
            "token_ids": token_ids,
            "stopped": stopped,
            "versions": _versions(),
        },
    )
    return report
