"""Checkpoints: a run's state as safetensors and JSON, whole or not at all, the newest kept."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from instruct_course.common.errors import InputError
from instruct_course.common.files import sha256, write_folder

__all__ = ["save", "newest", "differences", "checkpoints_in", "inspect"]

STATE = "state.json"
TENSORS = "state.safetensors"
VERSION = 1
# the second number: the same step, written once more
_NAME = re.compile(r"step-(\d{8,})(?:-(\d+))?")
# hidden; the number is that of the process at work in it
_SCRATCH = re.compile(r"\.step-.*-(\d+)-\w+")


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, newest first, whole or not."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())
    return sorted(found, key=_order, reverse=True)


def _order(path: Path) -> tuple[int, int]:
    """(step, which writing of it) by the name of a checkpoint."""
    step, writing = _NAME.fullmatch(path.name).groups()
    return int(step), int(writing or 1)


def inspect(path: Path) -> tuple[dict | None, str]:
    """Whether a checkpoint is whole: sizes and hashes.

    Args:
        path: its folder.

    Returns:
        (what state.json says, "") of a whole one; (None, what is wrong with it, as a part of a
        sentence) of any other.
    """
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        if state["version"] > VERSION:
            return None, "it was written by a newer version of instruct_course, so upgrade"
        if state["sha256"] != _digest(state) or state["step"] != _order(path)[0]:
            return None, f"its {STATE} was changed"
        expected = state["tensors"]["bytes"]
        size = (path / TENSORS).stat().st_size
        if size != expected:
            return None, f"its {TENSORS} has {size:,} bytes, not {expected:,}"
        if sha256(path / TENSORS) != state["tensors"]["sha256"]:
            return None, f"its {TENSORS} was changed"
        return state, ""
    except OSError as error:
        return None, f"its {Path(error.filename or path).name} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, f"its {STATE} is cut short or was changed"


def _digest(state: dict) -> str:
    """sha256 of all of state.json but this very entry, so that a changed byte is seen there too."""
    rest = {key: value for key, value in state.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, allow_nan=False).encode()).hexdigest()


def save(
    folder: str | Path, step: int, tensors: dict[str, torch.Tensor], facts: dict, *, keep: int = 2
) -> Path:
    """Write folder/step-00000123/ with state.safetensors and state.json, whole or not at all.

    A step that is written once more gets -2 behind its name, and its first writing goes
    afterwards. One process at a time writes into `folder`.

    Args:
        folder: where the checkpoints are; it is made if need be.
        step: the number of the step.
        tensors: by name; any shapes, dtypes and devices.
        facts: plain JSON that comes back as it is.
        keep: how many whole checkpoints stay, this one included.

    Returns:
        The checkpoint's folder.

    Raises:
        InputError: it cannot be written, as on a full disk; the sentence names the checkpoint
            before, which stays as it was.
    """
    folder = Path(folder)
    _check_plain_json(facts, step)
    ready = _ready_to_write(tensors)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        new = _free_name(folder, step)
        with write_folder(new, sync=True) as scratch:
            save_file(ready, scratch / TENSORS)
            (scratch / STATE).write_text(_state_text(step, facts, scratch), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise _not_written(folder, step, error) from None
    except InputError as error:  # write_folder's, where not even a scratch folder can be made
        raise _not_written(folder, step, error.__context__ or error) from None
    _remove_older(folder, keep, new)
    return new


def _check_plain_json(facts: dict, step: int) -> None:
    """Raise InputError where `facts` would not come back from JSON as they are."""
    try:
        if json.loads(json.dumps(facts, allow_nan=False)) != facts:
            raise ValueError("a tuple, or a key that is no text")
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the facts of the checkpoint of step {step} are not plain JSON ({error}); give "
            "finite numbers, texts, lists and dicts"
        ) from None


def _ready_to_write(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors on the CPU, each in memory of its own: safetensors refuses two names for one."""
    ready = {}
    seen = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        ready[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return ready


def _free_name(folder: Path, step: int) -> Path:
    """A new checkpoint's path, beside an old one of the same step, so that there is always one."""
    writings = [writing for s, writing in map(_order, checkpoints_in(folder)) if s == step]
    again = f"-{max(writings) + 1}" if writings else ""
    return folder / f"step-{step:08d}{again}"


def _state_text(step: int, facts: dict, folder: Path) -> str:
    """What stands in state.json, with sizes and hashes."""
    path = folder / TENSORS
    state = {
        "version": VERSION,
        "step": step,
        "facts": facts,
        "tensors": {"bytes": path.stat().st_size, "sha256": sha256(path)},
    }
    state["sha256"] = _digest(state)
    return json.dumps(state, ensure_ascii=False, indent=1) + "\n"


def _not_written(folder: Path, step: int, error: BaseException) -> InputError:
    """The error of a checkpoint that could not be written, with the one before it."""
    without_noise = re.sub(r"^.*I/O error: | \(os error \d+\)$", "", str(error))
    why = getattr(error, "strerror", None) or without_noise
    last = next((path for path in checkpoints_in(folder) if inspect(path)[0]), None)
    if last:
        then = f"the one before is still good: {last}; make room, then resume"
    else:
        then = "there is none before it; make room or name another folder"
    return InputError(
        f"{folder}: the checkpoint of step {step} could not be written ({why}); {then}"
    )


def _sweep(folder: Path) -> None:
    """Remove the scratch folders of processes that are no more."""
    for path in folder.iterdir():
        if not (name := _SCRATCH.fullmatch(path.name)):
            continue
        process = int(name[1])
        if process == os.getpid() or not psutil.pid_exists(process):
            shutil.rmtree(path, ignore_errors=True)


def _remove_older(folder: Path, keep: int, new: Path) -> None:
    """Remove other writings of the step of `new`, and what is older than the `keep` newest."""
    kept = 1
    for path in checkpoints_in(folder):
        if path == new:
            continue
        if kept < keep and _order(path)[0] != _order(new)[0]:
            kept += inspect(path)[0] is not None
            continue
        # out of sight first: a kill in the middle leaves nothing that looks like a checkpoint
        with suppress(OSError):
            gone = path.rename(path.with_name(f".{path.name}-{os.getpid()}-gone"))
            shutil.rmtree(gone, ignore_errors=True)


def newest(
    folder: str | Path, *, say: Callable[[str], None] | None = None
) -> tuple[int, dict[str, torch.Tensor], dict] | None:
    """The newest whole checkpoint in `folder`.

    Args:
        folder: where the checkpoints are.
        say: gets a sentence about each one that is passed over: it is cut short, changed,
            unreadable or of a newer version.

    Returns:
        (step, tensors on the CPU, facts), or None when there is no checkpoint at all.

    Raises:
        InputError: none is whole, though there are some.
    """
    folder = Path(folder)
    faults = []
    for path in checkpoints_in(folder):
        state, fault = inspect(path)
        if state:
            try:
                loaded = load_file(path / TENSORS)
                # copies: the file may be removed or replaced while they are in use
                tensors = {name: tensor.clone() for name, tensor in loaded.items()}
                return state["step"], tensors, state["facts"]
            except (OSError, SafetensorError) as error:
                fault = f"its {TENSORS} cannot be read ({error})"
        faults.append(f"{path.name}: {fault}")
        if say:
            say(f"the checkpoint {path.name} is passed over: {fault}")
    if faults:
        raise InputError(
            f"{folder}: no checkpoint there is whole ({'; '.join(faults)}); copy a good one "
            "there, or begin again in another folder"
        )
    return None


def _shown(value) -> str:
    """`value` for a sentence, at most two dozen characters of it."""
    if value is None:
        text = "none"
    elif isinstance(value, str) and value:
        text = value
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 24 else text[:24] + "…"


def differences(was: dict, now: dict) -> list[str]:
    """What differs between two dicts of facts.

    Args:
        was: the facts of a checkpoint.
        now: those of the run that wants to go on.

    Returns:
        Words such as "lr (0.001 there, 0.002 here)"; entries of dicts inside have dotted names.
    """
    found = []
    missing = object()
    for key in [*was, *(key for key in now if key not in was)]:
        there = was.get(key, missing)
        here = now.get(key, missing)
        if isinstance(there, dict) and isinstance(here, dict):
            found += [f"{key}.{text}" for text in differences(there, here)]
            continue
        same_kind = isinstance(there, bool) == isinstance(here, bool)
        if there is not missing and here is not missing and there == here and same_kind:
            continue
        a, b = ("nothing" if value is missing else _shown(value) for value in (there, here))
        words = f"{a} there, {b} here" if a != b else "not the same there and here"
        found.append(f"{key} ({words})")
    return found
