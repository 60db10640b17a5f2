"""A base that is quantised matrix by matrix is the base that transformers quantises whole."""

import pytest
import torch

from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.model import quantize, shards

bnb = quantize.bitsandbytes()


def stored(folder):
    """All tensors of a folder's files."""
    from safetensors.torch import load_file

    out = {}
    for file in folder.glob("*.safetensors"):
        out |= load_file(file)
    return out


def both(source, tmp_path, dtype):
    """(a folder written tensor by tensor, one written from a whole model)."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=dtype,
        device_map={"": "cpu"},
        quantization_config=quantize.nf4_config(dtype),
    )
    whole = quantize.write(model, tmp_path / "whole", fingerprint="a" * 64)
    by_one = shards.convert(source, tmp_path / "one", dtype=dtype, fingerprint="a" * 64)
    return by_one, whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nano_is_the_same_tensor_for_tensor(tmp_path, dtype):
    by_one, whole = both(ASSETS / "nano", tmp_path, dtype)
    a, b = stored(by_one), stored(whole)
    assert a.keys() == b.keys() and len(a) > 100
    assert all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)
    one, other = (
        quantize.read(f, mapped=m, fingerprint="a" * 64) for f, m in ((by_one, True), (whole, None))
    )
    ids = torch.arange(5, 30)[None]
    assert torch.equal(one(ids).logits, other(ids).logits)
    assert one.get_output_embeddings().weight is one.get_input_embeddings().weight
    assert one.generation_config.to_dict() == other.generation_config.to_dict()


def test_biases_and_an_untied_head_are_kept(tmp_path, monkeypatch):
    """Several shards, too."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=1,
    )
    model = Qwen2ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "plain")
    monkeypatch.setattr(shards, "SHARD_BYTES", 20_000)
    by_one, whole = both(tmp_path / "plain", tmp_path, torch.float32)
    a, b = stored(by_one), stored(whole)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert len(list(by_one.glob("*.safetensors"))) > 2 and "lm_head.weight" in a


def test_half_written_is_not_there(tmp_path, monkeypatch):
    def full(*args, **options):
        next(iter(args[0]))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "write_shards", full)
    with pytest.raises(InputError, match="could not be written .No space left on device."):
        shards.convert(ASSETS / "nano", tmp_path / "four", dtype=torch.float32)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_refused(tmp_path):
    (tmp_path / "four").mkdir()
    (tmp_path / "four" / "mine").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match="already exists"):
        shards.convert(ASSETS / "nano", tmp_path / "four", dtype=torch.float32)
