"""Folders that the course writes to: the current one, its own cache and that of the hub."""

import errno
import os
import shutil
import sys
import tempfile
from pathlib import Path

from instruct_course.doctor.check import Check, fault, ok, warning
from instruct_course.doctor.installed import module_name, required
from instruct_course.doctor.remedy import set_variable

__all__ = ["check_folder", "check_cache", "check_hub_cache"]

# Bytes on disk of Qwen2.5-7B as the hub gives it, and of its 4-bit form that is kept.
DOWNLOADED = 15.2e9
FOUR_BIT = 5.5e9


def check_folder() -> Check:
    """The current folder: runs are written to it, and modules in it come first in a notebook."""
    here = os.getcwd()
    shadows = {*sys.stdlib_module_names, *map(module_name, required())}
    taken = sorted(p.name for p in Path().iterdir() if p.stem in shadows and _is_module(p))
    if taken:
        said = ", ".join(taken)
        found = (
            f"{here} holds {said}, which notebooks in it import instead of the package of that name"
        )
        return fault("folder", found, f"rename {said}")
    try:
        _try_to_write(Path.cwd())
    except OSError as error:
        found = f"{here} takes no files: {error.strerror or error}"
        return fault("folder", found, "cd to a folder where you may write; runs are kept in it")
    return ok("folder", here)


def _is_module(path: Path) -> bool:
    """Whether Python would import a file or folder."""
    return path.suffix == ".py" or (path / "__init__.py").is_file()


def check_cache() -> Check:
    """The course's own cache; where it lies is what model.hub says, which needs torch."""
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    default = Path(home or Path.home() / ".cache") / "instruct_course"
    variable = "INSTRUCT_COURSE_CACHE"
    folder = Path(os.environ.get(variable) or default)
    return _check_room("cache", folder, variable, FOUR_BIT, kept="nf4/*")


def check_hub_cache() -> Check:
    """The cache of the hub's library."""
    from huggingface_hub import constants

    kept = "models--Qwen--Qwen2.5-7B/snapshots/*"
    return _check_room("hub-cache", Path(constants.HF_HUB_CACHE), "HF_HOME", DOWNLOADED, kept=kept)


def _check_room(name: str, folder: Path, variable: str, need: float, *, kept: str) -> Check:
    """Whether `folder`, which `variable` can move, takes files, and `need` bytes for the 7B model.

    kept: the pattern below the folder that shows that the 7B model lies there already.
    """
    move = (
        f"{set_variable(variable, 'FOLDER')}  # a folder on a disk with room, where you may write"
    )
    folder = Path(os.path.abspath(folder.expanduser()))
    try:
        _try_to_write(folder)
    except OSError as error:
        first = {
            errno.ENOTDIR: f"rename {error.filename}, or ",
            errno.ENOSPC: "make room on the disk, or ",
            errno.EFBIG: "ulimit -f unlimited, or ",
        }
        found = f"{folder} takes no files: {error.strerror or error}"
        return fault(name, found, first.get(error.errno, "") + move)
    place = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(place).free
    found = f"{folder}: {free / 1e9:.1f} GB free"
    if free < need and not any(folder.glob(kept)):
        return warning(name, f"{found}, and the 7B model takes {need / 1e9:.1f} GB there", move)
    return ok(name, found)


def _try_to_write(folder: Path) -> None:
    """Write 1 MiB into `folder`, or the nearest one above that exists, and take it away again."""
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        said = "a file stands where a folder should be"
        raise NotADirectoryError(errno.ENOTDIR, said, str(folder))
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(1 << 20))
        file.flush()
        os.fsync(file.fileno())
