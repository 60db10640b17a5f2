"""Merged tensors are those of the library; shards hold each of them once."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bases import load_tiny, tiny_adapter, tiny_base

from instruct_course.common.errors import InputError
from instruct_course.common.memory import Peak
from instruct_course.deploy.adapter import Adapter, read_adapter
from instruct_course.deploy.tensors import merged_tensors, replace_rows
from instruct_course.deploy.variants import VARIANTS
from instruct_course.model import hub, quantize
from instruct_course.model.tensors import read_layout, write_shards


def test_rows_are_replaced_and_added():
    weight = torch.arange(12.0).view(4, 3)
    found = replace_rows(weight, [1, 5], torch.tensor([[7.0, 7, 7], [9, 9, 9]]), 6)
    assert found[[0, 2, 3]].tolist() == weight[[0, 2, 3]].tolist()
    assert found[1].tolist() == [7] * 3
    assert found[4].tolist() == weight.mean(0).tolist()
    assert found[5].tolist() == [9] * 3
    assert replace_rows(weight, [], None, 2) is weight


CASES = {
    "qwen2": {},
    "tied": {"tied": True},
    "llama": {"kind": "llama"},
    "bf16": {"dtype": torch.bfloat16},
    "rslora": {"adapter": {"use_rslora": True}},
    "patterns": {
        "adapter": {
            "alpha_pattern": {"q_proj": 3, "layers.1.mlp.up_proj": 5},
            "rank_pattern": {"k_proj": 2},
        }
    },
    "rows": {"adapter": {"trainable_token_indices": {"embed_tokens": [3, 7], "lm_head": [7]}}},
    "tied rows": {"tied": True, "adapter": {"trainable_token_indices": [3, 7]}},
    "head": {"adapter": {"target_modules": ["lm_head", "o_proj"]}},
}


def merged(base, adapter, onto, dtype=torch.float32):
    return dict(merged_tensors(base, adapter, onto, vocab_size=100, dtype=dtype))


@pytest.mark.parametrize("onto", VARIANTS)
@pytest.mark.parametrize("case", CASES)
def test_equal_to_the_library(case, onto, tmp_path):
    from peft import PeftModel

    options = dict(CASES[case])
    adapter = options.pop("adapter", {})
    base = tiny_base(tmp_path / "base", **options)
    tiny_adapter(load_tiny(base), tmp_path / "adapter", **adapter)
    loaded = load_tiny(base, nf4=onto == "dequantized")
    if onto == "dequantized":
        kind = quantize.bitsandbytes().nn.Linear4bit
        quantized = {name for name, module in loaded.named_modules() if isinstance(module, kind)}
        assert read_layout(base).quantized == quantized
        assert len(quantized) == 14
        loaded = loaded.dequantize()
    model = PeftModel.from_pretrained(loaded, str(tmp_path / "adapter")).merge_and_unload()
    theirs = model.state_dict()
    ours = merged(base, read_adapter(tmp_path / "adapter"), onto)
    assert set(ours) == set(theirs) - ({"lm_head.weight"} if "tied" in case else set())
    for name in ours:
        assert torch.allclose(ours[name], theirs[name].float(), rtol=1e-5, atol=1e-5), name
    plain = merged(base, Adapter({}, {}), onto)
    assert any((ours[name] - plain[name]).abs().max() > 0.01 for name in ours)


def test_bf16_is_rounded_once(tmp_path):
    base = tiny_base(tmp_path / "base", dtype=torch.bfloat16)
    adapter = read_adapter(tiny_adapter(load_tiny(base), tmp_path / "adapter"))
    exact = merged(base, adapter, "dequantized")
    rounded = merged(base, adapter, "dequantized", torch.bfloat16)
    assert all(torch.equal(exact[name].bfloat16(), rounded[name]) for name in exact)
    assert {tensor.dtype for tensor in rounded.values()} == {torch.bfloat16}


def test_another_base_is_refused_by_names_and_shapes(tmp_path):
    base = tiny_base(tmp_path / "one")
    adapter = read_adapter(tiny_adapter(load_tiny(base), tmp_path / "adapter"))
    unknown = Adapter({"model.layers.9.mlp.up_proj": next(iter(adapter.pairs.values()))}, {})
    with pytest.raises(InputError, match="no layer"):
        merged(hub.resolve("nano"), unknown, "16bit")
    with pytest.raises(InputError, match="adapter's"):
        merged(hub.resolve("nano"), adapter, "16bit")
    (tmp_path / "one" / "model.safetensors.index.json").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        read_layout(tmp_path / "one")


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 200))
@settings(deadline=None, max_examples=25)
def test_shards_hold_everything_once(tmp_path_factory, sizes, limit):
    from safetensors.torch import load_file

    folder = tmp_path_factory.mktemp("shards")
    tensors = {f"t{i}": torch.full((n,), float(i)) for i, n in enumerate(sizes)}
    assert write_shards(iter(tensors.items()), folder, shard_bytes=limit) == 4 * sum(sizes)
    files = sorted(folder.glob("*.safetensors"))
    shards = [load_file(file) for file in files]
    assert sum(map(len, shards)) == len(sizes)
    for shard in shards:
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in shard.items())
        assert len(shard) == 1 or sum(tensor.nbytes for tensor in shard.values()) <= limit
    several = len(files) > 1
    assert (folder / "model.safetensors.index.json").exists() == several
    assert len(list(folder.iterdir())) == len(files) + several


def test_memory_is_bounded_by_a_shard_and_not_by_the_model(tmp_path):
    """Eight times the tensors, the same peak: only what is being written is held."""
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not tell a process's anonymous memory")
    grown = []
    for count in (8, 64):
        (tmp_path / str(count)).mkdir()
        tensors = ((f"t{i}", torch.ones(1 << 20)) for i in range(count))  # 4 MiB each
        with Peak(every=0.002) as peak:
            write_shards(tensors, tmp_path / str(count), shard_bytes=8 << 20)
        grown.append(peak.bytes - peak.before)
    assert grown[1] < 64 << 20
