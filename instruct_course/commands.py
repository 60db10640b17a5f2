"""Commands made from options: a configuration's fields become what the command line takes.

Nothing heavy is imported before a command runs.
"""

import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Annotated

import typer

from instruct_course.common.options import check_options, describe_range, flag, read_yaml

__all__ = ["command", "print_json"]


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


def command(
    app: typer.Typer,
    kind: type,
    *,
    name: str | None = None,
    json_help: str = "",
    yaml: bool = False,
):
    """A decorator: the function becomes a command whose options are the fields of `kind`.

    Args:
        app: the commands among which it is put.
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


def print_json(value: dict) -> None:
    """Print JSON, Chinese characters as they are."""
    print(json.dumps(value, ensure_ascii=False, indent=1))
