"""The commands that mend things, for the very Python and the very system that runs this."""

import os
import shutil
import sys
from pathlib import Path

from instruct_course.doctor.installed import (
    missing_requirements,
    module_name,
    origin,
    pythonpath_folder,
    required,
    version,
)

__all__ = [
    "pip_install",
    "reinstall",
    "restore_course",
    "set_variable",
    "unset_variable",
    "check_again",
    "culprit",
    "is_broken",
    "cure",
]
PACKAGE = Path(__file__).parents[1]


def pip_install(*words: str) -> str:
    """`pip install` for the Python that runs this, whatever `python` means in the shell."""
    python = sys.executable
    found = shutil.which("python")
    if found and _folder(found) == _folder(python):
        python = "python"
    elif " " in python:
        python = f'"{python}"'
    return " ".join([python, "-m", "pip", "install", *words])


def _folder(path: str) -> str:
    """The folder of a file, as an absolute path."""
    return os.path.dirname(os.path.abspath(path))


def reinstall(package: str) -> str:
    """The command that installs the same version once more; torch's builds have their own index."""
    at = version(package)
    local = (at or "").partition("+")[2]
    command = pip_install("--force-reinstall", "--no-deps", f'"{package}=={at}"' if at else package)
    if package == "torch" and local:
        return f"{command} with the index that pytorch.org names for {local}"
    return command


def restore_course() -> str:
    """How the course's own files come back: from git in a checkout, else by installing again."""
    root = PACKAGE.resolve().parent
    if (root / ".git").exists():
        return f'git -C "{root}" checkout -- instruct_course/assets'
    return f"{pip_install('--force-reinstall', '--no-deps', '.')}  # in the folder of the course"


def set_variable(variable: str, value: str) -> str:
    """The shell's command that sets an environment variable."""
    return f"$env:{variable} = '{value}'" if os.name == "nt" else f"export {variable}={value}"


def unset_variable(variable: str) -> str:
    """The shell's command that removes an environment variable."""
    return f"Remove-Item Env:{variable}" if os.name == "nt" else f"unset {variable}"


def check_again(name: str) -> str:
    """The command that makes one check again."""
    return f"instruct-course doctor --only {name}"


def culprit(error: BaseException, package: str) -> str:
    """The required package in whose files `error` arose, else `package`."""
    folders = {_place(o): n for n in {*required(), package} if (o := origin(n))}
    files = []
    trace = error.__traceback__
    while trace:
        files.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    for file in reversed(files):
        for folder, name in folders.items():
            if Path(file).is_relative_to(folder):
                return name
    return package


def _place(path: str) -> str:
    """The folder of a package's __init__ file, or a lone module's file itself."""
    return os.path.dirname(path) if os.path.basename(path).startswith("__init__.") else path


def is_broken(package: str) -> bool:
    """Whether a required package could not be imported, after something tried to."""
    return package in required() and module_name(package) not in sys.modules


def cure(error: BaseException, package: str) -> str:
    """What mends a package whose use ended in `error`."""
    missing = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    root = missing.partition(".")[0]
    if root in sys.stdlib_module_names:
        return (
            f"this Python was built without {root}: install Python from python.org or your "
            "system's packages, then make the environment again"
        )
    if root and root != module_name(package) and version(root) is None and origin(root) is None:
        return pip_install(*missing_requirements(package, root))
    if place := pythonpath_folder(origin(package)):
        unset = unset_variable("PYTHONPATH")
        return f"{unset}  # it puts the {package} of {place} before the installed one"
    guilty = culprit(error, package)
    if guilty != package:
        if is_broken(guilty):
            return f"mend {guilty} first: {check_again(guilty)}"
        # two that do not go together, or a file that is gone
        if package in required():
            return pip_install("--upgrade", package, guilty)
        return reinstall(guilty)
    if os.name == "nt" and ("DLL" in str(error) or getattr(error, "winerror", None) in (126, 1114)):
        return (
            "install Microsoft's Visual C++ Redistributable (x64); where that does not help, "
            + reinstall(package)
        )
    return reinstall(package)
