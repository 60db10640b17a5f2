"""What each part of the engine is worth: a step of SmolLM2, forward and backward, with the parts added one after the other.

python -m benchmarks.ablation --data FILE [--batches 4 --rounds 5]
"""

import argparse
import json
import os
import time
from datetime import datetime
from pathlib import Path

from .machine import THREADS, cpu, versions

for name in THREADS:
    os.environ.pop(name, None)
ROWS, RESULTS = 935, Path(__file__).parent / "results"


def variants(model, pad: int):
    """{what stands so far: a function of rows that runs one step without the optimizer}."""
    from unittest import mock

    import torch

    from instruct_course.train import batch, engine, fused

    def all_positions(rows):
        model(**batch.collate(rows, pad)).loss.backward()

    def by(arrange, **options):
        made, scores = (
            engine.Engine(model, cache=options.get("cache", False)),
            options.get("scores", fused.SCORES),
        )
        everywhere = options.get("everywhere", False)

        def step(rows):
            with mock.patch.object(fused, "SCORES", scores):
                packed = arrange(rows)
                if everywhere:  # ask for all positions in the last layer too, and take the supervised ones afterwards
                    wanted = packed.targets != -100
                    behind = torch.arange(len(wanted)) >= packed.prefix_length
                    asked = batch.with_targets(packed, torch.where(behind, 0, -100))
                    hidden = made.hidden(asked)[wanted[packed.prefix_length :]]
                    total = engine.response_loss(
                        hidden, model.get_output_embeddings(), packed.targets[wanted]
                    )[0]
                else:
                    total, _ = engine.batch_loss(model, packed, engine=made)
                total.backward()

        return step

    alone, shared = (lambda rows: batch.pack(rows, share=2)), batch.pack
    return {
        "transformers and PEFT, padded": all_positions,
        "head and loss on supervised positions": lambda rows: engine.batch_loss(
            model, batch.collate(rows, pad)
        )[0].backward(),
        "own products and backward passes, packed": by(alone, scores=0, everywhere=True),
        "the common beginning once": by(shared, scores=0, everywhere=True),
        "attention by products": by(shared, everywhere=True),
        "the last layer where it is asked": by(shared),
        "16-bit copies of the weights: the engine": by(shared, cache=True),
    }


def main():
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation", description=__doc__.splitlines()[0]
    )
    p.add_argument("--data", required=True, help="rows in any form that instruct_course reads")
    p.add_argument("--batches", type=int, default=4, help="steps that each variant runs")
    p.add_argument(
        "--rounds",
        type=int,
        default=5,
        help="rounds in which the variants take turns; the fastest of each counts",
    )
    o = p.parse_args()
    import numpy as np

    from instruct_course.data import dataset
    from instruct_course.data import template as templates
    from instruct_course.model import lora
    from instruct_course.model.load import load_base
    from instruct_course.train import batch

    base = load_base("smollm2")
    rows = dataset.load(o.data)
    rows = [
        templates.encode(templates.named("alpaca"), base.tokenizer, dataset.example(r))
        for r in rows.select(range(min(ROWS, len(rows))))
    ]
    some = batch.batches([len(r.ids) for r in rows], 2048, groups=batch.prefix_groups(rows))
    some = [
        [rows[i] for i in some[b]] for b in np.linspace(0, len(some) - 1, o.batches).astype(int)
    ]
    model, tokens = (
        lora.attach(base.model, lora_r=16, lora_alpha=32).train(),
        sum(len(r.ids) for b in some for r in b),
    )
    steps = variants(model, templates.pad_id(base.tokenizer))
    took = {name: [] for name in steps}
    for _ in range(o.rounds + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            for b in some:
                model.zero_grad()
                step(b)
            took[name].append(time.perf_counter() - started)
    best = {name: min(t[1:]) for name, t in took.items()}
    first, before, out = next(iter(best.values())), None, {}
    print(
        f"\n{len(some)} steps, {tokens:,} real tokens, rank 16 on all linear layers\n{'':44}{'tokens/s':>9}{'before':>9}{'in all':>8}"
    )
    for name, t in best.items():
        out[name] = {
            "tokens_per_second": tokens / t,
            "times_the_one_before": (before or t) / t,
            "times_the_first": first / t,
            "seconds": took[name],
        }
        print(f"{name:44}{tokens / t:9.0f}{(before or t) / t:8.2f}x{first / t:7.2f}x")
        before = t
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "ablation.json"
    path.write_text(
        json.dumps(
            {
                "version": 1,
                "created": datetime.now().astimezone().isoformat(timespec="seconds"),
                "cpu": cpu(),
                "versions": versions(),
                "variants": out,
            },
            indent=1,
        )
        + "\n",
        encoding="utf-8",
    )
    print(f"\nwritten to benchmarks/results/{path.name}")


if __name__ == "__main__":
    main()
