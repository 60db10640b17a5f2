"""The default `tune` alone and beside one competing process per core, in turns.

python -m benchmarks.busy [--rounds 2] [--load N] [--kinds ours before]

The competitors multiply integers in Python, one core each, and end with the run, or after
`--limit` seconds. The kinds are those of benchmarks.first_minute. Written to results/busy.json.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.first_minute import KINDS, measure
from benchmarks.machine import cpu, versions

RESULTS = Path(__file__).parent / "results"
COMPETITOR = """
import time
end = time.monotonic() + {limit}
while time.monotonic() < end:
    for n in range(100_000):
        n * n
"""


@contextmanager
def competitors(count: int, limit: float):
    """`count` processes that keep a core busy each, for at most `limit` seconds."""
    command = [sys.executable, "-c", COMPETITOR.format(limit=limit)]
    running = [subprocess.Popen(command) for _ in range(count)]
    try:
        time.sleep(1 if running else 0)
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def main():
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.busy", description=__doc__.splitlines()[0]
    )
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--load", type=int, default=os.cpu_count(), help="competing processes")
    p.add_argument("--limit", type=float, default=1800, help="seconds that they live at most")
    p.add_argument("--kinds", nargs="+", choices=KINDS, default=["ours"])
    p.add_argument("--name", default="busy")
    o = p.parse_args()
    rows = []
    for number in range(o.rounds):
        for kind in o.kinds:
            for load in (0, o.load) if number % 2 == 0 else (o.load, 0):
                with competitors(load, o.limit):
                    rows.append({"load": load} | measure(kind, seed=0))
                print(json.dumps(rows[-1]), flush=True)
    ratios = {}
    for kind in o.kinds:
        of = [row for row in rows if row["kind"] == kind]
        alone = [row["seconds"]["all"] for row in of if not row["load"]]
        busy = [row["seconds"]["all"] for row in of if row["load"]]
        ratios[kind] = median(b / a for a, b in zip(alone, busy))
    made = {"cpu": cpu(), "versions": versions(), "load": o.load, "ratios": ratios, "rows": rows}
    file = RESULTS / f"{o.name}.json"
    file.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    for kind, ratio in ratios.items():
        print(f"{kind}: {ratio:.2f} times as long beside {o.load} competing processes")
    print(f"written to {file}")


if __name__ == "__main__":
    main()
