"""Re-make the studies of the chapters: `python -m tools.study NAME …` (all of them without a name).

A study is one code cell with the tag `study`. It stands alone (its own imports) and defines `study_NAME(**setting) -> dict`, which makes
one row, and `NAME_grid`, the list of settings. The rows go to instruct_course/assets/studies/NAME.json, which the chapter reads and plots;
CI makes one row of each again (tests/test_studies.py). Rows are made on one thread: sums in another order would send a training along another
path, and the results should not depend on how many cores there are.
"""

import ast
import hashlib
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "instruct_course" / "assets" / "studies"
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")


def find() -> dict[str, str]:
    """{NAME: source} of all study cells."""
    out = {}
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if "study" in cell.metadata.get("tags", []):
                (name,) = [
                    n.name
                    for n in ast.parse(cell.source).body
                    if isinstance(n, ast.FunctionDef) and n.name.startswith("study_")
                ]
                out[name.removeprefix("study_")] = cell.source
    return out


def digest(source: str) -> str:
    """What the results are tied to: the code of the cell, not its comments or line breaks."""
    return hashlib.sha256(ast.dump(ast.parse(source)).encode()).hexdigest()[:16]


def define(name: str, source: str):
    """(the function that makes a row, on one thread; its settings)."""
    import torch

    space = {"__name__": f"study_{name}"}
    exec(compile(source, f"study {name}", "exec"), space)

    def one(**setting) -> dict:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return space[f"study_{name}"](**setting)
        finally:
            torch.set_num_threads(threads)

    return one, space[f"{name}_grid"]


def make(name: str, source: str):
    """Run all rows of a study and write its results, whole or not at all."""
    one, grid = define(name, source)
    rows = []
    for i, setting in enumerate(grid):
        started = time.perf_counter()
        result = one(**setting)
        rows.append(
            {
                "setting": setting,
                "result": result,
                "seconds": round(time.perf_counter() - started, 1),
            }
        )
        print(f"{name} {i + 1}/{len(grid)} {json.dumps(rows[-1], ensure_ascii=False)}", flush=True)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    text = ",\n".join("  " + json.dumps(r, ensure_ascii=False) for r in rows)
    head = json.dumps(
        {
            "version": 1,
            "study": name,
            "code": digest(source),
            "versions": {p: version(p).split("+")[0] for p in PACKAGES},
        }
    )
    scratch = path.with_suffix(".partial")
    scratch.write_text(f'{head[:-1]}, "rows": [\n{text}\n]}}\n', encoding="utf-8")
    os.replace(scratch, path)
    print(f"wrote {path.relative_to(ROOT)}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    studies = find()
    unknown = [n for n in sys.argv[1:] if n not in studies]
    if unknown:
        sys.exit(f"no chapter holds a study {unknown[0]}; there are: {', '.join(studies)}")
    for chosen in sys.argv[1:] or studies:
        make(chosen, studies[chosen])
