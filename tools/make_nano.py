"""Make the nano base model and the built-in instructions from a seed: `python -m tools.make_nano`.

Writes instruct_course/assets/nano (tokenizer, bf16 safetensors, model card) and
instruct_course/assets/instructions (five splits), with the training log and the loss curve here.
`--check 20` trains only the first 20 steps, compares the corpus and the losses with the kept log,
and records the hash of the code that did so if they agree. tests/test_nano.py compares that hash
with the one of today's code.
"""

import argparse
import hashlib
import json
import math
import time
from pathlib import Path

import numpy as np
import torch

from instruct_course.common.files import write_file
from tools.fingerprint import depends_hash
from tools.nano.corpus import GLOSSARY, documents
from tools.nano.pretrain import (
    PRECISION,
    corpus_hash,
    losses,
    make_tokenizer,
    new_model,
    pack,
    save,
)
from tools.nano.tasks import build

HERE = Path(__file__).parent / "nano"
ASSETS = Path(__file__).parents[1] / "instruct_course" / "assets"
PACKAGES = ("torch", "transformers", "tokenizers", "numpy")
SEED = 2026
DOCUMENTS = 500_000
STEPS = 7000
BATCH = 12
LENGTH = 256


def depends() -> str:
    """The hash of all that the pretraining depends on: this code, and the pinned versions."""
    files = (Path(__file__), *sorted(HERE.glob("*.py")))
    return depends_hash([path.read_text(encoding="utf-8") for path in files], PACKAGES)


def read_log() -> dict:
    """The kept log of the pretraining."""
    return json.loads((HERE / "log.json").read_text(encoding="utf-8"))


def write_log(log: dict) -> None:
    """Write the log, whole or not at all."""
    with write_file(HERE / "log.json") as scratch:
        scratch.write_text(json.dumps(log), encoding="utf-8")


def write_instructions() -> dict[str, str]:
    """Write the five splits as JSON lines.

    Returns:
        {split: sha256}.
    """
    folder = ASSETS / "instructions"
    hashes = {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in build(SEED).items():
        text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8", newline="\n")
        hashes[name] = hashlib.sha256(text.encode()).hexdigest()
    return hashes


def prepare() -> tuple:
    """The corpus hash, the tokenizer and the stream of ids."""
    texts = list(documents(SEED, DOCUMENTS))
    glossary = [line for lang in GLOSSARY.values() for line in lang.split("\n")]
    tokenizer = make_tokenizer(texts[:100_000] + glossary * 50)
    return corpus_hash(texts), tokenizer, pack(texts, tokenizer)


def draw(log: list[float], path: Path) -> None:
    """The loss curve."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    y = np.array(log)
    smooth = np.convolve(y, np.ones(25) / 25, mode="valid")
    fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    ax.plot(y, lw=0.5, alpha=0.4)
    ax.plot(np.arange(len(smooth)) + 12, smooth, lw=1.8)
    ax.set(
        title="Pretraining the nano model",
        xlabel=f"step of {BATCH * LENGTH:,} tokens",
        ylabel="loss (nats per token)",
        ylim=(0, 8.5),
    )
    ax.grid(alpha=0.3)
    fig.savefig(path, dpi=110)


CARD = """---
license: apache-2.0
language: [en, zh]
library_name: transformers
---
# nano, a base model for learning

A bilingual (English, Chinese) Llama of {parameters:,} parameters: 4 layers of 256, 4 query heads and 2 key-value
heads of 64, tied head, context 1,024, byte-level BPE of 4,096 tokens. Pretrained from scratch by
`python -m tools.make_nano` on {tokens:,} tokens ({steps:,} steps) of plain documents that the same script writes:
facts in many wordings, dictionary lines, operations on lists, short texts with titles, sentences of clear
sentiment. No document holds an instruction with its response, a template token, or an evaluation input.

It completes such documents. It does not follow instructions: that is what the course teaches it. It knows
nothing of the world beyond a few hundred words and facts, and is of no use for anything but learning.

| | |
|---|---|
| seed | {seed} |
| corpus, sha256 | `{corpus}` |
| weights, sha256 | `{weights}` |
| last loss (mean of 50 steps) | {loss:.3f} nats a token |
| time | {minutes:.0f} minutes on {threads} CPU threads |
"""


def train(model, stream, *, stop: int | None = None, **options) -> list[float]:
    """The losses of training `model`, with a line every 20 steps; `stop` ends early."""
    log = []
    start = time.time()
    for step, loss in losses(
        stream, model, steps=STEPS, batch=BATCH, length=LENGTH, seed=SEED, stop=stop, **options
    ):
        assert math.isfinite(loss), f"the loss is {loss} at step {step}"
        log.append(round(loss, 4))
        if step % 20 == 0 or step == STEPS - 1:
            seconds = time.time() - start
            speed = (step + 1) * BATCH * LENGTH / seconds
            print(
                f"{step:5d}  loss {np.mean(log[-20:]):.4f}  {speed:,.0f} tokens/s  "
                f"{seconds / 60:.1f} min",
                flush=True,
            )
    return log


def check(steps: int) -> None:
    """Compare the corpus and the first losses, computed in float32, with the kept log."""
    kept = read_log()
    digest, tokenizer, stream = prepare()
    assert digest == kept["corpus"], (
        f"the corpus changed: {digest} is not {kept['corpus']}; see tools/nano"
    )
    log = train(new_model(tokenizer, SEED), stream, stop=steps, compile=False, dtype=torch.float32)
    for step, (loss, was) in enumerate(zip(log, kept["losses"])):
        assert abs(loss - was) < 0.02, f"step {step}: loss {loss:.4f}, kept {was:.4f}"
    print(f"the corpus and the first {steps} losses agree with the kept log")


def main() -> None:
    """Make everything, or only check it."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--check",
        type=int,
        default=0,
        help="only compare the corpus and the first N losses with the kept log",
    )
    args = p.parse_args()
    if args.check:
        now = depends()
        check(args.check)
        return write_log({**read_log(), "depends": now})
    hashes = write_instructions()
    started = time.time()
    digest, tokenizer, stream = prepare()
    print(
        f"{len(stream):,} tokens, {len(tokenizer)} entries, {time.time() - started:.0f} s",
        flush=True,
    )
    model = new_model(tokenizer, SEED)
    log = train(model, stream)
    weights = save(model, tokenizer, ASSETS / "nano")
    minutes = (time.time() - started) / 60
    record = {
        "version": 1,
        "seed": SEED,
        "corpus": digest,
        "weights": weights,
        "instructions": hashes,
        "steps": STEPS,
        "batch": [BATCH, LENGTH],
        "minutes": round(minutes, 1),
        "precision": str(PRECISION),
        "losses": log,
        "depends": depends(),
    }
    write_log(record)
    draw(log, HERE / "loss.png")
    card = CARD.format(
        parameters=sum(p.numel() for p in model.parameters()),
        tokens=STEPS * BATCH * LENGTH,
        steps=STEPS,
        seed=SEED,
        corpus=digest,
        weights=weights,
        loss=np.mean(log[-50:]),
        minutes=minutes,
        threads=torch.get_num_threads(),
    )
    (ASSETS / "nano" / "README.md").write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
