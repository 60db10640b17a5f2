"""A required package: is it here, new enough, whole, and does it import?"""

from importlib import import_module, metadata

from instruct_course.doctor.check import Check, fault, in_one_line, ok
from instruct_course.doctor.installed import (
    damaged_part,
    module_name,
    origin,
    pythonpath_folder,
    requirements,
    version,
)
from instruct_course.doctor.remedy import (
    check_again,
    culprit,
    cure,
    is_broken,
    pip_install,
    reinstall,
    unset_variable,
)

__all__ = ["check_package", "check_failed"]


def check_package(name: str) -> Check:
    """Whether a required package is here, new enough, imports, and has what it asks for itself.

    torch's own requirements are judged by computing, since its builds leave out what the system
    has.
    """
    from packaging.requirements import Requirement

    asked = map(Requirement, metadata.requires("instruct_course"))
    need = next(r for r in asked if r.name == name)
    at = version(name)
    if at is None:
        return fault(name, "it is not installed", pip_install(f'"{need}"'))
    if not _satisfies(at, need):
        return _too_old(need, at)
    try:
        module = _import(name)
    except (Exception, SystemExit) as error:
        return _import_failed(name, at, error)
    if not hasattr(module, "__path__"):
        file = module.__file__
        return fault(name, f"{file} is imported in its place", f"rename {file}")
    # the files of one installation may stand beside the metadata of another
    inside = getattr(module, "__version__", at)
    if not _satisfies(inside, need):
        return _too_old(need, inside)
    part, said = damaged_part(name)
    if part:
        return fault(name, f"{at} imports, and {said}", reinstall(part))
    return (_unmet(name, at) if name != "torch" else None) or ok(name, at)


def _satisfies(at: str, need) -> bool:
    """Whether version `at`, without its pre-release or local part, satisfies a requirement."""
    from packaging.version import Version

    return need.specifier.contains(Version(at).base_version)


def _import(name: str):
    """The module of a package, with what the course uses of it."""
    module = import_module(module_name(name))
    if name == "transformers":
        # the rest of it is imported when it is used
        for attribute in ("PreTrainedTokenizerFast", "PreTrainedModel"):
            getattr(module, attribute)
    return module


def _too_old(need, at: str) -> Check:
    """The fault that version `at` is not the one that is needed."""
    where = str(metadata.distribution(need.name).locate_file(""))
    place = pythonpath_folder(where, origin(need.name))
    mend = pip_install(f'"{need}"')
    if place:
        unset = unset_variable("PYTHONPATH")
        mend = f"{unset}  # it puts {place} before the installed packages"
    return fault(need.name, f"{at} is here, and {need.name}{need.specifier} is needed", mend)


def _import_failed(name: str, at: str, error: BaseException) -> Check:
    """The fault that importing a package ended in `error`."""
    guilty = culprit(error, name)
    found = f"{at} is installed, and importing it fails: {in_one_line(error)}"
    if guilty != name and is_broken(guilty):
        found = f"it cannot be used while {guilty} is broken"
    return fault(name, found, cure(error, name))


def _unmet(name: str, at: str) -> Check | None:
    """A fault where a package that it asks for is not here, a warning where it is another version.

    `pip check` would leave out which version of a missing package is wanted, and an environment
    made by uv holds no pip.
    """
    unmet = []
    for need in requirements(name):
        have = version(need.name)
        if have is None or not need.specifier.contains(have, prereleases=True):
            unmet.append((need, have))
    if not unmet:
        return None
    said = ", ".join(
        f"{need.name}{need.specifier} ({have or 'nothing'} is here)" for need, have in unmet
    )
    status = "fault" if any(have is None for _, have in unmet) else "warning"
    mend = pip_install(*(f'"{need.name}{need.specifier}"' for need, _ in unmet))
    return Check(name, status, f"{at} asks for {said}", mend)


def check_failed(name: str, error: BaseException, *, is_package: bool) -> Check:
    """The fault that a check itself ended in `error`.

    Args:
        name: the check's name.
        error: what it ended in.
        is_package: whether the check is that of a required package.
    """
    guilty = culprit(error, name)
    while_broken = ""
    if guilty != name and is_broken(guilty):
        while_broken = f" while {guilty} is broken"
    mend = f"mend the other faults first, then look again: {check_again(name)}"
    if is_package or guilty != name or isinstance(error, ModuleNotFoundError):
        mend = cure(error, name)
    return fault(name, f"this cannot be looked at{while_broken}: {in_one_line(error)}", mend)
