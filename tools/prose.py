"""Pair the numbers of a notebook's prose with its outputs: `python -m tools.prose [PATH …]`.

A number in prose is paired where an output above it in the notebook, or its code, holds a number
that rounds to it (percentages also as shares). What is left is printed by cell; numbers that are
right and stand nowhere else (of papers, years, exercises) are listed in tests/prose_numbers.json
as {notebook: {cell: [numbers]}}, and `--allow` writes that list anew, for a reader to look through.
"""

import argparse
import json
import re
from collections.abc import Iterable
from pathlib import Path

import nbformat

from tools.export import notebooks

ROOT = Path(__file__).parents[1]
ALLOWED = ROOT / "tests" / "prose_numbers.json"
NUMBER = re.compile(r"(?<![\w.,])[-−]?\d+(?:,\d{3})*(?:\.\d+)?(?![\w]*[\d_])")
# What is no claim: code, formulas, links and what they point to, headings, numbered lists, tags.
NOT_PROSE = (
    r"```.*?```",
    r"`[^`]*`",
    r"\$\$.*?\$\$",
    r"\$[^$]*\$",
    r"\]\([^)]*\)",
    r"<[^>]*>",
    r"(?m)^#.*$",
    r"(?m)^\s*\d+\. ",
    r"\(\d+\.\d+\)",
    r"(?i)\b(?:lesson|lessons|chapter|chapters|section|equation|step|exercise|figure)s? \d[\w.]*"
    r"(?:(?:,| and| to|–) \d[\w.]*)*",
    r"\b(?:19|20)\d\d\b",
    r"\b\d{4}\.\d{5}\b",  # papers on arXiv
)
SMALL = 12  # whole numbers up to this one count things that a reader sees


def prose_numbers(source: str) -> list[str]:
    """The numbers of a Markdown cell that claim something, as they are written."""
    for pattern in NOT_PROSE:
        source = re.sub(pattern, " ", source, flags=re.S)
    found = NUMBER.findall(source)
    return [text for text in found if not (text.isdigit() and int(text) <= SMALL)]


def value(text: str) -> float:
    """A written number."""
    return float(text.replace(",", "").replace("−", "-"))


def shown_numbers(cell: nbformat.NotebookNode) -> Iterable[float]:
    """The numbers of a code cell and of its outputs."""
    texts = [cell.source]
    for output in cell.outputs:
        data = output.get("data", {})
        texts += [output.get("text", ""), data.get("text/plain", ""), data.get("text/html", "")]
    for text in texts:
        for number in re.findall(r"\d[\d,_]*(?:\.\d+)?(?:e[-+]?\d+)?", "".join(text)):
            try:
                yield float(number.replace(",", "").replace("_", ""))
            except ValueError:
                continue


def agrees(text: str, shown: set[float]) -> bool:
    """Whether a written number is one of those that are shown, rounded as it is written."""
    written = abs(value(text))
    decimals = len(text.partition(".")[2])
    zeros = len(text) - len(text.rstrip("0")) if decimals == 0 else 0
    # "4,000" may be rounded to thousands, "4,020" to tens
    slack = 0.5 * 10.0 ** (zeros if zeros else -decimals) * (1 + 1e-9)
    return any(
        abs(number * scale - written) <= slack
        for number in shown
        for scale in (1, 100, 0.01, 1e-3, 1e-6, 1e-9, 1e3)
    )


def unpaired(notebook: nbformat.NotebookNode) -> dict[str, list[str]]:
    """{cell id: numbers of its prose that no output or code above it shows}."""
    shown: set[float] = set()
    found = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            shown.update(shown_numbers(cell))
        elif left := [text for text in prose_numbers(cell.source) if not agrees(text, shown)]:
            found[cell.id] = left
    return found


def name_of(path: Path) -> str:
    """A notebook's path below nbs."""
    return path.resolve().relative_to(ROOT / "nbs").as_posix()


def all_unpaired(paths: Iterable[Path]) -> dict[str, dict[str, list[str]]]:
    """{notebook: {cell id: numbers}} of what is not paired."""
    found = {}
    for path in paths:
        if left := unpaired(nbformat.read(path, as_version=4)):
            found[name_of(path)] = left
    return found


def left_over(some: dict, other: dict) -> list[str]:
    """ "NOTEBOOK, cell ID: NUMBER" for each number of `some` that `other` does not hold there."""
    return [
        f"{notebook}, cell {cell}: {text}"
        for notebook, cells in some.items()
        for cell, texts in cells.items()
        for text in texts
        if text not in other.get(notebook, {}).get(cell, [])
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks (all where none is given)")
    parser.add_argument("--allow", action="store_true", help="write all that is left as allowed")
    asked = parser.parse_args()
    found = all_unpaired(asked.paths or notebooks())
    if asked.allow:
        allowed = (
            found if not asked.paths else json.loads(ALLOWED.read_text(encoding="utf-8")) | found
        )
        text = json.dumps(allowed, ensure_ascii=False, indent=1, sort_keys=True)
        ALLOWED.write_text(text + "\n", encoding="utf-8")
        return 0
    allowed = json.loads(ALLOWED.read_text(encoding="utf-8")) if ALLOWED.exists() else {}
    left = left_over(found, allowed)
    print("\n".join(left) or "an output above says every number of the prose, or it is allowed")
    return int(bool(left))


if __name__ == "__main__":
    raise SystemExit(main())
