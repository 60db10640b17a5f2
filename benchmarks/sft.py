"""Supervised fine-tuning side by side: this project's engine, its plain reference, TRL's SFTTrainer, and the lower bound of the matrix products.

python -m benchmarks.sft speed|run|search --data FILE
"""

import argparse
import hashlib
import json
import math
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from .contender import HELD, ROWS, STRONGEST, TRL
from .machine import cpu, environment, versions

RESULTS = Path(__file__).parent / "results"


class Contender:
    """A worker process of `contender`; the methods wait for its answers."""

    def __init__(self, name: str, task: dict):
        self.name, self.log, self.slices = name, tempfile.TemporaryFile("w+", encoding="utf-8"), []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contender", json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            encoding="utf-8",
            env=environment(task["threads"]),
            cwd=Path(__file__).parents[1],
        )
        self.ready = self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.log.seek(0)
            raise RuntimeError(f"{self.name} stopped: {self.log.read()[-1500:].strip()}")
        return json.loads(line)

    def slice(self) -> dict:
        """Let it run its next slice."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.slices.append(self._answer())
        return self.slices[-1]

    def close(self):
        """End it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def counted(self) -> list[dict]:
        """The slices that count: not the warm-up."""
        return self.slices[self.ready["slices"] - self.rounds :]


def task(o, who: str, setting: str = "", **options) -> dict:
    return {
        "who": who,
        "setting": setting,
        "model": "smollm2",
        "data": str(Path(o.data).resolve()),
        "threads": o.threads,
        "every": 1,
        "epochs": 1,
        "warm": 0,
        "slices": 1,
        "evaluate": False,
    } | options


def together(names: dict[str, dict], rounds: int, say=print) -> list[Contender]:
    """All contenders, slice by slice, each in its turn."""
    made = []
    try:
        for name, t in names.items():
            made.append(Contender(name, t))
            made[-1].rounds = rounds
            say(
                f"{name}: {made[-1].ready['steps']} steps on {made[-1].ready['rows']} rows, {made[-1].ready['tokens']:,} tokens, {made[-1].ready['supervised']:,} of them supervised"
            )
        for r in range(made[0].ready["slices"]):
            for c in made if r % 2 == 0 else made[::-1]:
                c.slice()
            say(
                f"slice {r + 1} of {made[0].ready['slices']}: "
                + ", ".join(f"{c.name} {total(c.slices[-1]):.1f} s" for c in made)
            )
        return made
    finally:
        for c in made:
            c.close()


def total(part: dict) -> float:
    """Seconds of a slice; of the lower bound those of the body and the head."""
    return (
        part["seconds"]["body"] + part["seconds"]["head"]
        if isinstance(part["seconds"], dict)
        else part["seconds"]
    )


def _rates(c: Contender) -> tuple[float, float, float]:
    """(real tokens per second over all that counts, of the slowest slice, of the fastest)."""
    each = [s["tokens"] / s["seconds"] for s in c.counted]
    return (
        sum(s["tokens"] for s in c.counted) / sum(s["seconds"] for s in c.counted),
        min(each),
        max(each),
    )


def speed(o) -> dict:
    """Each contender trains on the same rows once, in turns."""
    common = {"every": o.every, "warm": 2, "slices": o.rounds}
    names = {
        "ours": task(o, "ours", **common),
        "lower_bound": task(o, "lower_bound", **common),
        "ours, plain": task(o, "plain", **common),
    }
    names |= {f"TRL, {s}": task(o, "trl", s, **common) for s in o.trl}
    made = {c.name: c for c in together(names, o.rounds)}
    fast, out = _rates(made["ours"])[0], {}
    print(
        f"\n{'':48}{'tokens/s':>9}{'slowest':>9}{'fastest':>9}{'ours is':>9}{'peak GB':>9}{'before':>8}"
    )
    for c in made.values():
        if c.name == "lower_bound":
            continue
        rate, low, high = _rates(c)
        peak = max(s["peak"] for s in c.slices)
        out[c.name] = {
            "tokens_per_second": rate,
            "slowest_slice": low,
            "fastest_slice": high,
            "ours_is_times": fast / rate,
            "peak_bytes": peak,
            "before_bytes": c.ready["before"],
            "steps": c.ready["steps"],
            "slices": c.slices,
        }
        print(
            f"{c.name:48}{rate:9.0f}{low:9.0f}{high:9.0f}{fast / rate:8.2f}x{peak / 1e9:9.2f}{c.ready['before'] / 1e9:8.2f}"
        )
    lowest, mine = made["lower_bound"].counted, made["ours"].counted
    assert sum(s["supervised"] for s in lowest) == sum(s["supervised"] for s in mine), (
        "the lower bound is that of the same steps"
    )
    took, shares = sum(s["seconds"] for s in mine), {}
    parts = {
        p: sum(s["seconds"][p] for s in lowest) for p in ("body", "head", "adapters", "attention")
    }
    print(
        f"\nours: {sum(s['steps'] for s in mine)} steps in {took:.2f} s. Its matrix products alone, bf16, at the same shapes:"
    )
    for label, keys in (
        ("body and head", ("body", "head")),
        ("with the adapters'", ("body", "head", "adapters")),
        ("with the attention's too", ("body", "head", "adapters", "attention")),
    ):
        seconds, operations = (
            sum(parts[k] for k in keys),
            sum(s["operations"][k] for s in lowest for k in keys),
        )
        each = [sum(f["seconds"][k] for k in keys) / m["seconds"] for f, m in zip(lowest, mine)]
        shares[label] = {
            "seconds": seconds,
            "gflop_per_second": operations / seconds / 1e9,
            "share": seconds / took,
            "smallest": min(each),
            "largest": max(each),
        }
        print(
            f"  {label:26}{seconds:7.2f} s at {operations / seconds / 1e9:4.0f} GFLOP/s: {seconds / took:4.0%} of the time of ours ({min(each):.0%} to {max(each):.0%})"
        )
    return {
        "contenders": out,
        "lower_bound": {
            "parts_seconds": parts,
            "shares": shares,
            "slices": made["lower_bound"].slices,
            "seconds_of_ours": took,
        },
    }


def reached(points: list[tuple[float, float]], wanted: float) -> float | None:
    """Seconds at which the loss first was `wanted`, on straight lines between the points (seconds, loss)."""
    for (s, a), (t, b) in zip(points, points[1:]):
        if b <= wanted:
            return s if a <= wanted else s + (t - s) * (a - wanted) / (a - b)
    return None


def run(o) -> dict:
    """Full training, with the held-out loss at the end of each slice; the clock stands still meanwhile."""
    common = {"every": o.every, "epochs": o.epochs, "slices": o.points, "evaluate": True}
    names = {"ours": task(o, "ours", **common)} | {
        f"TRL, {s}": task(o, "trl", s, **common) for s in o.trl
    }
    made, curves = together(names, o.points), {}
    for c in made:
        at, points = 0.0, [(0.0, c.ready["held_out"])]
        for s in c.slices:
            at += s["seconds"]
            points.append((at, s["held_out"]))
        curves[c.name] = points
        print(f"\n{c.name}\n" + "\n".join(f"  {t:7.1f} s  {loss:.4f}" for t, loss in points))
    asked = {c.name: sum(s["supervised"] for s in c.slices) for c in made}
    wanted = 1.01 * max(p[-1][1] for p in curves.values())
    times = {name: reached(p, wanted) for name, p in curves.items()}
    print(
        f"\nsupervised tokens seen: {asked}\nheld-out loss of {wanted:.4f}, within 1 % of the worst end:"
    )
    out = {}
    for c in made:
        s, end = curves[c.name][-1]
        out[c.name] = {
            "seconds": s,
            "held_out": end,
            "seconds_to_wanted": times[c.name],
            "points": curves[c.name],
            "steps": c.ready["steps"],
            "supervised": asked[c.name],
            "peak_bytes": max(x["peak"] for x in c.slices),
            "tokens_per_second": sum(x["tokens"] for x in c.slices) / s,
        }
        print(
            f"  {c.name:48} after {times[c.name]:6.1f} s ({times[c.name] / (times['ours'] or math.nan):.2f} times ours); at its end {end:.4f} in {s:.1f} s, {out[c.name]['tokens_per_second']:.0f} tokens/s"
        )
    return {"contenders": out, "wanted": wanted}


def search(o) -> dict:
    """Every setting of TRL on a sample of the rows, one process after the other, the first step not counted; ours before and after them for comparison."""
    out = {}
    for name in ("ours", *(o.only or TRL), "ours"):
        t = (
            task(o, "ours", every=o.every, warm=1)
            if name == "ours"
            else task(o, "trl", name, every=o.every, warm=1)
        )
        try:
            (c,) = together({name: t}, 1, say=lambda text: None)
        except RuntimeError as error:
            out[name] = {"failed": str(error).splitlines()[-1][:200]}
            print(f"{name:44} does not run: {out[name]['failed']}", flush=True)
            continue
        rate, peak = _rates(c)[0], max(s["peak"] for s in c.slices)
        busy = sum(s["tokens"] for s in c.counted) / sum(s["cpu_seconds"] for s in c.counted)
        out[name] = {
            "tokens_per_second": rate,
            "tokens_per_cpu_second": busy,
            "steps": c.ready["steps"],
            "peak_bytes": peak,
        }
        print(
            f"{name:44}{rate:7.0f} tokens/s, {busy:5.0f} a second of CPU time, {c.ready['steps']} steps, peak {peak / 1e9:.2f} GB",
            flush=True,
        )
    return {"settings": out}


def main():
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.sft", description=__doc__.splitlines()[0]
    )
    p.add_argument("what", nargs="?", choices=("all", "speed", "run", "search"), default="all")
    p.add_argument(
        "--data",
        required=True,
        help=f"rows in any form that instruct_course reads; the first {ROWS} are for training, the next {HELD} held out",
    )
    p.add_argument("--name", help="of the result in benchmarks/results; today's date if not given")
    p.add_argument(
        "--trl",
        nargs="*",
        choices=list(TRL),
        help=f"settings of TRL; for speed 'defaults' and '{STRONGEST}', for run '{STRONGEST}'",
    )
    p.add_argument(
        "--only", nargs="*", choices=list(TRL), help="settings to search; all if not given"
    )
    p.add_argument(
        "--every",
        type=int,
        help="train on every so-manieth row: 2 for speed, 8 for search, 1 for run",
    )
    p.add_argument(
        "--rounds", type=int, default=5, help="slices in which the contenders take turns, for speed"
    )
    p.add_argument(
        "--points",
        type=int,
        default=8,
        help="points at which the held-out loss is looked at, for run",
    )
    p.add_argument("--epochs", type=float, default=2, help="for run")
    p.add_argument(
        "--threads",
        type=int,
        default=0,
        help="threads of each contender, which then do not spin while they wait (for a machine that others use too); all cores if 0",
    )
    given = p.parse_args()
    if not Path(given.data).is_file():
        p.error(f"--data {given.data}: there is no such file")
    made = {
        "version": 1,
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": cpu(),
        "versions": versions(),
        "data_sha256": hashlib.sha256(Path(given.data).read_bytes()).hexdigest(),
    }
    for what in ("speed", "run") if given.what == "all" else (given.what,):
        o = argparse.Namespace(**vars(given))
        o.every = given.every or {"speed": 2, "search": 8, "run": 1}[what]
        o.trl = (
            given.trl
            if given.trl is not None
            else ["defaults", STRONGEST]
            if what == "speed"
            else [STRONGEST]
        )
        started = time.perf_counter()
        print(f"\n== {what}, every {o.every} of the rows", flush=True)
        made[what] = {"every": o.every} | {"speed": speed, "run": run, "search": search}[what](o)
        made[what]["took_seconds"] = time.perf_counter() - started
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{given.name or f'{given.what}-{datetime.now():%Y%m%d-%H%M}'}.json"
        path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        print(
            f"\nwritten to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}",
            flush=True,
        )


if __name__ == "__main__":
    main()
