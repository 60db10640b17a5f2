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


def _percent(scores) -> str:
    """Exact match with its interval."""
    if not scores:
        return "–"
    low, high = scores["interval"]["exact_match"]
    return f"{100 * scores['exact_match']:.0f} % \\[{100 * low:.0f}–{100 * high:.0f}]"


def _groups(table, *models):
    """Rows of a table for each split, task and language: the first of `models` says which there are and stands last."""
    for title, kind in (("split", "splits"), ("task", "tasks"), ("language", "langs")):
        if models[0][kind]:
            table.add_section()
        for name, scores in models[0][kind].items():
            table.add_row(f"{title} {name}", *(_percent(m[kind].get(name)) for m in models[1:]), _percent(scores), str(scores["n"]))


def _said(changes: dict | None, what: str) -> str:
    """A change in one sentence, with the word significant where it is and where it is not."""
    if changes is None:
        return ""
    part = lambda name, unit, d: f"{name} {unit * d['mean']:+.3g} [{unit * d['low']:+.3g} to {unit * d['high']:+.3g}]" + ("" if d["significant"] else " (not significant)")
    some = [part("exact match", 100, changes["exact_match"]) + " points"] + ([part("loss", 1, changes["loss"])] if changes["loss"] else [])
    return f"{what}, on the same {changes['n']:,} rows: {', '.join(some)}."


def _show(run):
    """The report as tables: scores by split and task, then answers side by side."""
    from rich.console import Console
    from rich.table import Table
    console, before, after = Console(), run.report["before"], run.report["after"]
    if after is None:
        console.print("stopped before the tuned model was judged")
        return
    table = Table(title=f"{run.report['model']}: base and tuned, on rows that were held out", title_justify="left")
    for name in ("", "base", "tuned", "n"):
        table.add_column(name, justify="left" if not name else "right")
    best = before["best_prompt"]
    table.add_row("loss of the response (nats a token)", f"{before['loss']:.3f}", f"{after['loss']:.3f}", f"{after['tokens']:,} tokens")
    table.add_row("exact match", _percent(before), _percent(after), str(after["n"]))
    table.add_row(f"  base with its best prompt ({best['best']})", _percent(best[best["best"]]), "", str(best[best["best"]]["n"]))
    table.add_row("ROUGE-L", f"{before['rouge_l']:.2f}", f"{after['rouge_l']:.2f}", str(after["n"]))
    _groups(table, after, before)
    if run.report["majority_knowledge"] is not None:
        table.add_row("  knowledge, by the most frequent answer", f"{100 * run.report['majority_knowledge']:.0f} %", "", "")
    console.print(table)
    console.print("In brackets: 95 % intervals. " + _said(run.report["changes"], "Tuned minus base"), highlight=False)
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


@app.command("eval")
def evaluate(run: Annotated[str, option("a run directory that tune wrote")],
             data: Annotated[Text, option("rows to judge by; default: those that the run was judged by")] = None,
             base: Annotated[bool, option("judge the base model too, and compare", "--base")] = False,
             against: Annotated[Text, option("another run directory to compare with")] = None,
             training: Annotated[Text, option("the rows that it learnt from, to find copies of them among those it is judged by")] = None,
             following: Annotated[Text, option("verifiable instructions as well: 'builtin' or a .jsonl file")] = None,
             judge: Annotated[Text, option("address of an OpenAI-compatible judge that compares the answers, such as http://127.0.0.1:8000/v1")] = None,
             judge_model: Annotated[Text, option("the judge's model")] = None,
             judge_key_env: Annotated[str, option("the environment variable that holds the judge's key")] = "OPENAI_API_KEY",
             limit: Annotated[Whole, option("judge by only so many rows, at even distances")] = None,
             max_tokens: Annotated[Whole, option("tokens of an answer at most; default: a quarter more than the longest expected one")] = None,
             batch_size: Annotated[int, option("answers made at a time")] = 64,
             out: Annotated[Text, option("the folder to write; default: a new one in the run directory, under evaluations/")] = None,
             skip_bad: Annotated[bool, option("go on without bad rows of --data; they are counted and named in the report", "--skip-bad")] = False,
             allow_mismatch: Annotated[bool, option("go on where base or template are not those of training")] = False,
             as_json: Annotated[bool, option("print evaluation.json and nothing else", "--json")] = False):
    """Judge a tuned model on rows: scores with intervals, beside the base or another run."""
    from instruct_course import report as reports
    config = reports.EvalConfig(run=run, data=data, base=base, against=against, training=training, following=following, judge=judge, judge_model=judge_model,
                                judge_key_env=judge_key_env, limit=limit, max_tokens=max_tokens, batch_size=batch_size, out=out, skip_bad=skip_bad, allow_mismatch=allow_mismatch)
    try:
        folder, report = reports.assess(config, quiet=as_json)
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps(report, ensure_ascii=False, indent=1))
    else:
        _show_evaluation(report, folder)


def _show_evaluation(report: dict, folder):
    """evaluation.json as a table, and what there is to say about it."""
    from rich.console import Console
    from rich.table import Table
    console, after, before, rival = Console(), report["after"], report["before"], report["against"]
    table = Table(title=f"{report['run']} ({report['model']}): {report['data']['name']}", title_justify="left")
    beside = ([("base", before)] if before else []) + ([(rival["run"], rival["scores"])] if rival else [])
    for name in ("", *(n for n, _ in beside), report["run"], "n"):
        table.add_column(name, justify="left" if not name else "right")
    models = [*(m for _, m in beside), after]
    row = lambda title, say, n: table.add_row(title, *map(say, models), n)
    row("loss of the response (nats a token)", lambda m: f"{m['loss']:.3f} \\[{m['interval']['loss'][0]:.3f}–{m['interval']['loss'][1]:.3f}]", f"{after['tokens']:,} tokens")
    row("perplexity", lambda m: f"{m['perplexity']:.4g}", "")
    row("exact match", _percent, str(after["n"]))
    row("  but for case and punctuation", lambda m: f"{100 * m['normalised_match']:.0f} %", "")
    for name, key in (("ROUGE-L", "rouge_l"), ("chrF", "chrf"), ("BLEU", "bleu")):
        row(name, lambda m: f"{m[key]:.2f}", "")
    row("ended by itself", lambda m: "–" if m["stopped"] is None else f"{100 * m['stopped']:.0f} %", "")
    row(f"length (expected: {after['length']['references']:.1f} words)", lambda m: f"{m['length']['answers']:.1f}", "")
    row("repeated 4-grams; empty answers", lambda m: f"{100 * m['repetition']:.0f} %; {m['empty']}", "")
    _groups(table, after, *(m for _, m in beside))
    console.print(table)
    say = lambda text: console.print(text, highlight=False, soft_wrap=True)
    say("In brackets: 95 % intervals." + (" Those of the tasks' differences in evaluation.json hold for all tasks together." if after["tasks"] and beside else ""))
    for key, name in (("base", "the base"), ("against", rival and rival["run"])):
        if report["changes"][key]:
            say(_said(report["changes"][key], f"{report['run']} minus {name}"))
    if best := report["best_prompt"]:
        say(f"The base with its best prompt ({best['best']}): exact match {_percent(best[best['best']])} of {best[best['best']]['n']} rows.")
    if copies := report["contamination"]:
        say(f"Rows that stand among the training rows: {copies['exact']} exactly, {copies['near']} nearly."
            + (f" Without them: exact match {100 * copies['without']['exact_match']:.1f} % of {copies['without']['n']}." if copies["without"] else ""))
    else:
        say("Not looked for: copies of training rows (name them with --training).")
    if report["data"]["left_out"]:
        say(f"Left out as bad: {len(report['data']['left_out'])} rows, first: row {report['data']['left_out'][0]['row']}, {report['data']['left_out'][0]['reason']}")
    for name, scores in (report["following"] or {}).items():
        low, high = scores["strict"]["interval"]["checks"]
        say(f"Verifiable instructions, {name}: {100 * scores['strict']['checks']:.0f} % of the checks [{100 * low:.0f}–{100 * high:.0f}], "
            f"{100 * scores['strict']['prompts']:.0f} % of the {scores['n']} prompts as a whole.")
    if report["judge"]:
        from instruct_course.judge import told
        say(f"The judge: {told(report['judge'], a=rival['run'] if rival else 'base', b=report['run'])}.")
    say(f"Written to {folder}: evaluation.json, answers.jsonl, scores.png ({report['seconds']:.0f} seconds).")


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
