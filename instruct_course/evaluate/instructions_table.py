"""A table of verifiable instructions for a terminal."""

from rich.markup import escape
from rich.table import Table

__all__ = ["instructions_table"]


def instructions_table(found: dict, start: str) -> Table:
    """The held-out verifiable instructions that were followed, before and after a run.

    Args:
        found: what report.json has as `instructions`.
        start: the name of what the tuned model is compared with.
    """
    title = "Held-out verifiable instructions: are they followed?"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in (start, "tuned", "n"):
        table.add_column(escape(name), justify="right")
    counts = {"prompts": found["n"], "checks": found["after"]["checks"]}
    names = {"checks": "instructions followed", "prompts": "prompts of which all were followed"}
    for key, name in names.items():
        shares = [_share_of(found[when]["strict"], key) for when in ("before", "after")]
        table.add_row(name, *shares, str(counts[key]))
    change = found["change"]["checks"]
    mean, low, high = (100 * change[end] for end in ("mean", "low", "high"))
    table.caption = (
        f"instructions, tuned minus {start}: {mean:+.0f} points [{low:+.0f}; {high:+.0f}]"
    )
    return table


def _share_of(strict: dict, key: str) -> str:
    """A share with its interval, in percent."""
    low, high = (100 * end for end in strict["interval"][key])
    return f"{100 * strict[key]:.0f} % [{low:.0f}–{high:.0f}]"
