"""Processes that start with the libraries imported: to be killed, fresh, or two that work together.

Importing torch, transformers and the rest takes ten seconds or more in each new Python.
"""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.execute import processes

# After so long a process is killed.
SECONDS = 240


def python(code: str, cwd: Path) -> subprocess.CompletedProcess:
    """Like `python -c CODE` in the folder `cwd`."""
    return _run(_execute, code, cwd, [{}])[0]


def instruct_course(*args: object, cwd: Path) -> subprocess.CompletedProcess:
    """Like the command `instruct-course ARGS` in the folder `cwd`."""
    return _run(_call_command, list(map(str, args)), cwd, [{}])[0]


def two_pythons(code: str, cwd: Path) -> list[subprocess.CompletedProcess]:
    """Like `torchrun --nproc_per_node 2` with a script that holds the code."""
    return _run(_execute, code, cwd, _two_ranks())


def two_instruct_courses(*args: object, cwd: Path) -> list[subprocess.CompletedProcess]:
    """Like `torchrun --nproc_per_node 2 -m instruct_course.cli ARGS`."""
    return _run(_call_command, list(map(str, args)), cwd, _two_ranks())


def _two_ranks() -> list[dict[str, str]]:
    """What torchrun sets in the environment of each of two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    same = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    same |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{"RANK": rank, "LOCAL_RANK": rank, **same} for rank in "01"]


def _run(work, argument, cwd: Path, environments: list[dict]) -> list[subprocess.CompletedProcess]:
    """Run `work(argument)` in a process per environment: exit codes (a signal < 0) and texts."""
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for i, environment in enumerate(environments):
            files = Path(folder) / f"stdout{i}", Path(folder) / f"stderr{i}"
            args = (work, argument, str(cwd), environment, *files)
            process = processes().Process(target=_child, args=args)
            process.start()
            running.append((process, files))
        done = []
        for process, files in running:
            process.join(SECONDS)
            # one that waits for the other's death waits for ever
            process.kill()
            process.join()
            texts = [file.read_text(encoding="utf-8") for file in files]
            done.append(subprocess.CompletedProcess(argument, process.exitcode, *texts))
    return done


def _child(work, argument, cwd: str, environment: dict, stdout: Path, stderr: Path) -> None:
    """Run in the new process, with its output in two files."""
    for path, stream in ((stdout, sys.stdout), (stderr, sys.stderr)):
        stream.flush()
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, stream.fileno())
        os.close(file)
    os.chdir(cwd)
    os.environ.update(environment)
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
