"""The command line: each command makes a configuration, calls one function and shows what it gives.

The options stand in `config.py`; nothing heavy is imported before a command runs.
"""

import sys
from functools import partial

import typer

from instruct_course import commands, reward_cli
from instruct_course import config as configs
from instruct_course.commands import print_json
from instruct_course.common.errors import InputError, OutOfMemory, TrainingDiverged

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: no option name is cut off, and it comes at once
    help="Instruction-tune a 4-bit language model, and understand every line of it.",
)
app.add_typer(reward_cli.app, name="reward")
command = partial(commands.command, app)


@app.callback()
def _common():
    pass


@command(configs.TuneConfig, json_help="print report.json and nothing else", yaml=True)
def tune(config: configs.TuneConfig, as_json: bool):
    """Tune a 4-bit base model on instructions, and show what changed."""
    from instruct_course import recipe
    from instruct_course.evaluate import show

    run = recipe.tune(config, quiet=as_json)
    if not run.report:  # one of several processes, and not the first
        return
    if as_json:
        print_json(run.report)
    else:
        show.print_run(run)
    if run.report["stopped"]:
        raise typer.Exit(130)


@command(configs.AuditConfig, json_help="print the report as JSON and nothing else")
def audit(config: configs.AuditConfig, as_json: bool):
    """Say before any training what will be supervised, and what is wrong with the rows.

    Exit code 2: training on these rows would be meaningless.
    """
    from instruct_course.data.audit import exit_code
    from instruct_course.data.audit_report import print_report, write_page, write_picture
    from instruct_course.preflight import audit as audit_rows

    report = audit_rows(config, quiet=as_json)
    if config.html:
        write_page(config.html, report)
    if config.picture:
        write_picture(config.picture, report)
    if as_json:
        print_json(report)
    else:
        print_report(report)
        for path in filter(None, (config.html, config.picture)):
            print(f"\nwritten to {path}")
    raise typer.Exit(exit_code(report))


@command(
    configs.EvalConfig,
    name="eval",
    json_help="print evaluation.json and nothing else",
    yaml=True,
)
def evaluate(config: configs.EvalConfig, as_json: bool):
    """Judge a tuned model on rows: scores with intervals, beside the base or another run."""
    from instruct_course.evaluate import report, show

    folder, made = report.evaluate(config, quiet=as_json)
    if as_json:
        print_json(made)
    else:
        show.print_evaluation(made, folder)


@command(configs.ChatConfig, json_help="print {instruction, input, output}")
def chat(config: configs.ChatConfig, as_json: bool):
    """Ask a tuned model: once with --prompt, or again and again."""
    from instruct_course.run import open_run

    if config.prompt is not None and not config.prompt.strip():
        raise InputError("--prompt: it is empty; write an instruction")
    run = open_run(config.run, allow_mismatch=config.allow_mismatch)
    if config.prompt is None:
        _converse(run, config.max_tokens)
        return
    said = run.answer(config.prompt, config.input, max_new_tokens=config.max_tokens)
    if as_json:
        print_json({"instruction": config.prompt, "input": config.input, "output": said})
    else:
        print(said)


def _converse(run, max_tokens: int) -> None:
    """Questions from the keyboard, each answered by itself, until an empty one."""
    run.ready()
    print(
        "Each question stands alone. Write an instruction, then its input (or nothing); "
        "an empty instruction ends.",
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
        for piece in run.stream(question, text, max_new_tokens=max_tokens):
            print(piece, end="", flush=True)
        print()


@command(configs.ServeConfig)
def serve(config: configs.ServeConfig):
    """Answer OpenAI's clients, and a chat page in the browser."""
    from instruct_course.deploy.serve.server import Limits, run_server

    run_server(
        config.run,
        host=config.host,
        port=config.port,
        api_key_env=config.api_key_env,
        origins=config.allow_origin or (),
        hosts=config.allow_host or (),
        allow_mismatch=config.allow_mismatch,
        limits=Limits(
            output_tokens=config.max_tokens,
            queue_size=config.queue,
            request_seconds=config.seconds,
        ),
        quiet=config.quiet,
    )


@command(configs.MergeConfig, json_help="print merge.json and nothing else")
def merge(config: configs.MergeConfig, as_json: bool):
    """Merge a run into one model for plain transformers, and say how far it is from the run."""
    from instruct_course.deploy import show
    from instruct_course.deploy.merge import merge as merge_run

    folder, made = merge_run(**vars(config), quiet=as_json)
    if as_json:
        print_json(made)
    else:
        show.print_merge(made, folder)


@command(configs.ExportConfig, json_help="print export.json and nothing else")
def export(config: configs.ExportConfig, as_json: bool):
    """Write a run for llama.cpp, Ollama, vLLM or PEFT, with a model card."""
    from instruct_course.deploy import export as exports
    from instruct_course.deploy import show

    options = dict(vars(config))
    push, yes = options.pop("push"), options.pop("yes")
    if push:
        exports.may_push(push, yes=yes)
    folder, made = exports.export(**options, quiet=as_json)
    if as_json:
        print_json(made)
    else:
        show.print_export(made, folder)
    if push:
        _push(exports, folder, made, push, yes)


def _push(exports, folder, made: dict, repository: str, yes: bool) -> None:
    """Upload an exported folder, after asking unless `yes`."""
    size = sum(f["bytes"] for f in made["files"].values())
    question = f"Upload {size / 1e6:,.1f} MB of {folder} to the private repository {repository}?"
    if yes or typer.confirm(question, err=True):
        print(f"uploaded to {exports.push(folder, repository)}", file=sys.stderr)
    else:
        print("not uploaded", file=sys.stderr)


@command(configs.PlanConfig, json_help="print JSON and nothing else")
def plan(config: configs.PlanConfig, as_json: bool):
    """Say before any download what a training needs: memory, time, cost, and what saves memory."""
    from instruct_course.defaults import plan_for

    made = plan_for(config)
    if as_json:
        print_json(made)
        return
    from rich.console import Console

    from instruct_course.plan.report import describe

    Console(highlight=False).print(describe(made))


@command(configs.RehearseConfig, json_help="print JSON and nothing else")
def rehearse(config: configs.RehearseConfig, as_json: bool):
    """Train random weights of the true shape for some steps: measured beside planned."""
    from instruct_course.defaults import setting_for
    from instruct_course.plan import rehearse as rehearsals
    from instruct_course.plan import shapes

    made = rehearsals.rehearse(
        config.model,
        setting_for(config),
        steps=config.steps,
        products=not config.memory_only,
        values=shapes.config(config.model),
        folder=config.folder,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    if as_json:
        print_json(made)
    else:
        print(rehearsals.describe(made))


@command(configs.DoctorConfig, json_help="print JSON")
def doctor(config: configs.DoctorConfig, as_json: bool):
    """Find what is broken in this environment, and say what mends it. Exit code 1: a fault.

    Where even this command does not start: python -m instruct_course.doctor
    """
    from instruct_course import doctor as doctors

    facts = doctors.examine(config.only, quiet=as_json)
    if as_json:
        print_json(facts)
    else:
        print(doctors.describe(facts))
    raise typer.Exit(doctors.exit_code(facts))


@command(configs.NotebooksConfig)
def notebooks(config: configs.NotebooksConfig):
    """Copy the notebooks of the course into a folder; copies that you changed stay as they are."""
    from instruct_course import notebooks as course

    print(course.describe(course.copy(config.dest), config.dest))


def main():
    """The console script.

    Exit codes: 0 done, 2 the user's input, 1 all other faults, 130 stopped by Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        app(standalone_mode=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (TrainingDiverged, OutOfMemory) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
