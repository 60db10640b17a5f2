"""Write docs/data.md, all forms of rows, from tests/data/forms: `python -m tools.forms`.

`--check` only compares. Each fixture is one row, and the Example that it is read as or a part of
the sentence that refuses it; the tests read every one.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "data" / "forms"
PAGE = ROOT / "docs" / "data.md"
GROUPS = {
    "columns": "Columns",
    "turns": "Conversations",
    "tools": "Calls of tools",
    "text": "One text",
    "pairs": "Preference pairs",
    "refused": "What is refused",
}
HEAD = """<!-- Written from tests/data/forms by python -m tools.forms: edit the fixtures. -->
# Rows

Your rows may have any of the forms below, and one file may mix them. The form is found row by row,
from the names of the columns and from what stands in them. Every form links to a row of its kind;
a test reads each of these rows and compares the result.

- **Names** may differ in capitals, spaces, hyphens and underscores: ` Output ` is `output`.
- **A column that would change the meaning** (a history, a system text, tools, images, a rejected
  answer) is read, or the row is refused. Other columns are not used, and the summary names them:
  `read as messages (1,000 rows); columns used: messages, system; not used: id, source`.
- **Two columns for one field** are refused where they differ. `--columns output=solution` says
  which one is meant, and `--columns history=` leaves a field out.
- **A wrong row** is an error of one sentence with the field and the cure.
- **Which answers are learnt from**: the last one, and those in the history that are not marked
  otherwise. What follows the last of them is cut: a model that reads from left to right learns
  nothing from it.
- **After a tool's result** the instruction is empty, and the history ends with that result.
- **One text** is split where its last response marker ends. The instruction holds all up to there
  and the output all behind it, character by character: the two joined are the text.
- **Preference rows** (chosen and rejected) are refused where single answers are tuned on.
  `instruct_course.data.pairs.load_pairs` reads a file of them, in the forms of the table below.
  Refused are a row without a prompt, an empty side, the same answer twice, and a third answer.
"""


def fixtures() -> list[Path]:
    """The files of all forms, in the order of the page."""
    paths = sorted(FOLDER.glob("*.json"))
    return [path for group in GROUPS for path in paths if path.stem.split("-")[0] == group]


def cell(text: str) -> str:
    """A text as it can stand in a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def shape(value) -> str:
    """What stands in a row, in short: names of columns, and all that the items of a list have."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return f"[{shape({key: item[key] for item in value[::-1] for key in item})}, …]"
    if isinstance(value, list) and value:
        return f"[{shape(value[0])}, …]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key.strip()}{inner(item)}" for key, item in value.items()) + "}"
    return "…"


def inner(value) -> str:
    """The shape of a column that holds a list or an object; nothing for a text."""
    return f": {shape(value)}" if isinstance(value, (list, dict)) else ""


def line(path: Path) -> str:
    """One form as a row of the table."""
    form = json.loads(path.read_text(encoding="utf-8"))
    link = f"[{cell(form['form'])}](../{path.relative_to(ROOT).as_posix()})"
    return f"| {link} | `{cell(shape(form['row']))}` | {cell(form['read'])} |"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for group, title in GROUPS.items():
        lines = [line(path) for path in fixtures() if path.stem.split("-")[0] == group]
        how = "why, or the cure" if group == "refused" else "how it is read"
        parts.append(
            f"## {title}\n\n| form | row | {how} |\n|---|---|---|\n" + "\n".join(lines) + "\n"
        )
    return "\n".join(parts)


def main() -> int:
    """Write the page, or with --check compare it; 1 where it is behind."""
    if "--check" in sys.argv:
        same = PAGE.exists() and PAGE.read_text(encoding="utf-8") == page()
        print("current" if same else "docs/data.md is behind; run python -m tools.forms")
        return int(not same)
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
