"""Files that appear whole or not at all, hashes, and where the package keeps its own."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from instruct_course.common.errors import InputError

__all__ = ["ASSETS", "sha256", "write_json", "write_lines", "whole"]
ASSETS = Path(__file__).parents[1] / "assets"


def sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_lines(path: Path, rows: Iterable[dict]) -> None:
    """Write a .jsonl file, one object a line; whole or not at all."""
    scratch = Path(path).with_name(f".{Path(path).name}.partial")
    with scratch.open("w", encoding="utf-8") as f:
        f.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
    scratch.replace(path)


def write_json(path: Path, value: dict):
    """JSON, whole or not at all."""
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    scratch.replace(path)


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """A scratch folder beside `out` that takes its name after the block; after an error nothing stays, nor do folders that were made above it.

    Errors: InputError when `out` exists or cannot be written.
    """
    if out.exists():
        raise InputError(f"--out {out}: this already exists; name another folder or remove it")
    missing, scratch = [p for p in out.parents if not p.exists()], None
    try:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        except OSError as error:
            raise InputError(
                f"--out {out}: it cannot be written there ({error.strerror}); name another place"
            ) from None
        yield scratch
        scratch.chmod(0o755)
        scratch.rename(out)
    except BaseException:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)
        for empty in missing:
            with suppress(OSError):  # it was never made, or somebody else uses it by now
                empty.rmdir()
        raise
