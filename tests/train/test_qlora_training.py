"""Loss, quantisation, adapters, the loop, generation and scores.

Parity with the libraries and known answers.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_course import generate
from instruct_course.common.errors import InputError, TrainingDiverged
from instruct_course.data import template
from instruct_course.data.dataset import builtin, example
from instruct_course.data.example import Example
from instruct_course.data.template import Encoded
from instruct_course.evaluate import metrics
from instruct_course.model import lora, quantize
from instruct_course.train import engine, loop
from instruct_course.train.batch import batches, collate


def rows_of(base, n=24, split="train"):
    article = template.named("article")
    return [
        template.encode(article, base.tokenizer, example(r))
        for r in builtin(split).select(range(n))
    ]


# -- loss


def test_batch_loss_is_the_models_own(nano):
    batch = collate(rows_of(nano), template.pad_id(nano.tokenizer))
    with torch.no_grad():
        total, n = engine.batch_loss(nano.model, batch)
        library = nano.model(**batch).loss
    assert total.item() / n == pytest.approx(library.item(), rel=1e-5)


def test_batch_loss_with_scaled_logits_is_the_models_own():
    from transformers import GraniteConfig, GraniteForCausalLM

    torch.manual_seed(0)
    model = GraniteForCausalLM(
        GraniteConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            logits_scaling=8.0,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
        )
    ).eval()
    batch = collate([Encoded([5, 6, 7, 8], [-100, -100, 7, 8])], 0)
    with torch.no_grad():
        total, n = engine.batch_loss(model, batch)
        assert total.item() / n == pytest.approx(model(**batch).loss.item(), rel=1e-5)


# -- quantisation


def test_nf4_is_what_the_loader_gives(nano):
    layers = [
        m for m in nano.model.modules() if isinstance(m, quantize.bitsandbytes().nn.Linear4bit)
    ]
    assert len(layers) == 28 and all(
        m.weight.quant_type == "nf4" and m.weight.quant_state.nested for m in layers
    )
    assert not any(p.requires_grad for p in nano.model.parameters())


def gradients(model, batch):
    model.zero_grad()
    model.train()
    engine.batch_loss(model, batch)[0].backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_evaluation_leaves_gradients_alone(fresh):
    model = lora.attach(fresh.model, lora_r=4)
    batch = collate(rows_of(fresh, 6), template.pad_id(fresh.tokenizer))
    before = gradients(model, batch)
    loop.heldout_loss(model, rows_of(fresh, 6), pad_id=template.pad_id(fresh.tokenizer))
    assert torch.equal(before, gradients(model, batch))


def test_protect_disarms_the_repacking(fresh, monkeypatch):
    """The trap itself, planted on any machine.

    A repacking that spoils the weights must never be reached.
    """
    import bitsandbytes.nn.modules as bnb

    calls = []
    monkeypatch.setattr(
        bnb,
        "_convert_weight_packed_for_cpu",
        lambda data, state: (calls.append(1), (data, state))[1],
    )
    layers = [m for m in fresh.model.modules() if isinstance(m, bnb.Linear4bit)]
    ids = torch.tensor([[5, 6, 7]])
    for m in layers:
        m.support_avx512bf16_for_cpu = True
    fresh.model(ids)
    assert calls, "the planted trap does not spring: this test proves nothing any more"
    calls.clear()
    assert quantize.protect(fresh.model) == len(layers)
    fresh.model(ids)
    assert not calls


def test_no_kernels_from_a_hub(tmp_path):
    """With a package `kernels` at hand and bf16 claimed, importing bitsandbytes must not call it
    and must say nothing.
    """
    import os
    import subprocess
    import sys

    (tmp_path / "kernels.py").write_text(
        "def get_kernel(*a, **k):\n    print('FETCHED')\n    raise SystemExit(9)\n",
        encoding="utf-8",
    )
    code = "from instruct_course.model.quantize import bitsandbytes\nb = bitsandbytes()\nimport kernels\nassert kernels.get_kernel\nprint('fine')"
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.strip() == "fine" and "Failed to load" not in done.stderr, (
        done.stdout + done.stderr
    )


# -- adapters


@pytest.mark.parametrize("tied", [True, False])
def test_new_token_rows_move_and_survive(tmp_path, tied):
    from transformers import LlamaConfig, LlamaForCausalLM

    from instruct_course.run import fit_vocabulary

    def base():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=60,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=2,
                tie_word_embeddings=tied,
                pad_token_id=0,
                bos_token_id=None,
                eos_token_id=1,
            )
        ).requires_grad_(False)
        fit_vocabulary(model, range(64))  # four new tokens
        return model

    new = [60, 61, 62, 63]
    model = lora.attach(base(), lora_r=2, token_ids=new)
    rows = [
        Encoded([60, 5, 61, 6, 62, 63], [-100] * 5 + [63])
    ] * 4  # a token of a random base could not be learnt: its row in the head is frozen
    start = model.get_input_embeddings()(torch.arange(64)).detach().clone()
    history = loop.fit(model, rows, loop.TrainConfig(epochs=40, lr=2e-2, batch_tokens=32), pad_id=0)
    moved = (model.get_input_embeddings()(torch.arange(64)) - start).abs().sum(1) > 1e-4
    assert moved[[60, 61, 62]].all() and not moved[:60].any(), "only the new tokens' rows move"
    assert history[-1]["loss"] < 0.3 < history[0]["loss"], (
        "the end token is new and must be learnt, in the head too"
    )
    ids = torch.tensor([[60, 5, 61, 6, 62]])
    wanted = model(ids).logits
    lora.save(model, tmp_path / "a", base="tiny")
    again = lora.load(base(), tmp_path / "a")
    torch.testing.assert_close(again(ids).logits, wanted, rtol=1e-5, atol=1e-5)
    assert not list((tmp_path / "a").glob("*.bin"))


def test_a_fresh_adapter_changes_nothing(fresh):
    ids = torch.tensor([[5, 6, 7, 8]])
    before = fresh.model(ids).logits
    assert torch.equal(
        lora.attach(fresh.model, lora_r=4, token_ids=[2, 3, 4]).eval()(ids).logits, before
    )


# -- the loop


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=80),
    room=st.integers(16, 200),
    epoch=st.integers(0, 3),
)
def test_batches_hold_every_row_once_and_fit(lengths, room, epoch):
    got = batches(lengths, room, seed=1, epoch=epoch)
    assert sorted(i for b in got for i in b) == list(range(len(lengths)))
    assert all(len(b) == 1 or max(lengths[i] for i in b) * len(b) <= room for b in got)
    assert got == batches(lengths, room, seed=1, epoch=epoch)


def test_decay_rises_then_falls_to_nearly_zero():
    f = [loop.lr_factor(s, 100, 0.1) for s in range(100)]
    assert (
        f[9] == 1.0 and f[0] == 0.1 and f[-1] == pytest.approx(1 / 90) and np.argmax(f) in (9, 10)
    )
    assert f[10:] == sorted(f[10:], reverse=True)


def test_a_fraction_of_an_epoch():
    lengths = [4] * 64

    def count(epochs):
        return len(loop.schedule_batches(lengths, loop.TrainConfig(epochs=epochs, batch_tokens=32)))

    assert (count(1), count(0.5), count(2.25)) == (8, 4, 18)


def test_fit_equals_a_loop_by_hand(fresh):
    """One step with one batch: AdamW on the mean over supervised tokens."""
    rows, pad = rows_of(fresh, 5), template.pad_id(fresh.tokenizer)
    model = lora.attach(fresh.model, lora_r=2, seed=3)
    start = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    batch = collate(rows, pad)
    model(**batch).loss.backward()
    clones = [torch.nn.Parameter(p) for p in start]
    for clone, p in zip(clones, (p for p in model.parameters() if p.requires_grad)):
        clone.grad = p.grad.clone()
    norm = torch.nn.utils.clip_grad_norm_(clones, 1.0)
    torch.optim.AdamW(clones, lr=1e-3, weight_decay=0.0).step()
    history = loop.fit(
        model, rows, loop.TrainConfig(epochs=1, lr=1e-3, batch_tokens=10_000, warmup=0), pad_id=pad
    )
    assert (
        history[0]["grad_norm"] == pytest.approx(norm.item(), rel=1e-3) and history[0]["lr"] == 1e-3
    )
    for clone, p in zip(clones, (p for p in model.parameters() if p.requires_grad)):
        torch.testing.assert_close(p.detach(), clone.detach(), rtol=0, atol=2e-4)


def test_heldout_loss_does_not_depend_on_the_batch(nano):
    rows, pad = rows_of(nano, 30), template.pad_id(nano.tokenizer)
    got = [loop.heldout_loss(nano.model, rows, pad_id=pad, batch_tokens=b) for b in (40, 300, 5000)]
    assert len({n for _, n in got}) == 1
    assert max(x for x, _ in got) - min(x for x, _ in got) < 1e-5


def test_nothing_supervised_and_a_loss_that_is_no_number_stop(fresh):
    with pytest.raises(InputError, match="no supervised token"):
        loop.fit(fresh.model, [Encoded([1, 2], [-100, -100])], pad_id=0)
    model = lora.attach(fresh.model, lora_r=2)
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).fill_(math.nan)
    with pytest.raises(TrainingDiverged, match="lower --lr"):
        loop.fit(model, rows_of(fresh, 4), pad_id=0)


def test_ctrl_c_keeps_what_was_learnt(fresh):
    model = lora.attach(fresh.model, lora_r=2)

    def stop(h):
        if h["step"] == 2:
            raise KeyboardInterrupt

    history = loop.fit(
        model,
        rows_of(fresh, 20),
        loop.TrainConfig(epochs=3, batch_tokens=128),
        pad_id=0,
        on_step=stop,
    )
    assert len(history) == 2 and history[-1]["interrupted"] and not model.training


# -- generation


def test_a_batch_answers_as_each_alone(nano):
    prompts = [
        nano.tokenizer(t).input_ids
        for t in ("The capital of Japan is", "猫", "one, two, three: the first item is")
    ]
    together = generate.complete(
        nano.model, nano.tokenizer, prompts, stop_ids=[1], max_new_tokens=10
    )
    assert together == [
        generate.complete(nano.model, nano.tokenizer, [p], stop_ids=[1], max_new_tokens=10)[0]
        for p in prompts
    ]
    assert all(1 not in c.ids for c in together)


def test_streaming_gives_whole_characters_and_the_same_answer(nano):
    for text in ("猫的英文是", "The opposite of hot is", "🙂"):
        ids = nano.tokenizer(text).input_ids
        pieces = list(
            generate.stream(nano.model, nano.tokenizer, ids, stop_ids=[1], max_new_tokens=20)
        )
        (whole,) = generate.complete(
            nano.model, nano.tokenizer, [ids], stop_ids=[1], max_new_tokens=20
        )
        assert "".join(pieces) == whole.text
        assert not any("\ufffd" in p for p in pieces)


# -- scores


def test_exact_match_knows_what_matters():
    assert (
        metrics.exact_match(" Paris. ", "Paris")
        and metrics.exact_match("ＡＢＣ，", "ABC,")
        and metrics.exact_match("北京。", "北京")
    )
    assert not metrics.exact_match("cat", "CAT") and not metrics.exact_match("", "a")


@settings(max_examples=100, deadline=None)
@given(
    a=st.lists(st.sampled_from("cat dog owl Fox 12".split()), max_size=8),
    b=st.lists(st.sampled_from("cat dog owl fox 12".split()), max_size=8),
)
def test_rouge_is_the_librarys_on_english(a, b):
    from rouge_score.rouge_scorer import RougeScorer

    a, b = " ".join(a), " ".join(b)
    wanted = RougeScorer(["rougeL"]).score(b, a)["rougeL"].fmeasure if a and b else float(a == b)
    assert metrics.rouge_l(a, b) == pytest.approx(wanted)


def test_rouge_counts_chinese_characters():
    assert metrics.rouge_l("小明参观了博物馆", "小明去了博物馆") == pytest.approx(2 * 6 / 15)
    assert metrics.rouge_l("完全", "不同") == 0


def test_score_groups_and_majority():
    rows = [
        Example("q", output=o, task=t, lang="en", split="inputs", wording="q")
        for o, t in (("a", "x"), ("b", "x"), ("a", "y"))
    ]
    got = metrics.score(["a", "a", "a"], rows)
    assert (
        got["exact_match"] == pytest.approx(2 / 3)
        and got["tasks"]["x"]["exact_match"] == 0.5
        and got["tasks"]["y"]["n"] == 1
    )
    assert got["splits"]["inputs"]["n"] == 3 and metrics.majority(rows) == pytest.approx(2 / 3)
