"""The step: the engine's loss and gradients are those of transformers and PEFT, and nothing leaks
between rows.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import V, gradients, library_in_float64, row_lists, tiny

from instruct_course.data.template import Encoded
from instruct_course.model import lora
from instruct_course.train import batch, engine


def same(model, rows, packed=None, **options):
    """Loss and gradients of the engine are the library's, in float64."""
    with library_in_float64():
        a, n, ga = gradients(model, batch.collate(rows, 0))
    packed = batch.pack(rows, share=0) if packed is None else packed
    b, m, gb = gradients(model, packed, **options)
    assert n == m and a == pytest.approx(b, rel=1e-9, abs=1e-10)
    torch.testing.assert_close(ga, gb, rtol=1e-9, atol=1e-10)


@pytest.fixture(scope="module")
def llama():
    return tiny()


# -- the whole


@pytest.mark.parametrize("kind", engine.KINDS)
def test_every_kind_of_model_gives_the_librarys_loss_and_gradient(kind):
    model = tiny(kind)
    assert engine.supports(model)

    @settings(max_examples=60, deadline=None)
    @given(row_lists())
    def check(rows):
        same(model, rows)

    check()


@pytest.mark.parametrize(
    "options",
    [
        {"attention_bias": True, "mlp_bias": True},
        {"tie_word_embeddings": True},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    ],
)
def test_biases_tied_heads_and_scaled_positions(options):
    rows = [Encoded([3, 4, 5, 6, 7, t], [-100] * 4 + [7, t]) for t in range(8, 12)]
    same(tiny(**options), rows)


def test_trained_token_rows_take_the_plain_head_and_still_agree():
    model = tiny(adapted=False, tie_word_embeddings=True)
    model = lora.attach(model, lora_r=2, token_ids=[7, 8])
    assert (
        engine.supports(model)
        and type(model.get_base_model().get_output_embeddings()) is not torch.nn.Linear
    )
    rows = [Encoded([3, 7, 5, 8, 7, t], [-100] * 4 + [7, t]) for t in range(8, 12)]
    same(model, rows)


@pytest.mark.parametrize(
    "options",
    [
        {"cache": True},
        {"cache": None},
        {"gradient_checkpointing": True},
        {"cache": True, "gradient_checkpointing": True},
    ],
)
def test_cache_and_checkpointing_change_no_bit(fresh, options):
    """Four bits, dequantised once, twice or three times: the same numbers."""
    model = lora.attach(fresh.model, lora_r=4)
    torch.nn.init.normal_(
        model.get_base_model().model.layers[1].mlp.up_proj.lora_B["default"].weight, std=0.01
    )
    rows = [Encoded([7, 8, 9, 10 + t, 3, 4], [-100] * 4 + [3, 4]) for t in range(5)]
    made = batch.pack(rows)
    a, n, ga = gradients(model, made, engine=engine.Engine(model))
    b, m, gb = gradients(model, made, engine=engine.Engine(model, **options))
    assert (a, n) == (b, m) and torch.equal(ga, gb) and ga.abs().sum() > 0


def test_checkpointing_keeps_less(llama):
    """What autograd holds between forward and backward, counted byte by byte."""
    rows = [Encoded([7, 8, 9, 10 + t, 3, 4], [-100] * 4 + [3, 4]) for t in range(5)]
    kept = []
    for gradient_checkpointing in (False, True):
        seen = {}

        def pack(t, seen=seen):
            seen[t.data_ptr()] = t.numel() * t.element_size()
            return t

        made = engine.Engine(llama, gradient_checkpointing=gradient_checkpointing)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            engine.batch_loss(llama, batch.pack(rows), engine=made)
        kept.append(sum(seen.values()))
    assert kept[1] < kept[0] / 4


def test_bfloat16_is_as_near_to_float32_as_transformers_is():
    """The yardstick is the same model in float32.

    The engine may be no further from it than the library in bf16.
    """
    rows = [Encoded([3, 4, 5, 6, 7 + t, 8, t], [-100] * 5 + [8, t]) for t in range(8, 14)]
    exact, rough = tiny(dtype=torch.float32), tiny(dtype=torch.bfloat16)
    for (n, p), (_, q) in zip(rough.named_parameters(), exact.named_parameters()):
        if "lora" in n:
            p.data = q.data.clone()  # float32, as `attach` makes them
        else:
            q.data = p.data.float()
    _, _, g = gradients(exact, batch.collate(rows, 0))
    far = [
        ((gradients(rough, made)[2].float() - g).norm() / g.norm()).item()
        for made in (batch.collate(rows, 0), batch.pack(rows))
    ]
    assert far[1] < 1.5 * far[0] and far[1] < 0.05
    assert all(p.grad.dtype == torch.float32 for n, p in rough.named_parameters() if "lora" in n), (
        "float32 masters get float32 gradients"
    )


@settings(max_examples=60, deadline=None)
@given(rows=row_lists(), which=st.integers(0, 4), seed=st.integers(0, 99))
def test_nothing_leaks_between_rows(llama, rows, which, seed):
    """Whatever the other rows say in their own part, a row's loss stays what it is."""
    which %= len(rows)
    packed = batch.pack(rows, share=0)
    targets = packed.targets.clone()
    targets[[t for t in range(len(targets)) if t not in packed.pad_indices[which].tolist()]] = -100
    packed = batch.with_targets(packed, targets)
    with torch.no_grad():
        before = engine.batch_loss(llama, packed)[0].item()
        others = [
            t
            for t in range(packed.prefix_length, packed.targets.numel())
            if t not in packed.pad_indices[which].tolist()
        ]
        packed.input_ids[0, others] = torch.randint(
            V, (len(others),), generator=torch.Generator().manual_seed(seed)
        )
        assert engine.batch_loss(llama, packed)[0].item() == pytest.approx(before, abs=1e-10)


def test_the_beginning_is_seen(llama):
    """The other way round: change the beginning, and all rows change."""
    rows = [Encoded([7, 8, 9, t, 3, 4], [-100] * 4 + [3, 4]) for t in (10, 11)]
    changed = [Encoded([7, 20, *r.ids[2:]], r.labels) for r in rows]
    assert batch.pack(rows).prefix_length == 3
    with torch.no_grad():
        a, b = (engine.batch_loss(llama, batch.pack(r))[0].item() for r in (rows, changed))
    assert abs(a - b) > 1e-4


def test_no_supervised_token_is_harmless(llama):
    total, n = engine.batch_loss(
        llama, batch.pack([Encoded([5, 6, 7], [-100] * 3), Encoded([5, 8], [-100] * 2)])
    )
    total.backward()
    assert (
        n == 0
        and total.item() == 0
        and all(p.grad is None or not p.grad.abs().sum() for p in llama.parameters())
    )


def test_the_models_own_code_is_untouched(llama):
    before = {n: type(m).forward for n, m in llama.named_modules()}
    engine.batch_loss(llama, batch.pack([Encoded([5, 6], [-100, 6])]))
    with pytest.raises(IndexError):
        engine.batch_loss(llama, batch.pack([Encoded([5, V + 7], [-100, 6])]))
    assert before == {n: type(m).forward for n, m in llama.named_modules()} and not any(
        "forward" in m.__dict__ for m in llama.modules()
    )


def test_what_the_engine_takes():
    from transformers import AutoConfig, AutoModelForCausalLM

    assert engine.supports(tiny(adapted=False)) and not engine.supports(
        tiny("mistral", sliding_window=16)
    )
    assert not engine.supports(tiny(dtype=torch.float16)), (
        "float16 wants float32 adapters all the way"
    )
    assert not engine.supports(tiny(hidden_act="gelu"))
    gpt = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("gpt2", vocab_size=V, n_embd=16, n_layer=1, n_head=2)
    )
    trained = tiny(adapted=False)
    trained.model.layers[1].mlp.up_proj.weight.requires_grad_()
    dropped = lora.attach(tiny(adapted=False), lora_r=2, lora_dropout=0.1)
    assert (
        not engine.supports(gpt) and not engine.supports(trained) and not engine.supports(dropped)
    )
    rows = [Encoded([7, 8, 9, 10, 11, t], [-100] * 5 + [t]) for t in range(8)]
    assert isinstance(engine.collate_for(tiny(), rows, 0), batch.PackedBatch) and isinstance(
        engine.collate_for(gpt, rows, 0), dict
    )


@pytest.mark.parametrize("targets", ["attention", ["down_proj"]])
def test_adapters_on_some_layers_only(targets):
    model = lora.attach(tiny(adapted=False), lora_r=2, targets=targets)
    same(model, [Encoded([3, 4, 5, 6, 7, t], [-100] * 4 + [7, t]) for t in range(8, 12)])


def test_no_gradient_below_the_lowest_adapter():
    model = tiny(adapted=False)
    model = lora.attach(model, lora_r=2, targets=["model.layers.2.mlp.down_proj"])
    made = engine.Engine(model)
    seen = []
    for layer in made.layers:
        group = layer.o_proj
        group.weight = lambda dtype, group=group, real=group.weight: (
            seen.append(group) or real(dtype)
        )
    engine.batch_loss(model, batch.pack([Encoded([5, 6, 7], [-100, 6, 7])]), engine=made)[
        0
    ].backward()
    assert len(seen) == 3, "each weight is used once, forwards, and never backwards"
