"""The step: the engine's loss and gradients are those of transformers and PEFT, its parts those of autograd, and nothing leaks between rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from instruct_course.data.template import Encoded
from instruct_course.model import lora
from instruct_course.train import batch, engine
from instruct_course.train.loss import supervised

V = 50


@st.composite
def some_rows(draw, most=5):
    """Rows with a common beginning of 0 to 6 ids, own tokens behind it, and at least one supervised token at the end of most of them."""
    begin, out = draw(st.lists(st.integers(0, V - 1), max_size=6)), []
    for _ in range(draw(st.integers(1, most))):
        own = draw(st.lists(st.integers(0, V - 1), min_size=1, max_size=7))
        ids = begin + own
        learnt = draw(st.integers(0, len(ids) - 1)) if len(ids) > 1 else 0
        out.append(Encoded(ids, [-100] * (len(ids) - learnt) + ids[len(ids) - learnt :]))
    return out


def tiny(kind="llama", adapted=True, dtype=torch.float64, **options):
    """A small model of a kind, frozen, with adapters whose B is not zero."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    options = {"sliding_window": None} | options if kind == "mistral" else options
    config = AutoConfig.for_model(
        kind,
        vocab_size=V,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        **options,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).requires_grad_(False)
    for name, p in model.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(p, 1, 0.3)
    if adapted:
        model = lora.attach(model, lora_r=3, lora_alpha=6)
        for name, p in model.named_parameters():
            if "lora" in name:
                p.data = torch.nn.init.normal_(p.data.to(dtype), std=0.1)
    return model.train()


def gradients(model, made, **options):
    """(total, n, gradient of all that is trained) of a batch."""
    model.zero_grad()
    total, n = engine.batch_loss(model, made, **options)
    total.backward()
    return (
        total.item(),
        n,
        torch.cat(
            [
                torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
                for p in model.parameters()
                if p.requires_grad
            ]
        ),
    )


def same(model, rows, rtol=1e-9, atol=1e-10, line=None, **options):
    (a, n, ga), (b, m, gb) = (
        gradients(model, batch.collate(rows, 0)),
        gradients(model, batch.pack(rows, share=0) if line is None else line, **options),
    )
    assert n == m and a == pytest.approx(b, rel=rtol, abs=atol)
    torch.testing.assert_close(ga, gb, rtol=rtol, atol=atol)


@pytest.fixture(scope="module")
def llama():
    return tiny()


# -- the whole


@pytest.mark.parametrize("kind", engine.KINDS)
def test_every_kind_of_model_gives_the_librarys_loss_and_gradient(kind):
    model = tiny(kind)
    assert engine.supports(model)

    @settings(max_examples=60, deadline=None)
    @given(some_rows())
    def check(rows):
        (a, n, ga), (b, m, gb) = (
            gradients(model, batch.collate(rows, 0)),
            gradients(model, batch.pack(rows, share=0)),
        )
        assert n == m and a == pytest.approx(b, rel=1e-6)
        assert (
            ga - gb
        ).norm() <= 1e-6 * ga.norm()  # transformers' own rotary angles and norms are in float32

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
    same(tiny(**options), rows, rtol=1e-6, atol=1e-6)


def test_trained_token_rows_take_the_plain_head_and_still_agree():
    model = tiny(adapted=False, tie_word_embeddings=True)
    model = lora.attach(model, lora_r=2, token_ids=[7, 8])
    assert (
        engine.supports(model)
        and type(model.get_base_model().get_output_embeddings()) is not torch.nn.Linear
    )
    rows = [Encoded([3, 7, 5, 8, 7, t], [-100] * 4 + [7, t]) for t in range(8, 12)]
    same(model, rows, rtol=1e-5, atol=1e-5)


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
        seen, pack = {}, lambda t: seen.setdefault(t.data_ptr(), t.numel() * t.element_size()) and t
        made = engine.Engine(llama, gradient_checkpointing=gradient_checkpointing)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            engine.batch_loss(llama, batch.pack(rows), engine=made)
        kept.append(sum(seen.values()))
    assert kept[1] < kept[0] / 4


def test_bfloat16_is_as_near_to_float32_as_transformers_is():
    """The yardstick is the same model in float32; the engine may be no further from it than the library in bf16."""
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


@settings(max_examples=40, deadline=None)
@given(rows=some_rows(), which=st.integers(0, 4), seed=st.integers(0, 99))
def test_nothing_leaks_between_rows(llama, rows, which, seed):
    """Whatever the other rows say in their own part, a row's loss stays what it is."""
    which %= len(rows)
    line = batch.pack(rows, share=0)
    line.target[[t for t in range(line.target.numel()) if t not in line.own[which].tolist()]] = -100
    with torch.no_grad():
        before = engine.batch_loss(llama, line)[0].item()
        others = [
            t for t in range(line.prefix, line.target.numel()) if t not in line.own[which].tolist()
        ]
        line.ids[0, others] = torch.randint(
            V, (len(others),), generator=torch.Generator().manual_seed(seed)
        )
        assert engine.batch_loss(llama, line)[0].item() == pytest.approx(before, abs=1e-10)


def test_the_beginning_is_seen(llama):
    """The other way round: change the beginning, and all rows change."""
    rows = [Encoded([7, 8, 9, t, 3, 4], [-100] * 4 + [3, 4]) for t in (10, 11)]
    changed = [Encoded([7, 20, *r.ids[2:]], r.labels) for r in rows]
    assert batch.pack(rows).prefix == 3
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
    assert isinstance(engine.arrange(tiny(), rows, 0), batch.PackedBatch) and isinstance(
        engine.arrange(gpt, rows, 0), dict
    )


@pytest.mark.parametrize("targets", ["attention", ["down_proj"]])
def test_adapters_on_some_layers_only(targets):
    model = lora.attach(tiny(adapted=False), lora_r=2, targets=targets)
    same(
        model,
        [Encoded([3, 4, 5, 6, 7, t], [-100] * 4 + [7, t]) for t in range(8, 12)],
        rtol=1e-5,
        atol=1e-6,
    )


def test_no_gradient_below_the_lowest_adapter():
    model = tiny(adapted=False)
    model = lora.attach(model, lora_r=2, targets=["model.layers.2.mlp.down_proj"])
    made = engine.Engine(model)
    seen = []
    for layer in made.layers:
        group = layer["o"]
        group.weight = lambda dtype, group=group, real=group.weight: (
            seen.append(group) or real(dtype)
        )
    engine.batch_loss(model, batch.pack([Encoded([5, 6, 7], [-100, 6, 7])]), engine=made)[
        0
    ].backward()
    assert len(seen) == 3, "each weight is used once, forwards, and never backwards"


# -- its parts, against autograd in float64


def leaf(*shape, seed=0):
    return torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    ).requires_grad_()


ANGLES = torch.linspace(-1, 1, 20, dtype=torch.float64).view(5, 1, 4).repeat(1, 1, 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: (
            lambda h: engine.RMSNorm.apply(h, torch.linspace(0.5, 2, 8).double(), 1e-5),
            [leaf(5, 8)],
        ),
        lambda: (engine.SwiGLU.apply, [leaf(5, 8)]),
        lambda: (lambda x: engine.Rotary.apply(x, ANGLES.cos(), ANGLES.sin()), [leaf(5, 3, 8)]),
        lambda: (
            lambda q, k, v: engine.Attend.apply(
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
    ids=["RMSNorm", "SwiGLU", "Rotary", "Attend", "UnpadInput", "PadInput"],
)
def test_gradients_are_right_to_finite_differences(make):
    f, inputs = make()
    assert torch.autograd.gradcheck(f, inputs, atol=1e-6)


def test_the_product_is_pefts(llama):
    """Three layers in one against three PEFT layers one by one."""
    a = llama.get_base_model().model.layers[0].self_attn
    x = leaf(7, 32)
    together = engine.FusedLoRALinear(a.q_proj, a.k_proj, a.v_proj)(x)
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
    got = engine.attend(q, k, v, batch.additive(sees, groups, n_kv, q.dtype), 0.4)
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
    monkeypatch.setattr(engine, "SCORES", 0)
    b = gradients(llama, batch.pack(rows))
    assert a[0] == pytest.approx(b[0], rel=1e-12)
    torch.testing.assert_close(a[2], b[2], rtol=1e-9, atol=1e-12)


# -- lines and families


@settings(max_examples=200, deadline=None)
@given(some_rows())
def test_a_line_holds_the_rows(rows):
    line = batch.pack(rows, share=0)
    p, flat = line.prefix, line.ids[0]
    lengths = [len(r.ids) - p for r in rows]
    assert (
        min(lengths) >= 1
        and flat.numel() == p + sum(lengths) == line.positions.numel() == line.target.numel()
    )
    for row, own, n in zip(rows, line.own, lengths):
        assert [*flat[:p].tolist(), *flat[own[:n]].tolist()] == list(row.ids)
        assert line.positions[0, own[:n]].tolist() == list(range(p, p + n))
        want = [l for l in row.labels[1:] if l != -100]
        assert [l for l in line.target[own[:n]].tolist() if l != -100] == want
    assert (line.target[:p] == -100).all() and line.own.flatten()[line.back].tolist() == list(
        range(p, flat.numel())
    )
    assert sorted(line.target[line.target != -100].tolist()) == sorted(
        supervised(batch.collate(rows, 0)["labels"])[1].tolist()
    )


def test_a_beginning_that_saves_little_is_not_shared():
    rows = [Encoded([7, *range(10 * t, 10 * t + 20), 3], [-100] * 21 + [3]) for t in range(4)]
    assert batch.pack(rows, share=0).prefix == 1 and batch.pack(rows).prefix == 0
    alike = [Encoded([*range(20), t, 3], [-100] * 21 + [3]) for t in range(4)]
    assert batch.pack(alike).prefix == 20 and batch.pack(alike, share=2).prefix == 0


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=60),
    room=st.integers(16, 200),
    seed=st.integers(0, 99),
)
def test_a_batch_is_of_one_family(lengths, room, seed):
    family = torch.randint(
        3, (len(lengths),), generator=torch.Generator().manual_seed(seed)
    ).tolist()
    got = batch.batches(lengths, room, family=family)
    assert sorted(i for b in got for i in b) == list(range(len(lengths))) and all(
        len({family[i] for i in b}) == 1 for b in got
    )
    assert all(len(b) == 1 or max(lengths[i] for i in b) * len(b) <= room for b in got)


def test_families_are_common_beginnings():
    begin = {name: [k] * 16 for k, name in enumerate("abc")}
    rows = [Encoded([*begin[name], i], []) for i, name in enumerate("a" * 10 + "b" * 9 + "c")] + [
        Encoded([0, 1], [])
    ]
    got = batch.prefix_groups(rows)
    assert (
        len(set(got[:10])) == len(set(got[10:19])) == 1
        and got[0] != got[10]
        and 0 not in (got[0], got[10])
        and got[19:] == [0, 0]
    )


def test_some_layers_of_a_group_have_a_bias_and_some_not():
    first, second = (
        torch.nn.Linear(6, 4, bias=False, dtype=torch.bfloat16),
        torch.nn.Linear(6, 3, dtype=torch.bfloat16),
    )
    x = torch.randn(5, 6, dtype=torch.bfloat16)
    with torch.no_grad():
        torch.testing.assert_close(
            engine.FusedLoRALinear(first, second)(x),
            torch.cat([first(x), second(x)], 1),
            rtol=0.02,
            atol=0.02,
        )


# -- what each row costs


@given(
    rows=st.lists(some_rows(), min_size=1, max_size=3).map(
        lambda parts: [r for p in parts for r in p]
    ),
    budget=st.integers(8, 60),
)
@settings(deadline=None, max_examples=15)
def test_each_row_costs_what_the_library_says_of_it_alone(llama, rows, budget):
    from instruct_course.train import loop

    for (nats, n), row in zip(
        loop.row_losses(llama, rows, pad_id=0, batch_tokens=budget), rows, strict=True
    ):
        labels = torch.tensor(row.labels[1:], dtype=torch.long)
        with torch.no_grad():
            logits = llama(input_ids=torch.tensor([row.ids])).logits[0, :-1]
        assert n == (labels != -100).sum() and nats == pytest.approx(
            F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum").item(), rel=1e-7
        )  # transformers' norms are float32


def test_the_head_may_score_in_parts(monkeypatch):
    from instruct_course.train import loss

    torch.manual_seed(0)
    hidden, head, labels = torch.randn(9, 4), torch.nn.Linear(4, 30), torch.randint(30, (9,))
    whole = loss.token_losses(hidden, head, labels)
    monkeypatch.setattr(loss, "LOGITS", 60)
    torch.testing.assert_close(loss.token_losses(hidden, head, labels), whole)
    torch.testing.assert_close(whole, F.cross_entropy(head(hidden), labels, reduction="none"))
    assert loss.token_losses(hidden[:0], head, labels[:0]).shape == (0,) and not whole.requires_grad
