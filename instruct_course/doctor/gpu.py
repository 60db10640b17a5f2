"""The graphics card: seen by the driver, and usable by this build of torch?"""

import os
import re
import subprocess

from instruct_course.doctor.check import Check, fault, ok, warning
from instruct_course.doctor.memory import LEAST
from instruct_course.doctor.remedy import pip_install, unset_variable

__all__ = ["check_cuda", "judge_gpus", "is_built_for"]


def check_cuda() -> Check:
    """What the driver lists, and what torch can do with it."""
    import torch

    gpus = []
    error = ""
    try:
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            gpu = {
                "name": torch.cuda.get_device_name(i),
                "capability": torch.cuda.get_device_capability(i),
                "free": free,
                "total": total,
            }
            gpus.append(gpu)
    except RuntimeError as said:
        gpus = []
        error = str(said)
    return judge_gpus(
        driver=_listed_by_driver(),
        built=torch.version.cuda,
        gpus=gpus,
        arches=torch.cuda.get_arch_list() if torch.version.cuda else [],
        hidden=os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles"),
        error=error,
    )


def _listed_by_driver() -> list[str]:
    """The GPUs that nvidia-smi lists, with the driver's version; none where there is none."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if said.returncode != 0:
        return []
    return [line.replace(",", ", driver") for line in said.stdout.splitlines()]


def judge_gpus(
    *,
    driver: list[str],
    built: str | None,
    gpus: list[dict],
    arches: list[str],
    hidden: bool,
    error: str = "",
) -> Check:
    """The check, from its facts.

    Args:
        driver: GPUs that nvidia-smi lists.
        built: the CUDA version that torch is built for; None for the processor alone.
        gpus: those that torch sees, {name, capability, free, total}; memory in bytes.
        arches: what torch is built for, such as "sm_75" or "compute_90".
        hidden: whether CUDA_VISIBLE_DEVICES hides them all.
        error: what torch said when it was asked for its GPUs.
    """
    if not gpus:
        return _judge_none(driver, built, hidden, error)
    for gpu in gpus:
        if arches and not is_built_for(gpu["capability"], arches):
            return _judge_foreign(gpu, arches)
    found = ", ".join(
        f"{g['name']}: {g['free'] / 1e9:.1f} of {g['total'] / 1e9:.1f} GB free" for g in gpus
    )
    if built:
        found += f"; torch for CUDA {built}"
    if gpus[0]["free"] < LEAST:
        mend = (
            "see by nvidia-smi which programs hold the GPU's memory, and end them "
            "(a notebook: shut its kernel down)"
        )
        return warning("cuda", found, mend)
    return ok("cuda", found)


def _other_build() -> str:
    """How to get a build of torch that older drivers and older GPUs can use."""
    return (
        "install a build of torch for CUDA 12.6, which goes with drivers from 2022 on: "
        f"{pip_install('--force-reinstall', 'torch')} with the index that pytorch.org names for it"
    )


def _judge_none(driver: list[str], built: str | None, hidden: bool, error: str) -> Check:
    """The check where torch sees no GPU."""
    if not driver:
        found = "no NVIDIA GPU; nano and smollm2 run on the processor, 7b needs one"
        return ok("cuda", found)
    there = f"there is a {driver[0]}"
    if not built:
        found = f"{there}, and this torch is built for the processor alone"
        return warning("cuda", found, _other_build())
    if hidden:
        found = f"{there}, which CUDA_VISIBLE_DEVICES hides"
        return warning("cuda", found, unset_variable("CUDA_VISIBLE_DEVICES"))
    found = f"{there}, and this torch, built for CUDA {built}, cannot use it"
    if error:
        found += f": {error}"
    return fault("cuda", found, f"update the driver (nvidia.com/drivers), or {_other_build()}")


def _judge_foreign(gpu: dict, arches: list[str]) -> Check:
    """The check where torch is not built for a GPU."""
    newest = max(divmod(int(re.search(r"\d+", arch)[0]), 10) for arch in arches)
    has = ".".join(map(str, gpu["capability"]))
    found = (
        f"{gpu['name']} has compute capability {has}, "
        f"and this torch is built for {', '.join(arches)}"
    )
    newer = gpu["capability"] > newest
    return fault("cuda", found, pip_install("--upgrade", "torch") if newer else _other_build())


def is_built_for(capability: tuple[int, int], arches: list[str]) -> bool:
    """Whether code built for `arches` runs on a GPU.

    sm_ needs the same major and no later minor version, compute_ (PTX) any earlier one; a letter
    at the end (sm_90a) ties code to exactly that version.
    """
    for arch in arches:
        parts = re.match(r"(sm|compute)_(\d+)([a-z]?)", arch)
        if not parts:
            continue
        kind, number, exact = parts.groups()
        built = divmod(int(number), 10)
        if built == capability:
            return True
        same_major = kind == "compute" or built[0] == capability[0]
        if not exact and built <= capability and same_major:
            return True
    return False
