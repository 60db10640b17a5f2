"""NF4 by hand: to the bit what bitsandbytes gives; writing, reading and weighing 4-bit models."""

import json
import math

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_course.common import files
from instruct_course.common.errors import InputError
from instruct_course.model import lora, quantize
from instruct_course.model.load import load_base

bnb = quantize.bitsandbytes()
F = bnb.functional
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MIDPOINTS = (quantize.NF4_LEVELS[:-1] + quantize.NF4_LEVELS[1:]) / 2


@pytest.fixture(autouse=True)
def eager():
    """The library compiles one of its slow paths; what it computes is the same without."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture(scope="module")
def weights():
    """The real weights of nano, in bfloat16."""
    from safetensors.torch import load_file

    return load_file(files.ASSETS / "nano" / "model.safetensors")


def agree(weight, block_size=64):
    """Codes, scales, values and double quantisation of `weight`, by hand and by the library, to the bit."""
    packed, absmax = quantize.nf4_quantize(weight, block_size)
    wanted, state = F.quantize_4bit(weight, blocksize=block_size, quant_type="nf4")
    assert (
        torch.equal(packed, wanted) and packed.shape == wanted.shape and packed.dtype == torch.uint8
    )
    assert torch.equal(absmax, state.absmax) and absmax.dtype == torch.float32
    whole_rows = (
        weight.shape[-1] % block_size == 0 or weight.shape[-1] % 2
    )  # elsewhere the library may read wrong scales: see below
    for dtype in DTYPES:
        state.dtype = dtype
        if not whole_rows:
            state.shape = torch.Size([weight.numel()])
        got = quantize.nf4_dequantize(packed, absmax, weight.shape, dtype, block_size)
        assert got.dtype == dtype and got.shape == weight.shape
        assert torch.equal(got.view(-1), F.dequantize_4bit(wanted, state).reshape(-1))
    codes, nested, offset = quantize.double_quantize(absmax)
    _, state = F.quantize_4bit(
        weight, blocksize=block_size, quant_type="nf4", compress_statistics=True
    )
    assert (
        torch.equal(codes, state.absmax)
        and torch.equal(nested, state.state2.absmax)
        and torch.equal(offset, state.offset)
    )
    again = F.dequantize_blockwise(state.absmax, state.state2) + state.offset
    assert torch.equal(quantize.double_dequantize(codes, nested, offset), again)


# -- the tables


def test_the_tables_are_the_librarys():
    assert torch.equal(
        quantize.NF4_LEVELS, F.get_4bit_type("nf4", device="cpu")
    ) and quantize.NF4_LEVELS.shape == (16,)
    assert torch.equal(quantize.dynamic_levels(), F.create_dynamic_map())


# -- to the bit


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_and_odd_shapes(dtype):
    g = torch.Generator().manual_seed(0)
    for shape in [
        (64, 64),
        (128, 192),
        (3, 5, 64),
        (1, 64),
        (2, 32),
        (100,),
        (3, 96),
        (130,),
        (7, 33),
        (101,),
        (1,),
        (2,),
        (65,),
    ]:
        agree(torch.randn(shape, generator=g).to(dtype))
    for block_size in (32, 128, 512, 4096):
        agree(torch.randn(4, 4096, generator=g).to(dtype), block_size)
        agree(torch.randn(5000, generator=g).to(dtype), block_size)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 1000),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 3e4]),
    heavy=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)
def test_random_lengths_scales_and_tails(seed, n, scale, heavy, dtype):
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed)) * scale
    agree((x * x.abs() if heavy else x).clamp(-6e4, 6e4).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_constants_zeros_and_outliers(dtype):
    for value in (0.0, -0.0, 1.0, -3.5, 1e-3):
        agree(torch.full((6, 64), value).to(dtype))
        agree(torch.full((37,), value).to(dtype))
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(1)) * 0.02
    x[::7, 3], x[5], x[6, :32] = 60.0, 0.0, 0.0
    agree(x.to(dtype))


def test_numbers_near_the_smallest():
    for tiny in (1e-37, 1e-38, 1e-39, 1e-42, 1.4e-45):
        x = torch.randn(5, 64, generator=torch.Generator().manual_seed(2)) * tiny
        packed, absmax = quantize.nf4_quantize(x.view(-1)[:-3])
        wanted, state = F.quantize_4bit(x.view(-1)[:-3], blocksize=64, quant_type="nf4")
        assert torch.equal(packed, wanted) and torch.equal(absmax, state.absmax)


def test_values_on_and_beside_midpoints():
    below, above = (
        torch.nextafter(MIDPOINTS, torch.tensor(-2.0)),
        torch.nextafter(MIDPOINTS, torch.tensor(2.0)),
    )
    block = torch.cat(
        [MIDPOINTS, below, above, quantize.NF4_LEVELS, torch.tensor([1.0, -1.0, 0.0])]
    )  # 64 numbers, the largest 1
    assert len(block) == 64
    packed, absmax = quantize.nf4_quantize(block)
    agree(block)
    agree(block[:-1])  # a short last block is divided, not multiplied by a reciprocal
    for scale in (2.0, 1e-3, 3.0, 0.7):
        agree(block * scale)
        agree((block * scale).repeat(3)[:-5])
    codes = torch.stack([packed[:, 0] >> 4, packed[:, 0] & 15], 1).view(-1)
    assert absmax.item() == 1 and codes[:15].tolist() == list(range(15)), (
        "a value in the middle goes to the lower level"
    )
    assert (
        codes[15:30].tolist() == list(range(15))
        and codes[30:45].tolist() == list(range(1, 16))
        and codes[45:61].tolist() == list(range(16))
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_real_weights(weights, dtype):
    for name in list(weights)[::3]:  # all kinds of layer, a third of the tensors
        agree(weights[name].to(dtype))


def test_more_than_one_chunk_and_strides(monkeypatch):
    monkeypatch.setattr(quantize, "CHUNK", 1 << 18)
    w = torch.randn(1100, 1000, generator=torch.Generator().manual_seed(3))
    assert w.numel() > quantize.CHUNK
    agree(w)
    agree(w.T)
    agree(w[::2, 1::3])


def test_scales_on_midpoints_of_double_quantisation():
    levels = quantize.dynamic_levels()
    middle = (levels[:-1] + levels[1:]) / 2
    for x in (
        torch.cat([middle, torch.ones(1)]),
        torch.randn(70_000, generator=torch.Generator().manual_seed(4)),
        torch.zeros(300),
        torch.full((300,), 0.3),
    ):
        offset = x.mean()
        wanted, state = F.quantize_blockwise(x - offset, blocksize=256)
        codes, nested, got = quantize.double_quantize(x)
        assert (
            torch.equal(codes, wanted)
            and torch.equal(nested, state.absmax)
            and torch.equal(got, offset)
        )


# -- properties


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 400))
def test_nf4_is_idempotent_and_no_level_is_nearer(seed, n):
    w = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    packed, absmax = quantize.nf4_quantize(w)
    once = quantize.nf4_dequantize(packed, absmax, w.shape, torch.float32)
    again, same = quantize.nf4_quantize(once)
    assert torch.equal(packed, again) and torch.equal(absmax, same)
    scales = absmax.repeat_interleave(64)[:n]
    best = (scales[:, None] * quantize.NF4_LEVELS - w[:, None]).abs().amin(1)
    assert ((once - w).abs() <= best + 1e-6 * scales).all()


def test_known_answer():
    packed, absmax = quantize.nf4_quantize(torch.tensor([0.0, 2.0, -2.0, 1.0]))
    assert packed.flatten().tolist() == [0x7F, 0x0C] and absmax.tolist() == [
        2.0
    ]  # 0.5 lies nearest to level 12, 0.4407


# -- bad input


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_number_is_refused(bad, dtype):
    for at in (3, 99):  # in a whole block and in a short one
        w = torch.randn(100, generator=torch.Generator().manual_seed(0)).to(dtype)
        w[at] = bad
        with pytest.raises(InputError, match="infinite or not a number"):
            quantize.nf4_quantize(w)


def test_other_dtypes_blocks_and_shapes_are_refused():
    with pytest.raises(InputError, match="float64"):
        quantize.nf4_quantize(torch.ones(4, dtype=torch.float64))
    with pytest.raises(InputError, match="even block_size"):
        quantize.nf4_quantize(torch.ones(4), 3)
    packed, absmax = quantize.nf4_quantize(torch.ones(8, 64))
    for shape, block_size in (((8, 63), 64), ((8, 64), 32)):
        with pytest.raises(InputError, match="give the shape"):
            quantize.nf4_dequantize(packed, absmax, shape, torch.float32, block_size)


# -- the library's door


def states(model):
    return {n: m.weight for n, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit)}


def same_model(a, b):
    """All that a model computes with, to the bit."""
    assert [n for n, _ in a.named_parameters()] == [n for n, _ in b.named_parameters()]
    for (n, p), (_, q) in zip(a.named_parameters(), b.named_parameters()):
        assert torch.equal(p.data, q.data) and p.dtype == q.dtype, n
    for p, q in zip(states(a).values(), states(b).values()):
        s, t = p.quant_state, q.quant_state
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
    seen, plain = [], quantize._pack
    monkeypatch.setattr(quantize, "_pack", lambda *a, **k: (seen.append(1), plain(*a, **k))[1])
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
    plain = quantize._pack
    monkeypatch.setattr(quantize, "_pack", lambda *a: (plain(*a)[0] ^ 1, plain(*a)[1]))
    wanted, _ = F.quantize_4bit(torch.ones(64), quant_type="nf4")
    with quantize.fast_loading():
        assert torch.equal(F.quantize_4bit(torch.ones(64), quant_type="nf4")[0], wanted)


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16])
def test_fast_loading_covers_what_the_library_is_asked_for(quant_type, storage, monkeypatch):
    seen, g = calls_of(monkeypatch), torch.Generator().manual_seed(0)
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


# -- writing and reading


@pytest.fixture(scope="module")
def written(nano, tmp_path_factory):
    return quantize.write(
        nano.model, tmp_path_factory.mktemp("four") / "nano", fingerprint=nano.fingerprint
    )


@pytest.fixture
def copy(written, tmp_path):
    import shutil

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
    with pytest.raises(InputError, match="already exists"):
        quantize.write(nano.model, tmp_path)
    next(iter(states(fresh.model).values())).quant_state.packing_format_for_cpu = True
    with pytest.raises(InputError, match="repacked"):
        quantize.write(fresh.model, tmp_path / "a")
    del next(iter(states(fresh.model).values())).quant_state.packing_format_for_cpu
    with pytest.raises(InputError, match="without an adapter"):
        quantize.write(lora.attach(fresh.model, lora_r=2), tmp_path / "a")
    assert not list(tmp_path.iterdir())


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
    assert not list((tmp_path / "deep").iterdir())


# -- memory


def really(model):
    """Bytes of all distinct storages that hang on the model, found by looking into everything."""
    seen = {}

    def look(x, depth=0):
        if isinstance(x, torch.Tensor):
            s = x.untyped_storage()
            seen[s.data_ptr()] = s.nbytes()
            look(getattr(x, "quant_state", None), depth)
        elif isinstance(x, F.QuantState):
            for v in vars(x).values():
                look(v, depth + 1)

    for m in model.modules():
        for v in [*m._parameters.values(), *m._buffers.values()]:
            look(v)
    return sum(seen.values())


def test_the_account_of_nano(nano):
    got = quantize.account(nano.model)
    linear = sum(math.prod(w.quant_state.shape) for w in states(nano.model).values())
    blocks = linear // 64
    assert sum(got.values()) == really(nano.model) and set(got) == set(quantize.PARTS)
    assert (
        got["codes"] == linear // 2 and got["embedding"] == 4 * 4096 * 256 and got["head"] == 0
    ), "the head is the embedding"
    assert got["scales"] == blocks + sum(
        4 * -(-math.prod(w.quant_state.shape) // 64 // 256) + 4 for w in states(nano.model).values()
    )
    assert got["lookup tables"] == 28 * 4 * (16 + 256) or got["lookup tables"] < 28 * 4 * (
        16 + 256
    ), "less where layers share them"
    assert got["norms"] == 4 * 256 * 9 and got["adapters"] == got["linear weights"] == 0


def test_the_account_of_a_model_with_adapters(fresh):
    plain = quantize.account(fresh.model)
    model = lora.attach(fresh.model, lora_r=4, token_ids=[2, 3])
    got = quantize.account(model)
    assert sum(got.values()) == really(model)
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    assert trained <= got["adapters"] <= trained + 3 * 2 * 256 * 4, (
        "the token rows that are trained have a copy of what they were"
    )
    assert {k: v for k, v in got.items() if k != "adapters"} == {
        k: v for k, v in plain.items() if k != "adapters"
    }


def test_the_account_of_other_models(nano):
    got = quantize.account(load_base("nano", quantization="none", dtype=torch.bfloat16).model)
    assert (
        got["linear weights"] == 2 * (4 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 704))
        and got["codes"] == got["scales"] == 0
    )
    shared = torch.zeros(10, 4)
    model = torch.nn.ModuleDict(
        {
            "embed": torch.nn.Embedding(8, 4, _weight=shared[:8]),
            "part": torch.nn.Embedding(4, 4, _weight=shared[6:10]),
        }
    )
    assert quantize.account(model) == dict.fromkeys(quantize.PARTS, 0) | {"embedding": 160}


# -- the machine's kernels


def test_rows_that_are_not_whole_blocks_are_found_out(monkeypatch):
    """bitsandbytes 0.50 reads wrong scales there on CPUs with AVX-512; planted here on any machine."""
    layer = bnb.nn.Linear4bit(96, 8, bias=False, quant_type="nf4", compute_dtype=torch.float32)
    layer = torch.nn.Sequential(layer).to("cpu")
    plain = F.dequantize_4bit
    right = lambda data, state: quantize.nf4_dequantize(
        data,
        F.dequantize_blockwise(state.absmax, state.state2) + state.offset,
        state.shape,
        state.dtype,
    )
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
