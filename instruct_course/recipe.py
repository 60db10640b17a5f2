"""The whole road in one call: rows and a base model in, a tuned adapter and a report out."""
import json
import math
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from instruct_course import data, evaluate, generate, lora, model as models, template as templates, train
from instruct_course.data import Example, InputError

__all__ = ["TuneConfig", "Run", "tune", "open_run"]
EVALUATION = ("inputs", "wordings", "knowledge")
ANSWERS = 32  # held-out rows that a big model answers; the loss is over all of them
DEFAULTS = {"nano": {"epochs": 3.0, "lr": 1e-3, "alpha": 256.0, "batch_tokens": 512, "template": "article"},   # so small a model wants a large scale
            "": {"epochs": 2.0, "lr": 8e-4, "alpha": 32.0, "batch_tokens": 2048, "template": "alpaca"}}


@dataclass(frozen=True)
class TuneConfig:
    """What `tune` does; None means the default for the model (`run.json` tells which value was taken)."""
    model: str = "nano"
    data: str | None = None
    holdout: str | None = None
    template: str | None = None
    out: str | None = None
    epochs: float | None = None
    lr: float | None = None
    rank: int = 16
    alpha: float | None = None
    max_length: int = 1024
    batch_tokens: int | None = None
    limit: int | None = None
    seed: int = 0
    skip_bad: bool = False
    truncate_response: bool = False
    quantization: str = "nf4"


@dataclass(frozen=True)
class Run:
    """A finished run: where it lies, its report, and its model once somebody asks it something."""
    path: Path
    report: dict
    allow_mismatch: bool = False
    _loaded: dict = field(default_factory=dict, repr=False, compare=False)

    def ready(self):
        """(model, tokenizer, template), loaded on the first call."""
        if not self._loaded:
            self._loaded.update(_load_run(self.path, self.allow_mismatch))
        return self._loaded["model"], self._loaded["tokenizer"], self._loaded["template"]

    def answer(self, instruction: str, input: str = "", **options) -> str:
        """The tuned model's answer to one instruction; options as in `generate.complete`."""
        model, tokenizer, template = self.ready()
        return generate.answer(model, tokenizer, template, [Example(instruction, input)], **options)[0]

    def stream(self, instruction: str, input: str = "", **options):
        """The same, as pieces of text while they are made."""
        model, tokenizer, template = self.ready()
        ids = templates.prompt(template, tokenizer, Example(instruction, input))
        return generate.stream(model, tokenizer, ids, stop_ids=templates.stop_ids(template, tokenizer), **options)


def _check(c: TuneConfig) -> TuneConfig:
    """`c` with the model's defaults filled in. Errors: InputError that names the option."""
    defaults = DEFAULTS.get(c.model, DEFAULTS[""])
    c = TuneConfig(**asdict(c) | {k: v for k, v in defaults.items() if getattr(c, k) is None})
    for name, value, ok, want in (("epochs", c.epochs, 0 < c.epochs <= 1000, "between 0 and 1000"), ("lr", c.lr, 0 < c.lr < 10, "between 0 and 10"),
                                  ("rank", c.rank, 1 <= c.rank <= 1024, "from 1 to 1024"), ("alpha", c.alpha, c.alpha > 0, "above 0"),
                                  ("max-length", c.max_length, c.max_length >= 16, "at least 16"),
                                  ("batch-tokens", c.batch_tokens, c.batch_tokens >= 16, "at least 16"),
                                  ("limit", c.limit, c.limit is None or c.limit >= 1, "at least 1")):
        if not ok:
            raise InputError(f"--{name} {value}: it must be {want}")
    if c.data is None and c.holdout is not None:
        raise InputError("--holdout: the built-in rows have their own evaluation splits; use it together with --data")
    return c


def _place(out: str | None, name: str) -> Path:
    """Where the run will lie. Errors: InputError when something is there already."""
    if out is None:
        stem = Path("runs") / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name.rstrip('/').split('/')[-1])}-{datetime.now():%Y%m%d-%H%M%S}"
        return next(p for p in (stem, *(stem.with_name(f"{stem.name}-{i}") for i in range(2, 1000))) if not p.exists())
    path = Path(out)
    if path.exists():
        raise InputError(f"--out {out}: this already exists; name another folder or remove it")
    if not os.access(next(p for p in path.absolute().parents if p.exists()), os.W_OK):
        raise InputError(f"--out {out}: the folder above it cannot be written; name another place")
    return path


def _encode(rows, template, tokenizer, c: TuneConfig, source: str, rejects: Path | None):
    """Encoded rows; a row whose output cannot fit stops it, or is put aside with --skip-bad. Errors: InputError."""
    out, bad, first, kept = [], [], "", []
    for i, row in enumerate(rows):
        try:
            out.append(templates.encode(template, tokenizer, data.example(row), max_length=c.max_length, truncate_response=c.truncate_response))
            kept.append(i)
        except InputError as error:
            first = first or f"row {row['row']}: {error}"
            bad.append({"row": row["row"], "reason": str(error), "content": {k: row[k] for k in ("instruction", "input", "output")}})
    if bad and not c.skip_bad:
        raise InputError(f"{source}, {first} ({len(bad):,} of {len(rows):,} rows do not fit; --skip-bad goes on without them)")
    if not out:
        raise InputError(f"{source}: no row fits into {c.max_length} tokens; raise --max-length")
    if bad and rejects:
        with rejects.open("a", encoding="utf-8") as f:
            f.writelines(json.dumps(b, ensure_ascii=False) + "\n" for b in bad)
    return out, (rows.select(kept) if bad else rows)


def _rows(c: TuneConfig, rejects: Path):
    """(training rows, {split: held-out rows}, source). Errors: InputError."""
    if c.data is None:
        rows = data.builtin("train")
        rows = rows.select(range(min(c.limit, len(rows)))) if c.limit else rows
        return rows, {s: data.builtin(s) for s in EVALUATION}, "built-in rows"
    rows = data.load(c.data, skip_bad=c.skip_bad, rejects=rejects, limit=c.limit)
    if len(rows) < 2:
        raise InputError(f"{c.data}: one row is not enough to train and to judge; give at least two")
    rows, held = data.split(rows, c.holdout or "0.1", seed=c.seed)
    return rows, {"held out": held}, c.data


class _Progress:
    """What a person sees while waiting: rich's bars on a terminal, a line every few seconds elsewhere, or nothing."""

    def __init__(self, quiet: bool):
        from rich.console import Console
        self.quiet, self.console, self.last, self.bar = quiet, Console(stderr=True), 0.0, None

    def say(self, text: str):
        """A line for the person who waits."""
        if not self.quiet:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def __call__(self, what: str, done: int, total: int, detail: str = "", end: bool = False):
        if self.quiet:
            return
        if self.console.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
            if self.bar is None:
                self.bar = Progress(TextColumn("{task.description:22}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"),
                                    TextColumn("{task.fields[detail]}"), TimeRemainingColumn(), console=self.console)
                self.bar.start()
                self.task = self.bar.add_task(what, total=total, detail=detail)
            self.bar.update(self.task, completed=done, total=total, detail=detail)
            if end or done >= total:
                self.close()
        elif time.monotonic() - self.last > 5 or done >= total:
            self.last = time.monotonic()
            self.say(f"{what}: {done}/{total} {detail}".rstrip())

    def close(self):
        """End the bar, if there is one."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def _sample(items: list, most: int | None) -> list:
    """Every k-th of `items`, at most `most` of them."""
    return items if not most or len(items) <= most else [items[i * len(items) // most] for i in range(most)]


def _judge(model, tokenizer, template, examples, c: TuneConfig, progress, what: str, *, most: int | None, longest: int) -> tuple[dict, dict]:
    """(scores as in report.json, {example: answer}): the loss over all examples, answers to at most `most` of them."""
    encoded = [templates.encode(template, tokenizer, ex, max_length=c.max_length, truncate_response=True) for ex in examples]
    progress.say(f"{what}: loss on {len(examples):,} held-out rows")
    loss, tokens = train.heldout_loss(model, encoded, pad_id=templates.pad_id(tokenizer), batch_tokens=c.batch_tokens)
    asked = _sample(examples, most)
    said = generate.answer(model, tokenizer, template, asked, max_new_tokens=longest, batch_size=128 if longest <= 64 else 16,
                           progress=lambda n: progress(f"{what}: answers", n, len(asked)))
    scores = {"loss": loss, "perplexity": math.exp(min(loss, 700)), "tokens": tokens} | evaluate.score(said, asked)
    return scores, dict(zip(asked, said))


def _base_best(model, tokenizer, examples, pool, progress, longest: int) -> dict:
    """The base's scores with a plain and a few-shot prompt, up to the end of a line, and the name of the better one."""
    stops = [i for i in range(len(tokenizer)) if "\n" in tokenizer.decode([i])] + [tokenizer.eos_token_id]
    out = {}
    for name in ("plain", "few-shot"):
        texts = [evaluate.base_prompts(ex, evaluate.pick_shots(ex, pool))[name] for ex in examples]
        new = generate.complete(model, tokenizer, [templates.plain(tokenizer, t) for t in texts], stop_ids=stops, max_new_tokens=longest,
                                batch_size=64, progress=lambda n: progress(f"base: {name} prompt", n, len(texts)))
        out[name] = evaluate.score([tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in new], examples)
    return {"best": max(out, key=lambda k: (out[k]["exact_match"], out[k]["rouge_l"])), **out}


def _versions() -> dict:
    out = {"python": platform.python_version()}
    for name in ("instruct_course", "torch", "transformers", "peft", "bitsandbytes", "datasets", "accelerate"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "unknown"
    return out


def _curves(history: list[dict], path: Path):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    fig = Figure(figsize=(10, 2.8), layout="constrained")
    FigureCanvasAgg(fig)
    for ax, key, label in zip(fig.subplots(1, 3), ("loss", "lr", "grad_norm"), ("loss (nats a token)", "learning rate", "gradient norm")):
        ax.plot([h["step"] for h in history], [h[key] for h in history], lw=1)
        ax.set(title=label, xlabel="step")
        ax.grid(alpha=.3)
    fig.savefig(path, dpi=110)


def _write_json(path: Path, value: dict):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def tune(config: TuneConfig | None = None, *, quiet: bool = False, on_step: Callable[[dict], None] | None = None, **options) -> Run:
    """Tune a 4-bit base model on instructions and show what changed: the main job (DESIGN: one row's journey).

    Takes a `TuneConfig` or its fields as keywords. Writes a run directory: adapter/, template.json, run.json,
    metrics.jsonl, curves.png, report.json. Errors: InputError in one sentence; then nothing stays behind.
    """
    c = _check(config or TuneConfig(**options))
    out, progress, started = _place(c.out, c.model), _Progress(quiet), time.perf_counter()
    made = [p for p in out.parents if not p.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        report = _tune(c, staging, progress, on_step, started)
        staging.chmod(0o755)
        os.replace(staging, out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for empty in made:
            empty.rmdir()
        raise
    finally:
        progress.close()
    progress.say(f"written to {out}")
    return Run(out, report)


def _tune(c: TuneConfig, folder: Path, progress, on_step, started) -> dict:
    """The road itself, into `folder`; returns the report."""
    rejects, small = folder / "rejects.jsonl", c.model == "nano"
    rows, held, source = _rows(c, rejects)
    progress.say(f"loading {c.model} in {'4 bits (NF4)' if c.quantization == 'nf4' else 'full precision'}")
    base = models.load(c.model, quantization=c.quantization, say=progress.say)
    tokenizer, template = base.tokenizer, templates.named(c.template, base.tokenizer)
    token_ids = templates.prepare(template, tokenizer, base.model.get_input_embeddings().weight)
    fit_vocabulary(base.model, tokenizer)
    encoded, rows = _encode(rows, template, tokenizer, c, source, rejects)
    if "held out" in held:
        _, held["held out"] = _encode(held["held out"], template, tokenizer, c, source, rejects)
    examples = [data.example(r) for part in held.values() for r in part]
    pool = [data.example(r) for r in rows.select(range(min(len(rows), 4000)))]
    longest = 40 if small else 96
    judge = lambda model, what, most: _judge(model, tokenizer, template, examples, c, progress, what, most=most, longest=longest)
    before, said_before = judge(base.model, "base", 300 if small else ANSWERS)
    before["best_prompt"] = _base_best(base.model, tokenizer, _sample(list(said_before), 150 if small else 16), pool, progress, min(longest, 48))
    model = lora.attach(base.model, rank=c.rank, alpha=c.alpha, token_ids=token_ids, seed=c.seed)
    seen = {"tokens": 0}

    def step(h: dict):
        seen["tokens"] += h["tokens"]
        left = h["seconds"] / h["step"] * (h["steps"] - h["step"])
        progress("training", h["step"], h["steps"], f"loss {h['loss']:.3f}  {seen['tokens'] / h['seconds']:,.0f} tokens/s  {left:.0f} s left")
        if on_step:
            on_step(h)

    setup = train.TrainConfig(epochs=c.epochs, lr=c.lr, batch_tokens=c.batch_tokens, seed=c.seed)
    history = train.fit(model, encoded, setup, pad_id=templates.pad_id(tokenizer), on_step=step)
    progress.close()
    if not history:
        raise KeyboardInterrupt
    stopped = bool(history[-1].get("interrupted"))
    if stopped:
        progress.say(f"stopped after {len(history)} of {history[-1]['steps']} steps; saving what was learnt")
    lora.save(model, folder / "adapter", base=base, template=template)
    templates.save(template, folder / "template.json")
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as f:
        f.writelines(json.dumps({"version": 1, **h}) + "\n" for h in history)
    _curves(history, folder / "curves.png")
    try:
        after, said = judge(model, "tuned", None if small and not stopped else ANSWERS)
    except KeyboardInterrupt:
        after, said, stopped = None, {}, True
    pairs = [(ex, said_before[ex], said[ex]) for ex in said_before if ex in said]
    samples = [{"instruction": ex.instruction, "input": ex.input, "expected": ex.output, "base": b, "tuned": t} for ex, b, t in _sample(pairs, 8)]
    report = {"version": 1, "model": c.model, "template": template.name, "stopped": stopped, "before": before, "after": after,
              "majority_knowledge": evaluate.majority([data.example(r) for r in held["knowledge"]]) if "knowledge" in held else None,
              "samples": samples, "steps": len(history), "train_rows": len(encoded), "dropped_input_tokens": sum(e.dropped for e in encoded),
              "seconds": {"training": history[-1]["seconds"], "all": time.perf_counter() - started}}
    config = asdict(c) | {"data": c.data and Path(c.data).name, "out": None}       # a run directory tells no paths of the machine
    _write_json(folder / "report.json", report)
    _write_json(folder / "run.json", {
        "version": 1, "created": datetime.now().astimezone().isoformat(timespec="seconds"), "config": config,
        "base": {"name": c.model, "fingerprint": base.fingerprint, "quantization": base.quantization},
        "data": {"sha256": data.fingerprint(rows), "rows": len(encoded)}, "token_ids": token_ids, "stopped": stopped, "versions": _versions()})
    return report


def fit_vocabulary(model, tokenizer):
    """Give `model` embedding rows for tokens that were added to `tokenizer`; never fewer than it has."""
    from transformers.utils import logging
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        level = logging.get_verbosity()
        logging.set_verbosity_error()
        model.resize_token_embeddings(len(tokenizer))
        logging.set_verbosity(level)
        model.requires_grad_(False)


def _load_run(path: Path, allow_mismatch: bool = False) -> dict:
    """{'model', 'tokenizer', 'template'} of a run directory. Errors: InputError, also when the base or the template is another one."""
    try:
        made = json.loads((path / "run.json").read_text(encoding="utf-8"))
        name, quantization = made["base"]["name"], made["base"]["quantization"]
    except (OSError, KeyError, TypeError, json.JSONDecodeError):
        raise InputError(f"--run {path}: this is no run directory (its run.json cannot be read); name one that tune wrote") from None
    template = templates.read(path / "template.json")
    if not (path / "adapter" / "adapter_model.safetensors").exists():
        raise InputError(f"--run {path}: its adapter/ is missing; name a complete run directory")
    base = models.load(name, quantization=quantization)
    templates.prepare(template, base.tokenizer)
    fit_vocabulary(base.model, base.tokenizer)
    return {"model": lora.load(base, path / "adapter", template=template, allow_mismatch=allow_mismatch), "tokenizer": base.tokenizer, "template": template}


def open_run(path: str | Path, *, allow_mismatch: bool = False) -> Run:
    """A run directory that `tune` wrote, ready to answer. `allow_mismatch` goes on where base or template are not those of training.

    Errors: InputError when it is no run directory, and on its first answer when base or template differ.
    """
    path = Path(path)
    try:
        report = json.loads((path / "report.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        raise InputError(f"--run {path}: this is no run directory (its report.json cannot be read); name one that tune wrote") from None
    return Run(path, report, allow_mismatch)
