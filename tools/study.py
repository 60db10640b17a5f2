"""Make the studies of the notebooks again: `python -m tools.study NAME …` (all without a name).

A study is one code cell with the tag `study`. It stands alone (its own imports) and defines
`study_NAME(**setting) -> dict`, which makes one row, and `NAME_grid`, the list of settings. The
rows go to instruct_course/assets/studies/NAME.json, which the notebook reads and plots, with two
hashes: of the cell's code, and of all that it depends on.

    python -m tools.study --check           # of each study that is out of date: the cheapest row
    python -m tools.study --check -j 2      # two studies at a time

`--check` makes that one row again, compares it as tests/test_studies.py does, and records the new
hashes only if it agrees. Rows are made on one thread: sums in another order would send a training
along another path, and the results should not depend on how many cores there are.
"""

import argparse
import ast
import json
import math
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev

import nbformat

from instruct_course.common.files import write_file
from tools.export import notebooks
from tools.fingerprint import code_hash, depends_hash, frozen, hash_of

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "instruct_course" / "assets" / "studies"
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
# How far a loss (relative or absolute) or a share may be from the recorded one.
TOLERANCE = 0.05


@cache
def find() -> dict[str, str]:
    """{NAME: source} of all study cells."""
    out = {}
    for path in notebooks():
        for cell in nbformat.read(path, as_version=4).cells:
            if "study" in cell.metadata.get("tags", []):
                out[study_name(cell.source)] = cell.source
    return out


def study_name(source: str) -> str:
    """NAME of the one function `study_NAME` that a cell defines."""
    functions = [n.name for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)]
    (name,) = [n for n in functions if n.startswith("study_")]
    return name.removeprefix("study_")


def hashes(source: str) -> dict[str, str]:
    """What results are tied to.

    Returns:
        "code": the hash of the cell's code; "depends": that of all that it depends on: the code
        of the package's modules that it imports, directly or not, the built-in model and rows,
        and the versions that CI installs.
    """
    depends = hash_of([depends_hash([source], PACKAGES), frozen()])
    return {"code": code_hash(source), "depends": depends}


def read(name: str) -> dict:
    """The recorded results of a study."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def is_stale(name: str) -> bool:
    """Whether a study's hashes are not the recorded ones."""
    recorded = read(name)
    return any(recorded.get(k) != v for k, v in hashes(find()[name]).items())


def define(name: str) -> tuple[Callable[..., dict], list[dict]]:
    """Run a study's cell.

    Returns:
        (the function that makes a row, on one thread; its settings).
    """
    import torch

    space = {"__name__": f"study_{name}"}
    exec(compile(find()[name], f"study {name}", "exec"), space)

    def on_one_thread(**setting) -> dict:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return space[f"study_{name}"](**setting)
        finally:
            torch.set_num_threads(threads)

    return on_one_thread, space[f"{name}_grid"]


def write(name: str, head: dict, rows: list[dict]) -> None:
    """Write a study's results, whole or not at all: a line for the head and one per row."""
    RESULTS.mkdir(exist_ok=True)
    text = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows)
    with write_file(RESULTS / f"{name}.json") as scratch:
        scratch.write_text(f'{json.dumps(head)[:-1]}, "rows": [\n{text}\n]}}\n', encoding="utf-8")


def make(name: str) -> str:
    """Make all rows of a study and write them; gives a line to print."""
    one, grid = define(name)
    rows = []
    for i, setting in enumerate(grid):
        started = time.perf_counter()
        result = one(**setting)
        seconds = round(time.perf_counter() - started, 1)
        rows.append({"setting": setting, "result": result, "seconds": seconds})
        print(f"{name} {i + 1}/{len(grid)} {json.dumps(rows[-1], ensure_ascii=False)}", flush=True)
    versions = {p: version(p).split("+")[0] for p in PACKAGES}
    head = {"version": 1, "study": name, **hashes(find()[name]), "versions": versions}
    write(name, head, rows)
    return f"{name}: made {len(rows)} rows"


# ---- checking one row


def cheapest(rows: list[dict]) -> dict:
    """The row that took the fewest seconds."""
    return min(rows, key=lambda row: row["seconds"])


def without_seed(row: dict) -> dict:
    """A row's setting but for its seed."""
    return {k: v for k, v in row["setting"].items() if k != "seed"}


def disagreements(rows: list[dict], row: dict, again: dict) -> list[str]:
    """Where a row that was made again does not agree with the recorded one; seconds are left alone.

    On the machine that made it the numbers come out the same to some digits; on another one a
    training goes along another path, as with another seed: there they must lie in the 95 %
    prediction interval for one more seed, from those of that setting.

    Args:
        rows: all recorded rows.
        row: the recorded row.
        again: the result that was made again.

    Returns:
        A sentence per number that disagrees.
    """
    recorded = row["result"]
    if again.keys() != recorded.keys():
        return [f"it gives {sorted(again)}, and {sorted(recorded)} was recorded"]
    seeds = [r["result"] for r in rows if without_seed(r) == without_seed(row)]
    wrong = []
    for key, value in recorded.items():
        if not isinstance(value, float):
            if again[key] != value:
                wrong.append(f"{key}: {str(again[key])[:200]}, and {str(value)[:200]} was recorded")
        elif "seconds" not in key and not agrees(again[key], value, [s[key] for s in seeds]):
            wrong.append(f"{key}: {again[key]}, and the seeds gave {[s[key] for s in seeds]}")
    return wrong


def agrees(number: float, recorded: float, seeds: list[float]) -> bool:
    """Whether a number is near the recorded one, or where one more seed would lie."""
    from scipy.stats import t as student

    if abs(number - recorded) <= max(TOLERANCE, TOLERANCE * abs(recorded)):
        return True
    n = len(seeds)
    if n < 2:
        return number == mean(seeds)
    reach = student.ppf(0.975, n - 1) * stdev(seeds) * math.sqrt(1 + 1 / n)
    return abs(number - mean(seeds)) <= reach


def check(name: str) -> list[str]:
    """Make the cheapest row of a study again; gives what disagrees."""
    rows = read(name)["rows"]
    one, grid = define(name)
    if [row["setting"] for row in rows] != grid:
        return ["its settings are others than those of the recorded rows"]
    row = cheapest(rows)
    return disagreements(rows, row, one(**row["setting"]))


def check_and_record(name: str) -> str:
    """Check a study, and record its hashes if it agrees; gives a line to print.

    Raises:
        ValueError: the row does not agree; nothing is recorded.
    """
    started = time.perf_counter()
    # before the row is made, so that a change meanwhile leaves the study out of date
    now = hashes(find()[name])
    wrong = check(name)
    if wrong:
        again = f"if that is right, run python -m tools.study {name}"
        raise ValueError(f"{'; '.join(wrong)}; {again}")
    recorded = read(name)
    rows = recorded.pop("rows")
    versions = recorded.pop("versions")
    write(name, {**recorded, **now, "versions": versions}, rows)
    return f"{name}: agrees, recorded ({time.perf_counter() - started:.0f} s)"


# ---- the command


def run_all(task: Callable[[str], str], names: list[str], processes: int) -> Iterator[str]:
    """Run a task for each name, here or in several processes.

    Yields:
        The line that each task gives, or the name and what went wrong, beginning with "FAILED".
    """
    if processes == 1:
        for name in names:
            yield _line(name, lambda name=name: task(name))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = {pool.submit(task, name): name for name in names}
        for future in as_completed(futures):
            yield _line(futures[future], future.result)


def _line(name: str, result: Callable[[], str]) -> str:
    """The line of a task, or that it failed."""
    try:
        return result()
    except ValueError as error:
        return f"FAILED {name}: {error}"
    except Exception:
        return f"FAILED {name}: {traceback.format_exc()}"


def main(arguments: list[str] | None = None) -> int:
    """The command; exit code 1 where a study failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--check", action="store_true", help="only the cheapest row, if stale")
    parser.add_argument("-j", dest="processes", type=int, default=1, help="studies at a time")
    args = parser.parse_args(arguments)
    for name in args.names:
        if name not in find():
            parser.error(f"no notebook holds a study {name}; there are: {', '.join(find())}")
    names = list(dict.fromkeys(args.names or find()))
    task = make
    if args.check:
        names = [name for name in names if is_stale(name)]
        # the longest first
        names.sort(key=lambda name: -cheapest(read(name)["rows"])["seconds"])
        task = check_and_record
    print(f"{len(names)} to do: {', '.join(names)}" if names else "nothing is stale", flush=True)
    failed = 0
    for i, line in enumerate(run_all(task, names, args.processes)):
        failed += line.startswith("FAILED")
        print(f"[{i + 1}/{len(names)}] {line}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("MPLBACKEND", "Agg")
    sys.exit(main())
