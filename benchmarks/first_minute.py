"""The default `tune`, from nothing to its table: seconds by part, with and without what speeds it up.

python -m benchmarks.first_minute [--rounds 3] [--seed 0]

Each run is a process of its own, and two kinds take turns: "ours" is the command as it ships;
"before" lets OpenMP's threads spin at barriers, takes one thread per core and keeps denormal
numbers (see instruct_course/common/threads.py). Written to results/first_minute.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.machine import cpu, versions

RESULTS = Path(__file__).parent / "results"
PARTS = ("read_rows", "load", "judge_base", "attach", "fit", "judge_tuned", "save")
SPINS = "300000"  # libgomp's own default
KINDS = ("ours", "before")


def environment(kind: str) -> dict[str, str]:
    """The variables of a run of a kind; those that a user may have set are taken out."""
    chosen = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    env = {k: v for k, v in os.environ.items() if k not in chosen} | {"HF_HUB_OFFLINE": "1"}
    return env | ({"GOMP_SPINCOUNT": SPINS} if kind == "before" else {})


def one(kind: str, seed: int, out: str) -> dict:
    """Tune in this process: seconds by part, threads, and the scores."""
    started = time.perf_counter()
    if kind == "before":
        import torch

        torch.set_flush_denormal = lambda on: False
    from instruct_course import recipe

    seconds = {"import": time.perf_counter() - started}
    for name in PARTS:
        setattr(recipe, name, timed(getattr(recipe, name), name, seconds))
    options = {"threads": os.cpu_count()} if kind == "before" else {}
    run = recipe.tune(seed=seed, out=out, quiet=True, **options)
    after = run.report["after"]
    made = json.loads((Path(out) / "run.json").read_text(encoding="utf-8"))
    return {
        "kind": kind,
        "seconds": seconds | {"all": time.perf_counter() - started},
        "cpu_seconds": time.process_time(),
        "threads": made["config"]["threads"],
        "exact_match": after["exact_match"],
        "loss": after["loss"],
    }


def timed(function, name: str, seconds: dict):
    """`function`, which notes in `seconds` how long it took."""

    def call(*given, **named):
        started = time.perf_counter()
        try:
            return function(*given, **named)
        finally:
            seconds[name] = time.perf_counter() - started

    return call


def measure(kind: str, seed: int) -> dict:
    """`one` in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "benchmarks.first_minute", "--one", kind]
        done = subprocess.run(
            [*command, "--seed", str(seed), "--out", str(Path(scratch) / "run")],
            env=environment(kind),
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            check=True,
        )
    return json.loads(done.stdout.splitlines()[-1])


def summary(rows: list[dict]) -> dict:
    """The medians of each kind, and the median of the pairs' ratios."""
    of = {kind: [row for row in rows if row["kind"] == kind] for kind in KINDS}
    out = {}
    for kind, some in of.items():
        parts = some[0]["seconds"]
        out[kind] = {part: median(row["seconds"][part] for row in some) for part in parts}
        out[kind]["cpu"] = median(row["cpu_seconds"] for row in some)
    pairs = zip(of["before"], of["ours"])
    out["ratio"] = median(b["seconds"]["all"] / a["seconds"]["all"] for b, a in pairs)
    return out


def main():
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.first_minute", description=__doc__.splitlines()[0]
    )
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--name", default="first_minute")
    p.add_argument("--one", choices=KINDS, help=argparse.SUPPRESS)
    p.add_argument("--out", help=argparse.SUPPRESS)
    o = p.parse_args()
    if o.one:
        return print(json.dumps(one(o.one, o.seed, o.out)))
    rows = []
    for number in range(o.rounds):
        for kind in KINDS if number % 2 == 0 else KINDS[::-1]:
            rows.append(measure(kind, o.seed))
            print(json.dumps(rows[-1]), flush=True)
    made = {"cpu": cpu(), "versions": versions(), "summary": summary(rows), "rows": rows}
    file = RESULTS / f"{o.name}.json"
    file.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    for kind in KINDS:
        print(kind, {part: round(s, 1) for part, s in made["summary"][kind].items()})
    print(f"before / ours: {made['summary']['ratio']:.2f}; written to {file}")


if __name__ == "__main__":
    main()
