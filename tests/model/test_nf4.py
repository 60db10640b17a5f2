"""NF4 by hand: bitwise what bitsandbytes gives."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.model import nf4
from instruct_course.model.quantize import bitsandbytes

F = bitsandbytes().functional
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MIDPOINTS = (nf4.NF4_LEVELS[:-1] + nf4.NF4_LEVELS[1:]) / 2


@pytest.fixture(autouse=True)
def eager():
    """The library compiles one of its slow paths; what it computes is the same without."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture(scope="module")
def weights():
    """The real weights of nano, in bfloat16."""
    from safetensors.torch import load_file

    return load_file(ASSETS / "nano" / "model.safetensors")


def agree(weight, block_size=64):
    """Codes, scales, values and double quantisation of `weight` are bitwise the library's."""
    packed, absmax = nf4.nf4_quantize(weight, block_size)
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
        got = nf4.nf4_dequantize(packed, absmax, weight.shape, dtype, block_size)
        assert got.dtype == dtype and got.shape == weight.shape
        assert torch.equal(got.view(-1), F.dequantize_4bit(wanted, state).reshape(-1))
    codes, nested, offset = nf4.double_quantize(absmax)
    _, state = F.quantize_4bit(
        weight, blocksize=block_size, quant_type="nf4", compress_statistics=True
    )
    assert (
        torch.equal(codes, state.absmax)
        and torch.equal(nested, state.state2.absmax)
        and torch.equal(offset, state.offset)
    )
    again = F.dequantize_blockwise(state.absmax, state.state2) + state.offset
    assert torch.equal(nf4.double_dequantize(codes, nested, offset), again)


def test_the_tables_are_the_librarys():
    assert torch.equal(
        nf4.NF4_LEVELS, F.get_4bit_type("nf4", device="cpu")
    ) and nf4.NF4_LEVELS.shape == (16,)
    assert torch.equal(nf4.dynamic_levels(), F.create_dynamic_map())


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
        packed, absmax = nf4.nf4_quantize(x.view(-1)[:-3])
        wanted, state = F.quantize_4bit(x.view(-1)[:-3], blocksize=64, quant_type="nf4")
        assert torch.equal(packed, wanted) and torch.equal(absmax, state.absmax)


def test_values_on_and_beside_midpoints():
    below = torch.nextafter(MIDPOINTS, torch.tensor(-2.0))
    above = torch.nextafter(MIDPOINTS, torch.tensor(2.0))
    block = torch.cat(
        [MIDPOINTS, below, above, nf4.NF4_LEVELS, torch.tensor([1.0, -1.0, 0.0])]
    )  # 64 numbers, the largest 1
    assert len(block) == 64
    packed, absmax = nf4.nf4_quantize(block)
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
    monkeypatch.setattr(nf4, "CHUNK", 1 << 18)
    w = torch.randn(1100, 1000, generator=torch.Generator().manual_seed(3))
    assert w.numel() > nf4.CHUNK
    agree(w)
    agree(w.T)
    agree(w[::2, 1::3])


def test_scales_on_midpoints_of_double_quantisation():
    levels = nf4.dynamic_levels()
    middle = (levels[:-1] + levels[1:]) / 2
    for x in (
        torch.cat([middle, torch.ones(1)]),
        torch.randn(70_000, generator=torch.Generator().manual_seed(4)),
        torch.zeros(300),
        torch.full((300,), 0.3),
    ):
        offset = x.mean()
        wanted, state = F.quantize_blockwise(x - offset, blocksize=256)
        codes, nested, got = nf4.double_quantize(x)
        assert (
            torch.equal(codes, wanted)
            and torch.equal(nested, state.absmax)
            and torch.equal(got, offset)
        )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 400))
def test_nf4_is_idempotent_and_no_level_is_nearer(seed, n):
    w = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    packed, absmax = nf4.nf4_quantize(w)
    once = nf4.nf4_dequantize(packed, absmax, w.shape, torch.float32)
    again, same = nf4.nf4_quantize(once)
    assert torch.equal(packed, again) and torch.equal(absmax, same)
    scales = absmax.repeat_interleave(64)[:n]
    best = (scales[:, None] * nf4.NF4_LEVELS - w[:, None]).abs().amin(1)
    assert ((once - w).abs() <= best + 1e-6 * scales).all()


def test_known_answer():
    packed, absmax = nf4.nf4_quantize(torch.tensor([0.0, 2.0, -2.0, 1.0]))
    assert packed.flatten().tolist() == [0x7F, 0x0C] and absmax.tolist() == [
        2.0
    ]  # 0.5 lies nearest to level 12, 0.4407


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_number_is_refused(bad, dtype):
    for at in (3, 99):  # in a whole block and in a short one
        w = torch.randn(100, generator=torch.Generator().manual_seed(0)).to(dtype)
        w[at] = bad
        with pytest.raises(InputError, match="infinite or not a number"):
            nf4.nf4_quantize(w)


def test_other_dtypes_blocks_and_shapes_are_refused():
    with pytest.raises(InputError, match="float64"):
        nf4.nf4_quantize(torch.ones(4, dtype=torch.float64))
    with pytest.raises(InputError, match="even block_size"):
        nf4.nf4_quantize(torch.ones(4), 3)
    packed, absmax = nf4.nf4_quantize(torch.ones(8, 64))
    for shape, block_size in (((8, 63), 64), ((8, 64), 32)):
        with pytest.raises(InputError, match="give the shape"):
            nf4.nf4_dequantize(packed, absmax, shape, torch.float32, block_size)
