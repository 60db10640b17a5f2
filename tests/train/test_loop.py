"""The loop: exact whatever the batch, the parts, the pauses and the number of processes."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import forked
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import CONFIG, ROWS, adapter, some_rows, tiny_llama

from instruct_course import generate
from instruct_course.common.errors import InputError, TrainingDiverged
from instruct_course.data.template import Encoded
from instruct_course.model import lora
from instruct_course.train import batch, checkpoint, engine, loop, objective, state


def trained(config=CONFIG, rows=ROWS, model=None, **options):
    model = model or tiny_llama()
    history = loop.fit(model, rows, config, pad_id=0, **options)
    return adapter(model), history


plain = pytest.mark.parametrize(
    "options", [{}, {"lora_dropout": 1e-9}], ids=["engine", "library"]
)  # a dropout that drops nothing takes the library's path


# -- one step


@plain
def test_a_batch_of_eight_is_eight_of_one(options):
    model, rows = tiny_llama(**options).train(), ROWS[:8]
    assert engine.supports(model) == (not options)

    def gradient(parts):
        model.zero_grad()
        n = sum(l != -100 for r in rows for l in r.labels[1:])
        for part in parts:
            (engine.batch_loss(model, engine.collate_for(model, part, 0))[0] / n).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])

    torch.testing.assert_close(
        gradient([rows]), gradient([[r] for r in rows]), rtol=1e-5, atol=1e-6
    )


def test_more_padding_changes_nothing():
    model = tiny_llama().train()
    made = batch.collate(ROWS[:6], 0)
    wider = {
        k: torch.nn.functional.pad(
            v, (0, 9), value={"input_ids": 7, "labels": -100, "attention_mask": 0}[k]
        )
        for k, v in made.items()
    }
    (a, n), (b, m) = engine.batch_loss(model, made), engine.batch_loss(model, wider)
    assert n == m
    a.backward()
    one = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    b.backward()
    assert a.item() == pytest.approx(b.item(), rel=1e-6)
    for x, p in zip(one, (p for p in model.parameters() if p.grad is not None)):
        torch.testing.assert_close(x, p.grad, rtol=1e-5, atol=1e-6)


@plain
def test_the_parts_of_a_step_do_not_matter(options):
    """Accumulation 1, 3 and 8: the same losses, rates, norms and adapters."""
    (a, first), *others = [
        trained(
            loop.TrainConfig(**CONFIG.__dict__ | {"micro_batches": k}), model=tiny_llama(**options)
        )
        for k in (1, 3, 8)
    ]
    for b, history in others:
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        assert [h["lr"] for h in history] == [h["lr"] for h in first]
        assert [h["loss"] for h in history] == pytest.approx([h["loss"] for h in first], rel=1e-5)


def test_a_batch_with_nothing_to_learn_is_harmless():
    """A step of rows that are all context.

    Loss 0, no gradient, no NaN, and the other steps go on.
    """
    rows = ROWS[:10] + [Encoded([9] * 40, [-100] * 40)] * 2
    weights, history = trained(loop.TrainConfig(epochs=1, lr=1e-3, batch_tokens=90), rows)
    empty = [h for h in history if h["grad_norm"] == 0]
    assert len(empty) == 1 and empty[0]["loss"] == 0 and torch.isfinite(weights).all()


def test_the_losses_are_those_of_transformers_trainer(tmp_path):
    """The same batches, AdamW, linear decay and clipping through Trainer.

    Each step's loss to 1e-5.
    """
    import datasets
    from transformers import Trainer, TrainingArguments

    config = loop.TrainConfig(epochs=2, lr=3e-3, batch_tokens=120, warmup=0.0)
    todo = loop.schedule_batches([len(r.ids) for r in ROWS], config, batch.prefix_groups(ROWS))
    _, ours = trained(config)
    args = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=1,
        num_train_epochs=1,
        learning_rate=config.lr,
        lr_scheduler_type="linear",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        optim="adamw_torch",
        train_sampling_strategy="sequential",
    )
    trainer = Trainer(
        model=tiny_llama(),
        args=args,
        train_dataset=datasets.Dataset.from_dict({"rows": todo}),
        data_collator=lambda items: batch.collate([ROWS[i] for i in items[0]["rows"]], 0),
    )
    trainer.train()
    theirs = [h["loss"] for h in trainer.state.log_history if "loss" in h]
    assert len(theirs) == len(ours) >= 8
    assert [h["loss"] for h in ours] == pytest.approx(theirs, rel=1e-5, abs=1e-5)


def test_float16_takes_the_scaler():
    """Half precision all the way.

    Small gradients survive, a step that overflows is left out and not counted as a failure.
    """
    losses = {}
    for dtype in (torch.float32, torch.float16):
        model = tiny_llama(dtype)
        assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
        history = loop.fit(model, ROWS, CONFIG, pad_id=0)
        losses[dtype] = [h["loss"] for h in history]
    assert (
        losses[torch.float16] == pytest.approx(losses[torch.float32], rel=0.02)
        and losses[torch.float16][-1] < losses[torch.float16][0]
    )


def test_float16_leaves_out_a_step_that_overflows(tmp_path, monkeypatch):
    """The first gradients overflow.

    These steps are left out and marked, checkpoints hold them, and a resume from the first one
    gives the same bits.
    """
    monkeypatch.setattr(
        torch.amp.GradScaler,
        "__init__",
        lambda self, *a, real=torch.amp.GradScaler.__init__, **k: real(
            self, *a, init_scale=2.0**40, **k
        ),
    )
    config = loop.TrainConfig(**CONFIG.__dict__ | {"epochs": 6})
    start = adapter(tiny_llama(torch.float16))
    whole, history = trained(config, model=tiny_llama(torch.float16))
    left_out = [h["grad_norm"] is None for h in history]
    assert (
        3 <= sum(left_out) < len(history)
        and all(left_out[:3])
        and not left_out[-1]
        and not torch.equal(start, whole)
    )
    keep = loop.Checkpoints(tmp_path / "c", every=1, say=lambda t: None)
    cut, _ = trained(
        config, model=tiny_llama(torch.float16), checkpoints=keep, on_step=lambda h: h["step"] == 2
    )
    assert torch.equal(cut, start)
    again, _ = trained(config, model=tiny_llama(torch.float16), checkpoints=keep)
    assert torch.equal(again, whole)


# -- rates


def test_schedules_by_transformers():
    from transformers import (
        get_constant_schedule_with_warmup,
        get_cosine_schedule_with_warmup,
        get_linear_schedule_with_warmup,
    )

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    for name, make in (
        ("linear", get_linear_schedule_with_warmup),
        ("cosine", get_cosine_schedule_with_warmup),
    ):
        (factor,) = make(optimizer, 10, 100).lr_lambdas
        assert [loop.lr_factor(s, 100, 0.1, name) for s in range(10, 100)] == pytest.approx(
            [factor(s) for s in range(10, 100)], abs=1e-12
        )
    (factor,) = get_constant_schedule_with_warmup(optimizer, 10).lr_lambdas
    assert [loop.lr_factor(s, 100, 0.1, "constant") for s in range(10, 100)] == [
        factor(s) for s in range(10, 100)
    ]


# -- noise


def test_noise_is_scaled_by_a_rows_own_length():
    """Known moments: N(0, 1) has variance 1, the even one a third, both times strength² / (L H)."""
    for L in (16, 400):
        row = Encoded([3] * L, [-100] * L)
        for kind, variance in (("gaussian", 1.0), ("neftune", 1 / 3)):
            drawn = loop.Noise(kind, 5).draw(row, 512, (0, 1, 2))
            assert drawn.shape == (L, 512) and drawn.std().item() == pytest.approx(
                5 * math.sqrt(variance / (L * 512)), rel=0.03
            )
            assert abs(drawn.mean().item()) < 5 * drawn.std().item() / math.sqrt(L * 512)
    assert loop.Noise("neftune", 5).draw(
        Encoded([3] * 16, []), 512, (0,)
    ).abs().max() <= 5 / math.sqrt(16 * 512)


def test_noise_is_the_rows_own():
    """One seed, one noise; another row, step or seed, another one; the response can be spared."""
    row = Encoded([3, 4, 5, 6], [-100, -100, 5, 6])
    noise = loop.Noise("gaussian", 1)
    assert torch.equal(noise.draw(row, 8, (0, 1, 2)), noise.draw(row, 8, (0, 1, 2)))
    assert not any(
        torch.equal(noise.draw(row, 8, (0, 1, 2)), noise.draw(row, 8, s))
        for s in ((1, 1, 2), (0, 2, 2), (0, 1, 3))
    )
    spared = loop.Noise("gaussian", 1, spare_response=True).draw(row, 8, (0, 1, 2))
    assert torch.equal(spared[:2], noise.draw(row, 8, (0, 1, 2))[:2]) and not spared[2:].any()


@plain
def test_noise_reaches_the_embeddings_and_no_padding(options, monkeypatch):
    """What goes into the first layer is embedding + noise, in a packed batch as in a padded one,
    and the bare embedding on padding.
    """
    model, rows = tiny_llama(**options).train(), ROWS[:5]
    noise, inner = loop.Noise("neftune", 40), model.get_base_model()
    went_in = []
    if options:
        handle = inner.model.layers[0].register_forward_pre_hook(
            lambda m, args, kwargs: went_in.append((args or tuple(kwargs.values()))[0]),
            with_kwargs=True,
        )
    else:
        real = engine.Engine.layer_forward
        monkeypatch.setattr(
            engine.Engine,
            "layer_forward",
            lambda self, layer, h, *rest: went_in.append(h) or real(self, layer, h, *rest),
        )
    made = engine.Engine(model) if engine.supports(model) else None
    objective.micro_batch_loss(
        model, rows, [(0, 0, i) for i in range(5)], noise=noise, pad_id=0, engine=made
    )
    embed = inner.get_input_embeddings()
    want = [embed(torch.tensor(r.ids)) + noise.draw(r, 32, (0, 0, i)) for i, r in enumerate(rows)]
    if options:
        handle.remove()
        for got, w in zip(went_in[0], want):
            torch.testing.assert_close(got[: len(w)], w)
            assert torch.equal(
                got[len(w) :], embed(torch.zeros(len(got) - len(w), dtype=torch.long))
            )
    else:
        torch.testing.assert_close(went_in[0], torch.cat(want))


@plain
def test_noise_is_off_in_evaluation_and_gone_after_an_exception(options):
    model = tiny_llama(**options)
    clean = loop.heldout_loss(model, ROWS, pad_id=0)

    def stop(h):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        loop.fit(
            model,
            ROWS,
            loop.TrainConfig(epochs=1, lr=1e-12, noise=loop.Noise("gaussian", 1e4)),
            pad_id=0,
            on_step=stop,
        )
    assert loop.heldout_loss(model, ROWS, pad_id=0)[0] == pytest.approx(clean[0], abs=2e-6)
    noisy = loop.fit(
        model,
        ROWS,
        loop.TrainConfig(epochs=1, lr=1e-12, noise=loop.Noise("gaussian", 1e4)),
        pad_id=0,
    )
    assert abs(np.mean([h["loss"] for h in noisy]) - clean[0]) > 1e-4, (
        "in training it does something"
    )


def test_noise_does_not_depend_on_parts_or_path():
    config = loop.TrainConfig(**CONFIG.__dict__ | {"noise": loop.Noise("neftune", 15)})
    (a, first), *others = [
        trained(loop.TrainConfig(**config.__dict__ | {"micro_batches": k}), model=tiny_llama(**o))
        for k, o in ((1, {}), (4, {}), (1, {"lora_dropout": 1e-9}))
    ]
    for b, history in others:
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5)
        assert [h["loss"] for h in history] == pytest.approx([h["loss"] for h in first], rel=1e-5)
    assert not torch.allclose(a, trained()[0], atol=1e-4)


@pytest.mark.parametrize(
    "kind, strength", [("laplace", 1.0), ("gaussian", -1.0), ("neftune", math.nan)]
)
def test_a_noise_that_is_none(kind, strength):
    with pytest.raises(InputError, match="gaussian:S or neftune:A"):
        loop.Noise(kind, strength)


# -- pauses


def test_evaluation_in_between_changes_no_bit(fresh):
    """Held-out loss and sampled answers after every step, on 4-bit weights whose evaluation once
    repacked them.
    """
    from instruct_course.data import template
    from instruct_course.data.dataset import builtin, example

    article = template.named("article")
    rows = [
        template.encode(article, fresh.tokenizer, example(r))
        for r in builtin("train").select(range(40))
    ]
    config, adapters = (
        loop.TrainConfig(epochs=1, lr=1e-3, batch_tokens=256, noise=loop.Noise("gaussian", 3)),
        [],
    )
    model = lora.attach(fresh.model, lora_r=4, seed=0, lora_dropout=0.1)
    start = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    for look in (False, True):
        for n, p in model.named_parameters():
            if p.requires_grad:
                p.data.copy_(start[n])

        def judge(h, look=look):
            if look:
                loop.heldout_loss(model, rows[:6], pad_id=0)
                generate.complete(
                    model, fresh.tokenizer, [[5, 6, 7]], stop_ids=[1], max_new_tokens=3
                )
                torch.randn(7)
                assert model.training

        loop.fit(model, rows, config, pad_id=0, on_step=judge)
        adapters.append(adapter(model))
    assert torch.equal(*adapters) and not torch.equal(
        adapters[0], torch.cat([p.flatten() for p in start.values()])
    )


SCRIPT = """
import json, os, signal, sys, torch
sys.path.insert(0, {tests!r})
from tiny_models import ROWS, adapter, tiny_llama
from instruct_course.train import loop
noise = loop.Noise("neftune", 5)
config = loop.TrainConfig(epochs=2, lr=3e-3, batch_tokens=100, noise=noise, seed=5)
model, last = tiny_llama(lora_dropout={dropout}), {last}
def step(h):
    if h["step"] == last and {kill}:
        os.kill(os.getpid(), signal.SIGKILL)
    return h["step"] == 10
keep = {folder!r} and loop.Checkpoints({folder!r}, every=2)
history = loop.fit(model, ROWS, config, pad_id=0, on_step=step, checkpoints=keep or None)
torch.set_printoptions(precision=10)
steps = [h["step"] for h in history]
losses = [h["loss"] for h in history]
bits = adapter(model).view(torch.int32).tolist()
print(json.dumps({{"steps": steps, "loss": losses, "adapter": bits}}))
"""


def run(tmp_path, **options):
    source = SCRIPT.format(
        **{
            "tests": str(Path(__file__).parents[1]),
            "dropout": 0.0,
            "folder": "",
            "kill": False,
            "last": 0,
        }
        | options
    )
    return forked.python(source, tmp_path)


@pytest.mark.parametrize("dropout", [0.0, 0.2], ids=["engine", "library"])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, dropout):
    """10 steps against 4, kill -9 in the fifth after it, and the rest.

    Mid-epoch, noise on, dropout on or off.
    """
    whole = json.loads(run(tmp_path, dropout=dropout).stdout.splitlines()[-1])
    assert whole["steps"] == list(range(1, 11))
    folder = tmp_path / "kept"
    killed = run(tmp_path, dropout=dropout, folder=str(folder), kill=True, last=5)
    assert killed.returncode == -signal.SIGKILL and checkpoint.newest(folder)[0] == 4
    again = run(tmp_path, dropout=dropout, folder=str(folder))
    assert "going on after step 4" in again.stdout, again.stderr
    assert json.loads(again.stdout.splitlines()[-1]) == whole


def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(tmp_path):
    whole, _ = trained()
    model = tiny_llama()

    def stop(h):
        if h["step"] == 3:
            raise KeyboardInterrupt

    history = loop.fit(
        model,
        ROWS,
        CONFIG,
        pad_id=0,
        on_step=stop,
        checkpoints=loop.Checkpoints(tmp_path / "c", every=100),
    )
    assert history[-1]["interrupted"] and checkpoint.newest(tmp_path / "c")[0] == 3
    model = tiny_llama()
    history = loop.fit(
        model,
        ROWS,
        CONFIG,
        pad_id=0,
        checkpoints=loop.Checkpoints(tmp_path / "c", every=100, say=lambda t: None),
    )
    assert [h["step"] for h in history] == list(range(1, history[0]["steps"] + 1)) and torch.equal(
        adapter(model), whole
    )


def test_another_run_is_not_continued(tmp_path):
    keep = loop.Checkpoints(tmp_path / "c", every=2, say=lambda t: None)
    trained(checkpoints=keep)
    before = checkpoint.newest(keep.folder)[1]
    for config, rows, match in (
        (
            loop.TrainConfig(**CONFIG.__dict__ | {"lr": 1e-3}),
            ROWS,
            r"lr \(0.003 there, 0.001 here\)",
        ),
        (CONFIG, some_rows(seed=1), "data"),
        (loop.TrainConfig(**CONFIG.__dict__ | {"noise": loop.Noise("neftune", 5)}), ROWS, "noise"),
    ):
        with pytest.raises(InputError, match=match):
            trained(config, rows, checkpoints=keep)
    after = checkpoint.newest(keep.folder)[1]
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


def test_a_finished_run_is_not_trained_again(tmp_path):
    keep = loop.Checkpoints(tmp_path / "c", every=1, say=lambda t: None)
    a, first = trained(checkpoints=keep)
    asked = []
    b, second = trained(checkpoints=keep, on_step=lambda h: asked.append(h["step"]))
    assert torch.equal(a, b) and first == second and asked == [len(first)], (
        "only the last step is shown once more"
    )


def test_a_run_that_ended_early_ends_there_again(tmp_path):
    """It was to end after step 4, and was killed before anybody used it.

    Going on must not train it further.
    """
    keep, end = (
        loop.Checkpoints(tmp_path / "c", every=100, say=lambda t: None),
        lambda h: h["step"] == 4,
    )
    a, first = trained(checkpoints=keep, on_step=end)
    b, second = trained(checkpoints=keep, on_step=end)
    assert torch.equal(a, b) and first == second and len(second) == 4


def test_an_adapter_without_a_gradient_stops(fresh):
    """A rate so large that all is flat behind the adapter.

    The loss rests at an even guess, which is no explosion.
    """
    from instruct_course.data import template
    from instruct_course.data.dataset import builtin, example

    rows, seen = (
        [
            template.encode(template.named("article"), fresh.tokenizer, example(r))
            for r in builtin("train").select(range(600))
        ],
        [],
    )
    model = lora.attach(
        fresh.model,
        lora_r=16,
        lora_alpha=256,
        token_ids=template.prepare(template.named("article"), fresh.tokenizer),
    )
    with pytest.raises(TrainingDiverged, match="the gradient norm 0 at step .*; lower --lr"):
        loop.fit(
            model,
            rows,
            loop.TrainConfig(epochs=3, lr=1e8, batch_tokens=512),
            pad_id=template.pad_id(fresh.tokenizer),
            on_step=seen.append,
        )
    assert (
        20 <= len(seen) < 30
        and all(h["grad_norm"] == 0 for h in seen[-20:])
        and seen[-1]["loss"] > 1
    )


# -- a run that goes wrong, or well


def test_a_first_step_of_easy_rows_makes_no_explosion_of_the_others(nano):
    """Rows of like length, which a step holds, are often of one task."""
    history = []
    state = SimpleNamespace(history=history, scaler=torch.amp.GradScaler("cpu", enabled=False))
    training = SimpleNamespace(model=nano.model, state=state, config=CONFIG, checkpoints=None)
    for loss in [0.6] + 40 * [4.0]:
        loop.check_divergence(training, loss, 1.0)
        history.append({"step": len(history) + 1, "loss": loss, "grad_norm": 1.0})
    with pytest.raises(TrainingDiverged, match="after losses of 4, 4, 4, 4, 4"):
        loop.check_divergence(training, 100.0, 1.0)  # on average 8.8; of an even guess: ln 4096


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(tmp_path):
    model, keep = tiny_llama(), loop.Checkpoints(tmp_path / "c", every=2)

    def poison(h):
        if h["step"] == 5:
            with torch.no_grad():
                next(p for p in model.parameters() if p.requires_grad).fill_(math.nan)

    with pytest.raises(
        TrainingDiverged,
        match=r"the loss is nan .* at step 6, after losses of [\d., ]+; lower --lr .*; the last good checkpoint is in",
    ):
        loop.fit(model, ROWS, CONFIG, pad_id=0, on_step=poison, checkpoints=keep)
    step, tensors, facts = checkpoint.newest(keep.folder)
    assert (
        step == 4
        and all(torch.isfinite(t).all() for t in tensors.values())
        and len(facts["history"]) == 4
    )


def test_a_loss_that_explodes_stops(fresh):
    """A rate far too large: soon the tuned model is worse than the untuned one, and there is
    nothing to wait for.
    """
    from instruct_course.data import template
    from instruct_course.data.dataset import builtin, example

    rows, seen = (
        [
            template.encode(template.named("alpaca"), fresh.tokenizer, example(r))
            for r in builtin("train").select(range(200))
        ],
        [],
    )
    with pytest.raises(
        TrainingDiverged,
        match=r"the loss is \d.* at step \d+, after losses of .*; lower --lr \(it is 3\)",
    ):
        loop.fit(
            lora.attach(fresh.model, lora_r=4),
            rows,
            loop.TrainConfig(epochs=9, lr=3.0, batch_tokens=500),
            pad_id=0,
            on_step=lambda h: seen.append(h["loss"]),
        )
    assert 20 <= len(seen) < 40 and np.mean(seen[-19:]) > 2 * seen[0]


def test_enough_is_enough(tmp_path):
    _, history = trained(
        on_step=lambda h: h.update(heldout_loss=1.5) or h["step"] == 4,
        checkpoints=loop.Checkpoints(tmp_path / "c", every=100),
    )
    assert (
        len(history) == 4
        and "interrupted" not in history[-1]
        and history[-1]["heldout_loss"] == 1.5
    )
    assert checkpoint.newest(tmp_path / "c")[2]["history"] == history


@settings(max_examples=40, deadline=None)
@given(epochs=st.floats(0.1, 3), room=st.integers(20, 200), seed=st.integers(0, 9))
def test_the_batches_are_the_same_each_time_and_epochs_hold_all_rows(epochs, room, seed):
    lengths, config = (
        [len(r.ids) for r in ROWS],
        loop.TrainConfig(epochs=epochs, batch_tokens=room, seed=seed),
    )
    got = loop.schedule_batches(lengths, config)
    assert got == loop.schedule_batches(lengths, config)
    whole, seen = int(epochs), [i for b in got for i in b]
    assert sorted(seen[: whole * len(ROWS)]) == sorted(list(range(len(ROWS))) * whole)


# -- several processes

TOGETHER = """
import json
from tiny_models import CONFIG, ROWS, adapter, tiny_llama
from instruct_course.train import loop
model = tiny_llama()
rank, _ = loop.processes()
config = loop.TrainConfig(**CONFIG.__dict__ | {"noise": loop.Noise("gaussian", 5)})
history = loop.fit(model, ROWS, config, pad_id=0)
with open(f"out{rank}", "w", encoding="utf-8") as file:
    json.dump({"loss": [h["loss"] for h in history], "adapter": adapter(model).tolist()}, file)
"""


def test_two_processes_are_one(tmp_path):
    """Two gloo processes against one at the same global batch.

    Losses and adapters to 1e-5, noise included, and both ranks alike.
    """
    for done in forked.two_pythons(TOGETHER, tmp_path):
        assert done.returncode == 0, done.stderr[-2000:]
    two = [json.loads((tmp_path / f"out{r}").read_text(encoding="utf-8")) for r in (0, 1)]
    weights, history = trained(
        loop.TrainConfig(**CONFIG.__dict__ | {"noise": loop.Noise("gaussian", 5)})
    )
    assert two[0] == two[1]
    assert two[0]["loss"] == pytest.approx([h["loss"] for h in history], rel=1e-5)
    torch.testing.assert_close(torch.tensor(two[0]["adapter"]), weights, rtol=1e-5, atol=1e-5)


LAUNCHED = """
import torch
from instruct_course.train.distributed import processes
rank, world = processes()
total = torch.tensor([10.0 ** rank])
torch.distributed.all_reduce(total)
open(f"rank{rank}of{world}", "w", encoding="utf-8").write(str(total.item()))
torch.distributed.destroy_process_group()
"""
LAUNCHERS = {
    "torchrun": "torchrun --standalone --nproc_per_node 2",
    "accelerate": "accelerate launch --multi_gpu --num_processes 2 --num_machines 1"
    " --mixed_precision no --dynamo_backend no",
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_processes_of_a_launcher_join(tmp_path, launcher):
    """Under torchrun and accelerate launch two processes find each other, and sums are over both."""
    (tmp_path / "worker.py").write_text(LAUNCHED, encoding="utf-8")
    name, *options = LAUNCHERS[launcher].split()
    done = subprocess.run(
        [Path(sys.executable).parent / name, *options, "worker.py"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        cwd=tmp_path,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = {p.name: p.read_text(encoding="utf-8") for p in tmp_path.glob("rank*")}
    assert found == {"rank0of2": "11.0", "rank1of2": "11.0"}


# -- options


def test_max_steps_is_shorter_or_longer_than_the_epochs():
    """The schedule runs over them: the first half of it, or one more pass of batches."""
    lengths = [len(r.ids) for r in ROWS]
    two = loop.schedule_batches(lengths, CONFIG)
    for steps in (1, 3, len(two), len(two) + 3):
        config = loop.TrainConfig(**CONFIG.__dict__ | {"max_steps": steps})
        found = loop.schedule_batches(lengths, config)
        assert len(found) == steps and found[: len(two)] == two[:steps]
    config = loop.TrainConfig(**CONFIG.__dict__ | {"max_steps": 3, "warmup": 0.0})
    _, history = trained(config)
    assert [h["lr"] / config.lr for h in history] == pytest.approx([1, 2 / 3, 1 / 3])


def test_max_steps_beats_the_epochs_as_in_transformers(tmp_path):
    import datasets
    from transformers import Trainer, TrainingArguments

    made = datasets.Dataset.from_dict({"input_ids": [r.ids[:4] for r in ROWS[:4]]})
    for steps in (3, 11):
        args = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=1,
            num_train_epochs=2,
            max_steps=steps,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
        )

        def collate(items):
            ids = torch.tensor([item["input_ids"] for item in items])
            return {"input_ids": ids, "labels": ids}

        trainer = Trainer(model=tiny_llama(), args=args, train_dataset=made, data_collator=collate)
        trainer.train()
        config = loop.TrainConfig(epochs=2, max_steps=steps, batch_tokens=4)
        assert trainer.state.global_step == steps == len(loop.schedule_batches([4] * 4, config))


def test_each_steps_rate_is_that_of_transformers_schedule():
    """With a warm-up; theirs is a step behind there, since it begins at zero."""
    from transformers import get_linear_schedule_with_warmup

    config = loop.TrainConfig(**CONFIG.__dict__ | {"max_steps": 20, "warmup": 0.2})
    _, history = trained(config)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    schedule = get_linear_schedule_with_warmup(optimizer, 4, 20)
    theirs = []
    for _ in range(21):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    ours = [h["lr"] for h in history]
    assert ours[:4] == pytest.approx(theirs[1:5]) and ours[4:] == pytest.approx(theirs[4:20])


@pytest.mark.parametrize("limit", [0.0, 0.05, 1e9])
def test_gradients_are_clipped_to_max_grad_norm(limit, monkeypatch):
    """The length that enters the optimizer; 0 and a very large limit change no bit."""
    entered = []
    real = loop.optimizer_step

    def look(training):
        grads = [p.grad for p in training.state.parameters.values() if p.grad is not None]
        entered.append(torch.cat([g.flatten() for g in grads]).norm().item())
        real(training)

    monkeypatch.setattr(loop, "optimizer_step", look)
    config = loop.TrainConfig(**CONFIG.__dict__ | {"max_grad_norm": limit})
    weights, history = trained(config)
    before = [h["grad_norm"] for h in history]
    if limit == 0.05:
        assert min(before) > limit
        assert entered == pytest.approx([limit] * len(before), rel=1e-3)
    else:
        assert entered == pytest.approx(before, rel=1e-5)
        other, _ = trained(loop.TrainConfig(**config.__dict__ | {"max_grad_norm": 0.0}))
        assert torch.equal(weights, other)


def test_weight_decay_is_adamws():
    """One step by hand: w (1 - lr decay) minus lr times the direction."""
    config = loop.TrainConfig(**CONFIG.__dict__ | {"max_steps": 1, "warmup": 0.0, "lr": 0.1})
    start = adapter(tiny_llama())
    plain, _ = trained(config)
    decayed, _ = trained(loop.TrainConfig(**config.__dict__ | {"weight_decay": 0.5}))
    assert torch.allclose(plain - decayed, 0.1 * 0.5 * start, atol=1e-6)
    made = state.create_state(tiny_llama(), ROWS, loop.TrainConfig(weight_decay=0.25), 1)
    assert [group["weight_decay"] for group in made.optimizer.param_groups] == [0.25]


OPTIONS = {"weight_decay": 0.1, "max_grad_norm": 0.3, "max_steps": 7, "warmup": 0.5}


@pytest.mark.parametrize("optimizer", ["adamw", "paged_adamw_8bit"])
def test_a_run_with_these_options_goes_on_to_the_same_bits(optimizer, tmp_path, monkeypatch):
    """The 8-bit optimizer works on a CPU too, without pages; only tune refuses it there."""
    monkeypatch.setattr(state, "check_optimizer", lambda name: None)
    config = loop.TrainConfig(**CONFIG.__dict__ | OPTIONS | {"optimizer": optimizer})
    models = [wide_llama() for _ in range(3)]
    whole, _ = trained(config, model=models[0])
    keep = loop.Checkpoints(tmp_path / "c", every=1, say=lambda t: None)
    cut, _ = trained(config, model=models[1], checkpoints=keep, on_step=lambda h: h["step"] == 3)
    again, history = trained(config, model=models[2], checkpoints=keep)
    assert len(history) == 7 and torch.equal(again, whole) and not torch.equal(cut, whole)
    if optimizer == "paged_adamw_8bit":
        tensors = checkpoint.newest(keep.folder)[1]
        assert any(t.dtype == torch.uint8 for k, t in tensors.items() if k.startswith("state1/"))


def wide_llama():
    """A `tiny_llama` whose adapters are large enough for averages in 8 bits (4,096 numbers)."""
    return tiny_llama(lora_r=128)


def test_the_optimizer_is_checked(tmp_path):
    with pytest.raises(InputError, match="--optimizer sgd: it must be one of adamw, paged"):
        trained(loop.TrainConfig(optimizer="sgd"))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="--optimizer paged_adamw_8bit: .* needs a GPU"):
            trained(loop.TrainConfig(optimizer="paged_adamw_8bit"))
    keep = loop.Checkpoints(tmp_path / "c", every=1, say=lambda t: None)
    trained(loop.TrainConfig(**CONFIG.__dict__ | {"max_steps": 2}), checkpoints=keep)
    other = loop.TrainConfig(**CONFIG.__dict__ | {"max_steps": 2, "weight_decay": 0.1})
    with pytest.raises(InputError, match=r"weight_decay \(0.0 there, 0.1 here\)"):
        trained(other, checkpoints=keep)
