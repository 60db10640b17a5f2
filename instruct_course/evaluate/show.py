"""Runs and evaluations as tables on a terminal, and as a picture."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from instruct_course.common.plots import chinese_plots
from instruct_course.evaluate.instructions_table import instructions_table
from instruct_course.evaluate.pairwise import summary

__all__ = ["draw", "describe_evaluation", "describe_run", "print_evaluation", "print_run"]
ANSWER_WIDTH = 160  # characters of an answer that are shown


def print_run(run, console: Console | None = None) -> None:
    """Print what tuning changed.

    Args:
        run: the `Run` that `tune` gave.
        console: where it is printed; default: standard output.
    """
    console = console or Console()
    for part in describe_run(run.report):
        console.print(part, highlight=False)
    talk = f"Talk to it:  instruct-course chat --run {run.path}"
    console.print(talk, highlight=False, markup=False, soft_wrap=True)


def print_evaluation(report: dict, folder: Path, console: Console | None = None) -> None:
    """Print an evaluation as a table and a few sentences.

    Args:
        report: evaluation.json.
        folder: where it was written.
        console: where it is printed; default: standard output.
    """
    console = console or Console()
    for part in describe_evaluation(report):
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))
    files = "evaluation.json, answers.jsonl, scores.png"
    console.print(
        f"Written to {folder}: {files} ({report['seconds']:.0f} seconds).",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


# ---- a run


def describe_run(report: dict) -> list:
    """report.json as tables and texts that rich prints: scores, then answers side by side."""
    if report["after"] is None:
        return ["stopped before the tuned model was judged"]
    seconds = report["seconds"]
    return [
        _run_scores(report),
        "In brackets: 95 % intervals. "
        + _change(report["changes"], f"Tuned minus {_start(report)}"),
        *([_run_pairs(report["pairs"])] if report.get("pairs") else []),
        *(
            [instructions_table(report["instructions"], _start(report))]
            if report.get("instructions")
            else []
        ),
        *([_run_answers(report["samples"])] if report["samples"] else []),
        f"{seconds['all']:.0f} seconds in all, {seconds['training']:.0f} of them training.",
    ]


def _run_scores(report: dict) -> Table:
    """Scores of base and tuned model, by split, task and language."""
    before, after = report["before"], report["after"]
    n = str(after["n"])
    start = _start(report)
    rows = "a few built-in rows" if report.get("instructions") else "rows that were held out"
    table = _table(
        f"{report['model']}: {start} and tuned, on {rows}",
        [start, "tuned", "n"],
    )
    table.add_row(
        "loss of the response (nats per token)",
        f"{before['loss']:.3f}",
        f"{after['loss']:.3f}",
        f"{after['tokens']:,} tokens",
    )
    if not after["n"]:
        return table
    table.add_row("exact match", _percent(before), _percent(after), n)
    if prompts := before["best_prompt"]:
        prompted = prompts[prompts["best"]]
        table.add_row(
            f"  base with its best prompt ({prompts['best']})",
            _percent(prompted),
            "",
            str(prompted["n"]),
        )
    table.add_row("ROUGE-L", f"{before['rouge_l']:.2f}", f"{after['rouge_l']:.2f}", n)
    _add_parts(table, [before, after])
    if report["majority_knowledge"] is not None:
        share = f"{100 * report['majority_knowledge']:.0f} %"
        table.add_row("  knowledge, by the most frequent answer", share, "", "")
    return table


def _start(report: dict) -> str:
    """What the tuned model is compared with: the base, or the run that was started from."""
    return report.get("start_from") or "base"


def _run_pairs(pairs: dict) -> Table:
    """What became of held-out pairs."""
    table = Table(title="Held-out pairs: is the better answer preferred?", title_justify="left")
    table.add_column("")
    table.add_column("share of pairs", justify="right")
    table.add_column("n", justify="right")
    shown = [
        (f"likelier than the worse one, {when}", pairs["likelier"][when])
        for when in ("before", "after")
    ]
    shown.append(("gained more than the worse one", pairs["accuracy"]))
    shown += [(f"  {kind}", part) for kind, part in pairs["by_kind"].items()]
    for name, part in shown:
        low, high = (100 * end for end in part["interval"])
        share = f"{100 * part['value']:.0f} % [{low:.0f}–{high:.0f}]"
        table.add_row(name, share, str(part["n"]))
    table.caption = (
        f"mean change of the log-probability: chosen {pairs['chosen']['mean']:+.2f} nats, "
        f"rejected {pairs['rejected']['mean']:+.2f} nats"
    )
    return table


def _run_answers(samples: list[dict]) -> Table:
    """A few answers of base and tuned model."""
    table = Table(title="A few answers", title_justify="left", show_lines=True)
    for name in ("instruction", "before", "tuned", "expected"):
        table.add_column(name, max_width=44, overflow="fold")
    for sample in samples:
        asked = "\n".join(filter(None, (sample["instruction"], sample["input"])))
        texts = (asked, sample["base"], sample["tuned"], sample["expected"])
        table.add_row(*(Text(_cut(text)) for text in texts))
    return table


def _cut(text: str) -> str:
    """The first characters of a text."""
    return text if len(text) <= ANSWER_WIDTH else text[: ANSWER_WIDTH - 1] + "…"


# ---- an evaluation


def describe_evaluation(report: dict) -> list:
    """evaluation.json as a table and texts that rich prints, but for where it was written."""
    return [_evaluation_scores(report), *filter(None, _sentences(report))]


def _models(report: dict) -> dict[str, dict]:
    """The scores of each model by its name, the judged run last."""
    models = {}
    if report["before"]:
        models["base"] = report["before"]
    if report["against"]:
        models[report["against"]["run"]] = report["against"]["scores"]
    # a twin may have the same name; both keep their column
    name = report["run"] if report["run"] not in models else f"{report['run']} "
    models[name] = report["after"]
    return models


def _evaluation_scores(report: dict) -> Table:
    """The scores of each model, by split, task and language."""
    models = _models(report)
    after = report["after"]
    table = _table(f"{report['run']} ({report['model']}): {report['data']['name']}", [*models, "n"])

    def add(title: str, cell, n: str = "") -> None:
        table.add_row(title, *(cell(scores) for scores in models.values()), n)

    add("loss of the response (nats per token)", _loss, f"{after['tokens']:,} tokens")
    add("perplexity", lambda scores: f"{scores['perplexity']:.4g}")
    add("exact match", _percent, str(after["n"]))
    add(
        "  but for case and punctuation",
        lambda scores: f"{100 * scores['normalised_match']:.0f} %",
    )
    for name, key in (("ROUGE-L", "rouge_l"), ("chrF", "chrf"), ("BLEU", "bleu")):
        add(name, lambda scores, key=key: f"{scores[key]:.2f}")
    add("ended by itself", _stopped)
    add(
        f"length (expected: {after['length']['references']:.1f} words)",
        lambda scores: f"{scores['length']['answers']:.1f}",
    )
    add(
        "repeated 4-grams; empty answers",
        lambda scores: f"{100 * scores['repetition']:.0f} %; {scores['empty']}",
    )
    _add_parts(table, list(models.values()))
    return table


def _sentences(report: dict) -> list[str]:
    """What there is to say about an evaluation."""
    rival = report["against"]["run"] if report["against"] else ""
    compared = report["before"] or report["against"]
    together = (
        " Those of the tasks' differences in evaluation.json hold for all tasks together."
        if report["after"]["tasks"] and compared
        else ""
    )
    return [
        "In brackets: 95 % intervals." + together,
        _change(report["changes"]["base"], f"{report['run']} minus the base"),
        _change(report["changes"]["against"], f"{report['run']} minus {rival}"),
        _best_prompt(report["best_prompt"]),
        _copies(report["contamination"]),
        _left_out(report["data"]["left_out"]),
        *(_ifeval(name, scores) for name, scores in (report["ifeval"] or {}).items()),
        _judged(report, rival or "base"),
    ]


def _best_prompt(best: dict | None) -> str:
    """How good the base is with its best prompt."""
    if not best:
        return ""
    scores = best[best["best"]]
    share = _percent(scores)
    return (
        f"The base with its best prompt ({best['best']}): "
        f"exact match {share} of {scores['n']} rows."
    )


def _copies(copies: dict | None) -> str:
    """Copies of training rows, and the score without them."""
    if not copies:
        return "Not looked for: copies of training rows (name them with --training)."
    text = (
        f"Rows that stand among the training rows: "
        f"{copies['exact']} exactly, {copies['near']} nearly."
    )
    if rest := copies["without"]:
        share = f"{100 * rest['exact_match']:.1f} %"
        text += f" Without them: exact match {share} of {rest['n']}."
    return text


def _left_out(bad: list[dict]) -> str:
    """Rows that were left out."""
    if not bad:
        return ""
    reason = escape(bad[0]["reason"])
    return f"Left out as bad: {len(bad)} rows, first: row {bad[0]['row']}, {reason}"


def _ifeval(name: str, scores: dict) -> str:
    """The verifiable instructions that a model followed."""
    strict = scores["strict"]
    low, high = strict["interval"]["checks"]
    return (
        f"Verifiable instructions, {name}: "
        f"{100 * strict['checks']:.0f} % of the checks \\[{100 * low:.0f}–{100 * high:.0f}], "
        f"{100 * strict['prompts']:.0f} % of the {scores['n']} prompts as a whole."
    )


def _judged(report: dict, other: str) -> str:
    """What the judge said."""
    if not report["judge"]:
        return ""
    said = summary(report["judge"], a=other, b=report["run"])
    return f"The judge: {escape(said)}."


# ---- cells and rows


def _table(title: str, columns: list[str]) -> Table:
    """An empty table with a column of names and some of numbers."""
    table = Table(title=escape(title), title_justify="left")
    table.add_column("")
    for name in columns:
        table.add_column(escape(name), justify="right")
    return table


def _percent(scores: dict | None) -> str:
    """Exact match with its interval."""
    if not scores:
        return "–"
    low, high = scores["interval"]["exact_match"]
    return f"{100 * scores['exact_match']:.0f} % \\[{100 * low:.0f}–{100 * high:.0f}]"


def _loss(scores: dict) -> str:
    """Loss with its interval."""
    low, high = scores["interval"]["loss"]
    return f"{scores['loss']:.3f} \\[{low:.3f}–{high:.3f}]"


def _stopped(scores: dict) -> str:
    """The share of answers that ended by themselves."""
    return "–" if scores["stopped"] is None else f"{100 * scores['stopped']:.0f} %"


def _add_parts(table: Table, models: list[dict]) -> None:
    """Rows for each split, task and language that the last of `models` knows."""
    last = models[-1]
    for title, kind in (("split", "splits"), ("task", "tasks"), ("language", "langs")):
        if last[kind]:
            table.add_section()
        for name, scores in last[kind].items():
            shares = [_percent(model[kind].get(name)) for model in models]
            table.add_row(escape(f"{title} {name}"), *shares, str(scores["n"]))


def _change(changes: dict | None, what: str) -> str:
    """A change in one sentence, which says of each difference whether it is significant."""
    if changes is None:
        return ""
    parts = []
    if changes["n"]:
        parts.append(f"exact match {_difference(changes['exact_match'], 100)} points")
    if changes["loss"]:
        parts.append(f"loss {_difference(changes['loss'], 1)}")
    on = f", on the same {changes['n']:,} rows" if changes["n"] else ""
    return f"{escape(what)}{on}: {', '.join(parts)}."


def _difference(change: dict, unit: float) -> str:
    """A difference with its interval."""
    mean, low, high = (unit * change[key] for key in ("mean", "low", "high"))
    text = f"{mean:+.3g} \\[{low:+.3g} to {high:+.3g}]"
    return text if change["significant"] else f"{text} (not significant)"


# ---- the picture


def draw(report: dict, *, most: int = 24):
    """Draw the exact match (%) of each task, else split, and of all rows, for each model.

    Args:
        report: evaluation.json.
        most: show only so many tasks, those with the most rows.

    Returns:
        A matplotlib figure with 95 % intervals, which no window shows by itself.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chinese_plots()
    after = report["after"]
    kind = "tasks" if after["tasks"] else "splits"
    names = sorted(after[kind], key=lambda name: -after[kind][name]["n"])[:most]
    names.sort(key=lambda name: after[kind][name]["exact_match"])
    places = [*names, "all rows"]
    models = _models(report)
    fig = Figure(figsize=(8, 1.6 + 0.34 * len(places)), layout="constrained")
    FigureCanvasAgg(fig)
    ax = fig.subplots()
    for m, (label, scores) in enumerate(models.items()):
        shift = 0.22 * (m - (len(models) - 1) / 2)
        parts = [_part(scores, kind, place) for place in places]
        points = [(y + shift, part) for y, part in enumerate(parts) if part]
        _draw_model(ax, label, points)
    counts = [(_part(after, kind, place) or {"n": 0})["n"] for place in places]
    ax.set(
        yticks=range(len(places)),
        yticklabels=[f"{place}  (n = {n:,})" for place, n in zip(places, counts)],
        xlim=(-2, 102),
        xlabel="exact match (%), with 95 % intervals",
        title=f"{report['run']}: {report['data']['name']}",
    )
    ax.grid(axis="x", alpha=0.3)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return fig


def _part(scores: dict, kind: str, place: str) -> dict | None:
    """The scores of a task or split, or of all rows."""
    return scores if place == "all rows" else scores[kind].get(place)


def _draw_model(ax, label: str, points: list[tuple[float, dict]]) -> None:
    """One model's marks, each with its interval."""
    x = [100 * part["exact_match"] for _, part in points]
    low = [100 * part["interval"]["exact_match"][0] for _, part in points]
    high = [100 * part["interval"]["exact_match"][1] for _, part in points]
    reach = [[a - b for a, b in zip(x, low)], [b - a for a, b in zip(x, high)]]
    ax.errorbar(
        x, [y for y, _ in points], xerr=reach, fmt="o", ms=5, lw=1.2, capsize=2, label=label
    )
