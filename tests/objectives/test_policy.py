"""GRPO in the loop: what is drawn, what it costs, micro-batches, resuming."""

import math

import pytest
import torch
from trl_losses import grpo_loss

from instruct_course.common.errors import InputError
from instruct_course.data import dataset, template
from instruct_course.model import lora
from instruct_course.model.load import load_base
from instruct_course.objectives.grpo import exact_reward
from instruct_course.objectives.policy import GRPO, StartingPoint, logprobs_at
from instruct_course.train import loop
from instruct_course.train.logprobs import token_logprobs

# isort: split
from trl.trainer.utils import selective_log_softmax

EXAMPLES = [dataset.example(row) for row in dataset.builtin("train").select(range(6))]
CONFIG = loop.TrainConfig(epochs=1, lr=3e-4, batch_tokens=600, warmup=0.0)


def words_reward(example, text):
    """Something of which a base has more and less: few letters."""
    return 1 / (1 + len(text))


def policy(**options):
    """(model, tokenizer, template, rows) of nano with a fresh adapter."""
    base = load_base("nano")
    article = template.named("article")
    token_ids = template.prepare(article, base.tokenizer)
    rows = [template.encode(article, base.tokenizer, example) for example in EXAMPLES]
    model = lora.attach(base.model, lora_r=4, lora_alpha=64, token_ids=token_ids, seed=0, **options)
    return model, base.tokenizer, article, rows


def goal(model, tokenizer, article, *, reward=words_reward, beta=0.04, temperature=1.0, **options):
    return GRPO(
        model,
        tokenizer,
        article,
        EXAMPLES,
        reward=reward,
        beta=beta,
        group_size=4,
        temperature=temperature,
        max_new_tokens=8,
        **options,
    )


def trained(config=CONFIG, options=None, **goal_options):
    model, tokenizer, article, rows = policy(**options or {})
    made = goal(model, tokenizer, article, **goal_options)
    pad_id = template.pad_id(tokenizer)
    history = loop.fit(model, rows, config, pad_id=pad_id, objective=made)
    return history, model


def with_options(**options):
    return loop.TrainConfig(**CONFIG.__dict__ | options)


@pytest.fixture(scope="module")
def whole():
    return trained()


def numbers(history):
    return [{k: h[k] for k in ("loss", "reward", "kl", "equal_groups", "grad_norm")}
            for h in history]  # fmt: skip


def test_the_first_step(whole):
    """Ratios are 1 and the KL is 0, so the loss is minus the mean advantage, which is 0."""
    first = whole[0][0]
    assert first["loss"] == pytest.approx(0, abs=1e-5)
    assert first["kl"] == pytest.approx(0, abs=1e-6)
    assert 0 < first["reward"] < 1
    assert first["grad_norm"] > 0
    assert whole[0][-1]["kl"] > 0


def test_the_gradient_is_that_of_the_policy_gradient():
    """Of the first step: the advantage-weighted mean log-probabilities, by transformers alone."""
    model, tokenizer, article, rows = policy()
    made = goal(model, tokenizer, article)
    seen = {}
    real = made.loss

    def loss(training, step, part):
        seen["groups"] = made.samples.groups
        found = real(training, step, part)
        return found

    made.loss = loss
    config = with_options(max_steps=1, lr=1e-12, batch_tokens=10**6, max_grad_norm=0.0)
    history = loop.fit(model, rows, config, pad_id=0, objective=made)
    model.zero_grad()
    model.train()
    total = 0.0
    answers = 0
    for group in seen["groups"].values():
        for row, advantage in zip(group.rows, group.advantages, strict=True):
            logits = model(torch.tensor([row.ids])).logits[0, :-1].float()
            labels = torch.tensor(row.labels[1:])
            nats = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100)
            total = total + nats * advantage
            answers += 1
    (total / answers).backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
    wanted = torch.nn.utils.get_total_norm(grads).item()
    assert history[0]["grad_norm"] == pytest.approx(wanted, rel=2e-2)


def test_micro_batches_draw_the_same_answers(whole):
    parts, _ = trained(with_options(micro_batches=2))
    first, other = whole[0][0], parts[0]
    assert first["reward"] == pytest.approx(other["reward"], rel=1e-6)
    assert first["equal_groups"] == other["equal_groups"]
    assert first["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


def test_transformers_own_modules_train_alike(whole):
    plain, _ = trained(options={"lora_dropout": 1e-12})
    assert plain[0]["reward"] == whole[0][0]["reward"]
    assert plain[0]["grad_norm"] == pytest.approx(whole[0][0]["grad_norm"], rel=2e-2)


def test_a_stopped_run_goes_on_to_the_same_bits(whole, tmp_path):
    for stop in (True, False):
        model, tokenizer, article, rows = policy()
        history = loop.fit(
            model,
            rows,
            CONFIG,
            pad_id=template.pad_id(tokenizer),
            objective=goal(model, tokenizer, article),
            checkpoints=loop.Checkpoints(tmp_path, every=1, say=lambda _: None),
            on_step=lambda h, stop=stop: stop and h["step"] == 1,
        )
    assert numbers(history) == numbers(whole[0])
    trainable = [p for p in model.parameters() if p.requires_grad]
    others = [p for p in whole[1].parameters() if p.requires_grad]
    assert all(map(torch.equal, trainable, others))


def test_other_samples_do_not_go_on(tmp_path):
    model, tokenizer, article, rows = policy()
    options = {"pad_id": 0, "checkpoints": loop.Checkpoints(tmp_path, every=1, say=print)}
    config = with_options(max_steps=1)
    loop.fit(model, rows, config, objective=goal(model, tokenizer, article), **options)
    model, tokenizer, article, rows = policy()
    other = goal(model, tokenizer, article, temperature=0.7)
    with pytest.raises(InputError, match="sampling_temperature .1.0 there, 0.7 here"):
        loop.fit(model, rows, config, objective=other, **options)


def test_equal_rewards_teach_nothing_but_to_stay():
    """No answer of the base is right, so all advantages are 0, and so is the gradient."""
    history, model = trained(with_options(max_steps=1), reward=lambda example, text: 0.0, beta=0.04)
    assert history[0]["equal_groups"] == 1.0
    assert history[0]["reward"] == 0.0
    assert history[0]["grad_norm"] == pytest.approx(0, abs=1e-6)


def test_the_starting_point_comes_and_goes():
    model, *_ = policy()
    start = StartingPoint(model)
    trained_parameters = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in trained_parameters:
            p.add_(1.0)
    moved = [p.detach().clone() for p in trained_parameters]
    with start.in_place():
        assert all(map(torch.equal, trained_parameters, start.kept))
    assert all(map(torch.equal, trained_parameters, moved))
    with pytest.raises(KeyError), start.in_place():
        raise KeyError
    assert all(map(torch.equal, trained_parameters, moved))


def test_what_a_step_costs():
    model, tokenizer, article, rows = policy()
    made = goal(model, tokenizer, article, reward=exact_reward)
    assert made.length(rows[0]) == 4 * len(rows[0].ids)
    assert made.weight(rows) == 24
    assert made.settings()["reward"] == "exact_reward"
    assert math.isclose(made.settings()["beta"], 0.04)


def test_a_prompt_without_an_expected_answer_may_get_the_longest():
    model, tokenizer, article, rows = policy()
    made = goal(model, tokenizer, article)
    alone = template.Encoded(rows[0].ids, [template.IGNORE_INDEX] * len(rows[0].ids))
    assert made.length(alone) == made.length(rows[0]) + 4 * 8


# -- several steps per set of answers, and a temperature


SEVERAL = {"num_iterations": 3, "clip": 0.1, "temperature": 0.7}


def logprobs_by_trl(model, groups, temperature):
    """The log-probabilities of all answers' tokens, by transformers and TRL."""
    found = []
    for row in (row for group in groups for row in group.rows):
        with torch.no_grad():
            logits = model(torch.tensor([row.ids])).logits[:, :-1].float()
        labels = torch.tensor([row.labels[1:]])
        taken = selective_log_softmax(logits, labels.clamp(min=0), temperature=temperature)
        found.append(taken[labels != template.IGNORE_INDEX])
    return torch.cat(found)


def watched(made):
    """A list that gets, before each loss, what TRL would take it of."""
    seen = []
    real = made.loss

    def loss(training, step, part):
        groups = [made.samples.groups[int(i)] for i in part]
        policy = logprobs_by_trl(training.model, groups, made.temperature)
        with made.start.in_place():
            reference = logprobs_by_trl(training.model, groups, made.temperature)
        seen.append((groups, policy, reference))
        return real(training, step, part)

    made.loss = loss
    return seen


def test_several_steps_are_trls_on_the_same_numbers():
    """A set of three steps, and the first one of the next: the loss of each by TRL, from log-probabilities that it takes."""
    model, tokenizer, article, rows = policy()
    made = goal(model, tokenizer, article, **SEVERAL)
    seen = watched(made)
    config = with_options(max_steps=4, lr=3e-3, epochs=4, batch_tokens=10_000)
    history = loop.fit(model, rows[:3], config, pad_id=0, objective=made)
    assert len(history) == 4
    for step, (groups, now, reference) in enumerate(seen):
        old = seen[step - step % 3][1]
        lengths = [
            sum(x != template.IGNORE_INDEX for x in r.labels) for g in groups for r in g.rows
        ]
        advantages = torch.cat([group.advantages for group in groups])
        theirs, metrics = grpo_loss(now, old, reference, advantages, lengths, clip=0.1)
        assert history[step]["loss"] == pytest.approx(theirs.item(), abs=2e-3)
        share = metrics["clip_ratio/region_mean"][0]
        assert history[step]["clipped"] == pytest.approx(share, abs=2.5 / sum(lengths))
        assert (history[step]["clipped"] == 0) == (step % 3 == 0)
    texts = [[row.ids for group in groups for row in group.rows] for groups, *_ in seen]
    assert texts[0] == texts[1] == texts[2] != texts[3]


@pytest.mark.parametrize("stop", [1, 5])
def test_a_run_that_stops_inside_a_set_goes_on_to_the_same_bits(several, stop, tmp_path):
    for until in (stop, 6):
        model, tokenizer, article, rows = policy()
        history = loop.fit(
            model,
            rows,
            STEPS,
            pad_id=0,
            objective=goal(model, tokenizer, article, **SEVERAL),
            checkpoints=loop.Checkpoints(tmp_path, every=1, say=lambda _: None),
            on_step=lambda h, until=until: h["step"] == until,
        )
    assert [h["clipped"] for h in history] == [h["clipped"] for h in several[0]]
    assert numbers(history) == numbers(several[0])
    trainable = [p for p in model.parameters() if p.requires_grad]
    others = [p for p in several[1].parameters() if p.requires_grad]
    assert all(map(torch.equal, trainable, others))


def test_sets_that_no_checkpoint_needs_go(tmp_path):
    """When the third set is drawn, the checkpoints are those of steps 3 and 4."""
    model, tokenizer, article, rows = policy()
    made = goal(model, tokenizer, article, num_iterations=2)
    where = loop.Checkpoints(tmp_path, every=1, say=print)
    config = with_options(max_steps=5, epochs=5)
    loop.fit(model, rows, config, pad_id=0, objective=made, checkpoints=where)
    kept = sorted(path.name for path in tmp_path.glob("answers-*"))
    assert kept == ["answers-00000001-0.safetensors", "answers-00000002-0.safetensors"]


STEPS = loop.TrainConfig(**CONFIG.__dict__ | {"max_steps": 6, "epochs": 6, "lr": 1e-3})


@pytest.fixture(scope="module")
def several():
    return trained(STEPS, **SEVERAL)


def test_answers_that_are_gone_are_said(tmp_path):
    options = {"pad_id": 0, "checkpoints": loop.Checkpoints(tmp_path, every=1, say=print)}
    for again in (False, True):
        model, tokenizer, article, rows = policy()
        made = goal(model, tokenizer, article, **SEVERAL)
        if not again:
            options["on_step"] = lambda h: h["step"] == 2
            loop.fit(model, rows, STEPS, objective=made, **options)
            next(tmp_path.glob("answers-*")).unlink()
    with pytest.raises(InputError, match="the sampled answers of step 2 cannot be read"):
        loop.fit(model, rows, STEPS, objective=made, **options | {"on_step": None})


def test_micro_batches_of_several_steps(several):
    parts, _ = trained(
        loop.TrainConfig(**STEPS.__dict__ | {"micro_batches": 2, "max_steps": 2}), **SEVERAL
    )
    for mine, other in zip(parts, several[0]):
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-2)
        assert mine["clipped"] == pytest.approx(other["clipped"], abs=0.02)


@pytest.mark.parametrize("kind", ["fused", "plain"])
def test_log_probabilities_at_a_temperature(kind):
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 5, generator=g, dtype=torch.float64).requires_grad_()
    head = torch.nn.Linear(5, 11, bias=kind == "plain", dtype=torch.float64)
    head.requires_grad_(kind == "plain")
    labels = torch.arange(7)
    found = logprobs_at(0.7)(hidden, head, labels)
    wanted = selective_log_softmax(head(hidden), labels, temperature=0.7)
    torch.testing.assert_close(found, wanted)
    weights = torch.arange(7.0, dtype=torch.float64)
    gradients = [torch.autograd.grad((x * weights).sum(), hidden)[0] for x in (found, wanted)]
    torch.testing.assert_close(*gradients)
    assert logprobs_at(1.0) is token_logprobs


def test_no_set_is_kept_where_each_serves_one_step(whole, tmp_path):
    model, tokenizer, article, rows = policy()
    made = goal(model, tokenizer, article)
    where = loop.Checkpoints(tmp_path, every=1, say=print)
    config = with_options(max_steps=1)
    history = loop.fit(model, rows, config, pad_id=0, objective=made, checkpoints=where)
    assert "clipped" not in history[0] and "num_iterations" not in made.settings()
    assert not list(tmp_path.glob("answers-*"))
