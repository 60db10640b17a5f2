"""The table of docs/results.md and the README's picture, from runs of several seeds.

    for s in 0 1 2; do instruct-course tune --seed $s --out runs/seed$s; done
    python -m tools.results runs/seed0 runs/seed1 runs/seed2

Replaces what stands between the two `table` comments and writes nbs/images/tuned.png.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from instruct_course.common.errors import InputError

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
BETWEEN = re.compile(r"(?s)(<!-- table -->\n).*(<!-- /table -->)")
KINDS = (("splits", "split"), ("langs", "language"), ("tasks", "task"))


def read(folder: str) -> dict:
    """The report of a run; raises InputError where there is none."""
    path = Path(folder) / "report.json"
    if not path.exists():
        raise InputError(f"{path}: there is no report; make it with instruct-course tune")
    return json.loads(path.read_text(encoding="utf-8"))


def percent(shares: list[float]) -> str:
    """Mean and range of shares, as "93 (91–95)"."""
    low = 100 * min(shares)
    mean = 100 * sum(shares) / len(shares)
    high = 100 * max(shares)
    return f"{mean:.0f} ({low:.0f}–{high:.0f})" if round(low) != round(high) else f"{mean:.0f}"


def percent_of(scores: dict, kind: str, name: str) -> str:
    """The exact match of one group as "78 [45–94] of 9": its 95 % interval and its rows.

    A dash where it was not judged.
    """
    if name not in scores[kind]:
        return "–"
    group = scores[kind][name]
    low, high = group["interval"]["exact_match"]
    share = 100 * group["exact_match"]
    return f"{share:.0f} [{100 * low:.0f}–{100 * high:.0f}] of {group['n']}"


def best_prompt(report: dict) -> dict:
    """The scores of the base with its best prompt."""
    prompts = report["before"]["best_prompt"]
    return prompts[prompts["best"]]


def table(reports: list[dict]) -> str:
    """A Markdown table of exact match: the base, its best prompt, and the tuned model."""
    before = reports[0]["before"]
    after = reports[0]["after"]
    best = best_prompt(reports[0])
    best_name = before["best_prompt"]["best"]
    tuned = f"tuned: mean of {len(reports)} seeds (range)"
    lines = [
        f"| exact match, % | base | base, best prompt ({best_name}) | {tuned} | rows |",
        "|---|--:|--:|--:|--:|",
    ]
    for kind, word in KINDS:
        for name in after[kind]:
            shares = [r["after"][kind][name]["exact_match"] for r in reports]
            cells = (
                f"{word} **{name}**",
                percent_of(before, kind, name),
                percent_of(best, kind, name),
                percent(shares),
                str(after[kind][name]["n"]),
            )
            lines.append(f"| {' | '.join(cells)} |")
    majority = f"{100 * reports[0]['majority_knowledge']:.0f}"
    lines += [
        f"| *knowledge, by always giving the most frequent answer* | | | {majority} | |",
        "",
        f"{losses(reports)} {seconds(reports)} The base is judged on {before['n']} rows with the "
        f"template and on {best['n']} with the prompts, the tuned models on all {after['n']:,}. "
        "In brackets stands the 95 % interval (Wilson's), and behind it the number of rows: few "
        "rows of a task say little about it.",
    ]
    return "\n".join(lines)


def losses(reports: list[dict]) -> str:
    """A sentence on the loss before and after."""
    before = reports[0]["before"]["loss"]
    after = sum(r["after"]["loss"] for r in reports) / len(reports)
    return (
        f"Loss of the response on the same rows: {before:.2f} nats per token before, "
        f"{after:.2f} after."
    )


def seconds(reports: list[dict]) -> str:
    """A sentence on the time of a run."""
    took = [r["seconds"]["all"] for r in reports]
    return f"A run took {min(took):.0f} to {max(took):.0f} seconds on 2 CPU cores."


def draw(reports: list[dict], path: Path) -> None:
    """Bars of each task: the base with its best prompt, and the tuned models."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    before = best_prompt(reports[0])["tasks"]
    after = {
        task: [100 * r["after"]["tasks"][task]["exact_match"] for r in reports]
        for task in reports[0]["after"]["tasks"]
    }
    names = sorted(after, key=lambda task: sum(after[task]))
    means = [sum(after[task]) / len(after[task]) for task in names]
    bases = [100 * before.get(task, {"exact_match": 0})["exact_match"] for task in names]
    spans = [
        before[task]["interval"]["exact_match"] if task in before else (0, 0) for task in names
    ]
    below = [base - 100 * low for base, (low, _) in zip(bases, spans)]
    above = [100 * high - base for base, (_, high) in zip(bases, spans)]
    fig, ax = plt.subplots(figsize=(8, 5), layout="constrained")
    ax.barh(names, means, color="#4c72b0", label=f"tuned, mean of {len(reports)} seeds")
    ax.barh(names, bases, height=0.35, color="#dd8452", label="base with its best prompt")
    grey = {"fmt": "none", "ecolor": "#555", "elinewidth": 1, "capsize": 2}
    ax.errorbar(bases, names, xerr=[below, above], label="its 95 % interval", **grey)
    for i, task in enumerate(names):
        label = "range of the seeds" if i == 0 else None
        ax.plot([min(after[task]), max(after[task])], [i, i], color="black", lw=2, label=label)
    ax.set(
        title="What tuning taught the nano model",
        xlabel="exact match on rows that were held out (%)",
        xlim=(0, 101),
    )
    ax.grid(axis="x", alpha=0.3)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, -0.29), ncols=2, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110)


def write(page: Path, made: str) -> None:
    """Put a table between the two comments of a page; raises ValueError where these are not."""
    text, n = BETWEEN.subn(lambda m: f"{m[1]}{made}\n{m[2]}", page.read_text(encoding="utf-8"))
    if n != 1:
        raise ValueError(f"{page.name}: {n} places for the table; it takes two `table` comments")
    page.write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    """Write the table into its page, and the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of finished runs")
    try:
        reports = [read(folder) for folder in parser.parse_args().runs]
    except InputError as error:
        sys.exit(f"error: {error}")
    write(PAGE, table(reports))
    draw(reports, ROOT / "nbs" / "images" / "tuned.png")


if __name__ == "__main__":
    main()
