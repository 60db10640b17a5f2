"""Weights that stay in their files are the same weights, and none of them is copied."""

import sys
from pathlib import Path

import pytest
import torch

from instruct_course.common.errors import InputError
from instruct_course.model import quantize
from instruct_course.plan import random_model

bnb = quantize.bitsandbytes()
SHAPE = {
    "model_type": "qwen2",
    "vocab_size": 300,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("weights") / "four"
    return random_model.write(SHAPE, place, dtype=torch.float32, say=lambda text: None)[0]


def tensors(model):
    """{name: tensor} of all that a model computes with, scales included."""
    out = {}
    for name, parameter in model.named_parameters():
        out[name] = parameter.data
        if state := getattr(parameter, "quant_state", None):
            out[f"{name}.absmax"] = state.absmax
            out[f"{name}.nested_absmax"] = state.state2.absmax
    return out


def in_files(model):
    """The names of tensors whose first byte lies in a mapped .safetensors."""
    spans = []
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        if ".safetensors" in line:
            spans.append([int(end, 16) for end in line.split()[0].split("-")])
    found = {name: tensor.data_ptr() for name, tensor in tensors(model).items()}
    return {name for name, at in found.items() if any(a <= at < b for a, b in spans)}


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says where memory belongs")
def test_all_of_it_stays_in_the_files_or_nothing_does(folder):
    mapped = quantize.read(folder, mapped=True)
    copied = quantize.read(folder, mapped=False)
    assert in_files(mapped) == tensors(mapped).keys()
    assert in_files(copied) == set()


def test_both_are_the_same_to_the_bit(folder):
    a, b, c = (quantize.read(folder, mapped=mapped) for mapped in (True, False, None))
    for model in (b, c):
        assert tensors(a).keys() == tensors(model).keys()
        assert all(torch.equal(tensors(a)[name], value) for name, value in tensors(model).items())
    ids = torch.arange(20)[None]
    assert torch.equal(a(ids).logits, b(ids).logits)
    assert not a.training and not any(p.requires_grad for p in a.parameters())
    layers = [m for m in a.modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert len(layers) == 21 and not any(m.support_avx512bf16_for_cpu for m in layers)


def test_a_write_to_a_mapped_weight_leaves_the_file_as_it_was(folder):
    model = quantize.read(folder, mapped=True)
    weight = model.get_input_embeddings().weight.data
    before = weight.clone()
    weight.zero_()
    again = quantize.read(folder, mapped=True)  # with the sha256 of all files
    assert torch.equal(again.get_input_embeddings().weight, before)


@pytest.mark.parametrize("how", [{"dtype": torch.bfloat16}, {"device": "cuda"}])
def test_what_would_be_a_copy_is_refused(folder, how):
    with pytest.raises(InputError, match="stay in their files only on a CPU and in torch.float32"):
        quantize.read(folder, mapped=True, **how)


def test_a_damaged_file_is_one_sentence(folder, tmp_path):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    file = sorted(copy.glob("*.safetensors"))[0]
    file.write_bytes(b"\xff" * file.stat().st_size)
    with pytest.raises(InputError, match="do not load"):
        quantize.read(copy, mapped=True, check=False)
