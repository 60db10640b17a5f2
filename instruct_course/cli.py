"""The command line: each command makes a configuration, calls one function and shows what it gives.

The options stand in `config.py`; nothing heavy is imported before a command runs.
"""

import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Annotated

import typer

from instruct_course import config as configs
from instruct_course.common.errors import InputError, OutOfMemory, TrainingDiverged
from instruct_course.common.options import check_options, describe_range, flag, read_yaml

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: no option name is cut off, and it comes at once
    help="Instruction-tune a 4-bit language model, and understand every line of it.",
)


@app.callback()
def _common():
    pass


def _parameter(declared) -> inspect.Parameter:
    """One field of a configuration as a parameter that typer reads."""
    help, default = declared.metadata["help"], declared.default
    if allowed := describe_range(declared):
        help = f"{help} ({allowed})"
    required = default is MISSING
    names = [flag(declared.name)]
    if declared.type in (bool, bool | None):
        names = [f"{flag(declared.name)}/--no-{flag(declared.name)[2:]}"]
    if declared.metadata["positional"]:
        made = typer.Argument(help=help)
    else:
        made = typer.Option(*names, help=help, show_default=default is not None)
    return inspect.Parameter(
        declared.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else default,
        annotation=Annotated[declared.type, made],
    )


def _extra(name: str, kind: type, default, help: str) -> inspect.Parameter:
    """A parameter of the command line alone, which is no field of a configuration."""
    made = typer.Option(flag(name), help=help, show_default=False)
    annotation = Annotated[kind, made]
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=annotation)


def _given(context: typer.Context, values: dict) -> dict:
    """The options that stand on the command line itself, not those that are defaults."""
    return {k: v for k, v in values.items() if context.get_parameter_source(k).name != "DEFAULT"}


def command(kind: type, *, name: str | None = None, json_help: str = "", yaml: bool = False):
    """A decorator: the function becomes a command whose options are the fields of `kind`.

    Args:
        kind: the configuration's dataclass; the function gets one, checked.
        name: the command's name; default: that of the function.
        json_help: help of `--json`; without it there is no such option. The function gets
            `as_json`.
        yaml: whether `--config FILE` gives options, which those on the command line override.
    """
    parameters = [_parameter(declared) for declared in fields(kind)]
    if yaml:
        help = "a YAML file with options, such as a run's run.yaml; those given here override it"
        parameters.append(_extra("config", str | None, None, help))
    if json_help:
        parameters.append(_extra("json", bool, False, json_help))
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters.append(inspect.Parameter("context", keyword, annotation=typer.Context))

    def decorate(function: Callable) -> Callable:
        def call(*, context: typer.Context, **values):
            file = values.pop("config", None) if yaml else None
            extra = {"as_json": values.pop("json")} if json_help else {}
            if file:
                values |= read_yaml(file, kind) | _given(context, values)
            made = kind(**values)
            check_options(made)
            try:
                function(made, **extra)
            except KeyboardInterrupt:
                print("stopped", file=sys.stderr)
                raise typer.Exit(130) from None

        call.__name__ = function.__name__
        call.__doc__ = function.__doc__
        call.__signature__ = inspect.Signature(parameters)
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        return app.command(name)(call)

    return decorate


def _print_json(value: dict) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1))


@command(configs.TuneConfig, json_help="print report.json and nothing else", yaml=True)
def tune(config: configs.TuneConfig, as_json: bool):
    """Tune a 4-bit base model on instructions, and show what changed."""
    from instruct_course import recipe
    from instruct_course.evaluate import show

    run = recipe.tune(config, quiet=as_json)
    if not run.report:  # one of several processes, and not the first
        return
    if as_json:
        _print_json(run.report)
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
        _print_json(report)
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
        _print_json(made)
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
        _print_json({"instruction": config.prompt, "input": config.input, "output": said})
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
        _print_json(made)
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
        _print_json(made)
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
        _print_json(made)
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
        _print_json(made)
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
        _print_json(facts)
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
