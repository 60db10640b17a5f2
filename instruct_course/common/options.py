"""Options, each declared once: a field of a frozen dataclass with its name, type, default, help and
range. The command line, YAML files, checks and the page of options are made from these fields.
"""

from dataclasses import MISSING, Field, field, fields
from pathlib import Path

from instruct_course.common.errors import InputError
from instruct_course.common.files import write_file

__all__ = ["option", "flag", "check_options", "describe_range", "read_yaml", "write_yaml"]


def option(
    help: str,
    default=MISSING,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
    positional: bool = False,
) -> Field:
    """A field of a configuration.

    Args:
        help: what it does, for `--help` and the documentation.
        default: its value if nothing is said; without one the option is required. None means
            that the value is chosen for the model or the machine.
        at_least, above, at_most, below: the range of a number (None: no bound).
        choices: the texts that are allowed (empty: any).
        positional: on the command line it is an argument without a name.
    """
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    metadata = {"help": help, "bounds": bounds, "choices": choices, "positional": positional}
    return field(default=default, metadata=metadata)


def flag(name: str) -> str:
    """The command line's name of a field: `lora_r` is `--lora-r`."""
    return "--" + name.replace("_", "-")


def describe_range(declared: Field) -> str:
    """The range of an option in words, such as `at least 1 and below 10`; empty if none is set."""
    if choices := declared.metadata["choices"]:
        return "one of " + ", ".join(choices)
    said = [
        f"{name.replace('_', ' ')} {bound:g}"
        for name, bound in declared.metadata["bounds"].items()
        if bound is not None
    ]
    return " and ".join(said)


def _is_allowed(declared: Field, value) -> bool:
    """Whether `value` lies in the declared range."""
    if choices := declared.metadata["choices"]:
        return value in choices
    bounds = declared.metadata["bounds"]
    return (
        (bounds["at_least"] is None or value >= bounds["at_least"])
        and (bounds["above"] is None or value > bounds["above"])
        and (bounds["at_most"] is None or value <= bounds["at_most"])
        and (bounds["below"] is None or value < bounds["below"])
    )


def check_options(config) -> None:
    """Check every option of a configuration against its declared range; None always passes.

    Raises:
        InputError: the first option that is out of its range, by its name on the command line.
    """
    for declared in fields(config):
        value = getattr(config, declared.name)
        if value is not None and not _is_allowed(declared, value):
            raise InputError(
                f"{flag(declared.name)} {value}: it must be {describe_range(declared)}"
            )


def read_yaml(path: str | Path, kind: type) -> dict:
    """The options in a YAML file, as keywords for the configuration `kind`.

    Args:
        path: a mapping from names of options to values, and `version: 1`, which may be left out.
        kind: the dataclass whose fields are allowed.

    Raises:
        InputError: no such file, no YAML, an unknown key, or a value of another type.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"--config {path}: it cannot be read ({error.strerror}); check the path"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise InputError(f"--config {path}{line}: this is not YAML in UTF-8; mend it") from None
    if not isinstance(values, dict):
        raise InputError(f"--config {path}: it holds no options; write one per line, as lr: 0.001")
    version = values.pop("version", 1)
    if version != 1:
        raise InputError(
            f"--config {path}: version {version} is not known here; upgrade instruct_course"
        )
    known = {declared.name: declared for declared in fields(kind)}
    return {key: _typed(path, known, key, value) for key, value in values.items()}


def _typed(path, known: dict[str, Field], key, value):
    """`value` if it is of the type that the option `key` has."""
    if key not in known:
        import difflib

        near = difflib.get_close_matches(str(key), known, 1)
        mend = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise InputError(f"--config {path}: {key} is not an option; {mend}")
    kind = known[key].type
    if kind == list[str] | None:  # which isinstance does not take
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise InputError(f"--config {path}: {key} is {value!r}; it must be a list of texts")
        return value
    if isinstance(value, int) and not isinstance(value, bool) and isinstance(1.0, kind):
        value = float(value)
    elif isinstance(value, str) and isinstance(1.0, kind):  # YAML 1.1 reads 1e-3 as text
        try:
            value = float(value)
        except ValueError:
            pass
    wrong_bool = isinstance(value, bool) and not isinstance(True, kind)
    if not isinstance(value, kind) or wrong_bool or (isinstance(value, bool) and kind is int):
        name = getattr(kind, "__name__", str(kind)).replace(" | None", "")
        raise InputError(f"--config {path}: {key} is {value!r}; it must be of type {name}")
    return value


def write_yaml(
    path: str | Path, config, *, leave_out: tuple[str, ...] = (), head: str = ""
) -> None:
    """Write a configuration as YAML that `read_yaml` reads back, whole or not at all.

    Args:
        path: the file.
        config: a dataclass whose fields are text, numbers, booleans or None.
        leave_out: names of fields that are not written.
        head: a comment for the first lines.
    """
    import yaml

    values = {"version": 1}
    for declared in fields(config):
        value = getattr(config, declared.name)
        if declared.name in leave_out or value is None:
            continue
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if is_whole and isinstance(1.0, declared.type):  # epochs=2 and epochs=2.0 are one option
            value = float(value)
        values[declared.name] = value
    text = "".join(f"# {line}\n" for line in head.splitlines())
    text += yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    with write_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
