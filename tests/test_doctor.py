"""The doctor finds what is broken: each fault is planted for real, in an environment of its own, and looked at by a Python that runs in it."""

import base64
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import venv
from importlib import metadata, util
from pathlib import Path

import jsonschema
import pytest

from instruct_course import doctor
from instruct_course.common.files import ASSETS

PACKAGE, SITE = Path(doctor.__file__).parent, Path(util.find_spec("torch").origin).parents[1]
SCHEMA = json.loads((ASSETS / "schemas" / "doctor.schema.json").read_text(encoding="utf-8"))
linux = pytest.mark.skipif(sys.platform != "linux", reason="limits and folders of Linux")


def looked(*only, python=sys.executable, cwd, module="doctor", before="", **env):
    """(exit code, {name: check}) of the doctor in `cwd`, in the environment that `env` changes, behind the shell commands `before`."""
    gone = re.compile(r"(HF|HUGGING|PYTHON|XDG|INSTRUCT|TRANSFORMERS)|.*_proxy$", re.I)
    kept = {k: v for k, v in os.environ.items() if not gone.match(k)} | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(cwd),
        "XDG_CACHE_HOME": str(cwd),
    }
    call = [
        str(python),
        "-m",
        f"instruct_course.{module}",
        *(["doctor"] if module == "cli" else []),
        "--json",
        *(w for name in only for w in ("--only", name)),
    ]
    if before:
        call = ["bash", "-c", before + '\nexec "$@"', "bash", *call]
    done = subprocess.run(
        call, cwd=cwd, capture_output=True, text=True, encoding="utf-8", env={**kept, **env}
    )
    assert done.stdout, done.stderr
    facts = json.loads(done.stdout)
    jsonschema.validate(facts, SCHEMA)
    assert done.returncode == int(any(c["status"] == "fault" for c in facts["checks"])), done.stderr
    return done.returncode, {c["name"]: c for c in facts["checks"]}


def unfold(link: Path):
    """In place of a link to a folder, a folder of links to what is in it."""
    target = link.resolve()
    link.unlink()
    link.mkdir()
    for entry in target.iterdir():
        (link / entry.name).symlink_to(entry)
    return link


@pytest.fixture
def elsewhere(tmp_path):
    """A virtual environment with links to all that is installed here: (its python, its site-packages), to be broken."""
    venv.EnvBuilder(symlinks=True).create(tmp_path / "venv")
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    for entry in SITE.iterdir():
        if not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
    (tmp_path / "venv" / "share").symlink_to(Path(sys.prefix) / "share")
    return tmp_path / "venv" / "bin" / "python", site


@pytest.fixture
def copied(tmp_path):
    """A folder with a copy of the package (links, but for what a test breaks), for the front of PYTHONPATH."""
    shutil.copytree(
        PACKAGE,
        tmp_path / "copy" / "instruct_course",
        copy_function=os.symlink,
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for path in (tmp_path / "copy" / "instruct_course").rglob(
        "*.py"
    ):  # Python files for real: __file__ must lie in the copy
        shutil.copy(path.resolve(), f"{path}.new")
        os.replace(f"{path}.new", path)
    return tmp_path / "copy"


def fault(checks, name, *, status="fault", found="", mend=""):
    check = checks[name]
    assert check["status"] == status and found in check["found"] and mend in check["mend"], check
    return check


def test_this_environment_has_no_fault(command, monkeypatch, tmp_path):
    """The control, through the real command in this process."""
    monkeypatch.chdir(tmp_path)
    code, out, _ = command("doctor", "--json")
    facts = json.loads(out)
    jsonschema.validate(facts, SCHEMA)
    assert code == 0 and not [c for c in facts["checks"] if c["status"] == "fault"], facts
    checks = {c["name"]: c for c in facts["checks"]}
    import torch

    assert list(checks) == doctor.names() and len(checks) >= 25
    assert checks["torch"]["found"] == torch.__version__ and checks["bitsandbytes"][
        "found"
    ].endswith("is right")
    required = [
        re.match(r"[\w.-]+", r)[0] for r in metadata.requires("instruct_course") if "extra" not in r
    ]
    assert len(required) >= 14 and set(required) <= set(checks)
    from instruct_course.model.hub import cache_folder

    assert str(cache_folder().absolute()) in checks["cache"]["found"]
    text = doctor.describe(facts)
    assert "0 faults" in text and "✓" in text and len(text.splitlines()) < 40


# -- packages


def test_a_native_library_of_garbage(elsewhere, tmp_path):
    python, site = elsewhere
    for library in unfold(site / "bitsandbytes").glob("libbitsandbytes*"):
        size = library.stat().st_size
        library.unlink()
        library.write_bytes(b"garbage" * 1000)
        os.truncate(library, size)
    _, checks = looked("bitsandbytes", python=python, cwd=tmp_path)
    version = metadata.version("bitsandbytes")
    fault(
        checks,
        "bitsandbytes",
        found="native library does not load",
        mend=f'-m pip install --force-reinstall --no-deps "bitsandbytes=={version}"',
    )


def test_a_step_that_goes_wrong(monkeypatch):
    """Right where nothing is changed; a fault where the backward pass gives too much, nothing, or no number, and where the weights are others."""
    from instruct_course.model.quantize import bitsandbytes

    library = bitsandbytes()
    assert doctor._bitsandbytes().status == "ok"
    real, weights = (
        library.autograd._functions.MatMul4Bit.backward,
        library.functional.dequantize_4bit,
    )
    for factor in (1.01, 0.0, float("nan")):
        with monkeypatch.context() as m:
            other = lambda ctx, g: tuple(None if t is None else t * factor for t in real(ctx, g))
            m.setattr(library.autograd._functions.MatMul4Bit, "backward", staticmethod(other))
            wrong = doctor._bitsandbytes()
        assert (
            wrong.status == "fault"
            and "gradients by" in wrong.found
            and "--force-reinstall" in wrong.mend
        )
    monkeypatch.setattr(
        library.functional, "dequantize_4bit", lambda *a, **k: weights(*a, **k).roll(1, 0)
    )
    assert doctor._bitsandbytes().status == "fault"


def test_a_package_that_is_too_old(elsewhere, tmp_path):
    python, site = elsewhere
    (dist,) = site.glob("sacrebleu-*.dist-info")
    real = dist.resolve()
    dist.unlink()
    old = site / "sacrebleu-1.5.1.dist-info"
    old.mkdir()
    (old / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: sacrebleu\nVersion: 1.5.1\n", encoding="utf-8"
    )
    _, checks = looked("sacrebleu", python=python, cwd=tmp_path)
    fault(checks, "sacrebleu", found="1.5.1 is here", mend='pip install "sacrebleu>=')
    shutil.rmtree(old)
    dist.symlink_to(real)
    mended = looked("sacrebleu", python=python, cwd=tmp_path)[1]["sacrebleu"]
    assert mended == {
        "name": "sacrebleu",
        "status": "ok",
        "found": metadata.version("sacrebleu"),
        "mend": "",
    }


def test_a_package_that_is_missing(elsewhere, tmp_path):
    python, site = elsewhere
    for entry in site.glob("psutil*"):
        entry.unlink()
    code, checks = looked("psutil", "memory", "python", python=python, cwd=tmp_path)
    assert code == 1 and checks["python"]["status"] == "ok"
    fault(checks, "psutil", found="not installed", mend='pip install "psutil>=5.9"')
    fault(checks, "memory", found="No module named 'psutil'", mend='pip install "psutil>=5.9"')


def test_a_module_that_is_not_named_like_its_package(elsewhere, tmp_path):
    """And the doctor's own need, packaging: it says what it lacks, and goes on."""
    python, site = elsewhere
    for entry in (*site.glob("yaml"), *site.glob("*yaml-*"), *site.glob("*YAML-*")):
        entry.unlink()
    check = fault(
        looked("datasets", python=python, cwd=tmp_path)[1],
        "datasets",
        found="No module named 'yaml'",
    )
    assert 'pip install "pyyaml>=' in check["mend"].lower()
    for entry in site.glob("packaging*"):
        entry.unlink()
    code, checks = looked("gguf", "nano", python=python, cwd=tmp_path)
    assert code == 1 and checks["nano"]["status"] == "ok"
    fault(checks, "gguf", found="No module named 'packaging'", mend='pip install "packaging"')


def test_a_package_whose_own_requirement_is_missing(elsewhere, tmp_path):
    python, site = elsewhere
    for entry in (*site.glob("portalocker*"), *site.glob("widgetsnbextension*")):
        entry.unlink()
    _, checks = looked("sacrebleu", "ipywidgets", python=python, cwd=tmp_path)
    fault(
        checks, "sacrebleu", found="No module named 'portalocker'", mend='pip install "portalocker"'
    )
    fault(
        checks, "ipywidgets", found="widgetsnbextension", mend='pip install "widgetsnbextension~='
    )


def test_widgets_without_their_part_for_the_browser(elsewhere, tmp_path):
    python, site = elsewhere
    unfold(unfold(site.parents[2] / "share") / "jupyter")
    (site.parents[2] / "share" / "jupyter" / "nbextensions").unlink()
    _, checks = looked(
        "ipywidgets",
        python=python,
        cwd=tmp_path,
        JUPYTER_PATH="",
        JUPYTER_DATA_DIR=str(tmp_path),
        JUPYTER_PREFER_ENV_PATH="1",
    )
    fault(
        checks,
        "ipywidgets",
        status="warning",
        found="widgetsnbextension",
        mend="--no-deps widgetsnbextension",
    )


def test_a_transformers_that_raises_on_import(tmp_path):
    (tmp_path / "front" / "transformers").mkdir(parents=True)
    (tmp_path / "front" / "transformers" / "__init__.py").write_text(
        "raise RuntimeError('half an update')", encoding="utf-8"
    )
    code, checks = looked(
        "transformers", "safetensors", "peft", cwd=tmp_path, PYTHONPATH=str(tmp_path / "front")
    )
    assert code == 1 and checks["safetensors"]["status"] == "ok"
    fault(checks, "transformers", found="half an update", mend="unset PYTHONPATH")
    fault(
        checks,
        "peft",
        found="while transformers is broken",
        mend="mend transformers first: instruct-course doctor --only transformers",
    )


def test_a_torch_without_its_compiled_part_and_the_command_still_starts(elsewhere, tmp_path):
    python, site = elsewhere
    for part in unfold(site / "torch").glob("_C.*"):
        part.unlink()
    code, checks = looked(
        "torch",
        "computes",
        "cuda",
        "bitsandbytes",
        "nano",
        python=python,
        cwd=tmp_path,
        module="cli",
    )
    version = metadata.version("torch")
    check = fault(
        checks, "torch", found=version, mend=f'--force-reinstall --no-deps "torch=={version}"'
    )
    assert ("the index that pytorch.org names for cpu" in check["mend"]) == version.endswith("+cpu")
    assert code == 1 and checks["nano"]["status"] == "ok"
    for name in ("computes", "cuda", "bitsandbytes"):
        fault(
            checks,
            name,
            found="while torch is broken",
            mend="mend torch first: instruct-course doctor --only torch",
        )


def cut(site: Path, pattern: str, share: float):
    """Leave the first `share` of a compiled file, as a full disk does."""
    (core,) = SITE.glob(pattern)
    planted = unfold(site / core.parent.name) / core.name
    planted.unlink()
    planted.write_bytes(core.read_bytes()[: int(core.stat().st_size * share)])


@linux
def test_a_library_that_kills_python(elsewhere, tmp_path):
    """The loader maps what is not there, and the system ends Python: the doctor names the file and goes on."""
    python, site = elsewhere
    cut(site, "safetensors/_safetensors_rust*.so", 0.5)
    code, checks = looked("safetensors", "python", "nano", python=python, cwd=tmp_path)
    fault(
        checks,
        "safetensors",
        found="was ended while it looked (SIGBUS): safetensors/_safetensors_rust",
        mend='--force-reinstall --no-deps "safetensors==',
    )
    assert code == 1 and checks["python"]["status"] == checks["nano"]["status"] == "ok"


def test_a_library_that_is_cut_short_and_imports_all_the_same(elsewhere, tmp_path):
    python, site = elsewhere
    cut(site, "regex/_regex*.so", 0.98)
    fault(
        looked("sacrebleu", python=python, cwd=tmp_path)[1],
        "sacrebleu",
        found="imports, and regex/_regex",
        mend='--force-reinstall --no-deps "regex==',
    )


# -- the course's own files


def test_weights_that_are_cut_short(copied, tmp_path):
    weights = copied / "instruct_course" / "assets" / "nano" / "model.safetensors"
    whole = weights.resolve()
    weights.unlink()
    weights.write_bytes(whole.read_bytes()[:1_000_000])
    _, checks = looked("nano", cwd=tmp_path, PYTHONPATH=str(copied))
    fault(
        checks, "nano", found="model.safetensors is damaged", mend="--force-reinstall --no-deps ."
    )
    shutil.copy(whole, weights)
    assert looked("nano", cwd=tmp_path, PYTHONPATH=str(copied))[1]["nano"]["status"] == "ok"


def test_a_font_that_is_gone(copied, tmp_path):
    (copied / "instruct_course" / "assets" / "fonts" / "DroidSansFallback-common.ttf").unlink()
    _, checks = looked("font", cwd=tmp_path, PYTHONPATH=str(copied))
    fault(checks, "font", found="font for Chinese is gone", mend="pip install --force-reinstall")


def test_a_matplotlib_without_fonts(elsewhere, tmp_path):
    python, site = elsewhere
    shutil.rmtree(unfold(unfold(unfold(site / "matplotlib") / "mpl-data") / "fonts"))
    _, checks = looked("font", python=python, cwd=tmp_path, MPLCONFIGDIR=str(tmp_path))
    fault(checks, "font", mend=f'--no-deps "matplotlib=={metadata.version("matplotlib")}"')


def test_an_installed_file_that_changed(elsewhere, copied, tmp_path):
    """The package as pip leaves it, with the hashes that pip keeps; then one byte turns."""
    python, site = elsewhere
    for entry in (*site.glob("*instruct_course*"),):
        entry.unlink()
    (copied / "instruct_course").rename(site / "instruct_course")
    kept = site / "instruct_course-0.1.0.dist-info"
    kept.mkdir()
    (kept / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: instruct_course\nVersion: 0.1.0\n", encoding="utf-8"
    )
    row = site / "instruct_course" / "assets" / "instructions" / "dev.jsonl"
    digest = (
        base64.urlsafe_b64encode(hashlib.sha256(row.read_bytes()).digest()).decode().rstrip("=")
    )
    (kept / "RECORD").write_text(
        f"instruct_course/assets/instructions/dev.jsonl,sha256={digest},{row.stat().st_size}\n",
        encoding="utf-8",
    )
    assert (
        looked("instruct_course", python=python, cwd=tmp_path)[1]["instruct_course"]["status"]
        == "ok"
    )
    changed = bytearray(row.read_bytes())
    changed[100] ^= 1
    row.unlink()
    row.write_bytes(changed)
    fault(
        looked("instruct_course", python=python, cwd=tmp_path)[1],
        "instruct_course",
        found="dev.jsonl",
        mend="--force-reinstall --no-deps .",
    )


# -- folders, memory


def test_a_file_where_the_cache_should_be(tmp_path):
    (tmp_path / "taken").write_text("", encoding="utf-8")
    _, checks = looked(
        "cache",
        "hub-cache",
        cwd=tmp_path,
        INSTRUCT_COURSE_CACHE=str(tmp_path / "taken" / "deeper"),
        HF_HOME=str(tmp_path / "taken"),
    )
    check = fault(
        checks,
        "cache",
        found="a file stands where a folder should be",
        mend=f"rename {tmp_path / 'taken'}, or",
    )
    assert "INSTRUCT_COURSE_CACHE=FOLDER" in check["mend"]
    fault(checks, "hub-cache", mend="HF_HOME=FOLDER")
    (tmp_path / "taken").rename(tmp_path / "renamed")
    assert (
        looked("cache", cwd=tmp_path, INSTRUCT_COURSE_CACHE=str(tmp_path / "taken" / "deeper"))[1][
            "cache"
        ]["status"]
        != "fault"
    )


@linux
def test_a_cache_that_nobody_may_write_to(tmp_path):
    fault(
        looked("cache", cwd=tmp_path, INSTRUCT_COURSE_CACHE="/proc/course")[1],
        "cache",
        found="takes no files",
        mend="export INSTRUCT_COURSE_CACHE=FOLDER",
    )
    fault(
        looked("folder", cwd="/proc", HF_HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))[1],
        "folder",
        found="takes no files",
        mend="cd to a folder",
    )


@linux
def test_a_cache_that_is_full(tmp_path):
    """On a disk of 64 KiB of its own where that may be mounted; and where files may not grow."""
    (tmp_path / "small").mkdir()
    mount = f"mount -t tmpfs -o size=64k tmpfs {tmp_path / 'small'}"
    if not subprocess.run(["unshare", "-rm", "bash", "-c", mount], capture_output=True).returncode:
        before = f'exec unshare -rm bash -c \'{mount}; exec "$@"\' bash "$@"'
        _, checks = looked(
            "cache", cwd=tmp_path, before=before, INSTRUCT_COURSE_CACHE=str(tmp_path / "small")
        )
        fault(
            checks,
            "cache",
            found="No space left",
            mend="make room on the disk, or export INSTRUCT_COURSE_CACHE",
        )
    fault(
        looked("cache", cwd=tmp_path, before="ulimit -f 0")[1],
        "cache",
        found="File too large",
        mend="ulimit -f unlimited",
    )


@linux
def test_too_little_memory(tmp_path):
    fault(
        looked("memory", cwd=tmp_path, before="ulimit -v 800000")[1],
        "memory",
        found="limited by ulimit -v",
        mend="ulimit -v unlimited",
    )
    fault(
        looked("memory", cwd=tmp_path, before="ulimit -v 1800000")[1],
        "memory",
        status="warning",
        found="limited by ulimit -v",
    )


def test_a_file_named_like_a_package(tmp_path):
    (tmp_path / "datasets.py").write_text("", encoding="utf-8")
    (tmp_path / "random.py").write_text("", encoding="utf-8")
    _, checks = looked("folder", cwd=tmp_path, PYTHONSAFEPATH="1")
    fault(checks, "folder", found="datasets.py, random.py", mend="rename datasets.py, random.py")
    (tmp_path / "random.py").unlink()
    fault(
        looked("datasets", cwd=tmp_path)[1],
        "datasets",
        found="imported in its place",
        mend=f"rename {tmp_path / 'datasets.py'}",
    )


# -- the hub


@pytest.fixture
def closed():
    """A port of this machine that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        yield s.getsockname()[1]


def test_a_hub_that_does_not_answer(tmp_path, closed):
    _, checks = looked(
        "hub",
        cwd=tmp_path,
        HF_HUB_OFFLINE="0",
        HF_ENDPOINT=f"http://me:hunter2@127.0.0.1:{closed}",
        HF_TOKEN="hf_secretsecret",
    )
    check = fault(
        checks,
        "hub",
        found=f"http://127.0.0.1:{closed}, which HF_ENDPOINT names, does not answer",
        mend="unset HF_ENDPOINT",
    )
    assert "hunter2" not in str(check) and "secret" not in str(check)


def test_a_hub_that_answers_is_well(tmp_path):
    import http.server
    import threading

    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        code, checks = looked(
            "hub",
            cwd=tmp_path,
            HF_HUB_OFFLINE="0",
            HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}",
            HF_TOKEN="hf_secretsecret",
        )
    assert (
        code == 0
        and checks["hub"]["found"].endswith("answers; a token is set")
        and "secret" not in str(checks)
    )


@pytest.mark.parametrize(
    "address", ["hf-mirror.com", "htp://x", "http://", "https://a b", "https://x:99999999"]
)
def test_an_address_that_is_none(tmp_path, address):
    fault(
        looked("hub", cwd=tmp_path, HF_ENDPOINT=address)[1],
        "hub",
        found="HF_ENDPOINT is no address",
        mend="HF_ENDPOINT=https://",
    )


def test_a_proxy_that_is_off(tmp_path, closed):
    _, checks = looked(
        "hub",
        cwd=tmp_path,
        HF_HUB_OFFLINE="0",
        HF_ENDPOINT="http://hub.invalid",
        HTTP_PROXY=f"http://me:hunter2@127.0.0.1:{closed}",
        http_proxy=f"http://me:hunter2@127.0.0.1:{closed}",
    )
    check = fault(checks, "hub", found="through the proxy", mend="HTTP_PROXY")
    assert "hunter2" not in str(check)


def test_offline_with_an_empty_cache(tmp_path):
    fault(
        looked("hub", cwd=tmp_path)[1],
        "hub",
        status="warning",
        found="no model is in the cache",
        mend="unset HF_HUB_OFFLINE",
    )
    (tmp_path / "hub" / "models--a--b" / "snapshots" / "1").mkdir(parents=True)
    assert looked("hub", cwd=tmp_path)[1]["hub"]["status"] == "ok"


# -- text


def test_an_output_without_chinese(tmp_path):
    env = {
        "LANG": "C",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    _, checks = looked("output", "encoding", cwd=tmp_path, **env)
    fault(checks, "output", status="warning", found="ascii", mend="unset PYTHONIOENCODING")
    fault(checks, "encoding", status="warning", mend="export PYTHONUTF8=1")
    call = [sys.executable, "-m", "instruct_course.cli", "doctor", "--only", "output"]
    done = subprocess.run(call, env={**os.environ, **env}, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0 and done.stdout.decode("ascii").startswith("! output")
    del env["PYTHONIOENCODING"]
    assert {
        c["status"]
        for c in looked("output", "encoding", cwd=tmp_path, **{**env, "PYTHONUTF8": "1"})[
            1
        ].values()
    } == {"ok"}


# -- what needs a GPU, judged from its facts


def test_a_gpu_is_judged_by_what_torch_can_do_with_it():
    t4 = {"name": "T4", "capability": (7, 5), "free": 15e9, "total": 15.8e9}
    sound = {
        "driver": ["T4"],
        "built": "13.0",
        "gpus": [t4],
        "arches": ["sm_75", "sm_80", "compute_90"],
        "hidden": False,
    }
    judge = lambda **facts: doctor._judge_gpu(**{**sound, **facts})
    assert (
        judge().status == "ok"
        and judge(driver=[], built=None, gpus=[], arches=[]).status
        == judge(driver=[], gpus=[]).status
        == "ok"
    )
    assert (
        judge(gpus=[], built=None).status == "warning"
        and "CUDA 12.6" in judge(gpus=[], built=None).mend
    )
    assert judge(gpus=[], hidden=True).mend == "unset CUDA_VISIBLE_DEVICES"
    assert (
        judge(gpus=[], error="too old").status == "fault"
        and "driver" in judge(gpus=[], error="too old").mend
    )
    old, new = (
        judge(gpus=[{**t4, "capability": (6, 1)}]),
        judge(gpus=[{**t4, "capability": (12, 0)}], arches=["sm_75", "sm_90"]),
    )
    assert (
        old.status == new.status == "fault"
        and "CUDA 12.6" in old.mend
        and "--upgrade torch" in new.mend
    )
    assert judge(gpus=[{**t4, "free": 1e8}]).status == "warning"
    assert [
        doctor._runs_on(c, ["sm_80", "sm_90a", "compute_90"])
        for c in ((7, 5), (8, 0), (8, 9), (9, 0), (12, 0))
    ] == [False, True, True, True, True]
    assert not doctor._runs_on((9, 1), ["sm_90a"]) and doctor._runs_on((9, 0), ["sm_90a"])


def test_the_doctor_is_told_what_to_look_at(command):
    code, _, err = command("doctor", "--only", "nothing")
    assert (
        code == 2
        and "no such check; take one of python" in err
        and "exit code 1" in command("doctor", "--help")[1].lower()
    )


def test_the_text_ends_with_the_faults_and_what_mends_them():
    check = lambda name, status, found, mend="": {
        "name": name,
        "status": status,
        "found": found,
        "mend": mend,
    }
    gone, alike = "gone " * 40, ("fault", "no torch", "mend torch first")
    checks = [
        check("python", "ok", "3.12.1"),
        check("torch", "fault", gone, "pip install torch"),
        check("peft", "ok", "0.20"),
        check("gguf", "ok", "0.19"),
        check("cuda", *alike),
        check("font", *alike),
        check("hub", "warning", "off", "unset X"),
    ]
    lines = doctor.describe({"checks": checks}).splitlines()
    assert lines[0].split() == ["✓", "python", "3.12.1"] and lines[1].split(maxsplit=2) == [
        "✓",
        "packages",
        "peft 0.20; gguf 0.19",
    ]
    assert lines[2].endswith("…") and lines[7:10] == [
        "3 faults, 1 warning.",
        "! hub: off",
        "    unset X",
    ]
    assert lines[10:] == [
        "✗ torch: " + gone,
        "    pip install torch",
        "✗ cuda, font: no torch",
        "    mend torch first",
    ]
    assert doctor.describe({"checks": [check("output", "warning", "ascii …", "unset Y")]}).isascii()


def test_it_starts_without_typer_and_rich(elsewhere, tmp_path):
    python, site = elsewhere
    for entry in (*site.glob("typer*"), *site.glob("rich*")):
        entry.unlink()
    call = [
        python,
        "-m",
        "instruct_course.doctor",
        "--only",
        "typer",
        "--only",
        "rich",
        "--only",
        "nano",
    ]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert (
        done.returncode == 1
        and "2 faults, 0 warnings." in done.stdout
        and done.stdout.splitlines()[-1].endswith('-m pip install "rich>=13"')
    )
