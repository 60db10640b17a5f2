"""An adapter is read with the scale that PEFT gives it, or refused in a sentence."""

import json
import shutil

import pytest
from tiny_bases import load_tiny, tiny_adapter, tiny_base

from instruct_course.common.errors import InputError
from instruct_course.deploy.adapter import read_adapter


@pytest.mark.parametrize(
    "what,change",
    [
        ("DoRA", {"use_dora": True}),
        ("modules", {"modules_to_save": ["lm_head"]}),
        ("biases", {"bias": "all"}),
        ("pissa", {"init_lora_weights": "pissa"}),
        ("IA3", {"peft_type": "IA3"}),
        ("transposed", {"fan_in_fan_out": True}),
    ],
)
def test_other_adapters_are_refused_in_a_sentence(small_run, tmp_path, what, change):
    shutil.copytree(small_run.path / "adapter", tmp_path / "a")
    file = tmp_path / "a" / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | change), encoding="utf-8")
    with pytest.raises(InputError, match=what):
        read_adapter(tmp_path / "a")


def test_a_real_dora_adapter_is_refused_by_its_tensors(tmp_path):
    base = load_tiny(tiny_base(tmp_path / "base"))
    folder = tiny_adapter(base, tmp_path / "adapter", use_dora=True, init_lora_weights=True)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"use_dora": False}), encoding="utf-8")
    with pytest.raises(InputError, match="lora_magnitude_vector"):
        read_adapter(folder)
    with pytest.raises(InputError, match="cannot be read"):
        read_adapter(tmp_path / "nothing")


@pytest.mark.parametrize("half", ["A", "B"])
def test_half_a_pair_is_refused(small_run, tmp_path, half):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(small_run.path / "adapter", tmp_path / "a")
    tensors = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in tensors if name.endswith(f".lora_{half}.weight"))
    del tensors[name]
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(InputError, match="a tensor "):
        read_adapter(folder)
