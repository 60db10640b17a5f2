"""The checks as a table to read in a terminal."""

import shutil
import sys
import textwrap

from instruct_course.doctor.installed import required
from instruct_course.doctor.text import has_chinese

__all__ = ["describe"]
STATUSES = ("ok", "warning", "fault")


def describe(facts: dict) -> str:
    """The facts of `examine` as a table, then warnings, then faults, with what mends them.

    Plain ASCII where the output has no more than that.
    """
    checks = facts["checks"]
    output_fails = any(c["name"] == "output" and c["status"] != "ok" for c in checks)
    plain = output_fails or not has_chinese(getattr(sys.stdout, "encoding", None))
    marks = dict(zip(STATUSES, "+!x" if plain else "✓!✗"))
    counts = [_count(checks, status) for status in ("fault", "warning")]
    lines = [*_table(checks, marks), "", f"{', '.join(counts)}."]
    for status in ("warning", "fault"):
        lines += _mends([c for c in checks if c["status"] == status], marks[status])
    text = "\n".join(lines)
    return text.replace("…", "...").encode("ascii", "replace").decode() if plain else text


def _count(checks: list[dict], status: str) -> str:
    """ "1 fault" or "2 faults"."""
    n = sum(c["status"] == status for c in checks)
    return f"{n} {status}{'' if n == 1 else 's'}"


def _table(checks: list[dict], marks: dict[str, str]) -> list[str]:
    """A line per check, with all sound packages in one; long faults are cut, as they follow."""
    packages = required()
    sound = [c for c in checks if c["name"] in packages and c["status"] == "ok"]
    if len(sound) < 2:
        sound = []
    rows = [(c["status"], c["name"], c["found"]) for c in checks if c not in sound]
    if sound:
        first = sum(c["name"] in ("python", "instruct_course") for c in checks)
        versions = "; ".join(f"{c['name']} {c['found']}" for c in sound)
        rows.insert(first, ("ok", "packages", versions))
    column = max([len(name) for _, name, _ in rows], default=0) + 2
    wrapper = textwrap.TextWrapper(
        min(shutil.get_terminal_size((120, 24)).columns, 120),
        subsequent_indent=" " * (column + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines = []
    for status, name, found in rows:
        wrapped = wrapper.wrap(f"{marks[status]} {name:{column}}{found}")
        if status != "ok" and len(wrapped) > 1:
            wrapped = [wrapped[0] + " …"]
        lines += wrapped
    return lines


def _mends(checks: list[dict], mark: str) -> list[str]:
    """Two lines for all checks that one command mends: what was found, and the command."""
    by_mend = {}
    for check in checks:
        by_mend.setdefault(check["mend"], []).append(check)
    lines = []
    for mend, alike in by_mend.items():
        said = ", ".join(c["name"] for c in alike)
        lines += [f"{mark} {said}: {alike[0]['found']}", f"    {mend}"]
    return lines
