"""The command line: each command calls one function of the package and prints what it gives."""

import json
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Instruction-tune a 4-bit language model, and understand every line of it.",
)
Text, Number, Whole = Optional[str], Optional[float], Optional[int]


def option(help: str, *names: str):
    return typer.Option(*names, help=help)


@app.callback()
def _common():
    pass


@app.command()
def tune(
    model: Annotated[str, option("nano, smollm2, smollm2-base, 7b, a folder or a hub id")] = "nano",
    data: Annotated[
        Text,
        option(
            "rows to learn from: .json, .jsonl, .csv, .tsv, .parquet or a hub data set; default: the built-in rows"
        ),
    ] = None,
    holdout: Annotated[
        Text, option("rows to judge by: a share (0.1), the end of the file (last:0.1) or a file")
    ] = None,
    template: Annotated[
        Text,
        option("article, article-text, alpaca or chat; default: article for nano, else alpaca"),
    ] = None,
    out: Annotated[
        Text, option("the run directory to write; default: a new one under runs/")
    ] = None,
    resume: Annotated[
        bool,
        option(
            "go on with the unfinished run of --out (or the newest under runs/), to the same bits",
            "--resume",
        ),
    ] = False,
    epochs: Annotated[Number, option("passes over the rows")] = None,
    lr: Annotated[Number, option("peak learning rate")] = None,
    schedule: Annotated[
        str, option("what the rate does after the warm-up: linear, cosine or constant")
    ] = "linear",
    lora_r: Annotated[int, option("rank of the adapters")] = 16,
    lora_alpha: Annotated[
        Number, option("their scale is lora_alpha / lora_r; default: 256 for nano, else 32")
    ] = None,
    lora_dropout: Annotated[
        float, option("share of an adapter's inputs that is dropped (takes the slower path)")
    ] = 0.0,
    noise: Annotated[
        Text, option("noise on the embeddings: gaussian:S or neftune:A, such as neftune:5")
    ] = None,
    max_length: Annotated[
        int, option("tokens of a row; a longer one loses the end of its input")
    ] = 1024,
    batch_tokens: Annotated[Whole, option("tokens of a step, padding included")] = None,
    micro_batches: Annotated[
        int,
        option(
            "parts in which the rows of a step go through the model; more parts need less memory"
        ),
    ] = 1,
    gradient_checkpointing: Annotated[
        bool,
        option(
            "compute activations twice instead of keeping them: less memory, a third more time",
            "--gradient-checkpointing",
        ),
    ] = False,
    limit: Annotated[Whole, option("use only so many rows")] = None,
    seed: Annotated[int, option("one seed, one result")] = 0,
    skip_bad: Annotated[
        bool, option("go on without bad rows; they are written to rejects.jsonl", "--skip-bad")
    ] = False,
    truncate_response: Annotated[
        bool,
        option("cut outputs that cannot fit instead of refusing the row", "--truncate-response"),
    ] = False,
    save_steps: Annotated[
        Whole, option("steps between two checkpoints; default: a tenth of the run")
    ] = None,
    eval_steps: Annotated[
        Whole, option("steps between two looks at held-out rows; the best adapter is kept")
    ] = None,
    patience: Annotated[Whole, option("end after so many looks without a better one")] = None,
    report_to: Annotated[
        Text, option("draw the curves elsewhere too: tensorboard, wandb or trackio")
    ] = None,
    processes: Annotated[
        Whole, option("refuse to start unless so many processes train together")
    ] = None,
    as_json: Annotated[bool, option("print report.json and nothing else", "--json")] = False,
):
    """Tune a 4-bit base model on instructions, and show what changed."""
    from instruct_course import recipe

    config = recipe.TuneConfig(
        model=model,
        data=data,
        holdout=holdout,
        template=template,
        out=out,
        resume=resume,
        epochs=epochs,
        lr=lr,
        schedule=schedule,
        lora_r=lora_r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        noise=noise,
        max_length=max_length,
        batch_tokens=batch_tokens,
        micro_batches=micro_batches,
        gradient_checkpointing=gradient_checkpointing,
        limit=limit,
        seed=seed,
        skip_bad=skip_bad,
        truncate_response=truncate_response,
        save_steps=save_steps,
        eval_steps=eval_steps,
        patience=patience,
        report_to=report_to,
        processes=processes,
    )
    try:
        run = recipe.tune(config, quiet=as_json)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise typer.Exit(130) from None
    if not run.report:  # one of several processes, and not the first
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
            table.add_row(
                f"{title} {name}",
                *(_percent(m[kind].get(name)) for m in models[1:]),
                _percent(scores),
                str(scores["n"]),
            )


def _said(changes: dict | None, what: str) -> str:
    """A change in one sentence, with the word significant where it is and where it is not."""
    if changes is None:
        return ""
    part = lambda name, unit, d: (
        f"{name} {unit * d['mean']:+.3g} [{unit * d['low']:+.3g} to {unit * d['high']:+.3g}]"
        + ("" if d["significant"] else " (not significant)")
    )
    some = [part("exact match", 100, changes["exact_match"]) + " points"] + (
        [part("loss", 1, changes["loss"])] if changes["loss"] else []
    )
    return f"{what}, on the same {changes['n']:,} rows: {', '.join(some)}."


def _show(run):
    """The report as tables: scores by split and task, then answers side by side."""
    from rich.console import Console
    from rich.table import Table

    console, before, after = Console(), run.report["before"], run.report["after"]
    if after is None:
        console.print("stopped before the tuned model was judged")
        return
    table = Table(
        title=f"{run.report['model']}: base and tuned, on rows that were held out",
        title_justify="left",
    )
    for name in ("", "base", "tuned", "n"):
        table.add_column(name, justify="left" if not name else "right")
    best = before["best_prompt"]
    table.add_row(
        "loss of the response (nats a token)",
        f"{before['loss']:.3f}",
        f"{after['loss']:.3f}",
        f"{after['tokens']:,} tokens",
    )
    table.add_row("exact match", _percent(before), _percent(after), str(after["n"]))
    table.add_row(
        f"  base with its best prompt ({best['best']})",
        _percent(best[best["best"]]),
        "",
        str(best[best["best"]]["n"]),
    )
    table.add_row("ROUGE-L", f"{before['rouge_l']:.2f}", f"{after['rouge_l']:.2f}", str(after["n"]))
    _groups(table, after, before)
    if run.report["majority_knowledge"] is not None:
        table.add_row(
            "  knowledge, by the most frequent answer",
            f"{100 * run.report['majority_knowledge']:.0f} %",
            "",
            "",
        )
    console.print(table)
    console.print(
        "In brackets: 95 % intervals. " + _said(run.report["changes"], "Tuned minus base"),
        highlight=False,
    )
    answers = Table(title="A few answers", title_justify="left", show_lines=True)
    for name in ("instruction", "base", "tuned", "expected"):
        answers.add_column(name, max_width=44, overflow="fold")
    cut = lambda text: text if len(text) <= 160 else text[:159] + "…"
    from rich.text import Text as Plain

    for s in run.report["samples"]:
        answers.add_row(
            *(
                Plain(cut(t))
                for t in (
                    "\n".join(filter(None, (s["instruction"], s["input"]))),
                    s["base"],
                    s["tuned"],
                    s["expected"],
                )
            )
        )
    console.print(answers)
    console.print(
        f"{run.report['seconds']['all']:.0f} seconds in all, {run.report['seconds']['training']:.0f} of them training.",
        highlight=False,
    )
    console.print(
        f"Talk to it:  instruct-course chat --run {run.path}", highlight=False, soft_wrap=True
    )


@app.command("eval")
def evaluate(
    run: Annotated[str, option("a run directory that tune wrote")],
    data: Annotated[
        Text, option("rows to judge by; default: those that the run was judged by")
    ] = None,
    base: Annotated[bool, option("judge the base model too, and compare", "--base")] = False,
    against: Annotated[Text, option("another run directory to compare with")] = None,
    training: Annotated[
        Text,
        option("the rows that it learnt from, to find copies of them among those it is judged by"),
    ] = None,
    following: Annotated[
        Text, option("verifiable instructions as well: 'builtin' or a .jsonl file")
    ] = None,
    judge: Annotated[
        Text,
        option(
            "address of an OpenAI-compatible judge that compares the answers, such as http://127.0.0.1:8000/v1"
        ),
    ] = None,
    judge_model: Annotated[Text, option("the judge's model")] = None,
    judge_key_env: Annotated[
        str, option("the environment variable that holds the judge's key")
    ] = "OPENAI_API_KEY",
    limit: Annotated[Whole, option("judge by only so many rows, at even distances")] = None,
    max_tokens: Annotated[
        Whole,
        option(
            "tokens of an answer at most; default: a quarter more than the longest expected one"
        ),
    ] = None,
    batch_size: Annotated[int, option("answers made at a time")] = 64,
    out: Annotated[
        Text,
        option("the folder to write; default: a new one in the run directory, under evaluations/"),
    ] = None,
    skip_bad: Annotated[
        bool,
        option(
            "go on without bad rows of --data; they are counted and named in the report",
            "--skip-bad",
        ),
    ] = False,
    allow_mismatch: Annotated[
        bool, option("go on where base or template are not those of training")
    ] = False,
    as_json: Annotated[bool, option("print evaluation.json and nothing else", "--json")] = False,
):
    """Judge a tuned model on rows: scores with intervals, beside the base or another run."""
    from instruct_course.evaluate import report as reports

    config = reports.EvalConfig(
        run=run,
        data=data,
        base=base,
        against=against,
        training=training,
        following=following,
        judge=judge,
        judge_model=judge_model,
        judge_key_env=judge_key_env,
        limit=limit,
        max_tokens=max_tokens,
        batch_size=batch_size,
        out=out,
        skip_bad=skip_bad,
        allow_mismatch=allow_mismatch,
    )
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
    table = Table(
        title=f"{report['run']} ({report['model']}): {report['data']['name']}", title_justify="left"
    )
    beside = ([("base", before)] if before else []) + (
        [(rival["run"], rival["scores"])] if rival else []
    )
    for name in ("", *(n for n, _ in beside), report["run"], "n"):
        table.add_column(name, justify="left" if not name else "right")
    models = [*(m for _, m in beside), after]
    row = lambda title, say, n: table.add_row(title, *map(say, models), n)
    row(
        "loss of the response (nats a token)",
        lambda m: (
            f"{m['loss']:.3f} \\[{m['interval']['loss'][0]:.3f}–{m['interval']['loss'][1]:.3f}]"
        ),
        f"{after['tokens']:,} tokens",
    )
    row("perplexity", lambda m: f"{m['perplexity']:.4g}", "")
    row("exact match", _percent, str(after["n"]))
    row("  but for case and punctuation", lambda m: f"{100 * m['normalised_match']:.0f} %", "")
    for name, key in (("ROUGE-L", "rouge_l"), ("chrF", "chrf"), ("BLEU", "bleu")):
        row(name, lambda m: f"{m[key]:.2f}", "")
    row(
        "ended by itself",
        lambda m: "–" if m["stopped"] is None else f"{100 * m['stopped']:.0f} %",
        "",
    )
    row(
        f"length (expected: {after['length']['references']:.1f} words)",
        lambda m: f"{m['length']['answers']:.1f}",
        "",
    )
    row(
        "repeated 4-grams; empty answers",
        lambda m: f"{100 * m['repetition']:.0f} %; {m['empty']}",
        "",
    )
    _groups(table, after, *(m for _, m in beside))
    console.print(table)
    say = lambda text: console.print(text, highlight=False, soft_wrap=True)
    say(
        "In brackets: 95 % intervals."
        + (
            " Those of the tasks' differences in evaluation.json hold for all tasks together."
            if after["tasks"] and beside
            else ""
        )
    )
    for key, name in (("base", "the base"), ("against", rival and rival["run"])):
        if report["changes"][key]:
            say(_said(report["changes"][key], f"{report['run']} minus {name}"))
    if best := report["best_prompt"]:
        say(
            f"The base with its best prompt ({best['best']}): exact match {_percent(best[best['best']])} of {best[best['best']]['n']} rows."
        )
    if copies := report["contamination"]:
        say(
            f"Rows that stand among the training rows: {copies['exact']} exactly, {copies['near']} nearly."
            + (
                f" Without them: exact match {100 * copies['without']['exact_match']:.1f} % of {copies['without']['n']}."
                if copies["without"]
                else ""
            )
        )
    else:
        say("Not looked for: copies of training rows (name them with --training).")
    if report["data"]["left_out"]:
        say(
            f"Left out as bad: {len(report['data']['left_out'])} rows, first: row {report['data']['left_out'][0]['row']}, {report['data']['left_out'][0]['reason']}"
        )
    for name, scores in (report["following"] or {}).items():
        low, high = scores["strict"]["interval"]["checks"]
        say(
            f"Verifiable instructions, {name}: {100 * scores['strict']['checks']:.0f} % of the checks [{100 * low:.0f}–{100 * high:.0f}], "
            f"{100 * scores['strict']['prompts']:.0f} % of the {scores['n']} prompts as a whole."
        )
    if report["judge"]:
        from instruct_course.evaluate.judge import told

        say(
            f"The judge: {told(report['judge'], a=rival['run'] if rival else 'base', b=report['run'])}."
        )
    say(
        f"Written to {folder}: evaluation.json, answers.jsonl, scores.png ({report['seconds']:.0f} seconds)."
    )


@app.command()
def chat(
    run: Annotated[str, option("a run directory that tune wrote")],
    prompt: Annotated[Text, option("one instruction; without it, a conversation starts")] = None,
    input: Annotated[str, option("the input that the instruction is about")] = "",
    max_tokens: Annotated[int, option("tokens of an answer at most")] = 256,
    allow_mismatch: Annotated[
        bool, option("go on where base or template are not those of training")
    ] = False,
    as_json: Annotated[bool, option("print {instruction, input, output}", "--json")] = False,
):
    """Ask a tuned model: once with --prompt, or again and again."""
    from instruct_course import run as runs
    from instruct_course.common.errors import InputError

    if prompt is not None and not prompt.strip():
        raise InputError("--prompt: it is empty; write an instruction")
    opened = runs.open_run(run, allow_mismatch=allow_mismatch)
    if prompt is not None:
        said = opened.answer(prompt, input, max_new_tokens=max_tokens)
        print(
            json.dumps({"instruction": prompt, "input": input, "output": said}, ensure_ascii=False)
            if as_json
            else said
        )
        return
    opened.ready()
    print(
        "Each question stands alone. Write an instruction, then its input (or nothing); an empty instruction ends.",
        file=sys.stderr,
    )
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
def serve(
    run: Annotated[str, option("a run directory that tune wrote, or a folder that merge wrote")],
    host: Annotated[
        str, option("the address to answer on; any other than this machine's own needs a key")
    ] = "127.0.0.1",
    port: Annotated[int, option("the port; 0 takes a free one")] = 8000,
    api_key_env: Annotated[
        Text, option("the environment variable that holds the key that clients must send")
    ] = None,
    allow_origin: Annotated[
        Optional[list[str]],
        option(
            "a web page's origin that may call it, such as https://example.org; may be given several times"
        ),
    ] = None,
    allow_host: Annotated[
        Optional[list[str]],
        option(
            "a name that the server may be called by, besides localhost and addresses; may be given several times"
        ),
    ] = None,
    max_tokens: Annotated[int, option("tokens of an answer at most")] = 1024,
    queue: Annotated[int, option("requests that may wait; more are sent away")] = 64,
    seconds: Annotated[float, option("seconds of a request, its waiting included")] = 120.0,
    quiet: Annotated[bool, option("no line for each request", "--quiet")] = False,
    allow_mismatch: Annotated[
        bool, option("go on where base or template are not those of training")
    ] = False,
):
    """Answer OpenAI's clients, and a chat page in the browser."""
    from instruct_course.deploy.serve import app as app_

    app_.forever(
        run,
        host=host,
        port=port,
        api_key_env=api_key_env,
        origins=allow_origin or (),
        hosts=allow_host or (),
        allow_mismatch=allow_mismatch,
        limits=app_.Limits(output=max_tokens, queue=queue, seconds=seconds),
        quiet=quiet,
    )


@app.command()
def merge(
    run: Annotated[str, option("a run directory that tune wrote")],
    out: Annotated[str, option("the folder to write")],
    onto: Annotated[
        Text,
        option(
            "what the adapter is added to: dequantized (the default, the model that was evaluated), 16bit, or both"
        ),
    ] = None,
    dtype: Annotated[
        Text,
        option(
            "of the weights written: float32, bfloat16 or float16; default: float32 for nano, else that of the base"
        ),
    ] = None,
    limit: Annotated[int, option("held-out rows of the report at most; 0 for no report")] = 256,
    allow_mismatch: Annotated[
        bool, option("go on where base or template are not those of training")
    ] = False,
    as_json: Annotated[bool, option("print merge.json and nothing else", "--json")] = False,
):
    """Merge a run into one model that plain transformers loads, and say how far it is from the one that was trained."""
    from instruct_course.deploy import merge as merges

    try:
        folder, report = merges.merge(
            run,
            out,
            onto=onto,
            dtype=dtype,
            limit=limit,
            allow_mismatch=allow_mismatch,
            quiet=as_json,
        )
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        raise typer.Exit(130) from None
    print(json.dumps(report, ensure_ascii=False, indent=1)) if as_json else _show_merge(
        report, folder
    )


def _show_merge(report: dict, folder):
    """merge.json as a table."""
    from rich.console import Console
    from rich.table import Table

    console, judged = Console(), report["report"]
    table = Table(title=f"{report['run']} merged, in {report['dtype']}", title_justify="left")
    for name in ("", "loss (nats a token)", "KL", "top-1", "size"):
        table.add_column(name, justify="left" if not name else "right")
    if judged:
        table.add_row("trained", f"{judged['trained']['loss']:.4f}", "0", "100 %", "")
    for kind, size in report["bytes"].items():
        c = judged and judged["variants"][kind]
        table.add_row(
            f"onto {kind}",
            *((f"{c['loss']:.4f}", f"{c['kl']:.2g}", f"{100 * c['top1']:.1f} %") if c else "–––"),
            f"{size / 1e6:,.1f} MB",
        )
    console.print(table)
    say = lambda text: console.print(text, highlight=False, soft_wrap=True)
    say(
        f"On {judged['rows']} rows, {judged['tokens']:,} response tokens ({judged['data']}). KL and top-1: distance from the trained model, and how often the first choice is the same."
        if judged
        else f"Not judged: {report['no_report']}"
    )
    say(report["why"])
    peaks = [
        f"{what} {size / 1e9:.2f} GB" for what, size in report["anonymous_bytes"].items() if size
    ]
    say(
        f"Written to {folder}."
        + (f" Anonymous memory at most: {', '.join(peaks)}." if peaks else "")
    )


@app.command()
def export(
    run: Annotated[str, option("a run directory that tune wrote")],
    out: Annotated[str, option("the folder to write")],
    format: Annotated[str, option("gguf, ollama, vllm or adapter")] = "gguf",
    gguf_dtype: Annotated[str, option("of the weights in a GGUF: f32, bf16, f16 or q8_0")] = "bf16",
    onto: Annotated[
        Text, option("what the adapter is merged onto: dequantized (the default) or 16bit")
    ] = None,
    license: Annotated[
        Text,
        option(
            "the model's licence for its card, such as apache-2.0; it is that of the base and the data"
        ),
    ] = None,
    push: Annotated[
        Text,
        option(
            "upload the folder to this private repository of the hub (owner/name), after asking"
        ),
    ] = None,
    yes: Annotated[bool, option("upload without asking", "--yes")] = False,
    allow_mismatch: Annotated[
        bool, option("go on where base or template are not those of training")
    ] = False,
    as_json: Annotated[bool, option("print export.json and nothing else", "--json")] = False,
):
    """Write a run for llama.cpp, Ollama, vLLM or PEFT, with a model card."""
    from instruct_course.deploy import export as exports

    if push:
        exports.may_push(push, yes=yes)
    try:
        folder, made = exports.export(
            run,
            out,
            format=format,
            gguf_dtype=gguf_dtype,
            onto=onto,
            license=license,
            allow_mismatch=allow_mismatch,
            quiet=as_json,
        )
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        raise typer.Exit(130) from None
    print(json.dumps(made, ensure_ascii=False, indent=1)) if as_json else _show_export(made, folder)
    if push:
        size = sum(f["bytes"] for f in made["files"].values())
        if yes or typer.confirm(
            f"Upload {size / 1e6:,.1f} MB of {folder} to the private repository {push}?", err=True
        ):
            print(f"uploaded to {exports.push(folder, push)}", file=sys.stderr)
        else:
            print("not uploaded", file=sys.stderr)


def _show_export(made: dict, folder):
    """export.json in a few lines."""
    print(
        f"Written to {folder}: {', '.join(sorted({Path(name).parts[0] for name in made['files']}))}."
    )
    if gguf := made["gguf"]:
        print(
            f"model.gguf: {gguf['bytes'] / 1e6:,.1f} MB in {gguf['dtype']}; rounding costs {100 * gguf['relative_error']:.2g} % of the weights' size. "
            + (
                "Read back through transformers: equal to what was written."
                if gguf["read_back"]
                else "Not read back here: the model is large."
            )
        )
    if made["prompts"]:
        print(
            f"Prompts equal to those of the training, token for token: {made['prompts']['equal']} of {made['prompts']['n']} golden rows, {made['edges']['equal']} of {made['edges']['n']} difficult ones."
        )
    if made["not_run"]:
        print(f"Not run here: {', '.join(made['not_run'])}.")


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f}"


@app.command("plan")
def plan_(
    model: Annotated[
        str,
        typer.Argument(
            help="nano, smollm2, 7b, llama-2-7b, llama-3-8b, mistral-7b, olmo-2-7b, deepseek-7b, a folder or a hub id"
        ),
    ],
    gpu: Annotated[
        Text,
        option("t4, v100, l4, a10, 3090, 4090, a100-40, a100-80 or h100; default: this machine"),
    ] = None,
    memory: Annotated[Number, option("GB of memory of a card that is not in the list")] = None,
    max_length: Annotated[int, option("tokens of the longest row")] = 1024,
    batch_tokens: Annotated[int, option("tokens of a step")] = 4096,
    lora_r: Annotated[int, option("rank of the adapters")] = 16,
    micro_batches: Annotated[
        int, option("parts in which the rows of a step go through the model")
    ] = 1,
    gradient_checkpointing: Annotated[
        bool,
        option("compute activations twice instead of keeping them", "--gradient-checkpointing"),
    ] = False,
    tokens: Annotated[int, option("tokens of an epoch, for its time and cost")] = 1_000_000,
    price: Annotated[Number, option("what an hour costs, in your currency")] = None,
    as_json: Annotated[bool, option("print JSON and nothing else", "--json")] = False,
):
    """Say what a training needs before anything is downloaded: memory by part, time, cost, and what to change if it does not fit."""
    from instruct_course.common.errors import InputError
    from instruct_course.plan import memory as plans

    if gpu and gpu.lower() not in plans.CARDS:
        raise InputError(
            f"--gpu {gpu}: use one of {', '.join(plans.CARDS)}, or --memory with its GB"
        )
    for name, value in (("memory", memory), ("price", price), ("tokens", tokens)):
        if value is not None and not 0 < value < 1e15:
            raise InputError(f"--{name} {value}: it must be above 0")
    values = plans.config(model)
    card = (
        plans.CARDS[gpu.lower()]
        if gpu
        else plans.Card(f"a GPU with {memory:g} GB", memory * 1e9, 0.0, "bfloat16")
        if memory
        else plans.machine()
    )
    if gpu and memory:
        card = plans.replace(card, memory=memory * 1e9)
    setting = plans.Setting(
        max_length=max_length,
        batch_tokens=batch_tokens,
        lora_r=lora_r,
        micro_batches=micro_batches,
        gradient_checkpointing=gradient_checkpointing,
    )
    made = plans.plan(model, card, setting, tokens=tokens, price=price, values=values)
    print(json.dumps(made, indent=1)) if as_json else _show_plan(made)


def _show_plan(made: dict):
    """A plan as tables, and the time and cost of an epoch in a sentence."""
    from rich.console import Console
    from rich.table import Table

    console, card = Console(), made["card"]
    table = Table(
        title=f"{made['model']} ({made['parameters'] / 1e9:.2f}B) on {card['name']}, {card['dtype']}: predicted, nothing was run",
        title_justify="left",
    )
    table.add_column("part")
    table.add_column("GB", justify="right")
    for part, size in made["parts"].items():
        table.add_row(part, _gigabytes(size))
    table.add_section()
    table.add_row("widest moment of a step", _gigabytes(made["bytes"]))
    table.add_row("there is", _gigabytes(card["memory"]))
    console.print(table)
    say = lambda text: console.print(text, highlight=False, soft_wrap=True)
    say("It fits." if made["fits"] else "It does not fit.")
    rungs = Table(title="What saves memory, each on top of those before", title_justify="left")
    for name in ("change", "option", "saves, GB", "then, GB", "fits", "what it costs"):
        rungs.add_column(name, justify="right" if "GB" in name else "left")
    enough = next((i for i, r in enumerate(made["ladder"]) if r["fits"]), len(made["ladder"]))
    for r in made["ladder"][: enough + 2]:
        rungs.add_row(
            r["change"],
            r["options"],
            _gigabytes(r["saves"]) if r["options"] else "",
            _gigabytes(r["bytes"]),
            "yes" if r["fits"] else "no",
            r["costs"],
        )
    if not made["fits"]:
        console.print(rungs)
    if not made["engine"]:
        say(
            "The engine does not take models of this type: the plainer path that trains it needs more memory and time than this."
        )
    if made["copies"]:
        say(
            f"So small a model is trained faster with copies of its weights beside the 4-bit ones, {_gigabytes(made['copies'])} GB more, where that is less than a quarter of the free memory."
        )
    epoch = made["epoch"]
    if epoch["seconds"] is not None:
        minutes, rate = (
            epoch["seconds"] / 60,
            "the peak of its data sheet"
            if card["device"] == "cuda"
            else "what a bare product reaches here",
        )
        say(
            f"{epoch['tokens']:,} tokens take about "
            + (f"{minutes / 60:.1f} hours" if minutes >= 60 else f"{minutes:.0f} minutes")
            + (f" and cost about {epoch['cost']:.2f}" if epoch["cost"] is not None else "")
            + f": {epoch['operations_per_token'] / 1e9:.2g} billion operations a token, at {epoch['share']:.0%} of {rate} (assumed)."
        )
    fits = [name for name, ok in made["cards"].items() if ok]
    say(f"As asked it fits on: {', '.join(fits) or 'none of the cards in the list'}.")


@app.command()
def rehearse(
    model: Annotated[str, typer.Argument(help="as for plan; only its config.json is fetched")],
    max_length: Annotated[int, option("tokens of the longest row")] = 512,
    batch_tokens: Annotated[Whole, option("tokens of a step; default: one row")] = None,
    lora_r: Annotated[int, option("rank of the adapters")] = 16,
    micro_batches: Annotated[
        int, option("parts in which the rows of a step go through the model")
    ] = 1,
    gradient_checkpointing: Annotated[
        bool,
        option(
            "compute activations twice instead of keeping them",
            "--gradient-checkpointing/--no-gradient-checkpointing",
        ),
    ] = True,
    steps: Annotated[int, option("steps to train")] = 2,
    dtype: Annotated[
        Text, option("bfloat16, float16 or float32; default: what this machine computes in")
    ] = None,
    memory_only: Annotated[
        bool,
        option("leave the matrix products out: the same memory in much less time", "--memory-only"),
    ] = False,
    as_json: Annotated[bool, option("print JSON and nothing else", "--json")] = False,
):
    """Train a model of the true shape with random weights for some steps, and set the memory and time that were measured beside the plan."""
    from instruct_course.common.errors import InputError
    from instruct_course.model.load import compute_dtype
    from instruct_course.plan import memory as plans
    from instruct_course.plan import rehearse as rehearse_

    if steps < 1:
        raise InputError(f"--steps {steps}: it must be at least 1")
    values = plans.config(model)
    import torch

    setting = plans.Setting(
        max_length=max_length,
        batch_tokens=batch_tokens or max_length,
        lora_r=lora_r,
        micro_batches=micro_batches,
        gradient_checkpointing=gradient_checkpointing,
        dtype=dtype or str(compute_dtype("any")).removeprefix("torch."),
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
    say = lambda text: print(text, file=sys.stderr, flush=True)
    made = rehearse_.rehearse(
        model, setting, steps=steps, products=not memory_only, values=values, say=say
    )
    print(json.dumps(made, indent=1) if as_json else rehearse_.describe(made))


@app.command()
def doctor(
    only: Annotated[
        Optional[list[str]], option("look at this alone, such as torch or hub; may be given again")
    ] = None,
    as_json: Annotated[bool, option("print JSON", "--json")] = False,
):
    """Find what is broken in this environment, and say what mends it. Exit code 1: a fault was found.

    Where even this command does not start: python -m instruct_course.doctor
    """
    from instruct_course import doctor as doctor_

    facts = doctor_.examine(only, quiet=as_json)
    print(json.dumps(facts, ensure_ascii=False, indent=1) if as_json else doctor_.describe(facts))
    raise typer.Exit(doctor_.exit_code(facts))


def main():
    """The console script: exit code 0 done, 2 the user's input, 1 ours, 130 stopped by Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        app(standalone_mode=True)
    except ValueError as error:
        from instruct_course.common.errors import InputError

        if not isinstance(error, InputError):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
