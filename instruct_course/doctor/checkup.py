"""All checks, one after the other, in a process that a broken library may kill."""

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial

from instruct_course.doctor.check import Check, fault, without_secrets
from instruct_course.doctor.compute import check_bitsandbytes, check_formats, check_torch
from instruct_course.doctor.course import check_course, check_nano
from instruct_course.doctor.folders import check_cache, check_folder, check_hub_cache
from instruct_course.doctor.fonts import check_font
from instruct_course.doctor.gpu import check_cuda
from instruct_course.doctor.hub import check_hub
from instruct_course.doctor.installed import damaged_part, required
from instruct_course.doctor.memory import check_memory
from instruct_course.doctor.notebook import check_kernel, check_widgets
from instruct_course.doctor.packages import check_failed, check_package
from instruct_course.doctor.python import check_python
from instruct_course.doctor.remedy import check_again, reinstall
from instruct_course.doctor.text import check_encoding, check_output

__all__ = ["names", "examine", "exit_code", "serve_checks"]


def _all_checks() -> dict[str, Callable[[], Check]]:
    """{name: function that makes the check}, in the order in which they are told."""
    packages = {name: partial(check_package, name) for name in required()}
    more = {
        "torch": check_torch,
        "bitsandbytes": check_bitsandbytes,
        "ipywidgets": check_widgets,
    }
    packages |= {name: check for name, check in more.items() if name in packages}
    return {
        "python": check_python,
        "instruct_course": check_course,
        **packages,
        "computes": check_formats,
        "cuda": check_cuda,
        "memory": check_memory,
        "folder": check_folder,
        "cache": check_cache,
        "hub-cache": check_hub_cache,
        "hub": check_hub,
        "nano": check_nano,
        "font": check_font,
        "kernel": check_kernel,
        "output": check_output,
        "encoding": check_encoding,
    }


def names() -> list[str]:
    """What can be looked at."""
    return list(_all_checks())


def examine(only: list[str] | None = None, *, quiet: bool = True) -> dict:
    """Try everything here, in about 15 seconds.

    The one address that is asked is that of the hub, unless HF_HUB_OFFLINE is set.

    Args:
        only: names of the checks to make; all without.
        quiet: show no progress.

    Returns:
        {version, python, system, checks: [{name, status, found, mend}]}.

    Raises:
        InputError: an unknown name.
    """
    known = names()
    for name in only or ():
        if name not in known:
            from instruct_course.common.errors import InputError

            raise InputError(
                f"--only {name}: there is no such check; take one of {', '.join(known)}"
            )
    wanted = [name for name in known if not only or name in only]
    events = _events(wanted)
    if not quiet:
        events = _with_progress(events, len(wanted))
    return {
        "version": 1,
        "python": platform.python_version(),
        "system": platform.system(),
        "checks": [asdict(event) for event in events if isinstance(event, Check)],
    }


def exit_code(facts: dict) -> int:
    """1 where the facts of `examine` hold a fault, else 0."""
    return int(any(check["status"] == "fault" for check in facts["checks"]))


def _with_progress(events: Iterator[str | Check], total: int) -> Iterator[str | Check]:
    """Tell on stderr what is being looked at; by hand, as rich may be what is broken."""
    terminal = bool(sys.stderr and sys.stderr.isatty())

    def tell(text, end=""):
        print(text, end=end, file=sys.stderr, flush=True)

    if total > 4 and not terminal:
        tell("looking, for about 15 seconds", end="\n")
    done = 0
    for event in events:
        if isinstance(event, Check):
            done += 1
        elif terminal:
            tell(f"\r{f'looking at {event} ({done + 1} of {total})':60}")
        yield event
    if terminal:
        tell(f"\r{'':60}\r")


def _events(wanted: list[str]) -> Iterator[str | Check]:
    """Make the checks in another process, one by one.

    A library that kills Python is found so, and the checks after it go on in the next process.

    Yields:
        The name of a check before it is made, and its `Check` after it.
    """
    left = list(wanted)
    while left:
        under_way = None
        other_lines = []
        with _start_child(left) as child:
            for line in child.stderr:
                what, _, rest = line.rstrip("\n").partition(" ")
                if what == "look":
                    under_way = rest
                    yield under_way
                elif what == "seen":
                    under_way = None
                    yield Check(**json.loads(rest))
                    left.pop(0)
                else:
                    other_lines.append(line)
        if left:
            how = _how_it_ended(child.returncode)
            if under_way is None:
                said = "".join(other_lines)[-2000:]
                raise RuntimeError(f"Python cannot run the checks ({how}): {said}")
            yield _killed(under_way, how)
            left.pop(0)


def _start_child(wanted: list[str]) -> subprocess.Popen:
    """A Python like this one that runs `serve_checks(wanted)`."""
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from instruct_course.doctor.checkup import serve_checks; serve_checks({wanted!r})"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    )


def serve_checks(wanted: list[str]) -> None:
    """Make checks and tell the parent process through stderr, a line before and one after each.

    stdout stays untouched.
    """
    channel = os.fdopen(os.dup(2), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    # bitsandbytes would download with it (model.quantize.bitsandbytes says more); this process
    # does nothing else
    sys.modules["kernels"] = None
    for name in wanted:
        print(f"look {name}", file=channel, flush=True)
        print("seen " + json.dumps(asdict(_make(name))), file=channel, flush=True)


def _make(name: str) -> Check:
    """One check; one that fails itself is a fault that says so."""
    try:
        check = _all_checks()[name]()
    except (Exception, SystemExit) as error:
        check = check_failed(name, error, is_package=name in required())
    found = without_secrets(check.found)
    return Check(check.name, check.status, found, without_secrets(check.mend))


def _how_it_ended(returncode: int) -> str:
    """The signal or the exit code that a process ended with."""
    return signal.Signals(-returncode).name if returncode < 0 else f"exit code {returncode}"


def _killed(name: str, how: str) -> Check:
    """The fault that Python itself was ended during a check."""
    part = said = ""
    mend = f"free memory and mend the other faults, then look again: {check_again(name)}"
    if name in required():
        part, said = damaged_part(name)
        if how != "SIGKILL":
            mend = reinstall(part or name)
    found = f"Python itself was ended while it looked ({how})"
    return fault(name, f"{found}: {said}" if said else found, mend)
