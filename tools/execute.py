"""Execute notebooks and compare their outputs: `python -m tools.execute [PATH …]`.

    python -m tools.execute nbs/03_loss.ipynb            # say which outputs differ
    python -m tools.execute --update nbs/03_loss.ipynb   # and write those into the notebook
    python -m tools.execute --stale -j 2                 # notebooks of the workshop that changed

Without a path, all notebooks. Each is executed in a process of its own, which is forked from one
that has imported the libraries already: importing them takes longer than most notebooks.
For a notebook of the workshop whose outputs agree, a hash is recorded in tests/executed.json: of
its code and outputs, of all modules of the package that it imports, and of pinned versions. CI
executes lessons always, and these when the hash is another.
Outputs agree where their texts agree and their numbers differ by less than 2 %.
Of a cell with the tag `machine` only whether it says something is compared, and of one with the
tag `widget` that it shows a widget, which is not kept. --update also writes pictures that look
different.
"""

import argparse
import asyncio
import base64
import io
import json
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache
from pathlib import Path

import nbformat
from IPython.core.displayhook import DisplayHook
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from instruct_course.common.files import write_file
from tools.export import notebooks
from tools.fingerprint import depends_hash, frozen, hash_of

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "tests" / "executed.json"
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "datasets")
# How far a number in a committed output may be from that of a re-run on another machine.
RTOL = 0.02
ATOL = 0.02
NUMBER = re.compile(r"(?<![\w#])[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")
UNLIKE = 0.002  # the share of pixels from which a picture is another one
WIDGET = "application/vnd.jupyter.widget-view+json"


# ---- executing


@cache
def processes() -> multiprocessing.context.BaseContext:
    """Where processes start with the libraries imported (Windows has no fork: it imports them)."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tools.preload"])
    return context


def execute(path: Path) -> nbformat.NotebookNode:
    """A notebook with the outputs of executing it, in a process of its own.

    Raises: the exception of a cell that fails, with the cell's id.
    """
    with ProcessPoolExecutor(1, mp_context=processes()) as pool:
        return nbformat.from_dict(pool.submit(execute_here, path).result())


def execute_here(path: Path) -> nbformat.NotebookNode:
    """A notebook with the outputs of executing it in this process and its folder."""
    os.environ.pop("MPLBACKEND", None)
    os.chdir(path.parent)
    sys.path.insert(0, "")
    notebook = nbformat.read(path, as_version=4)
    asyncio.run(run_cells(notebook, path.name))
    return notebook


async def run_cells(notebook: nbformat.NotebookNode, name: str) -> None:
    """Run the code cells of a notebook inside of a running event loop, as Jupyter does."""
    shell = quiet_shell()
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        with capture_output() as captured:
            code = shell.transform_cell(cell.source)
            if shell.should_run_async(cell.source, transformed_cell=code):
                result = await shell.run_cell_async(code, store_history=True, transformed_cell=code)
                shell.events.trigger("post_execute")
            else:
                result = shell.run_cell(cell.source, store_history=True)
        error = result.error_before_exec or result.error_in_exec
        if error is not None:
            raise RuntimeError(f"{name}, cell {cell.id}: {error!r}") from error
        cell.outputs = list(outputs_of(captured))


def quiet_shell() -> InteractiveShell:
    """IPython without a terminal: pictures are displayed in place, and so is a cell's value."""
    shell = InteractiveShell.instance(displayhook_class=DisplayedValue)
    shell.history_manager.enabled = False
    shell.showtraceback = nothing  # an exception of a cell is raised by `run_cells`
    shell.enable_gui = nothing
    shell.enable_matplotlib("inline")
    return shell


class DisplayedValue(DisplayHook):
    """The value of a cell's last line, displayed instead of printed."""

    def write_output_prompt(self) -> None:
        """Leave out `Out[1]:`."""

    def write_format_data(self, format_dict: dict, md_dict: dict | None = None) -> None:
        """Display it."""
        self.shell.display_pub.publish(format_dict, md_dict)


def nothing(*_, **__) -> None:
    """In place of what only a terminal has."""


def outputs_of(captured) -> Iterator[nbformat.NotebookNode]:
    """What a cell printed, then what it displayed, as a notebook keeps them."""
    for name in ("stdout", "stderr"):
        if text := getattr(captured, name):
            yield nbformat.v4.new_output("stream", name=name, text=text)
    for shown in captured.outputs:
        data = {kind: _as_text(value) for kind, value in shown.data.items()}
        yield nbformat.v4.new_output("display_data", data=data, metadata=shown.metadata)


def _as_text(value):
    """Bytes, such as those of a picture that is read from a file, in base64."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


# ---- comparing


def texts(cell: nbformat.NotebookNode) -> str:
    """What a reader sees of a cell: what it printed, then what it showed (a plot: image)."""
    printed = []
    shown = []
    for output in cell.outputs:
        if output.output_type == "error":
            shown.append(f"error: {output.ename}")
        elif output.output_type == "stream":
            printed.append(output.text)
        elif "image/png" in output.data:
            shown.append("image")
        elif "image/svg+xml" in output.data:
            shown.append(output.data["image/svg+xml"])
        elif "text/plain" in output.data:
            shown.append(output.data["text/plain"])
    return "\n".join(text.strip() for text in printed + shown)


def same(a: str, b: str) -> bool:
    """Whether two texts agree but for numbers within the tolerance."""
    if words(a) != words(b):
        return False
    pairs = zip(numbers(a), numbers(b), strict=True)
    return all(abs(x - y) <= ATOL + RTOL * abs(y) for x, y in pairs)


def words(text: str) -> str:
    """A text with "#" for each number, and with single spaces."""
    text = re.sub(r"0x[0-9a-f]+", "0x", NUMBER.sub("#", text))
    return re.sub(r"\s+", " ", text).strip()


def numbers(text: str) -> list[float]:
    """The numbers of a text, in order."""
    return [float(number.replace(",", "")) for number in NUMBER.findall(text)]


def differences(
    committed: nbformat.NotebookNode, fresh: nbformat.NotebookNode
) -> dict[str, tuple[str, str]]:
    """{cell id: (what is committed, what was said now)} of outputs that do not agree."""
    found = {}
    for old, new in zip(committed.cells, fresh.cells, strict=True):
        if old.cell_type != "code":
            continue
        a = texts(old)
        b = texts(new)
        tags = old.metadata.get("tags", [])
        if "widget" in tags:
            agree = not old.outputs and any(WIDGET in o.get("data", {}) for o in new.outputs)
        elif "machine" in tags:
            agree = bool(a) == bool(b)
        else:
            agree = same(a, b)
        if not agree:
            found[old.id] = (a, b)
    return found


def pictures(cell: nbformat.NotebookNode) -> list:
    """The pixels of a code cell's PNG pictures, each (height, width, 4) of 0 to 255."""
    import numpy as np
    from PIL import Image

    shown = [output.get("data", {}).get("image/png") for output in cell.outputs]
    opened = (Image.open(io.BytesIO(base64.b64decode(png))) for png in shown if png)
    return [np.asarray(picture.convert("RGBA"), dtype=int) for picture in opened]


def look_alike(a: nbformat.NotebookNode, b: nbformat.NotebookNode) -> bool:
    """Whether the pictures of two runs of a cell are the same but for a few pixels."""
    pairs = list(zip(pictures(a), pictures(b)))
    return all(x.shape == y.shape and ((abs(x - y) > 32).any(-1)).mean() < UNLIKE for x, y in pairs)


def update(path: Path, fresh: nbformat.NotebookNode) -> None:
    """Write the outputs that differ into a notebook, and pictures that look different.

    Another machine draws a measurement a little differently, so pictures are only compared here,
    where somebody looks at them, and never where they were tagged `machine`.
    """
    committed = nbformat.read(path, as_version=4)
    found = set(differences(committed, fresh))
    found |= {
        old.id
        for old, new in zip(committed.cells, fresh.cells, strict=True)
        if old.cell_type == "code"
        and "machine" not in old.metadata.get("tags", [])
        and not look_alike(old, new)
    }
    for old, new in zip(committed.cells, fresh.cells, strict=True):
        if old.id in found:
            old.outputs = [] if "widget" in old.metadata.get("tags", []) else new.outputs
    nbformat.write(committed, path)


# ---- recorded hashes


def fingerprint(path: Path) -> str:
    """The hash of a notebook's code and outputs, and of all that its code depends on."""
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    sources = [re.sub(r"(?m)^\s*[%!].*$", "", cell.source) for cell in cells]
    outputs = [texts(cell) for cell in cells]
    return hash_of([sources, outputs, depends_hash(sources, PACKAGES), frozen()])


def recorded() -> dict[str, str]:
    """{name of a notebook of the workshop: the hash with which its outputs agreed}."""
    return json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}


def is_stale(path: Path) -> bool:
    """Whether a notebook must be executed: a lesson always, others where something changed."""
    return path.parent.name != "workshop" or recorded().get(path.name) != fingerprint(path)


def record(paths: Iterable[Path]) -> None:
    """Record that notebooks of the workshop were executed, and forget those that are gone."""
    names = {path.name for path in notebooks() if path.parent.name == "workshop"}
    new = {path.name: fingerprint(path) for path in paths if path.parent.name == "workshop"}
    hashes = recorded() | new
    kept = {name: hashes[name] for name in sorted(names & set(hashes))}
    with write_file(RECORDED) as scratch:
        scratch.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


# ---- command


def check(path: Path, update_it: bool) -> bool:
    """Execute a notebook and say what differs: whether its outputs agree now."""
    started = time.perf_counter()
    try:
        fresh = execute(path)
    except RuntimeError as error:
        print(error, flush=True)
        return False
    found = differences(nbformat.read(path, as_version=4), fresh)
    lines = [f"{path.name}: {time.perf_counter() - started:.0f} s, {len(found)} differ"]
    for cell, (committed, now) in found.items():
        lines.append(f"  {cell}\n    committed: {committed[:300]!r}\n    now:       {now[:300]!r}")
    print("\n".join(lines), flush=True)
    if update_it:
        update(path, fresh)
    return update_it or not found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks (all where none is given)")
    parser.add_argument("--update", action="store_true", help="write the outputs that differ")
    parser.add_argument("--stale", action="store_true", help="only those that must be executed")
    parser.add_argument("-j", type=int, default=1, metavar="N", help="so many at a time")
    asked = parser.parse_args()
    paths = [path.resolve() for path in asked.paths or notebooks()]
    if asked.stale:
        paths = [path for path in paths if is_stale(path)]
    with ThreadPoolExecutor(asked.j) as pool:
        agree = list(pool.map(lambda path: check(path, asked.update), paths))
    record([path for path, fine in zip(paths, agree, strict=True) if fine])
    return int(not all(agree))


if __name__ == "__main__":
    raise SystemExit(main())
