"""Write the tables of docs/audit.md: `python -m tools.audit_table`; it takes two minutes.

Every planted fault and every clean set of tests/data/planted.py is audited with every tokenizer.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from instruct_course.common.files import write_file
from instruct_course.data.audit import exit_code
from instruct_course.data.findings import KINDS, SEVERITIES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "audit.md"
sys.path.insert(0, str(ROOT / "tests"))
NAMED, MISSED, NOT_POSSIBLE = "✓", "✗", "·"


def fault_cell(name: str, tokenizer: str, folder: Path) -> str:
    """What becomes of a planted fault with a tokenizer: named, missed, or it cannot happen."""
    from data import planted

    fault = planted.FAULTS[name]
    if not fault.fits(planted.TOKENIZERS[tokenizer]):
        return NOT_POSSIBLE
    made = fault.plant(planted.tokenizer(tokenizer))
    report = planted.audited(tokenizer, made, folder)
    right = fault.key in planted.named(report)
    return NAMED if right and fault.code in (None, exit_code(report)) else MISSED


def clean_cell(name: str, tokenizer: str, folder: Path) -> str:
    """The false alarms on a set without a fault; ✓ where there is none."""
    from data import planted

    reader = planted.TOKENIZERS[tokenizer]
    if name in planted.TALKS and not planted.is_chat(reader):
        return NOT_POSSIBLE
    report = planted.audited(tokenizer, planted.Planted(planted.CLEAN[name]()), folder)
    alarms = [key for key, severity in planted.named(report).items() if severity != "note"]
    return ", ".join(alarms) or NAMED


def escaped(name: str) -> str:
    """A name that Markdown shows as it is."""
    return name.replace("|", "\\|").replace("<", "&lt;").replace("_", "\\_")


def table(head: list[str], rows: dict[str, list[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, cells in rows.items():
        lines.append(f"| {escaped(name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def kinds_table() -> str:
    """All that the audit can find."""
    found = sorted(KINDS.values(), key=lambda kind: SEVERITIES.index(kind.severity))
    rows = {f"{k.key}": [k.severity, k.title.replace("<", "&lt;")] for k in found}
    return table(["finding", "", "what it is"], rows)


def measured() -> Iterator[str]:
    """The tables of faults and of clean sets, with a sentence of totals."""
    from data import planted

    tokenizers = list(planted.TOKENIZERS)
    with tempfile.TemporaryDirectory() as scratch:
        for names, cell, head in (
            (planted.FAULTS, fault_cell, "planted"),
            (planted.CLEAN, clean_cell, "without a fault"),
        ):
            rows = {n: [cell(n, t, Path(scratch)) for t in tokenizers] for n in names}
            every = [c for cells in rows.values() for c in cells if c != NOT_POSSIBLE]
            right = sum(c == NAMED for c in every)
            yield f"{right} of {len(every)} as it should be.\n\n" + table([head, *tokenizers], rows)


def with_parts(text: str, parts: dict[str, str]) -> str:
    """A page with new text between its `<!-- NAME -->` and `<!-- /NAME -->`."""
    for name, part in parts.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{part}\n{end}{rest.partition(end)[2]}"
    return text


def cells_of(text: str, name: str) -> dict[str, list[str]]:
    """The rows of a table as `table` writes it, by their first cell as it stands there."""
    part = text.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0]
    rows = [
        line.replace("\\|", "¦")[2:-2].split(" | ")
        for line in part.splitlines()
        if line[:2] == "| "
    ]
    return {cells[0].replace("¦", "\\|"): cells[1:] for cells in rows}


if __name__ == "__main__":
    faults, clean = measured()
    made = {"kinds": kinds_table(), "faults": faults, "clean": clean}
    page = with_parts(PAGE.read_text(encoding="utf-8"), made)
    with write_file(PAGE) as file:
        file.write_text(page, encoding="utf-8", newline="\n")
    print(faults.splitlines()[0], clean.splitlines()[0])
