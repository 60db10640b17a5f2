"""What a measurement was made on, and how much memory it took."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

PACKAGES = (
    "instruct_course",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "datasets",
    "trl",
)
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OMP_WAIT_POLICY",
)  # set on a shared machine, and wrong on a quiet one


def environment(threads: int = 0) -> dict[str, str]:
    """The environment of a process that measures: so many threads (0: one a core), no telemetry."""
    few = (
        {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        if threads
        else {}
    )
    return (
        {k: v for k, v in os.environ.items() if k not in THREADS}
        | few
        | {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    )


def versions() -> dict[str, str]:
    """Of Python and the packages that take part."""
    out = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "not installed"
    return out


def cpu() -> dict:
    """Name, number of cores, what it multiplies natively, memory in GB, and how busy it was when this was asked."""
    import torch

    text = (
        Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    )

    def line(key):
        return next(
            (l.split(":", 1)[1].strip() for l in text.splitlines() if l.startswith(key)), ""
        )

    flags = [
        f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in line("flags").split()
    ]
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "name": line("model name") or platform.processor(),
        "cores": os.cpu_count(),
        "flags": flags,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "threads": torch.get_num_threads(),
        "load": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }
