"""Memory of this process: how much it is, its peak, and a C library that gives it back."""

import ctypes
import threading
from pathlib import Path

import psutil

__all__ = ["anonymous", "Peak", "frugal_malloc"]


def anonymous() -> int:
    """Bytes of memory that belong to this process alone and to no file: RssAnon on Linux, the resident set elsewhere."""
    status = Path("/proc/self/status")
    if status.exists():
        return (
            next(
                int(l.split()[1])
                for l in status.read_text(encoding="utf-8").splitlines()
                if l.startswith("RssAnon")
            )
            * 1024
        )
    return psutil.Process().memory_info().rss


class Peak:
    """A thread that looks every so many seconds while it is `on`: `bytes` is the most of `anonymous` that it saw, `resident` the most of all memory, mapped files
    included; `before` is the anonymous memory when it started. As a context manager it ends with its block."""

    def __init__(self, on: bool = True, every: float = 0.01):
        self.before = self.bytes = anonymous()
        self.on, self.resident, self._process, self._over = (
            on,
            0,
            psutil.Process(),
            threading.Event(),
        )
        self._thread = threading.Thread(target=self._watch, args=(every,), daemon=True)
        self._thread.start()

    def _look(self):
        self.bytes, self.resident = (
            max(self.bytes, anonymous()),
            max(self.resident, self._process.memory_info().rss),
        )

    def _watch(self, every: float):
        while not self._over.wait(every):
            if self.on:
                self._look()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._over.set()
        self._thread.join()
        if self.on:
            self._look()


def frugal_malloc():
    """From now on blocks above 128 kB go back to the system as soon as they are freed. On Linux's C library only; elsewhere nothing happens.

    Otherwise glibc keeps freed blocks of up to 32 MB for later, and a process holds up to a third more than it uses (chapter 13).
    """
    try:
        ctypes.CDLL("libc.so.6").mallopt(
            -3, 1 << 17
        )  # M_MMAP_THRESHOLD, where it starts; said so, it stays there
    except (OSError, AttributeError):
        pass
