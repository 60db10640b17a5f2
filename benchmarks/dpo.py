"""DPO side by side: the engine with one prompt per pair, transformers' own modules, TRL's trainer.

    python -m benchmarks.dpo [--model smollm2] [--pairs 24] [--steps 4] [--rounds 3]

All train the same adapter on the same built-in pairs, the same ones in each step, with AdamW and
references that were computed before. They take turns; a turn begins anew, its first two steps are
a warm-up, and the rest is timed. TRL's trainer gets the same ids; its steps are in float32 without
gradient checkpointing, which is faster here than its defaults. Prints a table and writes
results/dpo.json (`--name`) with losses, versions and the CPU.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import trl_dpo
from benchmarks.machine import cpu, versions

RESULTS = Path(__file__).parent / "results"
WARM_UP = 2  # steps of a turn that are not timed
BETA = 0.1
LR = 1e-4


@dataclass
class Job:
    """What all contenders train on.

    Attributes:
        model: its name.
        template: how the pairs are written.
        pairs: (chosen, rejected), as ids and labels, a step's worth after another.
        reference: (n, 2) log-probabilities of the pairs in nats.
        per_step: pairs of a step.
        steps: of a turn, the warm-up included.
        pad_id: the id of padding.
    """

    model: str
    template: object
    pairs: list
    reference: object
    per_step: int
    steps: int
    pad_id: int

    @property
    def tokens(self) -> int:
        """The tokens of the timed steps, both sides whole, without padding."""
        timed = self.pairs[WARM_UP * self.per_step :]
        return sum(len(row.ids) for pair in timed for row in pair)

    def student(self, plain: bool = False):
        """(model with a fresh adapter, tokenizer); `plain` keeps the engine away."""
        from instruct_course.data import template as templates
        from instruct_course.model import lora
        from instruct_course.model.load import load_base

        base = load_base(self.model)
        token_ids = templates.prepare(self.template, base.tokenizer)
        dropout = 1e-12 if plain else 0.0  # a layer that drops nothing: PEFT's own modules
        model = lora.attach(base.model, token_ids=token_ids, lora_dropout=dropout, seed=0)
        return model, base.tokenizer


def prepare(name: str, count: int, steps: int) -> Job:
    """The pairs, and their reference log-probabilities."""
    from instruct_course.data import template as templates
    from instruct_course.data.pairs import builtin_pairs, encode_pairs, pair
    from instruct_course.defaults import choose_template
    from instruct_course.model.load import load_base
    from instruct_course.train.logprobs import pair_logprobs

    base = load_base(name)
    template = templates.named(choose_template(name, base.tokenizer), base.tokenizer)
    templates.prepare(template, base.tokenizer)
    rows = builtin_pairs("train")
    rows = rows.select(range(0, len(rows), len(rows) // count)).select(range(count))
    pairs = encode_pairs(template, base.tokenizer, [pair(row) for row in rows])
    pad_id = templates.pad_id(base.tokenizer)
    reference = pair_logprobs(base.model, pairs, pad_id=pad_id)
    return Job(name, template, pairs, reference, count // steps, steps, pad_id)


def ours(job: Job, tick: Callable[[float], None], plain: bool = False) -> None:
    """`loop.fit` with the shipped objective, step by step over the same pairs as the others."""
    from unittest import mock

    from instruct_course.objectives.preference import DPO
    from instruct_course.train import loop

    model, _ = job.student(plain)
    goal = DPO(job.reference, beta=BETA)
    config = loop.TrainConfig(lr=LR, warmup=0.0, schedule="constant")
    size = job.per_step
    steps = [list(range(i * size, (i + 1) * size)) for i in range(job.steps)]
    with mock.patch.object(loop, "schedule_items", lambda *_: steps):
        loop.fit(
            model,
            job.pairs,
            config,
            pad_id=job.pad_id,
            objective=goal,
            on_step=lambda record: tick(record["loss"]),
        )


def plain(job: Job, tick: Callable[[float], None]) -> None:
    """The same through transformers' and PEFT's own modules, in padded batches."""
    ours(job, tick, plain=True)


def trl(job: Job, tick: Callable[[float], None]) -> None:
    """TRL's DPOTrainer on the same ids, its reference computed before."""
    from transformers import TrainerCallback

    class Ticks(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" in logs:
                tick(logs["loss"])

    model, tokenizer = job.student(plain=True)
    pairs = zip(job.pairs, job.reference)
    rows = [trl_dpo.sides(pair) | _reference(two) for pair, two in pairs]
    with tempfile.TemporaryDirectory() as folder:
        size = job.per_step
        args = trl_dpo.settings(folder, per_step=size, steps=job.steps, lr=LR, beta=BETA)
        trainer = trl_dpo.create_trainer(model, tokenizer, rows, args, [Ticks()])
        trainer.precompute_ref_logps = True
        trainer.train()


def _reference(two) -> dict:
    """The reference's numbers as TRL's collator takes them."""
    chosen, rejected = two.tolist()
    return {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}


CONTENDERS = {"ours": ours, "ours, plain": plain, "TRL": trl}


def turn(contender: Callable, job: Job) -> dict:
    """One turn: the seconds of its timed steps, and all losses."""
    losses = []
    times = []

    def tick(loss: float) -> None:
        losses.append(loss)
        times.append(time.perf_counter())

    contender(job, tick)
    return {"seconds": times[-1] - times[WARM_UP - 1], "losses": losses}


def compare(job: Job, rounds: int, say: Callable[[str], None] = print) -> dict:
    """All contenders, in turns."""
    turns = {name: [] for name in CONTENDERS}
    for number in range(rounds):
        for name, contender in list(CONTENDERS.items())[:: 1 if number % 2 == 0 else -1]:
            turns[name].append(turn(contender, job))
            say(f"round {number + 1} of {rounds}: {name} {turns[name][-1]['seconds']:.1f} s")
    return summary(turns, job.tokens)


def summary(turns: dict[str, list[dict]], tokens: int) -> dict:
    """Rates, ratios round by round, and how far the losses are from those of ours.

    Args:
        turns: by contender, a dict per round as `turn` gives it.
        tokens: of the timed steps of a turn.

    Returns:
        {contender: {tokens_per_second (median), times_slower (median over rounds, low, high),
        loss_difference (largest, relative), losses, seconds}}.
    """
    first = turns["ours"]
    out = {}
    for name, each in turns.items():
        ratios = [there["seconds"] / here["seconds"] for there, here in zip(each, first)]
        differences = [
            abs(b - a) / abs(a)
            for there, here in zip(each, first)
            for a, b in zip(here["losses"], there["losses"], strict=True)
        ]
        out[name] = {
            "tokens_per_second": tokens / median(one["seconds"] for one in each),
            "times_slower": [median(ratios), min(ratios), max(ratios)],
            "loss_difference": max(differences),
            "losses": each[0]["losses"],
            "seconds": [one["seconds"] for one in each],
        }
    return out


def table(found: dict) -> str:
    """The result as Markdown."""
    lines = ["| | tokens per second | times as long as ours | loss, largest difference |"]
    lines.append("|---|---|---|---|")
    for name, one in found.items():
        middle, low, high = one["times_slower"]
        rate = f"{one['tokens_per_second']:,.0f}"
        difference = f"{one['loss_difference']:.2%}"
        lines.append(f"| {name} | {rate} | {middle:.1f} ({low:.1f}–{high:.1f}) | {difference} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", default="dpo")
    o = parser.parse_args()
    job = prepare(o.model, o.pairs, o.steps)
    found = compare(job, o.rounds)
    print(table(found))
    about = {"model": o.model, "pairs": o.pairs, "steps": o.steps, "rounds": o.rounds}
    facts = {"version": 1, **about, "cpu": cpu(), "versions": versions(), "contenders": found}
    path = RESULTS / f"{o.name}.json"
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path.relative_to(RESULTS.parents[1])}")


if __name__ == "__main__":
    main()
