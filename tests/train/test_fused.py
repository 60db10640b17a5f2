"""The pieces of the engine, each against autograd and the library, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import gradients, tiny
from torch.nn import functional as F

from instruct_course.data.template import Encoded
from instruct_course.train import batch, fused


@pytest.fixture(scope="module")
def llama():
    return tiny()


def leaf(*shape, seed=0):
    return torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    ).requires_grad_()


ANGLES = torch.linspace(-1, 1, 20, dtype=torch.float64).view(5, 1, 4).repeat(1, 1, 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: (
            lambda h: fused.RMSNorm.apply(h, torch.linspace(0.5, 2, 8).double(), 1e-5),
            [leaf(5, 8)],
        ),
        lambda: (fused.SwiGLU.apply, [leaf(5, 8)]),
        lambda: (lambda x: fused.Rotary.apply(x, ANGLES.cos(), ANGLES.sin()), [leaf(5, 3, 8)]),
        lambda: (
            lambda q, k, v: fused.AttentionFunction.apply(
                q,
                k,
                v,
                torch.zeros(1, 4, 6)
                .double()
                .masked_fill(torch.ones(4, 6).triu(3).bool(), -torch.inf),
                0.3,
            ),
            [leaf(2, 4, 8), leaf(2, 6, 8, seed=1), leaf(2, 6, 8, seed=2)],
        ),
        lambda: (lambda t: batch.UnpadInput.apply(t, torch.tensor([0, 2, 3, 5])), [leaf(2, 3, 4)]),
        lambda: (
            lambda t: batch.PadInput.apply(
                t, torch.tensor([[1, 2, 2], [3, 4, 5]]), torch.tensor([0, 1, 3, 4, 5])
            )[torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()],
            [leaf(6, 4)],
        ),
    ],
    ids=["RMSNorm", "SwiGLU", "Rotary", "Attention", "UnpadInput", "PadInput"],
)
def test_gradients_are_right_to_finite_differences(make):
    f, inputs = make()
    assert torch.autograd.gradcheck(f, inputs, atol=1e-6)


def test_the_product_is_pefts(llama):
    """Three layers in one against three PEFT layers one by one."""
    a = llama.get_base_model().model.layers[0].self_attn
    x = leaf(7, 32)
    together = fused.FusedLoRALinear(a.q_proj, a.k_proj, a.v_proj)(x)
    apart = torch.cat([m(x) for m in (a.q_proj, a.k_proj, a.v_proj)], 1)
    torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-12)
    wanted = [
        x,
        *(
            p
            for m in (a.q_proj, a.k_proj, a.v_proj)
            for n, p in m.named_parameters()
            if "lora" in n
        ),
    ]
    above = torch.randn(together.shape, dtype=torch.float64)
    for g, w in zip(
        torch.autograd.grad(together, wanted, above), torch.autograd.grad(apart, wanted, above)
    ):
        torch.testing.assert_close(g, w, rtol=1e-11, atol=1e-11)


@settings(max_examples=40, deadline=None)
@given(
    B=st.integers(1, 3),
    Q=st.integers(1, 5),
    more=st.integers(0, 4),
    n_kv=st.integers(1, 2),
    groups=st.integers(1, 3),
    own_masks=st.booleans(),
)
def test_attention_is_the_librarys(B, Q, more, n_kv, groups, own_masks):
    q, k, v = (
        leaf(B, Q, n_kv * groups, 8),
        leaf(B, Q + more, n_kv, 8, seed=1),
        leaf(B, Q + more, n_kv, 8, seed=2),
    )
    sees = torch.ones(Q, Q + more, dtype=torch.bool).tril(more)
    sees = torch.stack([sees.roll(b, 0) for b in range(B)]) if own_masks else sees[None]
    got = fused.attend(q, k, v, batch.additive_mask(sees, groups, n_kv, q.dtype), 0.4)
    want = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=sees[:, None],
        scale=0.4,
        enable_gqa=True,
    ).transpose(1, 2)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


def test_long_rows_do_not_keep_their_scores(monkeypatch, llama):
    rows = [Encoded([7, 8, 9, 10 + t, 3, 4], [-100] * 4 + [3, 4]) for t in range(5)]
    a = gradients(llama, batch.pack(rows))
    monkeypatch.setattr(fused, "SCORES", 0)
    b = gradients(llama, batch.pack(rows))
    assert a[0] == pytest.approx(b[0], rel=1e-12)
    torch.testing.assert_close(a[2], b[2], rtol=1e-9, atol=1e-12)


def test_some_layers_of_a_group_have_a_bias_and_some_not():
    first, second = (
        torch.nn.Linear(6, 4, bias=False, dtype=torch.bfloat16),
        torch.nn.Linear(6, 3, dtype=torch.bfloat16),
    )
    x = torch.randn(5, 6, dtype=torch.bfloat16)
    with torch.no_grad():
        torch.testing.assert_close(
            fused.FusedLoRALinear(first, second)(x),
            torch.cat([first(x), second(x)], 1),
            rtol=0.02,
            atol=0.02,
        )
