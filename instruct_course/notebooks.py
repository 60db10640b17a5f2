"""The notebooks of the course, as a copy that a learner writes in.

A checkout has them where they are written. A wheel carries the same files in `assets/course`, where
setup.py puts what `course_files` of settings.ini names.
"""

import importlib.util
import json
import shutil
from configparser import ConfigParser
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import instruct_course
from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS, sha256, write_file, write_folder, write_json

__all__ = ["MANIFEST", "Copied", "course_files", "copy", "describe"]

MANIFEST = ".instruct-course.json"
PACKED = ASSETS / "course"
CHECKOUT = ASSETS.parents[1]
NOT_OURS = (".ipynb_checkpoints", "__pycache__")


@dataclass
class Copied:
    """What `copy` did with each file, as paths below the folder.

    Attributes:
        written: files that were new there.
        updated: files of an older version, which nobody had changed.
        same: files that were there already.
        kept: files that differ from what was written there: the user's, and left as they are.
    """

    written: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def course_files() -> dict[str, Path]:
    """{path below the course's folder: file} of notebooks, their pictures and the pages they name.

    Raises:
        InputError: this installation has no notebooks.
    """
    if PACKED.is_dir():
        root = PACKED
        parts = [path.name for path in PACKED.iterdir()]
    else:
        root = CHECKOUT
        parser = ConfigParser()
        parser.read(CHECKOUT / "settings.ini", encoding="utf-8")
        parts = parser["DEFAULT"].get("course_files", "").split()
    files = [path for part in parts for path in (root / part, *(root / part).rglob("*"))]
    found = {
        path.relative_to(root).as_posix(): path
        for path in sorted(files)
        if path.is_file() and not set(path.parts) & set(NOT_OURS)
    }
    if not found:
        raise InputError(
            "the notebooks are missing from this installation; install the course again from its "
            "wheel or its checkout"
        )
    return found


def copy(dest: str | Path) -> Copied:
    """Copy the notebooks into a folder, with their pictures and the pages that they link to.

    A copy that differs from what was written there is the user's, and is never overwritten. What
    was written stands in `MANIFEST`, with the sha256 of each file.

    Args:
        dest: the folder; it is made where it is missing.

    Returns:
        What was done with each file.

    Raises:
        InputError: `dest` is a file or cannot be written; a folder that is new does not stay.
    """
    dest = Path(dest)
    if dest.exists() and not dest.is_dir():
        raise InputError(f"DEST {dest}: this is a file; name a folder")
    files = course_files()
    try:
        if dest.is_dir() and any(dest.iterdir()):
            return _copy_into(dest, files)
        with write_folder(dest, option="DEST ") as scratch:
            return _copy_into(scratch, files)
    except OSError as error:
        raise InputError(
            f"DEST {dest}: it cannot be written ({error.strerror or error}); make room or name "
            "another folder"
        ) from None


def _read_manifest(folder: Path) -> dict[str, str]:
    """{path: sha256} of what was written into a folder before."""
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): str(digest) for name, digest in made["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"DEST {path}: it cannot be read, so which copies were changed is not known; "
            "name another folder"
        ) from None


def _copy_into(folder: Path, files: dict[str, Path]) -> Copied:
    """Copy into a folder that exists, and record what was written even after an error."""
    recorded = _read_manifest(folder)
    copied = Copied()
    try:
        for name, source in files.items():
            digest = sha256(source)
            how = _fate(folder / name, digest, recorded.get(name))
            if how in ("written", "updated"):
                _copy_file(source, folder / name)
            if how != "kept":
                recorded[name] = digest
            getattr(copied, how).append(name)
    finally:
        version = instruct_course.__version__
        with suppress(OSError):
            write_json(folder / MANIFEST, {"version": version, "files": recorded})
    return copied


def _fate(target: Path, digest: str, written: str | None) -> str:
    """What happens to one file: the name of a field of `Copied`.

    Args:
        target: where it goes.
        digest: its sha256.
        written: that of the file which was written there before, if one was.
    """
    if not target.exists() and not target.is_symlink():
        return "written"
    if not target.is_file():
        return "kept"
    found = sha256(target)
    if found == digest:
        return "same"
    return "updated" if found == written and not target.is_symlink() else "kept"


def _copy_file(source: Path, target: Path) -> None:
    """Copy one file, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with write_file(target) as scratch:
        shutil.copyfile(source, scratch)


def describe(copied: Copied, dest: str | Path) -> str:
    """What was written, what was left, and how to start, in a few lines."""
    counts = {
        "written": copied.written,
        "brought up to date": copied.updated,
        "there already": copied.same,
    }
    done = [f"{len(names)} files {how}" for how, names in counts.items() if names]
    lines = [f"{dest}: {', '.join(done) or 'nothing written'}"]
    if copied.kept:
        lines.append(
            "left as they are, since they are not what was written there (to get the course's, "
            "move yours away and run this again):"
        )
        lines += [f"  {name}" for name in copied.kept]
    command = f'jupyter lab "{dest}"' if " " in str(dest) else f"jupyter lab {dest}"
    lines.append(f"start with: {command}    (the first lesson is nbs/00_why.ipynb)")
    if importlib.util.find_spec("jupyterlab") is None:
        lines.append("Jupyter is missing here: first run pip install jupyterlab ipykernel")
    return "\n".join(lines)
