"""Processes that start with the libraries imported, for tests that kill one or need a fresh one.

Importing torch, transformers and the rest takes ten seconds or more in each new Python.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.execute import processes


def python(code: str, cwd: Path) -> subprocess.CompletedProcess:
    """Like `python -c CODE` in the folder `cwd`."""
    return _run(_execute, code, cwd)


def instruct_course(*args: object, cwd: Path) -> subprocess.CompletedProcess:
    """Like the command `instruct-course ARGS` in the folder `cwd`."""
    return _run(_call_command, list(map(str, args)), cwd)


def _run(work, argument, cwd: Path) -> subprocess.CompletedProcess:
    """Run `work(argument)` in a process of its own: exit code (negative: a signal) and texts."""
    with tempfile.TemporaryDirectory() as folder:
        stdout = Path(folder) / "stdout"
        stderr = Path(folder) / "stderr"
        args = (work, argument, str(cwd), stdout, stderr)
        process = processes().Process(target=_child, args=args)
        process.start()
        process.join()
        texts = [path.read_text(encoding="utf-8") for path in (stdout, stderr)]
    return subprocess.CompletedProcess(argument, process.exitcode, *texts)


def _child(work, argument, cwd: str, stdout: Path, stderr: Path) -> None:
    """Run in the new process, with its output in two files."""
    for path, stream in ((stdout, sys.stdout), (stderr, sys.stderr)):
        stream.flush()
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, stream.fileno())
        os.close(file)
    os.chdir(cwd)
    work(argument)
    sys.stdout.flush()


def _execute(code: str) -> None:
    """Run a piece of code as a script."""
    exec(compile(code, "<test>", "exec"), {"__name__": "__main__"})


def _call_command(args: list[str]) -> None:
    """Run the command line."""
    from instruct_course import cli

    sys.argv = ["instruct-course", *args]
    cli.main()
