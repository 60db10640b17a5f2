"""The command line: each command calls one function of the package and prints what it gives."""
import json
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
                  help="Instruction-tune a 4-bit language model, and understand every line of it.")
Text, Number, Whole = Optional[str], Optional[float], Optional[int]


def option(help: str, *names: str):
    return typer.Option(*names, help=help)


@app.callback()
def _common():
    pass


@app.command()
def tune(model: Annotated[str, option("nano, smollm2, smollm2-base, 7b, a folder or a hub id")] = "nano",
         data: Annotated[Text, option("rows to learn from: .json, .jsonl, .csv, .tsv, .parquet or a hub data set; default: the built-in rows")] = None,
         holdout: Annotated[Text, option("rows to judge by: a share (0.1), the end of the file (last:0.1) or a file")] = None,
         template: Annotated[Text, option("article, article-text, alpaca or chat; default: article for nano, else alpaca")] = None,
         out: Annotated[Text, option("the run directory to write; default: a new one under runs/")] = None,
         resume: Annotated[bool, option("go on with the unfinished run of --out (or the newest under runs/), to the same bits", "--resume")] = False,
         epochs: Annotated[Number, option("passes over the rows")] = None,
         lr: Annotated[Number, option("peak learning rate")] = None,
         schedule: Annotated[str, option("what the rate does after the warm-up: linear, cosine or constant")] = "linear",
         rank: Annotated[int, option("rank of the adapters")] = 16,
         alpha: Annotated[Number, option("their scale is alpha / rank; default: 256 for nano, else 32")] = None,
         dropout: Annotated[float, option("share of an adapter's inputs that is dropped (takes the slower path)")] = 0.0,
         noise: Annotated[Text, option("noise on the embeddings: gaussian:S or neftune:A, such as neftune:5")] = None,
         max_length: Annotated[int, option("tokens of a row; a longer one loses the end of its input")] = 1024,
         batch_tokens: Annotated[Whole, option("tokens of a step, padding included")] = None,
         accumulation: Annotated[int, option("parts in which the rows of a step go through the model; more parts need less memory")] = 1,
         checkpointing: Annotated[bool, option("compute activations twice instead of keeping them: less memory, a third more time", "--checkpointing")] = False,
         limit: Annotated[Whole, option("use only so many rows")] = None,
         seed: Annotated[int, option("one seed, one result")] = 0,
         skip_bad: Annotated[bool, option("go on without bad rows; they are written to rejects.jsonl", "--skip-bad")] = False,
         truncate_response: Annotated[bool, option("cut outputs that cannot fit instead of refusing the row", "--truncate-response")] = False,
         save_every: Annotated[Whole, option("steps between two checkpoints; default: a tenth of the run")] = None,
         eval_every: Annotated[Whole, option("steps between two looks at held-out rows; the best adapter is kept")] = None,
         patience: Annotated[Whole, option("end after so many looks without a better one")] = None,
         track: Annotated[Text, option("draw the curves elsewhere too: tensorboard, wandb or trackio")] = None,
         processes: Annotated[Whole, option("refuse to start unless so many processes train together")] = None,
         as_json: Annotated[bool, option("print report.json and nothing else", "--json")] = False):
    """Tune a 4-bit base model on instructions, and show what changed."""
    from instruct_course import recipe
    config = recipe.TuneConfig(
        model=model, data=data, holdout=holdout, template=template, out=out, resume=resume, epochs=epochs, lr=lr, schedule=schedule, rank=rank, alpha=alpha,
        dropout=dropout, noise=noise, max_length=max_length, batch_tokens=batch_tokens, accumulation=accumulation, checkpointing=checkpointing, limit=limit, seed=seed,
        skip_bad=skip_bad, truncate_response=truncate_response, save_every=save_every, eval_every=eval_every, patience=patience, track=track, processes=processes)
    try:
        run = recipe.tune(config, quiet=as_json)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise typer.Exit(130) from None
    if not run.report:          # one of several processes, and not the first
        return
    if as_json:
        print(json.dumps(run.report, ensure_ascii=False, indent=1))
    else:
        _show(run)
    if run.report["stopped"]:
        raise typer.Exit(130)


def _show(run):
    """The report as tables: scores by split and task, then answers side by side."""
    from rich.console import Console
    from rich.table import Table
    console, before, after = Console(), run.report["before"], run.report["after"]
    if after is None:
        console.print("stopped before the tuned model was judged")
        return
    percent = lambda scores: f"{100 * scores['exact_match']:.0f} %" if scores else "–"
    table = Table(title=f"{run.report['model']}: base and tuned, on rows that were held out", title_justify="left")
    for name in ("", "base", "tuned", "n"):
        table.add_column(name, justify="left" if not name else "right")
    table.add_row("loss of the response (nats a token)", f"{before['loss']:.3f}", f"{after['loss']:.3f}", f"{after['tokens']:,} tokens")
    table.add_row("exact match", percent(before), percent(after), str(after["n"]))
    best = before["best_prompt"]
    table.add_row(f"  base with its best prompt ({best['best']})", percent(best[best["best"]]), "", str(best[best["best"]]["n"]))
    table.add_row("ROUGE-L", f"{before['rouge_l']:.2f}", f"{after['rouge_l']:.2f}", str(after["n"]))
    for title, kind in (("split", "splits"), ("task", "tasks"), ("language", "langs")):
        if after[kind]:
            table.add_section()
        for name, scores in after[kind].items():
            table.add_row(f"{title} {name}", percent(before[kind].get(name)), percent(scores), str(scores["n"]))
    if run.report["majority_knowledge"] is not None:
        table.add_row("  knowledge, by the most frequent answer", f"{100 * run.report['majority_knowledge']:.0f} %", "", "")
    console.print(table)
    answers = Table(title="A few answers", title_justify="left", show_lines=True)
    for name in ("instruction", "base", "tuned", "expected"):
        answers.add_column(name, max_width=44, overflow="fold")
    cut = lambda text: text if len(text) <= 160 else text[:159] + "…"
    from rich.text import Text as Plain
    for s in run.report["samples"]:
        answers.add_row(*(Plain(cut(t)) for t in ("\n".join(filter(None, (s["instruction"], s["input"]))), s["base"], s["tuned"], s["expected"])))
    console.print(answers)
    console.print(f"{run.report['seconds']['all']:.0f} seconds in all, {run.report['seconds']['training']:.0f} of them training.", highlight=False)
    console.print(f"Talk to it:  instruct-course chat --run {run.path}", highlight=False, soft_wrap=True)


@app.command()
def chat(run: Annotated[str, option("a run directory that tune wrote")],
         prompt: Annotated[Text, option("one instruction; without it, a conversation starts")] = None,
         input: Annotated[str, option("the input that the instruction is about")] = "",
         max_tokens: Annotated[int, option("tokens of an answer at most")] = 256,
         allow_mismatch: Annotated[bool, option("go on where base or template are not those of training")] = False,
         as_json: Annotated[bool, option("print {instruction, input, output}", "--json")] = False):
    """Ask a tuned model: once with --prompt, or again and again."""
    from instruct_course import run as runs
    from instruct_course.data import InputError
    if prompt is not None and not prompt.strip():
        raise InputError("--prompt: it is empty; write an instruction")
    opened = runs.open_run(run, allow_mismatch=allow_mismatch)
    if prompt is not None:
        said = opened.answer(prompt, input, max_new_tokens=max_tokens)
        print(json.dumps({"instruction": prompt, "input": input, "output": said}, ensure_ascii=False) if as_json else said)
        return
    opened.ready()
    print("Each question stands alone. Write an instruction, then its input (or nothing); an empty instruction ends.", file=sys.stderr)
    while True:
        try:
            question = typer.prompt("instruction", default="", show_default=False, err=True)
            if not question.strip():
                return
            text = typer.prompt("input", default="", show_default=False, err=True)
        except (typer.Abort, EOFError):
            return
        for piece in opened.stream(question, text, max_new_tokens=max_tokens):
            print(piece, end="", flush=True)
        print()


@app.command()
def doctor(as_json: Annotated[bool, option("print JSON", "--json")] = False):
    """Say what this machine can do, and what is missing."""
    from instruct_course import doctor as doc
    facts = doc.examine()
    print(json.dumps(facts, indent=1) if as_json else doc.describe(facts))


def main():
    """The console script: exit code 0 done, 2 the user's input, 1 ours, 130 stopped by Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        app(standalone_mode=True)
    except ValueError as error:
        from instruct_course.data import InputError
        if not isinstance(error, InputError):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
