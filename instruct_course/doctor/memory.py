"""Memory that this process may still take."""

import os
import re
from pathlib import Path

from instruct_course.doctor.check import Check, ok

__all__ = ["LEAST", "check_memory", "free_memory"]

# Bytes of free memory: nano cannot be tuned with less than LEAST; it can with ENOUGH.
LEAST = 1e9
ENOUGH = 2e9
MENDS = {
    "the machine": "close other programs and other notebooks' kernels",
    "the container": "give the container more memory (docker run --memory 4g …)",
    "ulimit -v": "ulimit -v unlimited  # before Python or Jupyter starts",
}


def check_memory() -> Check:
    """Whether what is free is enough to tune nano."""
    limit, free = min(free_memory().items(), key=lambda item: item[1])
    found = f"{free / 1e9:.1f} GB free"
    if limit != "the machine":
        found += f", limited by {limit}"
    if free >= ENOUGH:
        return ok("memory", found)
    status = "fault" if free < LEAST else "warning"
    found += f"; tuning nano wants {ENOUGH / 1e9:.0f} GB"
    return Check("memory", status, found, MENDS[limit])


def free_memory() -> dict[str, float]:
    """Bytes that this process may still take, by what limits it.

    Returns:
        {"the machine": bytes}, with "the container" and "ulimit -v" where these limit it.
    """
    import psutil

    free = {"the machine": psutil.virtual_memory().available}
    try:
        free["the container"] = _free_in_container()
    except (OSError, ValueError):  # no such file, or "max"
        pass
    if os.name != "nt":
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            free["ulimit -v"] = limit - psutil.Process().memory_info().vms
    return free


def _free_in_container(folder: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that the control group still gives; raises OSError or ValueError where none limits."""

    def read(name):
        return (folder / name).read_text(encoding="utf-8")

    free = int(read("memory.max")) - int(read("memory.current"))
    # the system takes cached files back when memory runs short
    cached = re.findall(r"^(?:in)?active_file (\d+)", read("memory.stat"), re.M)
    return free + sum(map(int, cached))
