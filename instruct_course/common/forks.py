"""Work that is shared out to forked processes, on Linux; elsewhere all of it is done here.

A forked process has all that this one has in memory already, so nothing is imported or sent there;
only what it returns is sent back.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

__all__ = ["MANY", "cores", "processes_for", "in_forks"]
MANY = 10_000  # rows per process from which sharing them pays
_MOST = 8
_TOKENIZERS = "TOKENIZERS_PARALLELISM"


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processes_for(rows: int) -> int:
    """How many processes should share so many rows; 1 where processes cannot be forked safely."""
    if sys.platform != "linux":
        return 1
    return max(1, min(cores(), rows // MANY, _MOST))


@contextmanager
def in_forks(work: Callable, parts: Sequence) -> Iterator[Callable[[], list]]:
    """Begin `work(part)` in a process per part; inside the block this process is free.

    Args:
        work: a function of a part, which touches neither threads nor a GPU. What it returns is
            pickled.
        parts: with none of them, no process is started.

    Yields:
        A function without arguments: waits, and gives what `work` returned, in the order of
        `parts`. The work of a process that was killed is done again here.
    """
    before = os.environ.get(_TOKENIZERS)
    if parts:
        os.environ[_TOKENIZERS] = "false"  # a core per process; its threads do not survive a fork
    started = [_start(work, part) for part in parts]

    def results() -> list:
        return [_result(receiver, work, part) for part, (_, receiver) in zip(parts, started)]

    try:
        yield results
    finally:
        for process, receiver in started:
            receiver.close()
            process.terminate()
            process.join()
        if parts and before is None:
            del os.environ[_TOKENIZERS]
        elif parts:
            os.environ[_TOKENIZERS] = before


def _start(work: Callable, part) -> tuple:
    """A process that works on `part`, and the connection that its result comes from."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, work, part), daemon=True)
    process.start()
    sender.close()
    return process, receiver


def _send(sender, work: Callable, part) -> None:
    """In the new process: do the work and send what comes of it, or the exception."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the first one ends us
    try:
        sender.send((True, work(part)))
    except Exception as error:  # it is raised where the result is asked for
        sender.send((False, error))


def _result(receiver, work: Callable, part):
    """What a process sent."""
    try:
        fine, made = receiver.recv()
    except EOFError:
        return work(part)
    if not fine:
        raise made
    return made
