"""What is broken in this environment, and what mends it: every check tries the thing itself. It starts with Python alone: python -m instruct_course.doctor"""

import errno
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module, metadata, util
from pathlib import Path

__all__ = ["Check", "examine", "describe", "code", "names", "main"]
SHARDS, FOUR_BIT = (
    15.2e9,
    5.5e9,
)  # bytes on disk of Qwen2.5-7B as the hub gives it, and of its 4-bit form that is kept
LEAST, ENOUGH = (
    1e9,
    2e9,
)  # bytes of free memory: nano cannot be tuned with less; it can with so much
WAIT = 3.0  # seconds that the hub has to answer


@dataclass(frozen=True)
class Check:
    """One thing that was tried. status: 'ok', 'warning' (slower, or a part cannot be used) or 'fault' (the course fails there).

    found: what was seen; mend: the command or sentence that mends it, empty where all is well.
    """

    name: str
    status: str
    found: str
    mend: str = ""


# ---- the words of a mend
def _pip(*words: str) -> str:
    """`pip install` for the very Python that runs this, whatever `python` means in the shell."""
    found, folder = shutil.which("python"), lambda p: os.path.dirname(os.path.abspath(p))
    python = (
        "python"
        if found and folder(found) == folder(sys.executable)
        else f'"{sys.executable}"'
        if " " in sys.executable
        else sys.executable
    )
    return " ".join([python, "-m", "pip", "install", *words])


def _set(variable: str, value: str) -> str:
    return f"$env:{variable} = '{value}'" if os.name == "nt" else f"export {variable}={value}"


def _unset(variable: str) -> str:
    return f"Remove-Item Env:{variable}" if os.name == "nt" else f"unset {variable}"


def _doctor(name: str) -> str:
    return f"instruct-course doctor --only {name}"


def _told(error: BaseException) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".rstrip(": ")


def _clean(text: str) -> str:
    """`text` on one line, without tokens and without what stands before the @ of an address."""
    for secret in filter(None, (os.environ.get(v) for v in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"))):
        text = text.replace(secret, "…")
    text = re.sub(
        r"//[^/\s]*@", "//", re.sub(r"\bhf_\w+", "hf_…", re.sub(r"\s*\n\s*", " ", text.strip()))
    )
    return text if len(text) <= 400 else text[:399] + "…"


# ---- packages
def _module(name: str) -> str:
    return name.replace("-", "_")


def _packages() -> list[str]:
    """Names of the packages that the course's own metadata asks for, without extras; none where it is not installed."""
    try:
        return [
            re.match(r"[\w.-]+", line)[0]
            for line in metadata.requires("instruct_course") or ()
            if "extra ==" not in line
        ]
    except metadata.PackageNotFoundError:
        return []


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _needs(name: str) -> list:
    """What an installed package asks for, without extras: packaging's Requirements."""
    from packaging.requirements import Requirement

    return [
        r
        for r in map(Requirement, metadata.requires(name) or ())
        if r.marker is None or r.marker.evaluate({"extra": ""})
    ]


@cache
def _cut(name: str) -> str:
    """A compiled file of the package that is gone, or not as long as pip wrote down when it installed it; empty where all are whole."""
    for file in (metadata.files(name) if _version(name) else None) or ():
        if file.size and re.search(r"\.(so|pyd|dll|dylib)(\.\d+)*$", file.name):
            path = Path(file.locate())
            if not path.is_file() or path.stat().st_size != file.size:
                return f"{file} is {'cut short' if path.is_file() else 'gone'}"
    return ""


def _cut_of(name: str) -> tuple[str, str]:
    """(package, its file that `_cut` finds) among `name` and what it asks for; ('', '') where all are whole."""
    return (
        next(
            (
                (part, said)
                for part in (name, *(r.name for r in _needs(name)))
                if (said := _cut(part))
            ),
            ("", ""),
        )
        if _version(name)
        else ("", "")
    )


def _absent(name: str, module: str) -> list[str]:
    """What pip must install for `name` to find `module`: the requirements below it that are not here, for a module need not be named like its package."""
    queue, seen, gone = [name, "instruct_course"], set(), {}
    try:
        while queue:
            at = queue.pop(0)
            for need in (
                _needs(at) if at != "torch" and _version(at) else ()
            ):  # torch's builds leave out what the system has
                if need.name not in seen:
                    seen.add(need.name)
                    queue.append(need.name)
                    gone |= (
                        {_module(need.name): f'"{need.name}{need.specifier}"'}
                        if _version(need.name) is None
                        else {}
                    )
    except (
        ImportError,
        ValueError,
    ):  # packaging itself is gone, or a package asks in words that it does not know
        gone = {}
    return [gone[module]] if module in gone else list(gone.values()) or [f'"{module}"']


def _again(name: str) -> str:
    """The command that installs the same version once more; torch's builds come from torch's own index."""
    version = _version(name)
    local = (version or "").partition("+")[2]
    index = (
        f" with the index that pytorch.org names for {local}" if name == "torch" and local else ""
    )
    return (
        _pip("--force-reinstall", "--no-deps", f'"{name}=={version}"' if version else name) + index
    )


def _pythonpath(*paths: str) -> str | None:
    """The folder of PYTHONPATH in which one of `paths` lies."""
    inside = lambda path, folder: Path(os.path.abspath(path)).is_relative_to(
        os.path.abspath(folder)
    )
    return next(
        (
            f
            for f in os.environ.get("PYTHONPATH", "").split(os.pathsep)
            if f and any(inside(p, f) for p in paths if p)
        ),
        None,
    )


def _origin(name: str) -> str | None:
    """The file that `import name` would read."""
    try:
        return getattr(util.find_spec(_module(name)), "origin", None)
    except (ImportError, ValueError):
        return None


def _culprit(error: BaseException, name: str) -> str:
    """The required package in whose files `error` arose, else `name`."""
    own = lambda origin: (
        os.path.dirname(origin) if os.path.basename(origin).startswith("__init__.") else origin
    )  # a folder, or a lone file
    folders, files, trace = (
        {own(o): n for n in {*_packages(), name} if (o := _origin(n))},
        [],
        error.__traceback__,
    )
    while trace:
        files.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    return next(
        (
            n
            for file in reversed(files)
            for folder, n in folders.items()
            if Path(file).is_relative_to(folder)
        ),
        name,
    )


def _broken(name: str) -> bool:
    """Whether package `name` could not be imported, after something tried to."""
    return name in _packages() and _module(name) not in sys.modules


def _cure(error: BaseException, name: str) -> str:
    """What mends package `name`, whose use ended in `error`."""
    missing = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    root = missing.partition(".")[0]
    if root in sys.stdlib_module_names:
        return f"this Python was built without {root}: install Python from python.org or your system's packages, then make the environment again"
    if root and root != _module(name) and _version(root) is None and _origin(root) is None:
        return _pip(*_absent(name, root))
    if place := _pythonpath(_origin(name)):
        return f"{_unset('PYTHONPATH')}  # it puts the {name} of {place} before the installed one"
    guilty = _culprit(error, name)
    if guilty != name:
        if _broken(guilty):
            return f"mend {guilty} first: {_doctor(guilty)}"
        return (
            _pip("--upgrade", name, guilty) if name in _packages() else _again(guilty)
        )  # two that do not go together, or a file that is gone
    if os.name == "nt" and ("DLL" in str(error) or getattr(error, "winerror", None) in (126, 1114)):
        return f"install Microsoft's Visual C++ Redistributable (x64); where that does not help, {_again(name)}"
    return _again(name)


def _package(name: str) -> Check:
    """Whether a required package is here, new enough, imports, and has what it asks for itself (torch's own requirements are judged by computing)."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    need = next(r for r in map(Requirement, metadata.requires("instruct_course")) if r.name == name)
    version = _version(name)
    if version is None:
        return Check(name, "fault", "it is not installed", _pip(f'"{need}"'))
    new_enough = lambda v: need.specifier.contains(Version(v).base_version)

    def old(v: str) -> Check:
        place = _pythonpath(str(metadata.distribution(name).locate_file("")), _origin(name))
        mend = (
            f"{_unset('PYTHONPATH')}  # it puts {place} before the installed packages"
            if place
            else _pip(f'"{need}"')
        )
        return Check(name, "fault", f"{v} is here, and {name}{need.specifier} is needed", mend)

    if not new_enough(version):
        return old(version)
    try:
        module = import_module(_module(name))
        if name == "transformers":  # the rest of it is imported when it is used
            module.PreTrainedTokenizerFast, module.PreTrainedModel
    except (Exception, SystemExit) as error:
        guilty = _culprit(error, name)
        other = guilty != name and _broken(guilty)
        found = (
            f"it cannot be used while {guilty} is broken"
            if other
            else f"{version} is installed, and importing it fails: {_told(error)}"
        )
        return Check(name, "fault", found, _cure(error, name))
    if not hasattr(module, "__path__"):
        return Check(
            name,
            "fault",
            f"{module.__file__} is imported in its place",
            f"rename {module.__file__}",
        )
    if not new_enough(
        code := getattr(module, "__version__", version)
    ):  # the files of one installation, the version of another
        return old(code)
    part, said = _cut_of(name)
    if part:
        return Check(name, "fault", f"{version} imports, and {said}", _again(part))
    unmet = [
        (r, have)
        for r in _needs(name)
        for have in [_version(r.name)]
        if have is None or not r.specifier.contains(have, prereleases=True)
    ]
    if unmet and name != "torch":  # torch's builds leave out what the system has
        said = ", ".join(
            f"{r.name}{r.specifier} ({have or 'nothing'} is here)" for r, have in unmet
        )
        status = "fault" if any(have is None for _, have in unmet) else "warning"
        return Check(
            name,
            status,
            f"{version} asks for {said}",
            _pip(*(f'"{r.name}{r.specifier}"' for r, _ in unmet)),
        )
    return Check(name, "ok", version)


def _torch() -> Check:
    """The package, and a product with its gradient."""
    check = _package("torch")
    if check.status != "fault":
        import torch

        x = torch.arange(6.0).view(2, 3).requires_grad_()
        product = x @ x.T
        product.sum().backward()
        if product.tolist() != [[5, 14], [14, 50]] or x.grad.tolist() != [[6, 10, 14]] * 2:
            return Check(
                "torch",
                "fault",
                f"{check.found} multiplies wrongly: {product.tolist()}",
                _again("torch"),
            )
    return check


def _bitsandbytes() -> Check:
    """The package, its native library, and one step of QLoRA: the gradients of an adapter on 4-bit weights are those on the weights that they stand for."""
    check = _package("bitsandbytes")
    if check.status == "fault":
        return check
    import bitsandbytes
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        bitsandbytes.cextension.get_native_library()
    except Exception as error:  # the package imports without it, and goes on slowly where it can
        return Check(
            "bitsandbytes",
            "fault",
            f"{check.found} imports, and its native library does not load: {_told(error)}",
            _cure(error, "bitsandbytes"),
        )
    draw = torch.Generator().manual_seed(0)
    weight, *step = [
        torch.randn(shape, generator=draw)
        for shape in ((48, 64), (5, 64), (4, 64), (48, 4), (5, 48))
    ]  # W, x, A, B, target
    layer = bitsandbytes.nn.Linear4bit(
        64, 48, bias=False, compute_dtype=torch.float32, quant_type="nf4", compress_statistics=True
    )
    layer.weight = bitsandbytes.nn.Params4bit(
        weight.clone(), requires_grad=False, quant_type="nf4", compress_statistics=True
    )
    layer = layer.to(device)
    dense = bitsandbytes.functional.dequantize_4bit(
        layer.weight.data, layer.weight.quant_state
    ).float()
    error = ((dense.cpu() - weight).abs().max() / weight.abs().max()).item()

    def gradients(base):
        x, a, b = (t.clone().to(device).requires_grad_() for t in step[:3])
        (base(x) + x @ a.T @ b.T - step[3].to(device)).square().mean().backward()
        return [t.grad for t in (x, a, b)]

    pairs = list(zip(gradients(layer), gradients(lambda x: x @ dense.T)))
    off = max(((g - h).norm() / h.norm()).item() for g, h in pairs)
    if not (
        error < 0.16 and off < 1e-3
    ):  # half the widest gap of NF4 is 0.152 of the largest weight; written so that NaN fails too
        wrong = f"weights off by {error:.2g}, gradients by {off:.2g}"
        return Check(
            "bitsandbytes",
            "fault",
            f"{check.found}: a 4-bit step on the {device} goes wrong ({wrong})",
            _again("bitsandbytes"),
        )
    return Check(
        "bitsandbytes",
        check.status,
        f"{check.found}; a 4-bit step on the {device} is right",
        check.mend,
    )


def _ipywidgets() -> Check:
    """The package, and the part of it that runs in the browser."""
    check = _package("ipywidgets")
    if check.status == "ok":
        from jupyter_core.paths import jupyter_path

        parts = {
            "jupyterlab_widgets": (
                "labextensions",
                "@jupyter-widgets",
                "jupyterlab-manager",
                "package.json",
            ),
            "widgetsnbextension": ("nbextensions", "jupyter-js-widgets", "extension.js"),
        }
        gone = [
            name
            for name, path in parts.items()
            if not any(Path(folder, *path[1:]).exists() for folder in jupyter_path(path[0]))
        ]
        if gone:
            found = f"{check.found}, without the files of {' and '.join(gone)} for the browser: sliders stay text where Jupyter runs from here"
            return Check(
                "ipywidgets", "warning", found, _pip("--force-reinstall", "--no-deps", *gone)
            )
    return check


# ---- the machine
def _python() -> Check:
    from packaging.specifiers import SpecifierSet

    need = metadata.metadata("instruct_course")["Requires-Python"] or ""
    if not SpecifierSet(need).contains(platform.python_version(), prereleases=True):
        return Check(
            "python",
            "fault",
            f"{platform.python_version()}, and {need} is needed",
            "install a newer Python from python.org, and make the environment with it: python3 -m venv .venv",
        )
    if sys.maxsize < 2**32:
        return Check(
            "python",
            "fault",
            f"{platform.python_version()} for 32 bits, for which there is no torch",
            "install the 64-bit Python from python.org",
        )
    return Check(
        "python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    )


def _computes() -> Check:
    import torch

    from instruct_course.model.load import compute_dtype

    said = {name: str(compute_dtype(name)).removeprefix("torch.") for name in ("nano", "7b")}
    threads, cores = (
        torch.get_num_threads(),
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    )
    found = (
        f"nano in {said['nano']}, larger models in {said['7b']}; {threads} threads on {cores} cores"
    )
    if threads > cores:
        return Check(
            "computes",
            "warning",
            found,
            f"{_set('OMP_NUM_THREADS', str(cores))}  # more threads than cores wait for each other",
        )
    return Check("computes", "ok", found)


def _runs_on(capability: tuple[int, int], arches: list[str]) -> bool:
    """Whether code built for `arches` runs on a GPU: sm_ needs the same major and no later minor version, compute_ (PTX) any earlier one."""
    for kind, number, exact in (
        re.match(r"(sm|compute)_(\d+)([a-z]?)", a).groups()
        for a in arches
        if re.match(r"(sm|compute)_\d", a)
    ):
        built = divmod(int(number), 10)
        if (
            built == capability
            or not exact
            and built <= capability
            and (kind == "compute" or built[0] == capability[0])
        ):
            return True
    return False


def _judge_gpu(
    *,
    driver: list[str],
    built: str | None,
    gpus: list[dict],
    arches: list[str],
    hidden: bool,
    error: str = "",
) -> Check:
    """driver: GPUs that nvidia-smi lists; built: torch's CUDA version; gpus: those that torch sees, {name, capability, free, total} (bytes)."""
    cuda_build = f"install a build of torch for CUDA 12.6, which goes with drivers from 2022 on: {_pip('--force-reinstall', 'torch')} with the index that pytorch.org names for it"
    if not gpus:
        if not driver:
            return Check(
                "cuda", "ok", "no NVIDIA GPU; nano and smollm2 run on the processor, 7b needs one"
            )
        if not built:
            return Check(
                "cuda",
                "warning",
                f"there is a {driver[0]}, and this torch is built for the processor alone",
                cuda_build,
            )
        if hidden:
            return Check(
                "cuda",
                "warning",
                f"there is a {driver[0]}, which CUDA_VISIBLE_DEVICES hides",
                _unset("CUDA_VISIBLE_DEVICES"),
            )
        return Check(
            "cuda",
            "fault",
            f"there is a {driver[0]}, and this torch, built for CUDA {built}, cannot use it{': ' + error if error else ''}",
            f"update the driver (nvidia.com/drivers), or {cuda_build}",
        )
    for gpu in gpus:
        if arches and not _runs_on(gpu["capability"], arches):
            newer = gpu["capability"] > max(
                divmod(int(re.search(r"\d+", a)[0]), 10) for a in arches
            )
            has = ".".join(map(str, gpu["capability"]))
            return Check(
                "cuda",
                "fault",
                f"{gpu['name']} has compute capability {has}, and this torch is built for {', '.join(arches)}",
                _pip("--upgrade", "torch") if newer else cuda_build,
            )
    found = ", ".join(
        f"{g['name']}: {g['free'] / 1e9:.1f} of {g['total'] / 1e9:.1f} GB free" for g in gpus
    ) + f"; torch for CUDA {built}" * bool(built)
    if gpus[0]["free"] < LEAST:
        return Check(
            "cuda",
            "warning",
            found,
            "see by nvidia-smi which programs hold the GPU's memory, and end them (a notebook: shut its kernel down)",
        )
    return Check("cuda", "ok", found)


def _cuda() -> Check:
    import torch

    try:
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
        )
        driver = (
            [line.replace(",", ", driver") for line in said.stdout.splitlines()]
            if said.returncode == 0
            else []
        )
    except (OSError, subprocess.TimeoutExpired):
        driver = []
    gpus, error = [], ""
    try:
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            gpus.append(
                {
                    "name": torch.cuda.get_device_name(i),
                    "capability": torch.cuda.get_device_capability(i),
                    "free": free,
                    "total": total,
                }
            )
    except RuntimeError as e:
        gpus, error = [], str(e)
    return _judge_gpu(
        driver=driver,
        built=torch.version.cuda,
        gpus=gpus,
        arches=torch.cuda.get_arch_list() if torch.version.cuda else [],
        hidden=os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles"),
        error=error,
    )


def _free_memory() -> dict[str, float]:
    """Bytes that this process may still take, by what limits it: the machine, a container, or `ulimit -v`."""
    import psutil

    free = {"the machine": psutil.virtual_memory().available}
    try:
        read = lambda file: Path("/sys/fs/cgroup", file).read_text(encoding="utf-8")
        cached = re.search(
            r"^inactive_file (\d+)", read("memory.stat"), re.M
        )  # the system takes it back when memory runs short
        free["the container"] = (
            int(read("memory.max"))
            - int(read("memory.current"))
            + (int(cached[1]) if cached else 0)
        )
    except (OSError, ValueError):  # no such file, or "max"
        pass
    if os.name != "nt":
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            free["ulimit -v"] = limit - psutil.Process().memory_info().vms
    return free


def _memory() -> Check:
    what, free = min(_free_memory().items(), key=lambda item: item[1])
    found = f"{free / 1e9:.1f} GB free" + ("" if what == "the machine" else f", limited by {what}")
    if free >= ENOUGH:
        return Check("memory", "ok", found)
    mend = {
        "the machine": "close other programs and other notebooks' kernels",
        "the container": "give the container more memory (docker run --memory 4g …)",
        "ulimit -v": "ulimit -v unlimited  # before Python or Jupyter starts",
    }[what]
    return Check(
        "memory",
        "fault" if free < LEAST else "warning",
        f"{found}; tuning nano wants {ENOUGH / 1e9:.0f} GB",
        mend,
    )


# ---- folders
def _try_to_write(folder: Path) -> None:
    """Write 1 MiB into `folder`, or the nearest one above that exists, and take it away again. Errors: OSError."""
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(
            errno.ENOTDIR, "a file stands where a folder should be", str(folder)
        )
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(1 << 20))
        file.flush()
        os.fsync(file.fileno())


def _room(name: str, folder: Path, variable: str, need: float) -> Check:
    """Whether `folder`, which `variable` can move, takes files, and `need` bytes for the 7B model."""
    move = f"{_set(variable, 'FOLDER')}  # a folder on a disk with room, where you may write"
    folder = Path(os.path.abspath(folder.expanduser()))
    try:
        _try_to_write(folder)
    except OSError as error:
        first = {
            errno.ENOTDIR: f"rename {error.filename}, or ",
            errno.ENOSPC: "make room on the disk, or ",
            errno.EFBIG: "ulimit -f unlimited, or ",
        }
        return Check(
            name,
            "fault",
            f"{folder} takes no files: {error.strerror or error}",
            first.get(error.errno, "") + move,
        )
    place = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(place).free
    if free < need and not any(
        folder.glob("models--Qwen--Qwen2.5-7B/snapshots/*" if name == "hub-cache" else "nf4/*")
    ):
        return Check(
            name,
            "warning",
            f"{folder}: {free / 1e9:.1f} GB free, and the 7B model takes {need / 1e9:.1f} GB there",
            move,
        )
    return Check(name, "ok", f"{folder}: {free / 1e9:.1f} GB free")


def _cache() -> Check:
    home = (
        os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    )  # as model.cache_folder, which needs torch
    return _room(
        "cache",
        Path(os.environ.get("INSTRUCT_COURSE_CACHE") or Path(home) / "instruct_course"),
        "INSTRUCT_COURSE_CACHE",
        FOUR_BIT,
    )


def _hub_cache() -> Check:
    from huggingface_hub import constants

    return _room("hub-cache", Path(constants.HF_HUB_CACHE), "HF_HOME", SHARDS)


def _folder() -> Check:
    """The current folder: run directories are written there, and files there that are named like packages come first in a notebook."""
    taken = sorted(
        p.name
        for p in Path().iterdir()
        if (p.suffix == ".py" or (p / "__init__.py").is_file())
        and (p.stem in sys.stdlib_module_names or p.stem in map(_module, _packages()))
    )
    if taken:
        said = ", ".join(taken)
        return Check(
            "folder",
            "fault",
            f"{os.getcwd()} holds {said}, which notebooks in it import instead of the package of that name",
            f"rename {said}",
        )
    try:
        _try_to_write(Path.cwd())
    except OSError as error:
        return Check(
            "folder",
            "fault",
            f"{os.getcwd()} takes no files: {error.strerror or error}",
            "cd to a folder where you may write; runs are kept in it",
        )
    return Check("folder", "ok", os.getcwd())


# ---- the hub
def _asked(address: str) -> Exception | None:
    """What goes wrong when `address` is asked for its headers; None where it answers."""
    import threading
    import urllib.error
    import urllib.request

    said = [TimeoutError("no answer")]

    def ask():
        try:
            urllib.request.urlopen(
                urllib.request.Request(address, method="HEAD"), timeout=WAIT
            ).close()
            said[0] = None
        except urllib.error.HTTPError as error:
            said[0] = (
                error if error.code in (407, 502, 503, 504) else None
            )  # words of a proxy, or of a hub that is down
        except Exception as error:  # the system's, those of HTTP and of TLS
            said[0] = getattr(error, "reason", error)

    thread = threading.Thread(
        target=ask, daemon=True
    )  # looking up a name has no time limit of its own
    thread.start()
    thread.join(WAIT + 1)
    return said[0]


def _hub() -> Check:
    """Where models come from; the address is shown without what may be secret in it, and of a token only whether there is one."""
    import urllib.request
    from urllib.parse import urlsplit

    from huggingface_hub import constants

    given, has = os.environ.get("HF_ENDPOINT", ""), os.environ.get
    token = (
        "a token is set"
        if has("HF_TOKEN")
        or has("HUGGING_FACE_HUB_TOKEN")
        or Path(constants.HF_TOKEN_PATH).is_file()
        else "no token is set"
    )
    mirror = _set("HF_ENDPOINT", "https://ADDRESS-OF-A-MIRROR")
    try:
        parts = urlsplit(given or "https://huggingface.co")
        shown = f"{parts.scheme}://{parts.hostname}" + f":{parts.port}" * bool(parts.port)
        if parts.scheme not in ("http", "https") or not re.fullmatch(
            r"[\w.-]+|[0-9a-f:.]+", parts.hostname or ""
        ):
            raise ValueError
    except ValueError:
        return Check(
            "hub",
            "fault",
            "HF_ENDPOINT is no address of the form https://name",
            f"{mirror}, or {_unset('HF_ENDPOINT')}",
        )
    if constants.HF_HUB_OFFLINE:
        variable = "HF_HUB_OFFLINE" if has("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"
        if any(Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*")):
            return Check(
                "hub", "ok", f"offline ({variable}); models of the cache can be used; {token}"
            )
        return Check(
            "hub",
            "warning",
            f"offline ({variable}), and no model is in the cache: only nano, smollm2 and local folders can be used",
            f"{_unset(variable)}  # to download another model",
        )
    error = _asked(shown)
    if error is None:
        return Check("hub", "ok", f"{shown} answers; {token}")
    said = f"does not answer ({type(error).__name__})"
    if urllib.request.getproxies().get(parts.scheme) and not urllib.request.proxy_bypass(
        parts.hostname
    ):
        proxy = (
            " ".join(v for v in os.environ if v.lower() == f"{parts.scheme}_proxy")
            or "the system's settings"
        )
        return Check(
            "hub",
            "fault",
            f"{shown} {said} through the proxy of {proxy}",
            f"start the proxy, correct {proxy}, or {_unset(proxy)}",
        )
    if given:
        return Check(
            "hub",
            "fault",
            f"{shown}, which HF_ENDPOINT names, {said}",
            f"{mirror}, or {_unset('HF_ENDPOINT')}",
        )
    return Check(
        "hub",
        "warning",
        f"{shown} {said}; nano needs no network",
        f"{mirror}, or {_set('HF_HUB_OFFLINE', '1')}",
    )


# ---- the course's own files
def _restore() -> str:
    """How the course's own files come back: from git in a checkout, else by installing it again."""
    root = Path(__file__).resolve().parents[1]
    if (root / ".git").exists():
        return f'git -C "{root}" checkout -- instruct_course/assets'
    return f"{_pip('--force-reinstall', '--no-deps', '.')}  # in the folder of the course"


def _course() -> Check:
    """Whether the course is installed, and its files are those that were installed (by the hashes that pip keeps)."""
    import base64
    import hashlib

    try:
        installed = metadata.distribution("instruct_course")
    except metadata.PackageNotFoundError:
        return Check(
            "instruct_course",
            "fault",
            "it is not installed, so what it needs is not known",
            f"{_pip('.')}  # in the folder of the course",
        )
    package, bad = Path(__file__).parent, []
    for file in installed.files or ():
        path = Path(installed.locate_file(file))
        if file.hash and package in path.parents:
            whole = (
                path.is_file()
                and base64.urlsafe_b64encode(
                    hashlib.new(file.hash.mode, path.read_bytes()).digest()
                )
                .decode()
                .rstrip("=")
                == file.hash.value
            )
            bad += [] if whole else [file.name]
    if bad:
        return Check(
            "instruct_course",
            "fault",
            f"{len(bad)} of its files are not those that were installed: {', '.join(bad[:5])}",
            _restore(),
        )
    return Check("instruct_course", "ok", installed.version)


def _nano() -> Check:
    """The built-in model: its weights have the hash that stands beside them, and its tokenizer and configuration fit each other."""
    import hashlib

    folder = Path(__file__).parent / "assets" / "nano"
    try:
        kept = re.search(
            r"weights, sha256 \| `(\w{64})`", (folder / "README.md").read_text(encoding="utf-8")
        )[1]
        if hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() != kept:
            return Check(
                "nano",
                "fault",
                "its model.safetensors is damaged: the hash is not that of its README.md",
                _restore(),
            )
        config, tokens = (
            json.loads((folder / name).read_text(encoding="utf-8"))
            for name in ("config.json", "tokenizer.json")
        )
        if (
            len(tokens["model"]["vocab"])
            + sum(t["content"] not in tokens["model"]["vocab"] for t in tokens["added_tokens"])
            != config["vocab_size"]
        ):
            return Check(
                "nano",
                "fault",
                "its tokenizer.json and config.json do not fit each other",
                _restore(),
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Check("nano", "fault", f"its files cannot be read: {_told(error)}", _restore())
    return Check("nano", "ok", "the built-in model is whole")


def _font() -> Check:
    """A picture with Chinese in it, drawn as the chapters draw."""
    import io
    import warnings

    from instruct_course.common.files import ASSETS
    from instruct_course.common.plots import chinese_plots

    if not any((ASSETS / "fonts").glob("*.ttf")):
        return Check("font", "fault", "the course's font for Chinese is gone", _restore())
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    try:
        chinese_plots()
    except (OSError, RuntimeError) as error:
        if not Path(getattr(error, "filename", None) or ASSETS).is_relative_to(
            ASSETS
        ):  # a file of matplotlib's own
            raise
        return Check(
            "font", "fault", f"matplotlib cannot read the course's font: {error}", _restore()
        )
    fig = Figure((2, 1))
    fig.text(0.1, 0.5, "指令 instruction")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        FigureCanvasAgg(fig).print_png(io.BytesIO())
    gone = [str(w.message) for w in said if "missing from" in str(w.message)]
    return (
        Check("font", "fault", f"Chinese is drawn as boxes: {gone[0]}", _restore())
        if gone
        else Check("font", "ok", "matplotlib draws Chinese")
    )


# ---- notebooks and text
def _kernel() -> Check:
    """Whether Jupyter can run the chapters with this Python."""
    if _version("ipykernel") is None:
        return Check(
            "kernel",
            "warning",
            "ipykernel is not installed, so no notebook runs here",
            _pip("ipykernel", "jupyterlab"),
        )
    try:
        import ipykernel.kernelapp  # noqa: F401
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

        argv = KernelSpecManager().get_kernel_spec("python3").argv
    except NoSuchKernel:
        argv = [sys.executable]
    except Exception as error:
        return Check(
            "kernel",
            "fault",
            f"ipykernel does not start: {_told(error)}",
            _cure(error, "ipykernel"),
        )
    where = lambda path: os.path.dirname(os.path.abspath(path))
    if os.path.isabs(argv[0]) and where(argv[0]) != where(sys.executable):
        return Check(
            "kernel",
            "warning",
            f"the kernel named Python 3 is {argv[0]}, and not this Python",
            f"{sys.executable} -m ipykernel install --user --name instruct-course, then choose that kernel",
        )
    return Check("kernel", "ok", f"ipykernel {_version('ipykernel')}")


def _speaks(encoding: str | None) -> bool:
    try:
        return bool("指令 ✓".encode(encoding or "utf-8"))
    except (UnicodeError, LookupError):
        return False


def _output() -> Check:
    """What Python writes in to where this command writes; the course's own commands write UTF-8 regardless."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if _speaks(encoding):
        return Check("output", "ok", encoding)
    return Check(
        "output",
        "warning",
        f"print() writes {encoding}, in which there is no Chinese, and fails with UnicodeEncodeError in your own scripts",
        _unset("PYTHONIOENCODING")
        if os.environ.get("PYTHONIOENCODING")
        else _set("PYTHONUTF8", "1"),
    )


def _encoding() -> Check:
    """What files' names and texts are in where nobody says; the course itself always says UTF-8."""
    import locale

    found = {
        "names of files": sys.getfilesystemencoding(),
        "open() without encoding=": locale.getpreferredencoding(False),
    }
    bad = [f"{what} use {encoding}" for what, encoding in found.items() if not _speaks(encoding)]
    if bad:
        return Check(
            "encoding",
            "warning",
            f"{'; '.join(bad)}, in which there is no Chinese",
            _set("PYTHONUTF8", "1"),
        )
    return Check("encoding", "ok", ", ".join(dict.fromkeys(e.lower() for e in found.values())))


# ---- all of them
def _checks() -> dict:
    """{name: function that gives a Check}, in the order in which they are told."""
    own = {"torch": _torch, "bitsandbytes": _bitsandbytes, "ipywidgets": _ipywidgets}
    packages = {name: own.get(name) or (lambda name=name: _package(name)) for name in _packages()}
    return {
        "python": _python,
        "instruct_course": _course,
        **packages,
        "computes": _computes,
        "cuda": _cuda,
        "memory": _memory,
        "folder": _folder,
        "cache": _cache,
        "hub-cache": _hub_cache,
        "hub": _hub,
        "nano": _nano,
        "font": _font,
        "kernel": _kernel,
        "output": _output,
        "encoding": _encoding,
    }


def names() -> list[str]:
    """What can be looked at."""
    return list(_checks())


def _check(name: str) -> Check:
    """One check; one that fails itself is a fault that says so."""
    try:
        check = _checks()[name]()
    except (Exception, SystemExit) as error:
        guilty = _culprit(error, name)
        known = name in _packages() or guilty != name or isinstance(error, ModuleNotFoundError)
        found = f"this cannot be looked at{f' while {guilty} is broken' if guilty != name and _broken(guilty) else ''}: {_told(error)}"
        check = Check(
            name,
            "fault",
            found,
            _cure(error, name)
            if known
            else f"mend the other faults first, then look again: {_doctor(name)}",
        )
    return Check(check.name, check.status, _clean(check.found), _clean(check.mend))


def _child(wanted: list[str]):
    """Check `wanted` and tell the parent through stderr, a line before and one after each; stdout stays untouched."""
    channel, nowhere = os.fdopen(os.dup(2), "w", encoding="utf-8"), os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    sys.modules["kernels"] = (
        None  # bitsandbytes would download with it (quantize.bitsandbytes says more); this process does nothing else
    )
    for name in wanted:
        print(f"look {name}", file=channel, flush=True)
        print("seen " + json.dumps(asdict(_check(name))), file=channel, flush=True)


def _looked(wanted: list[str]):
    """The checks of `wanted`, one by one, made in another process: a library that kills Python is found, and the rest goes on in the next."""
    left = list(wanted)
    while left:
        code = f"import sys; sys.path[:] = {sys.path!r}; import instruct_course.doctor as d; d._child({left!r})"
        now, other = None, []
        with subprocess.Popen(
            [sys.executable, "-c", code],
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
        ) as child:
            for line in child.stderr:
                what, _, rest = line.rstrip("\n").partition(" ")
                if what == "look":
                    now = rest
                    yield now
                elif what == "seen":
                    now = None
                    yield Check(**json.loads(rest))
                    left.pop(0)
                else:
                    other.append(line)
        if left:
            end = child.returncode
            how = signal.Signals(-end).name if end < 0 else f"exit code {end}"
            if now is None:
                raise RuntimeError(
                    f"Python cannot run the checks ({how}): {''.join(other)[-2000:]}"
                )
            part, said = _cut_of(now) if now in _packages() else ("", "")
            mend = (
                _again(part or now)
                if now in _packages() and how != "SIGKILL"
                else f"free memory and mend the other faults, then look again: {_doctor(now)}"
            )
            yield Check(
                now,
                "fault",
                f"Python itself was ended while it looked ({how})" + f": {said}" * bool(said),
                mend,
            )
            left.pop(0)


def examine(only: list[str] | None = None, *, quiet: bool = True) -> dict:
    """{version, python, system, checks: [{name, status, found, mend}]}: what was tried here, or of it what `only` names; about 15 s for all.

    quiet: show no progress. The one address that it asks is that of the hub, unless HF_HUB_OFFLINE is set. Errors: InputError for an unknown name.
    """
    known = names()
    for name in only or ():
        if name not in known:
            from instruct_course.common.errors import InputError

            raise InputError(
                f"--only {name}: there is no such check; take one of {', '.join(known)}"
            )
    wanted, checks, terminal = (
        [n for n in known if not only or n in only],
        [],
        bool(sys.stderr and sys.stderr.isatty()),
    )
    tell = (
        (lambda text, end="": None)
        if quiet
        else lambda text, end="": print(text, end=end, file=sys.stderr, flush=True)
    )
    if len(wanted) > 4 and not terminal:
        tell("looking, for about 15 seconds", "\n")
    for event in _looked(wanted):
        if isinstance(event, Check):
            checks.append(event)
        elif terminal:  # rich may be what is broken
            tell(f"\r{f'looking at {event} ({len(checks) + 1} of {len(wanted)})':60}")
    if terminal:
        tell(f"\r{'':60}\r")
    return {
        "version": 1,
        "python": platform.python_version(),
        "system": platform.system(),
        "checks": [asdict(c) for c in checks],
    }


def describe(facts: dict) -> str:
    """The facts of `examine` as a table, then warnings, then faults, with what mends them; plain ASCII where the output speaks no more."""
    checks, packages = facts["checks"], _packages()
    plain = any(c["name"] == "output" and c["status"] != "ok" for c in checks) or not _speaks(
        getattr(sys.stdout, "encoding", None)
    )
    mark = dict(zip(("ok", "warning", "fault"), ("+!x" if plain else "✓!✗")))
    well = [c for c in checks if c["name"] in packages and c["status"] == "ok"]
    rows = [(c["status"], c["name"], c["found"]) for c in checks if c not in well or len(well) == 1]
    if len(well) > 1:
        rows.insert(
            sum(c["name"] in ("python", "instruct_course") for c in checks),
            ("ok", "packages", "; ".join(f"{c['name']} {c['found']}" for c in well)),
        )
    column, width = (
        max([len(name) for _, name, _ in rows], default=0) + 2,
        min(shutil.get_terminal_size((120, 24)).columns, 120),
    )
    wrap = textwrap.TextWrapper(
        width, subsequent_indent=" " * (column + 2), break_long_words=False, break_on_hyphens=False
    ).wrap
    lines = []
    for status, name, found in rows:
        wrapped = wrap(f"{mark[status]} {name:{column}}{found}")
        lines += (
            wrapped if status == "ok" else [wrapped[0] + " …" * (len(wrapped) > 1)]
        )  # the whole of it stands below
    count = lambda status: (
        f"{(n := sum(c['status'] == status for c in checks))} {status}{'' if n == 1 else 's'}"
    )
    lines += ["", f"{count('fault')}, {count('warning')}."]
    for status in ("warning", "fault"):
        mends = {}
        for c in checks:
            if c["status"] == status:
                mends.setdefault(c["mend"], []).append(c)
        for mend, alike in mends.items():
            lines += [
                f"{mark[status]} {', '.join(c['name'] for c in alike)}: {alike[0]['found']}",
                f"    {mend}",
            ]
    text = "\n".join(lines)
    return text.replace("…", "...").encode("ascii", "replace").decode() if plain else text


def code(facts: dict) -> int:
    """The exit code: 1 where there is a fault, else 0."""
    return int(any(c["status"] == "fault" for c in facts["checks"]))


def main(arguments: list[str] | None = None) -> int:
    """`python -m instruct_course.doctor`: the same as `instruct-course doctor`, where even that does not start."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m instruct_course.doctor",
        description="Find what is broken in this environment, and say what mends it. Exit code 1: a fault was found.",
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        choices=names(),
        help=f"look at this alone: {', '.join(names())}",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(arguments)
    facts = examine(args.only, quiet=args.json)
    print(json.dumps(facts, indent=1) if args.json else describe(facts))
    return code(facts)


if __name__ == "__main__":
    sys.exit(main())
