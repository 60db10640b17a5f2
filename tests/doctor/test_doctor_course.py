"""The course's own files."""

import base64
import hashlib
import shutil
from importlib import metadata

from planted import fault, looked, unfold


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
