"""4-bit models: protected, loaded fast to the same bits, written and read back."""

import json
import math
import shutil

import jsonschema
import pytest
import torch

from instruct_course.common import files
from instruct_course.common.errors import InputError
from instruct_course.model import lora, quantize
from instruct_course.model.nf4 import nf4_dequantize

bnb = quantize.bitsandbytes()
F = bnb.functional
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def eager():
    """The library compiles one of its slow paths; what it computes is the same without."""
    with torch.compiler.set_stance("force_eager"):
        yield


def states(model):
    return {n: m.weight for n, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit)}


def same_model(a, b):
    """All that a model computes with, to the bit."""
    assert [n for n, _ in a.named_parameters()] == [n for n, _ in b.named_parameters()]
    for (n, p), (_, q) in zip(a.named_parameters(), b.named_parameters()):
        assert torch.equal(p.data, q.data) and p.dtype == q.dtype, n
    for p, q in zip(states(a).values(), states(b).values()):
        s = p.quant_state
        t = q.quant_state
        assert (
            torch.equal(s.absmax, t.absmax)
            and torch.equal(s.code, t.code)
            and torch.equal(s.offset, t.offset)
        )
        assert torch.equal(s.state2.absmax, t.state2.absmax) and torch.equal(
            s.state2.code, t.state2.code
        )
        assert (s.shape, s.dtype, s.blocksize, s.quant_type, s.state2.blocksize) == (
            t.shape,
            t.dtype,
            t.blocksize,
            t.quant_type,
            t.state2.blocksize,
        )
        assert (
            p.module is None or q.module is None or p.module.compute_dtype == q.module.compute_dtype
        )


def calls_of(monkeypatch):
    """How often the quantiser of this project runs."""
    seen = []
    plain = quantize.quantize_4bit

    def counted(*args):
        seen.append(1)
        return plain(*args)

    monkeypatch.setattr(quantize, "quantize_4bit", counted)
    return seen


def plainly(dtype=torch.float32):
    """nano in 4 bits as transformers loads it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        files.ASSETS / "nano",
        dtype=dtype,
        device_map={"": "cpu"},
        quantization_config=quantize.nf4_config(dtype),
    )


def test_the_door_gives_what_transformers_gives(nano):
    same_model(nano.model, plainly())


def test_fast_loading_gives_the_same_model(monkeypatch):
    seen = calls_of(monkeypatch)
    with quantize.fast_loading():
        seen.clear()
        fast = plainly()
        assert len(seen) == 28
    same_model(fast, plainly())
    F.quantize_4bit(torch.ones(64), quant_type="nf4")
    assert len(seen) == 28, "outside, the library is as it was"


def test_fast_loading_stands_back_where_the_library_rounds_otherwise(monkeypatch):
    plain = quantize.quantize_4bit

    def otherwise(*args):
        packed, absmax = plain(*args)
        return packed ^ 1, absmax

    monkeypatch.setattr(quantize, "quantize_4bit", otherwise)
    wanted, _ = F.quantize_4bit(torch.ones(64), quant_type="nf4")
    with quantize.fast_loading():
        assert torch.equal(F.quantize_4bit(torch.ones(64), quant_type="nf4")[0], wanted)


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16])
def test_fast_loading_covers_what_the_library_is_asked_for(quant_type, storage, monkeypatch):
    seen = calls_of(monkeypatch)
    g = torch.Generator().manual_seed(0)
    for w in (
        torch.randn(64, 64, generator=g),
        torch.zeros(2, 64),
        torch.randn(200, generator=g).half(),
    ):
        options = {
            "quant_type": quant_type,
            "quant_storage": storage,
            "compress_statistics": True,
            "blocksize": 64,
        }
        wanted, a = F.quantize_4bit(w, **options)
        with quantize.fast_loading():
            seen.clear()
            got, b = F.quantize_4bit(w, **options)
            assert len(seen) == 1
        assert (
            torch.equal(got.view(torch.uint8), wanted.view(torch.uint8))
            and got.dtype == storage
            and torch.equal(a.absmax, b.absmax)
            and torch.equal(a.offset, b.offset)
        )


def test_fast_loading_ends_after_an_error_and_nests(monkeypatch):
    seen = calls_of(monkeypatch)
    with pytest.raises(InputError, match="infinite or not a number"):
        with quantize.fast_loading(), quantize.fast_loading():
            F.quantize_4bit(torch.tensor([math.nan] * 64), quant_type="nf4")
    seen.clear()
    F.quantize_4bit(torch.ones(64), quant_type="nf4")
    assert not seen


@pytest.fixture(scope="module")
def written(nano, tmp_path_factory):
    return quantize.write(
        nano.model, tmp_path_factory.mktemp("four") / "nano", fingerprint=nano.fingerprint
    )


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written, tmp_path / "copy")


def test_what_is_read_is_what_was_written(nano, written, monkeypatch):
    def never(*a, **k):
        raise AssertionError("something was quantised")

    monkeypatch.setattr(F, "quantize_4bit", never)
    with torch.random.fork_rng():
        model = quantize.read(written, fingerprint=nano.fingerprint)
    same_model(model, nano.model)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    layers = [m for m in model.modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert len(layers) == 28 and not any(m.support_avx512bf16_for_cpu for m in layers)
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(model(ids).logits, nano.model(ids).logits)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dtype_can_be_chosen_at_reading(written, dtype):
    wanted = plainly(dtype)
    quantize.protect(wanted)
    model = quantize.read(written, dtype=dtype)
    same_model(model, wanted)
    assert {m.compute_dtype for m in model.modules() if isinstance(m, bnb.nn.Linear4bit)} == {dtype}
    if dtype != torch.float16:
        ids = torch.tensor([[5, 6, 7, 8]])
        assert torch.equal(model(ids).logits, wanted(ids).logits)


def test_an_untied_head_is_kept(tmp_path):
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "plain")
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain",
        dtype=torch.float32,
        device_map={"": "cpu"},
        quantization_config=quantize.nf4_config(torch.float32),
    )
    again = quantize.read(quantize.write(model, tmp_path / "four"))
    same_model(again, model)
    assert again.get_output_embeddings().weight is not again.get_input_embeddings().weight


def test_only_safetensors_and_json_are_written(written):
    assert {p.suffix for p in written.iterdir()} == {".safetensors", ".json"}
    assert (
        sum(p.stat().st_size for p in written.iterdir()) < 6_000_000
    )  # 4.2 MB of it the embedding in float32
    made = json.loads((written / "quantized.json").read_text(encoding="utf-8"))
    jsonschema.validate(
        made,
        json.loads(
            (files.ASSETS / "schemas" / "quantized.schema.json").read_text(encoding="utf-8")
        ),
    )
    assert made["dtype"] == "float32" and "model.safetensors" in made["files"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("how", ["changed", "cut", "gone"])
def test_a_damaged_file_is_refused(copy, name, how):
    path = copy / name
    raw = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(
            raw[:-1]
            if how == "cut"
            else raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1 :]
        )
    with pytest.raises(InputError, match=f"{name}: this file is missing, cut short or changed"):
        quantize.read(copy)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"version": 1, "files": 3, "fingerprint": "", "dtype": "float32"}',
        '{"version": 1, "files": {"a": {}}, "fingerprint": "", "dtype": "float32"}',
    ],
)
def test_a_broken_manifest_is_refused(copy, text):
    (copy / "quantized.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        quantize.read(copy)


def test_other_versions_bases_and_files_are_refused(copy, tmp_path):
    with pytest.raises(InputError, match="another base"):
        quantize.read(copy, fingerprint="0" * 64)
    with pytest.raises(InputError, match="no 4-bit weights here"):
        quantize.read(tmp_path / "nowhere")
    (copy / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(InputError, match="pytorch_model.bin does not belong"):
        quantize.read(copy)
    (copy / "pytorch_model.bin").unlink()
    made = json.loads((copy / "quantized.json").read_text(encoding="utf-8"))
    (copy / "quantized.json").write_text(json.dumps(made | {"version": 2}), encoding="utf-8")
    with pytest.raises(InputError, match="version 2"):
        quantize.read(copy)


def test_what_cannot_be_written(nano, fresh, tmp_path):
    with pytest.raises(InputError, match="only a base model whose layers are in 4 bits"):
        quantize.write(torch.nn.Linear(2, 2), tmp_path / "a")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="already exists"):
        quantize.write(nano.model, tmp_path / "there")
    next(iter(states(fresh.model).values())).quant_state.packing_format_for_cpu = True
    with pytest.raises(InputError, match="repacked"):
        quantize.write(fresh.model, tmp_path / "a")
    del next(iter(states(fresh.model).values())).quant_state.packing_format_for_cpu
    with pytest.raises(InputError, match="without an adapter"):
        quantize.write(lora.attach(fresh.model, lora_r=2), tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("x")]
)
def test_half_written_is_not_there(nano, tmp_path, monkeypatch, error):
    def fail(*a, **k):
        raise error

    monkeypatch.setattr(quantize, "sha256", fail)
    with pytest.raises(InputError if isinstance(error, OSError) else type(error)) as caught:
        quantize.write(nano.model, tmp_path / "deep" / "four")
    assert not isinstance(error, OSError) or "No space left" in str(caught.value)
    assert not (tmp_path / "deep").exists()


def test_rows_that_are_not_whole_blocks_are_found_out(monkeypatch):
    """bitsandbytes 0.50 reads wrong scales there on CPUs with AVX-512; planted here anywhere."""
    layer = bnb.nn.Linear4bit(96, 8, bias=False, quant_type="nf4", compute_dtype=torch.float32)
    layer = torch.nn.Sequential(layer).to("cpu")
    plain = F.dequantize_4bit

    def right(data, state):
        absmax = F.dequantize_blockwise(state.absmax, state.state2) + state.offset
        return nf4_dequantize(data, absmax, state.shape, state.dtype)

    monkeypatch.setattr(F, "dequantize_4bit", right)
    assert quantize.protect(layer) == 1
    monkeypatch.setattr(F, "dequantize_4bit", lambda data, state: right(data, state) * 1.5)
    with pytest.raises(InputError, match="96 inputs cannot be used"):
        quantize.protect(layer)
    monkeypatch.setattr(F, "dequantize_4bit", plain)


def test_a_width_of_whole_blocks_needs_no_look(monkeypatch):
    monkeypatch.setattr(F, "dequantize_4bit", None)
    assert (
        quantize.protect(torch.nn.Sequential(bnb.nn.Linear4bit(128, 8, quant_type="nf4")).to("cpu"))
        == 1
    )
