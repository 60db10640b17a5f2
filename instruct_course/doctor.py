"""What this machine can do: versions, processor, memory, font; no network is touched."""
import os
import platform
from importlib.metadata import PackageNotFoundError, version

__all__ = ["examine", "describe"]
PACKAGES = ("torch", "transformers", "datasets", "peft", "bitsandbytes", "accelerate", "safetensors", "gguf", "matplotlib", "ipywidgets")


def examine() -> dict:
    """{versions, python, system, cores, gpus, dtype, hf_endpoint, offline, cache}: facts about this machine; bytes for sizes."""
    import torch
    from instruct_course.model import compute_dtype
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    gpus = [{"name": torch.cuda.get_device_name(i), "memory": torch.cuda.get_device_properties(i).total_memory} for i in range(torch.cuda.device_count())]
    return {"version": 1, "python": platform.python_version(), "system": platform.system(), "cores": os.cpu_count(), "versions": versions, "gpus": gpus,
            "dtype": str(compute_dtype("any")).removeprefix("torch."), "hf_endpoint": bool(os.environ.get("HF_ENDPOINT")),
            "offline": os.environ.get("HF_HUB_OFFLINE", "") in ("1", "true", "True")}


def describe(facts: dict) -> str:
    """The facts of `examine` as lines for a person, with what to do about what is missing."""
    missing = [n for n, v in facts["versions"].items() if v is None]
    gpus = ", ".join(f"{g['name']} ({g['memory'] / 2**30:.0f} GiB)" for g in facts["gpus"]) or "none; nano and smollm2 run on the processor"
    lines = [f"Python {facts['python']} on {facts['system']}, {facts['cores']} cores", f"GPU: {gpus}", f"computes in {facts['dtype']}",
             "  ".join(f"{n} {v}" for n, v in facts["versions"].items() if v),
             f"hub: {'offline' if facts['offline'] else 'a mirror (HF_ENDPOINT)' if facts['hf_endpoint'] else 'the default'}"]
    if missing:
        lines.append(f"missing: {', '.join(missing)}; run pip install {' '.join(missing)}")
    return "\n".join(lines)
