"""What merge and export made, shown on the command line."""

from pathlib import Path

__all__ = ["print_merge", "print_export"]


def print_merge(made: dict, folder: Path) -> None:
    """merge.json as a table, and what there is to say about it."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    judged = made["report"]
    table = Table(title=f"{made['run']} merged, in {made['dtype']}", title_justify="left")
    for name in ("", "loss (nats per token)", "KL", "top-1", "size"):
        table.add_column(name, justify="right" if name else "left")
    if judged:
        table.add_row("trained", f"{judged['trained']['loss']:.4f}", "0", "100 %", "")
    for kind, size in made["bytes"].items():
        scores = _merge_scores(judged["variants"][kind]) if judged else "–––"
        table.add_row(f"onto {kind}", *scores, f"{size / 1e6:,.1f} MB")
    console.print(table)
    lines = [made["why"], _written(made, folder)]
    if judged:
        lines.insert(
            0,
            f"On {judged['rows']} rows, {judged['tokens']:,} response tokens ({judged['data']}). "
            "KL and top-1: distance from the trained model, and how often the first choice is "
            "the same.",
        )
    else:
        lines.insert(0, f"Not judged: {made['no_report']}")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _merge_scores(variant: dict) -> tuple[str, str, str]:
    """Loss, KL and top-1 of one merged model, as they stand in the table."""
    return f"{variant['loss']:.4f}", f"{variant['kl']:.2g}", f"{100 * variant['top1']:.1f} %"


def _written(made: dict, folder: Path) -> str:
    """Where it lies, and how much memory it took."""
    peaks = [
        f"{what} {size / 1e9:.2f} GB" for what, size in made["anonymous_bytes"].items() if size
    ]
    also = f" Anonymous memory at most: {', '.join(peaks)}." if peaks else ""
    return f"Written to {folder}.{also}"


def print_export(made: dict, folder: Path) -> None:
    """export.json in a few lines."""
    names = sorted({Path(name).parts[0] for name in made["files"]})
    print(f"Written to {folder}: {', '.join(names)}.")
    if gguf := made["gguf"]:
        back = "Not read back here: the model is large."
        if gguf["read_back"]:
            back = "Read back through transformers: equal to what was written."
        print(
            f"model.gguf: {gguf['bytes'] / 1e6:,.1f} MB in {gguf['dtype']}; rounding costs "
            f"{100 * gguf['relative_error']:.2g} % of the weights' size. {back}"
        )
    if prompts := made["prompts"]:
        edges = made["edges"]
        print(
            "Prompts equal to those of the training, token for token: "
            f"{prompts['equal']} of {prompts['n']} golden rows, "
            f"{edges['equal']} of {edges['n']} difficult ones."
        )
    if made["not_run"]:
        print(f"Not run here: {', '.join(made['not_run'])}.")
