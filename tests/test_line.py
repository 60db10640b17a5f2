"""Rows in one line with their common beginning once: the same loss and gradients as the rectangle, and nothing leaks."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_course import lora, train
from instruct_course.loss import supervised
from instruct_course.template import Encoded

V = 50


@st.composite
def some_rows(draw, most=5):
    """Rows with a common beginning of 0 to 6 ids, own tokens behind it, and at least one supervised token at the end of most of them."""
    begin, out = draw(st.lists(st.integers(0, V - 1), max_size=6)), []
    for _ in range(draw(st.integers(1, most))):
        own = draw(st.lists(st.integers(0, V - 1), min_size=1, max_size=7))
        ids = begin + own
        learnt = draw(st.integers(0, len(ids) - 1)) if len(ids) > 1 else 0
        out.append(Encoded(ids, [-100] * (len(ids) - learnt) + ids[len(ids) - learnt:]))
    return out


def tiny(kind, **options):
    from transformers import AutoConfig, AutoModelForCausalLM
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=V, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                                  head_dim=8, pad_token_id=0, bos_token_id=None, eos_token_id=1, **({"sliding_window": None} | options if kind == "mistral" else options))
    return AutoModelForCausalLM.from_config(config)


def both(model, rows):
    """[(total, n, gradient)] of the rectangle and of the line."""
    out = []
    for batch in (train.collate(rows, 0), train.lay_out(rows)):
        model.zero_grad()
        total, n = train.batch_loss(model, batch)
        total.backward()
        out.append((total.item(), n, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    return out


@settings(max_examples=200, deadline=None)
@given(some_rows())
def test_a_line_holds_the_rows(rows):
    line = train.lay_out(rows)
    p, flat = line.prefix, line.ids[0]
    lengths = [len(r.ids) - p for r in rows]
    assert min(lengths) >= 1 and flat.numel() == p + sum(lengths) == line.positions.numel() == line.target.numel()
    for row, own, n in zip(rows, line.own, lengths):
        assert [*flat[:p].tolist(), *flat[own[:n]].tolist()] == list(row.ids)
        assert line.positions[0, own[:n]].tolist() == list(range(p, p + n))
        want = [l for l in row.labels[1:] if l != -100]
        assert [l for l in line.target[own[:n]].tolist() if l != -100] == want
    assert (line.target[:p] == -100).all() and line.own.flatten()[line.back].tolist() == list(range(p, flat.numel()))
    assert sorted(line.target[line.target != -100].tolist()) == sorted(supervised(train.collate(rows, 0)["labels"])[1].tolist())


@pytest.mark.parametrize("kind", train.LINES)
def test_every_kind_of_model_gives_the_rectangles_loss_and_gradient(kind):
    model = tiny(kind)
    assert train.takes_lines(model)

    @settings(max_examples=25, deadline=None)
    @given(some_rows())
    def check(rows):
        (a, n, ga), (b, m, gb) = both(model, rows)
        assert n == m and a == pytest.approx(b, rel=1e-5, abs=1e-6)
        torch.testing.assert_close(ga, gb, rtol=1e-4, atol=1e-5)
    check()


@settings(max_examples=30, deadline=None)
@given(rows=some_rows(), which=st.integers(0, 4), seed=st.integers(0, 99))
def test_nothing_leaks_between_rows(rows, which, seed):
    """Whatever the other rows say in their own part, a row's loss stays what it is."""
    model, which = MODEL, which % len(rows)
    line = train.lay_out(rows)
    line.target[[t for t in range(line.target.numel()) if t not in line.own[which].tolist()]] = -100
    with torch.no_grad():
        before = train.batch_loss(model, line)[0].item()
        others = [t for t in range(line.prefix, line.target.numel()) if t not in line.own[which].tolist()]
        line.ids[0, others] = torch.randint(V, (len(others),), generator=torch.Generator().manual_seed(seed))
        assert train.batch_loss(model, line)[0].item() == pytest.approx(before, abs=1e-6)


MODEL = tiny("llama")


def test_the_beginning_is_seen():
    """The other way round: change the beginning, and all rows change."""
    rows = [Encoded([7, 8, 9, t, 3, 4], [-100] * 4 + [3, 4]) for t in (10, 11)]
    changed = [Encoded([7, 20, *r.ids[2:]], r.labels) for r in rows]
    assert train.lay_out(rows).prefix == 3
    with torch.no_grad():
        a, b = (train.batch_loss(MODEL, train.lay_out(r))[0].item() for r in (rows, changed))
    assert abs(a - b) > 1e-3


def test_the_models_own_attention_comes_back():
    was = MODEL.config._attn_implementation
    train.batch_loss(MODEL, train.lay_out([Encoded([5, 6], [-100, 6])]))
    with pytest.raises(Exception):
        train.batch_loss(MODEL, train.lay_out([Encoded([5, V + 7], [-100, 6])]))
    assert MODEL.config._attn_implementation == was


def test_who_takes_lines():
    from transformers import AutoConfig, AutoModelForCausalLM
    assert not train.takes_lines(tiny("mistral", sliding_window=16))
    gpt = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", vocab_size=V, n_embd=16, n_layer=1, n_head=2))
    assert not train.takes_lines(gpt)
    checkpointed = tiny("llama").train()
    checkpointed.gradient_checkpointing_enable()
    assert not train.takes_lines(checkpointed), "its second forward pass would come after the attention is put back"
    rows = [Encoded([7, 8, 9, 10, 11, t], [-100] * 5 + [t]) for t in range(8)]
    assert isinstance(train.arrange(MODEL, rows, 0), train.Line) and isinstance(train.arrange(gpt, rows, 0), dict)
    apart = [Encoded([t, t + 1, t + 2], [-100, -100, t + 2]) for t in range(8)]
    assert isinstance(train.arrange(MODEL, apart, 0), dict), "a line that saves nothing is not taken"


@settings(max_examples=80, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=60), room=st.integers(16, 200), seed=st.integers(0, 99))
def test_a_batch_is_of_one_family(lengths, room, seed):
    family = torch.randint(3, (len(lengths),), generator=torch.Generator().manual_seed(seed)).tolist()
    got = train.batches(lengths, room, family=family)
    assert sorted(i for b in got for i in b) == list(range(len(lengths))) and all(len({family[i] for i in b}) == 1 for b in got)
    assert all(len(b) == 1 or max(lengths[i] for i in b) * len(b) <= room for b in got)


def test_families_are_common_beginnings():
    begin = {name: [k] * 16 for k, name in enumerate("abc")}
    rows = [Encoded([*begin[name], i], []) for i, name in enumerate("a" * 10 + "b" * 9 + "c")] + [Encoded([0, 1], [])]
    got = train.families(rows)
    assert len(set(got[:10])) == len(set(got[10:19])) == 1 and got[0] != got[10] and 0 not in (got[0], got[10]) and got[19:] == [0, 0]


def test_a_run_in_lines_is_the_run_in_rectangles(fresh, monkeypatch):
    """The trajectory of the loss, to float32's rounding."""
    from instruct_course import template as T
    from instruct_course.data import builtin, example
    alpaca = T.named("alpaca")
    rows = [T.encode(alpaca, fresh.tokenizer, example(r)) for r in builtin("train").select(range(60))]
    config = train.TrainConfig(epochs=1, lr=1e-3, batch_tokens=1500)
    weights = {n: p.clone() for n, p in fresh.model.named_parameters()}
    histories = []
    for lines in (True, False):
        monkeypatch.setattr(train, "takes_lines", lambda model: lines)
        model = lora.attach(fresh.model, rank=4) if lines else model
        for n, p in model.named_parameters():
            if "lora_B" in n:
                p.data.zero_()
            elif "lora_A" in n:
                kept = weights.setdefault(n, p.clone())
                p.data.copy_(kept)
        histories.append([h["loss"] for h in train.fit(model, rows, config, pad_id=T.pad_id(fresh.tokenizer))])
    assert len(histories[0]) > 3 and histories[0] == pytest.approx(histories[1], rel=1e-3)
