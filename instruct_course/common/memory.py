"""Memory of this process: how much it is, its peak, and a C library that gives it back."""

import ctypes
import threading
from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["anonymous", "Peak", "frugal_malloc"]
M_MMAP_THRESHOLD = -3  # glibc's number for the size from which a block is mapped on its own


def anonymous() -> int:
    """The memory that belongs to this process alone and to no file.

    Returns:
        Bytes: RssAnon on Linux, the resident set elsewhere.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024
    return psutil.Process().memory_info().rss


class Peak:
    """A thread that measures memory at short intervals; a context manager that ends with its block.

    Args:
        on: whether it measures; the attribute of this name switches it later.
        every: seconds between two measurements.

    Attributes:
        before: bytes of anonymous memory when it started.
        bytes: the most anonymous memory that it saw, in bytes.
        resident: the most memory of any kind, mapped files included, in bytes.
    """

    def __init__(self, on: bool = True, every: float = 0.01):
        self.on = on
        self.before = anonymous()
        self.bytes = self.before
        self.resident = 0
        self._process = psutil.Process()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(every,), daemon=True)
        self._thread.start()

    def _measure(self):
        self.bytes = max(self.bytes, anonymous())
        self.resident = max(self.resident, self._process.memory_info().rss)

    def _watch(self, every: float):
        while not self._over.wait(every):
            if self.on:
                self._measure()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._over.set()
        self._thread.join()
        if self.on:
            self._measure()


def frugal_malloc() -> None:
    """From now on blocks above 128 kB go back to the system as soon as they are freed.

    On Linux's C library only; elsewhere nothing happens. Without it glibc keeps freed blocks of
    up to 32 MB for later, and a process holds up to a third more than it uses (lesson 13).
    """
    with suppress(OSError, AttributeError):
        # 128 kB is where the threshold starts; once set, it does not rise any more
        ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, 1 << 17)
