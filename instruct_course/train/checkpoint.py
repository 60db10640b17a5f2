"""The state of a training on disk: safetensors and JSON, whole or not at all, the newest ones kept."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import psutil
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from instruct_course.common.errors import InputError
from instruct_course.common.files import sha256

__all__ = ["save", "newest", "differences"]

STATE, TENSORS, VERSION = "state.json", "state.safetensors", 1
_NAME = re.compile(r"step-(\d{8,})(?:-(\d+))?")  # a second number: the same step, written once more
_SCRATCH = re.compile(
    r"\.step-.*-(\d+)-\w+"
)  # hidden; the number is that of the process at work in it


def _order(path: Path) -> tuple[int, int]:
    """(step, which writing of it) by the name of a checkpoint."""
    step, again = _NAME.fullmatch(path.name).groups()
    return int(step), int(again or 1)


def _all(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, newest first, whole or not."""
    return (
        sorted(
            (p for p in folder.iterdir() if _NAME.fullmatch(p.name) and p.is_dir()),
            key=_order,
            reverse=True,
        )
        if folder.is_dir()
        else []
    )


def _digest(state: dict) -> str:
    """sha256 of all of state.json but this very entry, so that a changed byte there is seen too."""
    return hashlib.sha256(
        json.dumps(
            {k: v for k, v in state.items() if k != "sha256"}, sort_keys=True, allow_nan=False
        ).encode()
    ).hexdigest()


def _look(path: Path) -> tuple[dict | None, str]:
    """(state.json, "") of a whole checkpoint; (None, what is wrong with it, as a part of a sentence) of any other."""
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        if state["version"] > VERSION:
            return None, "it was written by a newer version of instruct_course, so upgrade"
        if state["sha256"] != _digest(state) or state["step"] != _order(path)[0]:
            return None, f"its {STATE} was changed"
        size, there = state["tensors"]["bytes"], (path / TENSORS).stat().st_size
        if size != there:
            return None, f"its {TENSORS} has {there:,} bytes, not {size:,}"
        return (
            (state, "")
            if sha256(path / TENSORS) == state["tensors"]["sha256"]
            else (None, f"its {TENSORS} was changed")
        )
    except OSError as error:
        return None, f"its {Path(error.filename or path).name} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, f"its {STATE} is cut short or was changed"


def _sync(path: Path) -> None:
    """Have the disk confirm what was written; of a folder only where the system can."""
    with suppress(OSError) if path.is_dir() else nullcontext():
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _sweep(folder: Path) -> None:
    """Remove the scratch folders of processes that are no more."""
    for path in folder.iterdir():
        if (m := _SCRATCH.fullmatch(path.name)) and (
            int(m[1]) == os.getpid() or not psutil.pid_exists(int(m[1]))
        ):
            shutil.rmtree(path, ignore_errors=True)


def _thin(folder: Path, keep: int, new: Path) -> None:
    """Remove other writings of the step of `new`, and all that is older than the newest `keep` whole checkpoints, `new` among them."""
    kept = 1
    for path in (p for p in _all(folder) if p != new):
        if kept < keep and _order(path)[0] != _order(new)[0]:
            kept += _look(path)[0] is not None
        else:
            with suppress(
                OSError
            ):  # out of sight first: a kill in the middle leaves nothing that looks like a checkpoint
                gone = path.rename(path.with_name(f".{path.name}-{os.getpid()}-gone"))
                shutil.rmtree(gone, ignore_errors=True)


def save(
    folder: str | Path, step: int, tensors: dict[str, torch.Tensor], facts: dict, *, keep: int = 2
) -> Path:
    """Write folder/step-00000123/ with state.safetensors and state.json, whole or not at all; returns it. The newest `keep` whole ones stay.

    A step that is written once more gets -2 behind its name, and its first writing goes afterwards.
    tensors: any shapes, dtypes and devices. facts: plain JSON that comes back as it is. One process at a time writes into `folder`.
    Errors: InputError when it cannot be written, as on a full disk; it names the checkpoint before, which stays as it was.
    """
    folder, ready, seen = Path(folder), {}, set()
    try:
        if json.loads(json.dumps(facts, allow_nan=False)) != facts:
            raise ValueError("a tuple, or a key that is no text")
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the facts of the checkpoint of step {step} are not plain JSON ({error}); give finite numbers, texts, lists and dicts"
        ) from None
    for name, tensor in tensors.items():
        ready[name] = tensor.detach().cpu().contiguous()
        memory = ready[name].untyped_storage().data_ptr()
        ready[name] = (
            ready[name].clone() if memory in seen else ready[name]
        )  # safetensors refuses two names for one piece of memory
        seen.add(memory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        again = max((n for s, n in map(_order, _all(folder)) if s == step), default=0)
        new = folder / (
            f"step-{step:08d}" + (f"-{again + 1}" if again else "")
        )  # beside the old one, so that there is always one
        scratch = Path(tempfile.mkdtemp(prefix=f".{new.name}-{os.getpid()}-", dir=folder))
        try:
            save_file(ready, scratch / TENSORS)
            state = {
                "version": VERSION,
                "step": step,
                "facts": facts,
                "tensors": {
                    "bytes": (scratch / TENSORS).stat().st_size,
                    "sha256": sha256(scratch / TENSORS),
                },
            }
            text = json.dumps(state | {"sha256": _digest(state)}, ensure_ascii=False, indent=1)
            (scratch / STATE).write_text(text + "\n", encoding="utf-8")
            scratch.chmod(0o755)
            for path in (scratch / TENSORS, scratch / STATE, scratch):
                _sync(path)
            os.replace(scratch, new)
            _sync(folder)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or re.sub(
            r"^.*I/O error: | \(os error \d+\)$", "", str(error)
        )
        last = next((p for p in _all(folder) if _look(p)[0]), None)
        then = (
            f"the one before is still good: {last}; make room, then resume"
            if last
            else "there is none before it; make room or name another folder"
        )
        raise InputError(
            f"{folder}: the checkpoint of step {step} could not be written ({why}); {then}"
        ) from None
    _thin(folder, keep, new)
    return new


def newest(
    folder: str | Path, *, say: Callable[[str], None] | None = None
) -> tuple[int, dict[str, torch.Tensor], dict] | None:
    """(step, tensors, facts) of the newest whole checkpoint in `folder`, on the CPU; None when there is none at all.

    One that is cut short, changed, unreadable or of a newer version is passed over, and `say` gets a sentence about it.
    Errors: InputError when none is whole though there are some.
    """
    folder, faults = Path(folder), []
    for path in _all(folder):
        state, fault = _look(path)
        if state:  # copies: the file may be removed or replaced while they are in use
            try:
                return (
                    state["step"],
                    {k: t.clone() for k, t in load_file(path / TENSORS).items()},
                    state["facts"],
                )
            except (OSError, SafetensorError) as error:
                fault = f"its {TENSORS} cannot be read ({error})"
        faults.append(f"{path.name}: {fault}")
        if say:
            say(f"the checkpoint {path.name} is passed over: {fault}")
    if faults:
        raise InputError(
            f"{folder}: no checkpoint there is whole ({'; '.join(faults)}); copy a good one there, or begin again in another folder"
        )
    return None


def _shown(value) -> str:
    """`value` for a sentence, at most two dozen characters of it."""
    text = (
        value
        if isinstance(value, str) and value
        else "none"
        if value is None
        else json.dumps(value, ensure_ascii=False, default=str)
    )
    return text if len(text) <= 24 else text[:24] + "…"


def differences(was: dict, now: dict) -> list[str]:
    """What differs between two dicts of facts, in words such as "lr (0.001 there, 0.002 here)"; entries of dicts inside have dotted names."""
    out, nothing = [], object()
    for key in [*was, *(k for k in now if k not in was)]:
        there, here = was.get(key, nothing), now.get(key, nothing)
        if isinstance(there, dict) and isinstance(here, dict):
            out += [f"{key}.{text}" for text in differences(there, here)]
        elif (
            there is nothing
            or here is nothing
            or there != here
            or isinstance(there, bool) != isinstance(here, bool)
        ):
            a, b = ("nothing" if value is nothing else _shown(value) for value in (there, here))
            out.append(
                f"{key} ({a} there, {b} here)" if a != b else f"{key} (not the same there and here)"
            )
    return out
