"""The processor's threads: how they wait, how many there are, and what slows their products.

By hand: no notebook exports it. `import instruct_course` calls `sleep_at_barriers`, and whatever
loads a model calls `settle_threads`; nothing here imports torch before that.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

__all__ = [
    "fastest_threads",
    "flush_denormals",
    "product_rate",
    "settle_threads",
    "sleep_at_barriers",
]
SPINS = "1000"  # turns of an idle loop before a thread sleeps; libgomp's own default is 300,000
_settled = []  # the number of threads, once it is chosen in this process
CLEARLY = 1.25  # so much faster must fewer threads be to be taken
SHAPE = (512, 256, 256)  # rows, inputs and outputs of the product that is timed


def sleep_at_barriers() -> None:
    """Have OpenMP's threads sleep when they wait for each other, where they would spin.

    After each product the threads meet at a barrier. GNU's OpenMP (libgomp, torch's on Linux)
    lets those who wait run an idle loop, which on a busy machine takes the core that the last of
    them needs: with one competing program a product is ten times slower. The variable
    GOMP_SPINCOUNT is read when torch is imported; other systems and libraries do not know it.
    Whoever has set it, or OMP_WAIT_POLICY, is not overruled.
    """
    chosen = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys()
    if sys.platform.startswith("linux") and not chosen:
        os.environ["GOMP_SPINCOUNT"] = SPINS


def settle_threads(wanted: int | None = None) -> int:
    """Choose how many threads torch computes with, and start them so that they flush denormals.

    Args:
        wanted: threads, at most one per core; None: those of now, if a number has been chosen
            before, else what OMP_NUM_THREADS says, else what `fastest_threads` finds.

    Returns:
        The number of threads that compute from now on.
    """
    import torch

    if not _settled:
        with flush_denormals():
            torch.ones(1 << 20).mul_(1.0)  # large enough for all threads
    if wanted is not None:
        torch.set_num_threads(min(wanted, os.cpu_count() or 1))
    elif not (_settled or "OMP_NUM_THREADS" in os.environ or torch.cuda.is_available()):
        torch.set_num_threads(fastest_threads(torch.get_num_threads()))
    _settled[:] = [torch.get_num_threads()]
    return _settled[0]


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Inside, this thread, and those that it starts, take denormal numbers for zero.

    Below 1.2e-38 a float32 is denormal, and many processors handle each such number apart: a
    product of them was 180 times slower on a Xeon. Gradients of a model that is sure of its
    answers hold some (3 to 5 % in nano's backward pass), which made training 2 to 3 times slower.
    Outside of training this thread keeps them: other code may count on them.
    """
    import torch

    before = (torch.tensor([1e-39]) * 1.0).item() == 0
    torch.set_flush_denormal(True)  # False where the processor cannot; then nothing changes
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def fastest_threads(most: int) -> int:
    """The number of threads that multiplies fastest now: `most`, or a half, a quarter … of it.

    Fewer are taken only where they are clearly faster, such as in a container that may use few
    of the cores that it sees. Takes about a tenth of a second per number.
    """
    counts = []
    while most >= 1:
        counts.append(most)
        most //= 2
    if len(counts) < 2:
        return counts[0]
    rates = {count: product_rate(count) for count in counts}
    best = max(counts, key=rates.get)
    return best if rates[best] > CLEARLY * rates[counts[0]] else counts[0]


def product_rate(threads: int, *, rounds: int = 5, seconds: float = 0.02) -> float:
    """Billions of operations per second of a product of nano's size on so many threads.

    Args:
        threads: so many compute; torch's number is as before afterwards.
        rounds: the median of so many measurements.
        seconds: each takes at least so long.
    """
    import torch

    rows, inputs, outputs = SHAPE
    x = torch.ones(rows, inputs)
    W = torch.ones(inputs, outputs)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x @ W  # the threads start
        rates = []
        for _ in range(rounds):
            started = time.perf_counter()
            count = 0
            while (taken := time.perf_counter() - started) < seconds:
                x @ W
                count += 1
            rates.append(2 * rows * inputs * outputs * count / taken / 1e9)
    finally:
        torch.set_num_threads(before)
    return median(rates)
