"""What reward models say, as tables on a terminal."""

from rich.console import Console
from rich.table import Table

__all__ = ["describe_best", "describe_scores", "describe_training", "print_parts"]


def print_parts(parts: list, console: Console | None = None) -> None:
    """Print tables and sentences on a terminal."""
    console = console or Console()
    for part in parts:
        console.print(part, highlight=False, markup=False, soft_wrap=isinstance(part, str))


def describe_training(run) -> list:
    """The report of a `reward train` run as tables and sentences that rich prints."""
    report = run.report
    held = report["held_out"]
    if held is None:
        return ["stopped before the reward model was judged"]
    table = _accuracies(f"{report['model']}: pairs ranked rightly, of those held out", held)
    control = held["length_only"]
    name = f"control: the {control['prefers']} answer is better"
    table.add_row(name, _percent(control["accuracy"]), str(held["n"]))
    seconds = report["seconds"]
    return [
        table,
        _rewards(held),
        f"{report['train_pairs']:,} pairs, {report['steps']:,} steps; {seconds['all']:.0f} seconds "
        f"in all, {seconds['training']:.0f} of them training.",
        f"Score answers with it:  instruct-course reward score --run {run.path} --data FILE",
    ]


def describe_scores(summary: dict) -> list:
    """What `reward score` returned, likewise."""
    out = f"Written to {summary['out']}."
    left = summary["left_out"]
    out += f" {left:,} bad rows are left out." if left else ""
    if summary["kind"] == "pairs":
        return [_accuracies("pairs ranked rightly", summary), _rewards(summary), out]
    rewards = summary["rewards"]
    low, high = rewards["interval"]
    return [
        f"{summary['n']:,} answers: mean reward {rewards['value']:.3f} [{low:.3f}, {high:.3f}], "
        f"standard deviation {rewards['std']:.3f}, from {rewards['min']:.3f} to "
        f"{rewards['max']:.3f}",
        out,
    ]


def describe_best(summary: dict) -> list:
    """What `reward best` returned, likewise."""
    table = Table(title="The best of k samples, by reward", title_justify="left")
    for name in ("k", "mean reward", "exact match", "KL at most (nats)"):
        table.add_column(name, justify="right")
    for point in summary["curve"]:
        match = "" if point["exact_match"] is None else _percent(point["exact_match"])
        reward = point["reward"]
        low, high = reward["interval"]
        mean = f"{reward['value']:.3f} [{low:.3f}, {high:.3f}]"
        table.add_row(str(point["k"]), mean, match, f"{point['kl_bound']:.2f}")
    left = f" {summary['left_out']:,} bad rows are left out." if summary["left_out"] else ""
    return [
        table,
        f"Best of {summary['n']} minus one sample, paired over {summary['questions']:,} questions:",
        *_changes(summary),
        "In brackets: 95 % intervals. Best of k counts all sets of k samples.",
        f"Written to {summary['out']}.{left}",
    ]


def _changes(summary: dict) -> list[str]:
    """The paired differences, a line each."""
    lines = []
    for name, text in (("reward", "mean reward"), ("exact_match", "exact match")):
        if found := summary[name]:
            low, high = found["interval"]
            lines.append(f"  {text} {found['mean']:+.3f} [{low:+.3f}, {high:+.3f}]")
    return lines


def _accuracies(title: str, scores: dict) -> Table:
    """The accuracy over all pairs and by kind of worse answer."""
    table = Table(title=title, title_justify="left")
    table.add_column("worse answers")
    for name in ("accuracy", "n"):
        table.add_column(name, justify="right")
    table.add_row("all", _percent(scores["accuracy"]), str(scores["n"]))
    for kind, score in scores["by_kind"].items():
        table.add_row(f"  {kind}", _percent(score), str(score["n"]))
    return table


def _rewards(scores: dict) -> str:
    """Means and spreads of the rewards of both sides, in a line."""
    sides = [
        f"{side} {scores[side]['mean']:.2f} ± {scores[side]['std']:.2f}"
        for side in ("chosen", "rejected")
    ]
    return f"Rewards: {', '.join(sides)} (mean ± standard deviation); loss {scores['loss']:.3f}."


def _percent(score: dict) -> str:
    """A share with its interval."""
    low, high = (100 * end for end in score["interval"])
    return f"{100 * score['value']:.0f} % [{low:.0f}, {high:.0f}]"
