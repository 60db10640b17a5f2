"""The bytes of a loaded model, by part, each counted once."""

import math

import torch

from instruct_course.model import lora
from instruct_course.model.footprint import PARTS, memory_footprint
from instruct_course.model.load import load_base
from instruct_course.model.quantize import bitsandbytes

bnb = bitsandbytes()


def really(model):
    """Bytes of all distinct storages that hang on the model, found by looking into everything."""
    seen = {}

    def look(x, depth=0):
        if isinstance(x, torch.Tensor):
            s = x.untyped_storage()
            seen[s.data_ptr()] = s.nbytes()
            look(getattr(x, "quant_state", None), depth)
        elif isinstance(x, bnb.functional.QuantState):
            for v in vars(x).values():
                look(v, depth + 1)

    for m in model.modules():
        for v in [*m._parameters.values(), *m._buffers.values()]:
            look(v)
    return sum(seen.values())


def test_the_footprint_of_nano(nano):
    got = memory_footprint(nano.model)
    sizes = [
        math.prod(layer.weight.quant_state.shape)
        for layer in nano.model.modules()
        if isinstance(layer, bnb.nn.Linear4bit)
    ]
    linear = sum(sizes)
    blocks = linear // 64
    assert sum(got.values()) == really(nano.model) and set(got) == set(PARTS)
    assert got["codes"] == linear // 2
    assert got["embedding"] == 4 * 4096 * 256
    assert got["head"] == 0, "the head is the embedding"
    nested = sum(4 * -(-size // 64 // 256) + 4 for size in sizes)
    assert got["scales"] == blocks + nested
    assert got["lookup tables"] <= 28 * 4 * (16 + 256), "less where layers share them"
    assert got["norms"] == 4 * 256 * 9
    assert got["adapters"] == got["linear weights"] == 0


def test_the_footprint_of_a_model_with_adapters(fresh):
    plain = memory_footprint(fresh.model)
    model = lora.attach(fresh.model, lora_r=4, token_ids=[2, 3])
    got = memory_footprint(model)
    assert sum(got.values()) == really(model)
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    assert trained <= got["adapters"] <= trained + 3 * 2 * 256 * 4, (
        "the token rows that are trained have a copy of what they were"
    )
    assert {k: v for k, v in got.items() if k != "adapters"} == {
        k: v for k, v in plain.items() if k != "adapters"
    }


def test_the_footprint_of_other_models(nano):
    got = memory_footprint(load_base("nano", quantization="none", dtype=torch.bfloat16).model)
    assert got["linear weights"] == 2 * (4 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 704))
    assert got["codes"] == got["scales"] == 0
    shared = torch.zeros(10, 4)
    model = torch.nn.ModuleDict(
        {
            "embed": torch.nn.Embedding(8, 4, _weight=shared[:8]),
            "part": torch.nn.Embedding(4, 4, _weight=shared[6:10]),
        }
    )
    assert memory_footprint(model) == dict.fromkeys(PARTS, 0) | {"embedding": 160}
