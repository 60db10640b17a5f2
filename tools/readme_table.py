"""The README's table and picture, from runs of several seeds.

    for s in 0 1 2; do instruct-course tune --seed $s --out runs/seed$s; done
    python tools/readme_table.py runs/seed0 runs/seed1 runs/seed2

Replaces what stands between the two `table` comments of README.md and writes nbs/images/tuned.png.
"""

import json
import re
import sys
from pathlib import Path

from instruct_course.common.errors import InputError

ROOT = Path(__file__).parents[1]
KINDS = (("splits", "split"), ("langs", "language"), ("tasks", "task"))


def read(folder):
    path = Path(folder) / "report.json"
    if not path.exists():
        raise InputError(f"{path}: there is no report; make it with instruct-course tune")
    return json.loads(path.read_text(encoding="utf-8"))


def percent(values):
    """Mean and range of shares, as '93 (91–95)'."""
    low, mean, high = (100 * f(values) for f in (min, lambda v: sum(v) / len(v), max))
    return f"{mean:.0f} ({low:.0f}–{high:.0f})" if round(low) != round(high) else f"{mean:.0f}"


def table(reports):
    """A Markdown table of exact match in per cent: the base, its best prompt, and the tuned model."""
    before = reports[0]["before"]
    best = before["best_prompt"][before["best_prompt"]["best"]]
    lines = [
        f"| exact match, % | base | base, best prompt ({before['best_prompt']['best']}) | tuned: mean of {len(reports)} seeds (range) | rows |",
        "|---|--:|--:|--:|--:|",
    ]
    of = lambda scores, kind, name: (
        f"{100 * scores[kind][name]['exact_match']:.0f}" if name in scores[kind] else "–"
    )
    for kind, word in KINDS:
        for name in reports[0]["after"][kind]:
            got = [r["after"][kind][name]["exact_match"] for r in reports]
            lines.append(
                f"| {word} **{name}** | {of(before, kind, name)} | {of(best, kind, name)} | {percent(got)} | {reports[0]['after'][kind][name]['n']} |"
            )
    lines.append(
        f"| *knowledge, by always giving the most frequent answer* | | | {100 * reports[0]['majority_knowledge']:.0f} | |"
    )
    losses = [r["after"]["loss"] for r in reports]
    lines += [
        "",
        f"Loss of the response on the same rows: {before['loss']:.2f} nats a token before, {sum(losses) / len(losses):.2f} after. "
        f"A run took {min(r['seconds']['all'] for r in reports):.0f} to {max(r['seconds']['all'] for r in reports):.0f} seconds on 2 CPU cores. "
        f"The base is judged on {before['n']} rows with the template and on {best['n']} with the prompts, the tuned models on all {reports[0]['after']['n']:,}.",
    ]
    return "\n".join(lines)


def draw(reports, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    before = reports[0]["before"]["best_prompt"]
    before = before[before["best"]]["tasks"]
    after = {
        t: [r["after"]["tasks"][t]["exact_match"] for r in reports]
        for t in reports[0]["after"]["tasks"]
    }
    names = sorted(after, key=lambda t: sum(after[t]))
    fig, ax = plt.subplots(figsize=(8, 5), layout="constrained")
    ax.barh(
        names,
        [100 * sum(after[t]) / len(after[t]) for t in names],
        color="#4c72b0",
        label=f"tuned, mean of {len(reports)} seeds",
    )
    ax.barh(
        names,
        [100 * before.get(t, {"exact_match": 0})["exact_match"] for t in names],
        height=0.35,
        color="#dd8452",
        label="base with its best prompt",
    )
    for i, t in enumerate(names):
        ax.plot(
            [100 * min(after[t]), 100 * max(after[t])],
            [i, i],
            color="black",
            lw=2,
            label="range of the seeds" if i == 0 else None,
        )
    ax.set(
        title="What a minute of tuning taught the nano model",
        xlabel="exact match on rows that were held out (%)",
        xlim=(0, 101),
    )
    ax.grid(axis="x", alpha=0.3)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, -0.24), ncols=3, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        reports = [read(folder) for folder in sys.argv[1:]]
    except InputError as error:
        sys.exit(f"error: {error}")
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(
        re.sub(
            r"(?s)(<!-- table -->\n).*(<!-- /table -->)",
            lambda m: m[1] + table(reports) + "\n" + m[2],
            text,
        ),
        encoding="utf-8",
        newline="\n",
    )
    draw(reports, ROOT / "nbs" / "images" / "tuned.png")
