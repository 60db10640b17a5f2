"""What is installed here, as the packages' own metadata say."""

import os
import re
from functools import cache
from importlib import metadata, util
from pathlib import Path

__all__ = [
    "required",
    "version",
    "requirements",
    "module_name",
    "origin",
    "damaged_file",
    "damaged_part",
    "missing_requirements",
    "pythonpath_folder",
]


# Required packages that are not imported by their own name.
_MODULES = {"pyyaml": "yaml"}


def module_name(package: str) -> str:
    """The module that `package` is imported as, installed or not."""
    return _MODULES.get(package, package.replace("-", "_"))


def required() -> list[str]:
    """Names of the packages that the course asks for, without extras; none if not installed."""
    try:
        lines = metadata.requires("instruct_course") or ()
    except metadata.PackageNotFoundError:
        return []
    return [re.match(r"[\w.-]+", line)[0] for line in lines if "extra ==" not in line]


def version(package: str) -> str | None:
    """The installed version of a package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def requirements(package: str) -> list:
    """What an installed package asks for on this machine, without extras.

    Returns:
        A list of packaging's `Requirement`.
    """
    from packaging.requirements import Requirement

    asked = map(Requirement, metadata.requires(package) or ())
    return [r for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]


def origin(package: str) -> str | None:
    """The file that importing the package would read; None where there is none."""
    try:
        return getattr(util.find_spec(module_name(package)), "origin", None)
    except (ImportError, ValueError):
        return None


@cache
def damaged_file(package: str) -> str:
    """A compiled file of the package that is gone, or not as long as pip recorded it.

    Returns:
        "FILE is gone" or "FILE is cut short"; "" where all are whole.
    """
    files = metadata.files(package) if version(package) else None
    for file in files or ():
        if file.size and re.search(r"\.(so|pyd|dll|dylib)(\.\d+)*$", file.name):
            path = Path(file.locate())
            if not path.is_file():
                return f"{file} is gone"
            if path.stat().st_size != file.size:
                return f"{file} is cut short"
    return ""


def damaged_part(package: str) -> tuple[str, str]:
    """The first damaged one among a package and what it asks for.

    Returns:
        (package, what `damaged_file` says of it); ("", "") where all are whole.
    """
    if version(package):
        for part in (package, *(r.name for r in requirements(package))):
            if said := damaged_file(part):
                return part, said
    return "", ""


def missing_requirements(package: str, module: str) -> list[str]:
    """What pip must install so that `package` finds `module`.

    A module need not be named like its package: then these are all requirements below `package`
    that are not installed.

    Returns:
        Words for `pip install`, quoted; the module itself where nothing is known.
    """
    try:
        gone = _gone_below(package)
    except (ImportError, ValueError):
        # packaging itself is gone, or a package asks in words that it does not know
        gone = {}
    if module in gone:
        return [gone[module]]
    return list(gone.values()) or [f'"{module}"']


def _gone_below(package: str) -> dict[str, str]:
    """{module: quoted requirement} of all below `package` and the course that is not installed."""
    queue = [package, "instruct_course"]
    seen = set()
    gone = {}
    while queue:
        at = queue.pop(0)
        # torch's builds leave out what the system has
        for need in requirements(at) if at != "torch" and version(at) else ():
            if need.name in seen:
                continue
            seen.add(need.name)
            queue.append(need.name)
            if version(need.name) is None:
                gone[module_name(need.name)] = f'"{need.name}{need.specifier}"'
    return gone


def pythonpath_folder(*paths: str | None) -> str | None:
    """The folder of PYTHONPATH in which one of `paths` lies; None where none does."""
    for folder in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        for path in filter(None, paths):
            if Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)):
                return folder
    return None
