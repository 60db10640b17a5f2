"""Packages that are missing, too old, cut short, or not themselves."""

import os
import shutil
from importlib import metadata
from pathlib import Path

from planted import SITE, fault, linux, looked, unfold

from instruct_course.doctor import compute


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
    """A fault with other gradients (too large, zero, NaN) or weights; right without."""
    from instruct_course.model.quantize import bitsandbytes

    library = bitsandbytes()
    assert compute.check_bitsandbytes().status == "ok"
    product = library.autograd._functions.MatMul4Bit
    backward = product.backward
    weights = library.functional.dequantize_4bit

    def times(factor):
        def other(ctx, grad):
            return tuple(None if t is None else t * factor for t in backward(ctx, grad))

        return staticmethod(other)

    for factor in (1.01, 0.0, float("nan")):
        with monkeypatch.context() as m:
            m.setattr(product, "backward", times(factor))
            wrong = compute.check_bitsandbytes()
        assert (
            wrong.status == "fault"
            and "gradients by" in wrong.found
            and "--force-reinstall" in wrong.mend
        )
    monkeypatch.setattr(
        library.functional, "dequantize_4bit", lambda *a, **k: weights(*a, **k).roll(1, 0)
    )
    assert compute.check_bitsandbytes().status == "fault"


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


def test_without_jupyter_there_is_a_hint_and_no_fault(elsewhere, tmp_path):
    """As `pip install .` leaves it: the commands need no Jupyter."""
    python, site = elsewhere
    for name in ("ipykernel", "jupyter_core", "jupyter_client", "jupyter."):
        for entry in site.glob(f"{name}*"):
            entry.unlink()
    code, checks = looked("ipywidgets", "kernel", python=python, cwd=tmp_path)
    assert code == 0, checks
    assert checks["ipywidgets"]["status"] == "ok"
    fault(
        checks,
        "kernel",
        status="warning",
        found="Jupyter is not installed",
        mend='pip install "instruct_course[course]"',
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
    """The loader maps what is not there and Python is ended: the doctor names the file."""
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
