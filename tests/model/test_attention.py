"""Attention by hand: parity with torch in values and gradients, and proofs by perturbation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from instruct_course.model import attention


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 9999),
    groups=st.integers(1, 3),
    heads=st.integers(1, 3),
    length=st.integers(1, 9),
    past=st.integers(0, 5),
)
def test_attend_is_torchs_in_value_and_gradient(seed, groups, heads, length, past):
    q = noise(seed, 2, heads * groups, length, 4).requires_grad_(True)
    k, v = (noise(seed + i, 2, heads, past + length, 4).requires_grad_(True) for i in (1, 2))
    mask = attention.causal(length, past)
    above = noise(seed + 3, 2, heads * groups, length, 4)
    ours, weights = attention.attend(q, k, v, mask)
    library = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(ours, library, rtol=0, atol=1e-10)
    for a, b in zip(
        torch.autograd.grad(ours, (q, k, v), above), torch.autograd.grad(library, (q, k, v), above)
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    which=st.integers(0, 4),
    seed=st.integers(0, 999),
)
def test_nothing_leaks_between_packed_rows(lengths, which, seed):
    """Whatever happens in one row, outputs and gradients of all others stay the same to the bit."""
    n = sum(lengths)
    which = which % len(lengths)
    q, k, v = (noise(seed + i, 1, 1, n, 4) for i in range(3))
    start = sum(lengths[:which])
    inside = torch.zeros(n, dtype=torch.bool)
    inside[start : start + lengths[which]] = True

    def results(shift):
        parts = [(t + shift * inside[:, None]).requires_grad_(True) for t in (q, k, v)]
        out, _ = attention.attend(*parts, attention.packed(lengths))
        return [out, *torch.autograd.grad(out.pow(2).sum(), parts)]

    moved = [(a - b)[0, 0].abs().sum(-1) for a, b in zip(results(0.0), results(100.0))]
    assert all((m[~inside] == 0).all() for m in moved) and moved[0][inside].min() > 0


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_the_packed_mask_is_blocks_of_causal_ones(lengths):
    assert torch.equal(
        attention.packed(lengths),
        torch.block_diag(*[attention.causal(n).float() for n in lengths]).bool(),
    )


def test_causal_with_a_past():
    assert attention.causal(2, 3).int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


@settings(max_examples=30, deadline=None)
@given(
    p=st.integers(0, 2000),
    s=st.integers(0, 2000),
    shift=st.integers(0, 2000),
    seed=st.integers(0, 999),
)
def test_only_the_distance_of_positions_counts(p, s, shift, seed):
    q = noise(seed, 1, 32)
    k = noise(seed + 1, 1, 32)

    def turned(x, at):
        return attention.rotate(x, *attention.rope(torch.tensor([at]), 32))

    assert (turned(q, p) @ turned(k, s).T).item() == pytest.approx(
        (turned(q, p + shift) @ turned(k, s + shift).T).item(), abs=1e-9
    )
    assert turned(q, p).norm().item() == pytest.approx(q.norm().item())


def test_rope_is_the_models(nano):
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    x = torch.randn(1, 4, 30, 64, generator=torch.Generator().manual_seed(0))
    library, _ = apply_rotary_pos_emb(x, x, *nano.model.model.rotary_emb(x, torch.arange(30)[None]))
    torch.testing.assert_close(
        attention.rotate(x, *attention.rope(torch.arange(30), 64)), library, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rms_norm_is_the_models(dtype):
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    h = (noise(0, 5, 32) * 30).to(dtype)
    norm = LlamaRMSNorm(32, eps=1e-5).to(dtype)
    norm.weight.data = noise(1, 32).to(dtype)
    torch.testing.assert_close(
        attention.rms_norm(h, norm.weight, 1e-5),
        norm(h),
        rtol=1e-6 if dtype != torch.bfloat16 else 1e-2,
        atol=1e-6,
    )


def test_the_weights_of_a_model_are_all_there(nano):
    ids = nano.tokenizer("The capital of Peru is").input_ids
    was = nano.model.config._attn_implementation
    weights = attention.weights_of(nano.model, ids)
    assert weights.shape == (4, 4, len(ids), len(ids))
    assert nano.model.config._attn_implementation == was
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 4, len(ids)))
    assert (weights.triu(1) == 0).all()
