"""Files and folders that appear whole or not at all, their hashes, and the package's own files."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from instruct_course.common.errors import InputError

__all__ = ["ASSETS", "sha256", "write_file", "write_folder", "write_json", "write_lines"]
ASSETS = Path(__file__).parents[1] / "assets"


def sha256(path: str | Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def write_file(path: str | Path) -> Iterator[Path]:
    """A scratch file beside `path` that replaces it after the block, and goes after an error.

    Args:
        path: the file to write; its folder must exist.

    Yields:
        The path to write to instead.

    Raises:
        OSError: it cannot be written; `path` is as it was.
    """
    path = Path(path)
    scratch = path.with_name(f".{path.name}-{os.getpid()}.partial")
    try:
        yield scratch
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def write_json(path: str | Path, value: dict) -> None:
    """Write JSON in UTF-8, whole or not at all; raises OSError as `write_file` does."""
    text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    with write_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_lines(path: str | Path, rows: Iterable[dict]) -> None:
    """Write a .jsonl file, one object per line, whole or not at all."""
    with write_file(path) as scratch, scratch.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@contextmanager
def write_folder(out: str | Path, *, sync: bool = False, option: str = "--out ") -> Iterator[Path]:
    """A scratch folder beside `out` that takes its name after the block.

    After an error nothing stays, nor do folders above `out` that had to be made.

    Args:
        out: the folder to write; it must not exist, or be an empty folder.
        sync: have the disk confirm each file before the folder gets its name, so that not even a
            power cut leaves half of it.
        option: what stands before the path in error messages.

    Yields:
        The folder to write into instead.

    Raises:
        InputError: `out` exists already, or cannot be written there.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{option}{out}: this already exists; name another folder or remove it")
    missing = [p for p in out.parents if not p.exists()]
    scratch = None
    try:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-{os.getpid()}-", dir=out.parent))
        except OSError as error:
            why = error.strerror
            raise InputError(
                f"{option}{out}: it cannot be written there ({why}); name another place"
            ) from None
        yield scratch
        scratch.chmod(0o755)
        if sync:
            for path in (*sorted(scratch.rglob("*")), scratch):
                _sync(path)
        if out.exists():
            out.rmdir()  # it is empty
        os.replace(scratch, out)
        if sync:
            _sync(out.parent)
    except BaseException:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)
        for empty in missing:
            with suppress(OSError):  # it was never made, or somebody else uses it by now
                empty.rmdir()
        raise


def _sync(path: Path) -> None:
    """Have the disk confirm what was written; of a folder only where the system can."""
    with suppress(OSError) if path.is_dir() else nullcontext():
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
