"""Objectives of pairs in the loop: the engine against transformers, TRL's trainer, resuming."""

import math

import pytest
import torch
from tiny_models import VOCAB, some_pairs, tiny_llama

from benchmarks import trl_dpo
from instruct_course.common.errors import InputError, OutOfMemory
from instruct_course.data.template import Encoded
from instruct_course.objectives import dpo as losses
from instruct_course.objectives import paired
from instruct_course.objectives.contrastive import info_nce
from instruct_course.objectives.preference import DPO, IPO, KTO, mismatched
from instruct_course.objectives.reward import RewardHead, bradley_terry, row_rewards
from instruct_course.train import loop, objective
from instruct_course.train.batch import collate
from instruct_course.train.logprobs import pair_logprobs

PAIRS = some_pairs(8, shortest=2)
PLAIN = {"lora_dropout": 1e-12}  # a dropout layer that drops nothing: transformers' own modules
CONFIG = loop.TrainConfig(epochs=1, lr=3e-2, batch_tokens=64)


def with_head(**options):
    model = tiny_llama(**options)
    model.reward_head = RewardHead(model.config.hidden_size, dtype=torch.float64).to(model.dtype)
    return model


def preference(kind, pairs=PAIRS, beta=0.5):
    """A preference loss whose reference is the untouched tiny model."""
    base = tiny_llama()
    reference = pair_logprobs(base, pairs, pad_id=0, reference=True)
    if kind is not KTO:
        return kind(reference, beta=beta)
    others = mismatched(pairs)
    both = [(row, chosen) for row, (chosen, _) in zip(others, pairs)]
    of_others = pair_logprobs(base, both, pad_id=0, reference=True)[:, 0]
    return KTO(reference, beta=beta, mismatched=others, mismatched_reference=of_others)


def goals():
    return {
        "dpo": lambda: preference(DPO),
        "ipo": lambda: preference(IPO),
        "kto": lambda: preference(KTO),
        "reward": lambda: paired.BradleyTerry(),
        "contrastive": lambda: paired.Contrastive(contrastive_weight=0.5, temperature=0.2),
    }


def trained(goal, *, pairs=PAIRS, config=CONFIG, **options):
    """(the history, what is trained) after a run."""
    model = with_head(**options)
    history = loop.fit(model, pairs, config, pad_id=0, objective=goal, say=lambda _: None)
    return history, {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def with_options(**options):
    return loop.TrainConfig(**CONFIG.__dict__ | options)


@pytest.mark.parametrize("noise", [None, loop.Noise("neftune", 5.0)])
@pytest.mark.parametrize("name", goals())
def test_the_engine_trains_as_transformers_does(name, noise):
    config = with_options(noise=noise)
    fast, weights = trained(goals()[name](), config=config)
    slow, plain = trained(goals()[name](), config=config, **PLAIN)
    for here, there in zip(fast, slow, strict=True):
        for key in ("loss", *goals()[name]().metrics[1:], "grad_norm"):
            assert here[key] == pytest.approx(there[key], rel=2e-3, abs=2e-4)
    for key, value in weights.items():
        torch.testing.assert_close(value, plain[key], rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", ["dpo", "ipo", "kto", "reward"])
def test_micro_batches_do_not_change_a_step(name):
    whole, _ = trained(goals()[name]())
    parts, _ = trained(goals()[name](), config=with_options(micro_batches=3))
    for here, there in zip(whole, parts, strict=True):
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-3, abs=1e-4)
        assert here["grad_norm"] == pytest.approx(there["grad_norm"], rel=5e-3, abs=1e-3)


def test_the_first_losses_are_those_of_agreement():
    """At the first step the policy is its reference."""
    wanted = {"dpo": math.log(2), "ipo": 1 / (4 * 0.5**2), "kto": 0.5}
    for name, loss in wanted.items():
        history, _ = trained(goals()[name](), config=with_options(max_steps=1))
        assert history[0]["loss"] == pytest.approx(loss, abs=1e-5)
        assert history[0]["pair_accuracy"] == 0.5  # nothing but ties
        assert history[0]["reward_margin"] == pytest.approx(0, abs=1e-4)


def test_two_steps_by_hand():
    """The loss of the second step is that of `objectives.dpo` on the trained model's answers."""
    goal = preference(DPO)
    one_batch = with_options(epochs=2, batch_tokens=10**6)
    history, _ = trained(goal, config=one_batch)
    model = with_head()
    loop.fit(
        model,
        PAIRS,
        with_options(batch_tokens=10**6, epochs=2),
        pad_id=0,
        objective=goal,
        on_step=lambda h: h["step"] == 1,
    )
    batch = collate([row for pair in PAIRS for row in pair], 0)
    with torch.no_grad():
        policy = losses.model_logprobs(model, batch).view(-1, 2)
    reference = losses.reference_logprobs(model, batch).view(-1, 2)
    wanted = losses.dpo(*policy.unbind(1), *reference.unbind(1), beta=0.5)
    assert history[1]["loss"] == pytest.approx(wanted.item(), abs=1e-4)
    assert history[1]["loss"] < history[0]["loss"]


def test_the_reward_loss_by_hand():
    model = with_head()
    goal = paired.BradleyTerry()
    history = loop.fit(
        model,
        PAIRS,
        with_options(max_steps=1, batch_tokens=10**6),
        pad_id=0,
        objective=goal,
        on_step=lambda h: True,
    )
    first = with_head()
    batch = collate([row for pair in PAIRS for row in pair], 0)
    with torch.no_grad():
        rewards = row_rewards(first, first.reward_head, batch).view(-1, 2)
    wanted = bradley_terry(*rewards.unbind(1)).item()
    assert history[0]["loss"] == pytest.approx(wanted, abs=1e-4)
    moved = (model.reward_head.weight - first.reward_head.weight).abs().max().item()
    assert moved == pytest.approx(3e-2, rel=1e-3)  # AdamW's first step is the learning rate


def test_the_contrastive_loss_by_hand():
    """States from transformers: the prompt's last token, each answer's last token."""
    goal = paired.Contrastive(contrastive_weight=0.5, temperature=0.2)
    config = with_options(max_steps=1, batch_tokens=10**6)
    history, _ = trained(goal, config=config)
    model = with_head()
    batch = collate([row for pair in PAIRS for row in pair], 0)
    starts = [
        row.labels.index(row.ids[len(row.labels) - sum(x != -100 for x in row.labels)])
        for row, _ in PAIRS
    ]
    with torch.no_grad():
        out = model(
            batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True
        )
    states = out.hidden_states[-1]
    ends = batch["attention_mask"].sum(1) - 1
    ended = states[torch.arange(len(ends)), ends].view(len(PAIRS), 2, -1)
    prompts = states[::2][torch.arange(len(PAIRS)), torch.tensor(starts) - 1]
    nce = info_nce(prompts, ended[:, 0], temperature=0.2, negatives=ended[:, 1:])
    labels = batch["labels"][::2, 1:].flatten()
    cross = torch.nn.functional.cross_entropy(out.logits[::2, :-1].flatten(0, 1).float(), labels)
    assert history[0]["info_nce"] == pytest.approx(nce.item(), abs=1e-4)
    assert history[0]["cross_entropy"] == pytest.approx(cross.item(), abs=1e-4)
    assert history[0]["loss"] == pytest.approx((cross + 0.5 * nce).item(), abs=1e-4)


def test_the_same_answer_of_another_prompt_is_no_wrong_key():
    """Two prompts with one answer: each has one wrong key, its rejected answer."""
    prompts = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    keys = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    wrong = torch.tensor([[[0.0, 1.0]], [[0.0, 1.0]]])
    same = torch.ones(2, 2, dtype=torch.bool)
    found = info_nce(prompts, keys, temperature=1.0, negatives=wrong, skip=same)
    wanted = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2
    assert found.item() == pytest.approx(wanted)
    # with the other row's equal key as a wrong one, each softmax has one term more
    naive = (math.log(2 + math.exp(-1)) + math.log(2 + math.exp(1))) / 2
    assert info_nce(prompts, keys, temperature=1.0, negatives=wrong).item() == pytest.approx(naive)


def test_ktos_reference_point_is_that_of_the_whole_step():
    goal = preference(KTO)
    config = with_options(max_steps=2, batch_tokens=10**6, epochs=2, micro_batches=3)
    model = with_head()
    seen = []
    loop.fit(
        model,
        PAIRS,
        config,
        pad_id=0,
        objective=goal,
        on_step=lambda h: seen.append(goal.kl.item()),
    )
    half = with_head()
    loop.fit(half, PAIRS, config, pad_id=0, objective=preference(KTO), on_step=lambda h: True)
    batch = collate(mismatched(PAIRS), 0)
    with torch.no_grad():
        policy = losses.model_logprobs(half, batch)
    reference = losses.reference_logprobs(half, batch)
    wanted = losses.kl_reference(policy, reference).item()
    assert seen[0] == pytest.approx(0, abs=1e-5)
    assert seen[1] == pytest.approx(wanted, abs=1e-4)


def test_mismatched_answers():
    rows = [(Encoded([1, 2, 3], [-100, -100, 3]), None), (Encoded([4, 5], [-100, 5]), None)]
    first, second = mismatched(rows)
    assert (first.ids, first.labels) == ([1, 2, 5], [-100, -100, 5])
    assert (second.ids, second.labels) == ([4, 3], [-100, 3])


def test_a_step_that_cannot_be_split_is_not():
    goal = paired.Contrastive(contrastive_weight=0.5, temperature=0.2)
    with pytest.raises(InputError, match=r"--objective sft\+contrastive: .*--batch-tokens"):
        trained(goal, config=with_options(micro_batches=2))


def test_too_little_memory_for_a_step_that_cannot_be_split(monkeypatch):
    def fail(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(paired, "batch_loss", fail)
    goal = paired.Contrastive(contrastive_weight=0.5, temperature=0.2)
    with pytest.raises(OutOfMemory):
        trained(goal)


@pytest.mark.parametrize("name", goals())
def test_a_stopped_run_goes_on_to_the_same_bits(name, tmp_path):
    config = with_options(epochs=2)
    whole, weights = trained(goals()[name](), config=config)
    checkpoints = loop.Checkpoints(tmp_path, every=1, say=lambda _: None)
    options = {"pad_id": 0, "checkpoints": checkpoints}
    loop.fit(
        with_head(),
        PAIRS,
        config,
        objective=goals()[name](),
        **options,
        on_step=lambda h: h["step"] == 2,
    )
    model = with_head()
    history = loop.fit(model, PAIRS, config, objective=goals()[name](), **options)
    assert [h["loss"] for h in history] == [h["loss"] for h in whole]
    for key, value in model.named_parameters():
        if value.requires_grad:
            assert torch.equal(value, weights[key])


def test_another_objective_does_not_go_on(tmp_path):
    checkpoints = loop.Checkpoints(tmp_path, every=1, say=lambda _: None)
    options = {"pad_id": 0, "checkpoints": checkpoints}
    loop.fit(with_head(), PAIRS, CONFIG, objective=preference(DPO), **options)
    with pytest.raises(InputError, match="beta .0.5 there, 0.1 here"):
        loop.fit(with_head(), PAIRS, CONFIG, objective=preference(DPO, beta=0.1), **options)
    with pytest.raises(InputError, match="objective .dpo there, kto here"):
        loop.fit(with_head(), PAIRS, CONFIG, objective=preference(KTO), **options)


# -- TRL


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_the_losses_are_those_of_trls_trainer(loss_type, tmp_path):
    """Four steps on the same pairs, whole batches: ours within 1 % of TRL's DPOTrainer."""
    from transformers import PreTrainedTokenizerFast

    args = trl_dpo.settings(
        tmp_path, per_step=len(PAIRS), steps=4, lr=1e-2, beta=0.5, loss_type=loss_type
    )
    rows = [trl_dpo.sides(pair) for pair in PAIRS]
    tokenizer = _tokenizer(PreTrainedTokenizerFast)
    trainer = trl_dpo.create_trainer(tiny_llama(), tokenizer, rows, args)
    trainer.train()
    theirs = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    goal = preference(DPO if loss_type == "sigmoid" else IPO)
    config = loop.TrainConfig(
        epochs=4, max_steps=4, lr=1e-2, batch_tokens=10**6, warmup=0.0, schedule="constant"
    )
    ours, _ = trained(goal, config=config)
    for step, loss in zip(ours, theirs, strict=True):
        assert step["loss"] == pytest.approx(loss, rel=1e-2)
    assert ours[-1]["loss"] < 0.9 * ours[0]["loss"]


def _tokenizer(kind):
    from tokenizers import Tokenizer, models

    words = {f"t{i}": i for i in range(VOCAB)}
    made = Tokenizer(models.WordLevel(words, unk_token="t0"))
    return kind(tokenizer_object=made, pad_token="t0", eos_token="t1", unk_token="t0")


# -- the protocol


def test_what_an_item_is():
    goal = paired.BradleyTerry()
    pair = (Encoded([1, 2, 3, 4], [-100, -100, 3, 4]), Encoded([1, 2, 7], [-100, -100, 7]))
    assert goal.length(pair) == 1 + 3 + 2  # the prompt's last token stands in both branches
    assert goal.weight([pair, pair]) == 2
    assert goal.rows(pair) == pair
    assert objective.CrossEntropy().settings() == {}


def test_one_more_token_gives_the_end_a_state():
    pair = (Encoded([1, 2, 3], [-100, -100, 3]), Encoded([1, 2, 4], [-100, -100, 4]))
    chosen, rejected = paired.with_final(pair)
    assert (chosen.ids, chosen.labels) == ([1, 2, 3, 3], [-100, -100, 3, 3])
    assert (rejected.ids, rejected.labels) == ([1, 2, 4, 4], [-100, -100, 4, 4])


def test_states_behind_changed_logits_are_refused():
    model = tiny_llama()
    paired.check_states(model, "tiny")
    model.get_base_model().config.final_logit_softcapping = 30.0
    with pytest.raises(InputError, match="--model tiny: its config has final_logit_softcapping"):
        paired.check_states(model, "tiny")
