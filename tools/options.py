"""Write docs/options.md, the page of all options, from `config.py` and `reward_config.py`.

`python -m tools.options` writes it.

`--check` only compares.
"""

import dataclasses
import re
import sys
from pathlib import Path

from instruct_course import config, reward_config
from instruct_course.common.options import describe_range, flag

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "options.md"
HEAD = """<!-- Written by python -m tools.options from instruct_course/config.py and reward_config.py. -->
# Options

Each option is a field of a dataclass in `instruct_course/config.py` (those of `reward` in
`reward_config.py`), and means the same from Python, in a YAML file (`--config FILE`, for `tune`,
`reward train` and `eval`) and on the command line. What stands on the command line overrides the
file. Every run writes `run.yaml`, which makes it again, bitwise:
`instruct-course tune --config runs/NAME/run.yaml`.
"""


def command_of(kind: type) -> str:
    """The command that a configuration belongs to: `reward train` for RewardTrainConfig."""
    return " ".join(re.findall("[A-Z][a-z]*", kind.__name__.removesuffix("Config"))).lower()


def kinds() -> list[type]:
    """All configurations."""
    return [getattr(module, name) for module in (config, reward_config) for name in module.__all__]


def row(declared: dataclasses.Field) -> str:
    """One option as a row of a table."""
    name = declared.name if declared.metadata["positional"] else flag(declared.name)
    help = declared.metadata["help"]
    if allowed := describe_range(declared):
        help = f"{help} ({allowed})"
    default = "required" if declared.default is dataclasses.MISSING else f"`{declared.default}`"
    if declared.default is None:
        default = ""
    return f"| `{name}` | {default} | {help} |".replace("|  |", "| |")


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for kind in kinds():
        rows = "\n".join(row(declared) for declared in dataclasses.fields(kind))
        title = f"## instruct-course {command_of(kind)}"
        parts.append(f"{title}\n\n| option | default | what for |\n|---|---|---|\n{rows}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    if "--check" in sys.argv:
        same = PAGE.exists() and PAGE.read_text(encoding="utf-8") == page()
        sys.exit(
            0 if same else "docs/options.md is behind the options; run python -m tools.options"
        )
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
