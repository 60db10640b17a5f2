"""What four bits mean, what they erase, and how far two models are from each other."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_course.deploy.variants import dequantized, kl_divergence
from instruct_course.model import quantize
from instruct_course.model.nf4 import NF4_LEVELS, nf4_dequantize, nf4_quantize


@given(
    st.integers(1, 40),
    st.sampled_from([64, 96, 128, 320]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.integers(0, 99),
)
@settings(deadline=None, max_examples=25)
def test_dequantized_is_what_the_four_bits_mean(rows, columns, dtype, seed):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(dtype)
    F = quantize.bitsandbytes().functional
    packed, state = F.quantize_4bit(
        weight, blocksize=64, quant_type="nf4", compress_statistics=True
    )
    state.dtype = torch.float32
    found = dequantized(weight)
    # elsewhere this CPU's kernel may read wrong scales: quantize.protect says so
    if columns % 64 == 0:
        wanted = F.dequantize_4bit(packed, state).float()
        assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-7)
    assert found.shape == weight.shape
    assert found.dtype == torch.float32


def four_bits(weight):
    return nf4_dequantize(*nf4_quantize(weight), weight.shape, torch.float32)


@given(st.floats(0.001, 0.49), st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_a_change_below_half_a_step_is_erased(part, seed):
    """Eq. 12.3, for every level but the block's scale itself."""
    g = torch.Generator().manual_seed(seed)
    place = torch.randint(1, 15, (64,), generator=g)
    place[0] = 15
    upwards = torch.randint(0, 2, (64,), generator=g).bool()
    weight = NF4_LEVELS[place]
    up = NF4_LEVELS[(place + 1).clamp_max(15)] - weight
    down = NF4_LEVELS[place - 1] - weight
    change = torch.where(upwards, up, down) * part
    change[0] = 0
    assert torch.equal(four_bits(weight + change), weight)
    assert (four_bits(weight + change * (0.51 / part))[1:] != weight[1:]).all()


def test_kl_is_zero_only_for_the_same():
    p = torch.randn(5, 9).log_softmax(-1)
    q = torch.randn(5, 9).log_softmax(-1)
    assert torch.equal(kl_divergence(p, p), torch.zeros(5))
    assert (kl_divergence(p, q) > 0).all()
    found = kl_divergence(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log())
    wanted = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert found.item() == pytest.approx(wanted, abs=1e-6)
