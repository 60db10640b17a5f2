"""The door: what it loads, what it keeps, and what it says when it stays shut."""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from instruct_course import generate
from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.data import template
from instruct_course.data.example import Example
from instruct_course.model import load
from instruct_course.model.footprint import memory_footprint
from instruct_course.model.load import load_base, weight_bytes


def copy_of_nano(folder, **config):
    shutil.copytree(ASSETS / "nano", folder)
    made = json.loads((folder / "config.json").read_text(encoding="utf-8")) | config
    (folder / "config.json").write_text(json.dumps(made), encoding="utf-8")
    return folder


def test_a_near_miss_is_named():
    with pytest.raises(InputError, match="did you mean nano"):
        load_base("nanoo")


@pytest.mark.parametrize(
    "config,says",
    [
        ({"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM is not a causal language model"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised already .gptq."),
        ({"model_type": "nobody"}, "does not load as a causal"),
    ],
)
def test_what_is_no_plain_causal_model_is_refused(tmp_path, config, says):
    folder = copy_of_nano(tmp_path / "model", **config)
    with pytest.raises(InputError, match=says):
        load_base(str(folder))


def test_a_broken_config_is_refused(tmp_path):
    folder = copy_of_nano(tmp_path / "model")
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="config.json cannot be read"):
        load_base(str(folder))


def test_too_little_memory_is_said_before_loading(monkeypatch):
    import psutil

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    free = SimpleNamespace(available=6_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(load, "_load_weights", lambda *a: pytest.fail("it was loaded"))
    with pytest.raises(InputError, match=r"need 0.0 GB here.*quantization=.nf4"):
        load_base("nano", quantization="none")
    monkeypatch.undo()
    assert weight_bytes(ASSETS / "nano", "none", torch.float32) == 16_000_000
    assert 5.6e6 < weight_bytes(ASSETS / "nano", "nf4", torch.float32) < 6e6


@pytest.mark.parametrize(
    "quantization,dtype", [("nf4", torch.float32), ("nf4", torch.bfloat16), ("none", torch.float32)]
)
def test_the_count_of_bytes_is_true(quantization, dtype):
    """Within 2 %: what is left out are small tables and the rounding up of short blocks."""
    model = load_base("nano", quantization=quantization, dtype=dtype).model
    real = sum(memory_footprint(model).values())
    assert weight_bytes(ASSETS / "nano", quantization, dtype) == pytest.approx(real, rel=0.02)


def test_a_big_base_is_quantised_once(tmp_path, monkeypatch):
    """Above the limit the 4-bit form is kept, said, and read back to the same logits.

    A changed base is quantised anew.
    """
    monkeypatch.setenv("INSTRUCT_COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(load, "KEEP_ABOVE", 1e6)
    folder = copy_of_nano(tmp_path / "model")
    ids = torch.arange(5, 17)[None]
    said = []
    first = load_base(str(folder), say=said.append)
    assert len(said) == 1 and "keeping the 4-bit weights" in said[0]
    assert len(list((tmp_path / "cache" / "nf4").iterdir())) == 1
    with monkeypatch.context() as m:
        m.setattr(load, "_load_weights", lambda *a: pytest.fail("it was quantised again"))
        again = load_base(str(folder), say=said.append)
    assert len(said) == 1 and again.fingerprint == first.fingerprint
    assert torch.equal(first.model(ids).logits, again.model(ids).logits)
    assert not any(p.requires_grad for p in again.model.parameters()) and not again.model.training
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-2] + b"\x00\x3f")
    assert load_base(str(folder), say=said.append).fingerprint != first.fingerprint
    assert len(said) == 2


def test_a_mapped_base_is_written_matrix_by_matrix(tmp_path, monkeypatch):
    """Also a small one: never whole in memory, the same logits, read back at the next start."""
    monkeypatch.setenv("INSTRUCT_COURSE_CACHE", str(tmp_path / "cache"))
    folder = copy_of_nano(tmp_path / "model")
    ids = torch.arange(5, 17)[None]
    usual = load_base(str(folder))
    monkeypatch.setattr(load, "_load_weights", lambda *a: pytest.fail("it was loaded whole"))
    monkeypatch.setattr(load, "weight_bytes", lambda *a: 5e6)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1e6))
    said = []
    mapped = load_base(str(folder), mapped=True, say=said.append)
    again = load_base(str(folder), mapped=True, say=said.append)
    assert len(said) == 1 and "one matrix at a time" in said[0]
    for base in (mapped, again):
        assert torch.equal(base.model(ids).logits, usual.model(ids).logits)
        assert base.fingerprint == usual.fingerprint and not base.model.training


def test_a_mapped_base_needs_the_disk_and_four_bits(tmp_path, monkeypatch):
    monkeypatch.setenv("INSTRUCT_COURSE_CACHE", str(tmp_path / "cache"))
    folder = copy_of_nano(tmp_path / "model")
    with pytest.raises(InputError, match="--mapped: only 4-bit weights on a CPU"):
        load_base(str(folder), quantization="none", mapped=True)
    monkeypatch.setattr(load.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e6))
    with pytest.raises(InputError, match="4-bit weights take 0.0 GB in .* make room"):
        load_base(str(folder), mapped=True)
    assert not any((tmp_path / "cache").rglob("*.safetensors"))


def test_without_the_libraries_kernels_nothing_is_fetched():
    """The door imports bitsandbytes by our own way, in a process that has imported nothing yet."""
    code = """
import sys
from instruct_course.model.load import load_base
load_base("nano")
assert "kernels" not in sys.modules
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "fine", done.stdout + done.stderr
    assert "Failed to load" not in done.stderr


def test_a_log_file_has_no_bars_of_transformers(tmp_path):
    """Of any folder, not of nano alone; and transformers draws them again afterwards."""
    folder = copy_of_nano(tmp_path / "model")
    code = f"""
from transformers.utils import logging
from instruct_course.model.load import load_base
load_base({str(folder)!r})
assert logging.is_progress_bar_enabled()
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "fine", done.stdout + done.stderr
    assert done.stderr == ""


def test_bars_that_were_switched_off_stay_off():
    from transformers.utils import logging

    had_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        load_base("nano")
        assert not logging.is_progress_bar_enabled()
    finally:
        if had_bars:
            logging.enable_progress_bar()


def test_names_that_lead_nowhere(tmp_path, monkeypatch):
    for name, says in (
        ("nowhere", "no such folder"),
        ("./nowhere", "no such folder"),
        (str(tmp_path), "config.json"),
        ("owner/nothing", "is not in the local cache"),
    ):
        with pytest.raises(InputError, match=says):
            load_base(name, say=lambda text: None)


def test_a_folder_is_loaded_and_pickles_are_refused(tmp_path):
    folder = copy_of_nano(tmp_path / "copy")
    base = load_base(str(folder))
    assert base.fingerprint == load_base("nano").fingerprint
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled"):
        load_base(str(folder))


def test_smollm2_speaks(smollm2_folder):
    base = load_base(str(smollm2_folder))
    (said,) = generate.answer(
        base.model,
        base.tokenizer,
        template.named("chat", base.tokenizer),
        [Example("What is the capital of France?")],
        max_new_tokens=12,
    )
    assert "Paris" in said
