"""Make the nano base model and the built-in instructions from a seed: `python -m tools.make_nano`.

Writes instruct_course/assets/nano (tokenizer, bf16 safetensors, model card) and
instruct_course/assets/instructions (five splits), with the training log and the loss curve beside this file.
`--check 20` trains only the first 20 steps and compares corpus hash and losses with the kept log.
"""
import argparse
import hashlib
import json
import math
import time
from pathlib import Path

import numpy as np

from tools.nano.corpus import GLOSSARY, documents
from tools.nano.pretrain import corpus_hash, losses, make_tokenizer, new_model, pack, save
from tools.nano.tasks import build

HERE = Path(__file__).parent / "nano"
ASSETS = Path(__file__).parents[1] / "instruct_course" / "assets"
SEED, DOCUMENTS, STEPS, BATCH, LENGTH = 2026, 220_000, 2300, 12, 256


def write_instructions():
    """The five splits as JSON lines; returns {split: sha256}."""
    folder, hashes = ASSETS / "instructions", {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in build(SEED).items():
        text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8", newline="\n")
        hashes[name] = hashlib.sha256(text.encode()).hexdigest()
    return hashes


def prepare():
    """(corpus hash, tokenizer, stream of ids) of the frozen seed."""
    texts = list(documents(SEED, DOCUMENTS))
    glossary = [line for lang in GLOSSARY.values() for line in lang.split("\n")]
    tokenizer = make_tokenizer(texts + glossary * 50)
    return corpus_hash(texts), tokenizer, pack(texts, tokenizer)


def draw(log, path):
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    y = np.array([r["loss"] for r in log])
    smooth = np.convolve(y, np.ones(25) / 25, mode="valid")
    fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    ax.plot(y, lw=.5, alpha=.4)
    ax.plot(np.arange(len(smooth)) + 12, smooth, lw=1.8)
    ax.set(title="Pretraining the nano model", xlabel=f"step of {BATCH * LENGTH:,} tokens", ylabel="loss (nats a token)", ylim=(0, 8.5))
    ax.grid(alpha=.3)
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


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--check", type=int, default=0, help="only compare the first N steps with the kept log")
    p.add_argument("--no-compile", action="store_true")
    args = p.parse_args()
    import torch
    hashes = write_instructions() if not args.check else None
    started = time.time()
    digest, tokenizer, stream = prepare()
    print(f"corpus {digest[:16]}, {len(stream):,} tokens, {len(tokenizer)} entries, {time.time() - started:.0f} s", flush=True)
    model = new_model(tokenizer, SEED)
    kept = json.loads((HERE / "log.json").read_text(encoding="utf-8")) if args.check else None
    if kept:
        assert digest == kept["corpus"], f"the corpus changed: {digest} is not {kept['corpus']}; see tools/nano"
    log, start = [], time.time()
    for step, loss in losses(stream, model, steps=STEPS, batch=BATCH, length=LENGTH, seed=SEED, stop=args.check or None,
                             compile=not (args.check or args.no_compile)):
        log.append({"step": step, "loss": round(loss, 4)})
        assert math.isfinite(loss), f"the loss is {loss} at step {step}"
        if kept:
            assert abs(loss - kept["losses"][step]) < 0.02, f"step {step}: loss {loss:.4f}, kept {kept['losses'][step]:.4f}"
        if step % 20 == 0 or step == STEPS - 1:
            seconds = time.time() - start
            print(f"{step:5d}  loss {np.mean([r['loss'] for r in log[-20:]]):.4f}  {(step + 1) * BATCH * LENGTH / seconds:,.0f} tok/s  "
                  f"{seconds / 60:.1f} min", flush=True)
        if not args.check and step and step % 500 == 0:
            save(__import__("copy").deepcopy(model), tokenizer, Path("/tmp/nano_partial"))
    if args.check:
        print(f"corpus and the first {args.check} losses agree with the kept log")
        return
    weights = save(model, tokenizer, ASSETS / "nano")
    minutes = (time.time() - started) / 60
    record = {"version": 1, "seed": SEED, "corpus": digest, "weights": weights, "instructions": hashes, "tokens": len(stream),
              "steps": STEPS, "batch": [BATCH, LENGTH], "minutes": round(minutes, 1), "losses": [r["loss"] for r in log]}
    (HERE / "log.json").write_text(json.dumps(record), encoding="utf-8")
    draw(log, HERE / "loss.png")
    card = CARD.format(parameters=sum(p.numel() for p in model.parameters()), tokens=STEPS * BATCH * LENGTH, steps=STEPS, seed=SEED,
                       corpus=digest, weights=weights, loss=np.mean([r["loss"] for r in log[-50:]]), minutes=minutes, threads=torch.get_num_threads())
    (ASSETS / "nano" / "README.md").write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
