"""The preference losses against TRL's trainers: on given numbers, and on a model with an adapter."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset

from instruct_course.model.load import load_base
from instruct_course.model.quantize import bitsandbytes
from instruct_course.objectives import dpo as objective
from instruct_course.objectives.reward import bradley_terry

bitsandbytes()  # before PEFT, which trl imports: lesson 06 says why
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer

PAIRS = [
    {"prompt": "The capital of France is", "chosen": " Paris.", "rejected": " Rome, I think."},
    {"prompt": "one, two,", "chosen": " three", "rejected": " four"},
    {"prompt": "日本的首都是", "chosen": "东京。", "rejected": "北京"},
    {"prompt": "The opposite of hot is", "chosen": " cold", "rejected": " the sun, the sun"},
]
ANSWERS = [
    {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
    for pair in PAIRS
    for side in ("chosen", "rejected")
]
BETA = 0.3


def trainer_of(kind, config, rows, folder, **options):
    """A trainer of TRL on nano in float32, whose fresh adapter is moved away from zero."""
    base = load_base("nano", quantization="none")
    options |= {"use_cpu": True, "bf16": False, "report_to": "none", "seed": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old names of options
        args = config(
            output_dir=str(folder), per_device_train_batch_size=len(rows), beta=BETA, **options
        )
        trainer = kind(
            model=base.model,
            args=args,
            train_dataset=Dataset.from_list(rows),
            processing_class=base.tokenizer,
            peft_config=LoraConfig(r=4, lora_alpha=16, target_modules="all-linear"),
        )
    torch.manual_seed(0)
    for name, p in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.03)
    return trainer


@pytest.fixture(scope="module")
def dpo_trainer(tmp_path_factory):
    return trainer_of(DPOTrainer, DPOConfig, PAIRS, tmp_path_factory.mktemp("dpo"))


@pytest.fixture(scope="module")
def kto_trainer(tmp_path_factory):
    return trainer_of(KTOTrainer, KTOConfig, ANSWERS, tmp_path_factory.mktemp("kto"))


def first_batch(trainer):
    return next(iter(trainer.get_train_dataloader()))


def as_ours(batch, prefix=""):
    """TRL's batch as one of `train.batch.collate`."""
    ids, mask = batch[f"{prefix}input_ids"], batch[f"{prefix}completion_mask"]
    return {
        "input_ids": ids,
        "attention_mask": batch[f"{prefix}attention_mask"],
        "labels": ids.masked_fill(mask == 0, -100),
    }


def gradient(loss, model):
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained)])


# -- on a model: log-probabilities, the reference, the loss and its gradient


@pytest.mark.parametrize("name, objective_of", [("sigmoid", objective.dpo), ("ipo", objective.ipo)])
def test_a_batch_of_pairs_on_a_model(dpo_trainer, name, objective_of):
    model = dpo_trainer.model.eval()
    dpo_trainer.loss_types = [name]
    batch = first_batch(dpo_trainer)
    theirs = dpo_trainer._compute_loss(model, batch, False)
    rows = as_ours(batch)
    policy, reference = (
        of(model, rows) for of in (objective.model_logprobs, objective.reference_logprobs)
    )
    if name == "ipo":  # TRL takes means per token here
        counts = objective.token_counts(rows["labels"])
        policy, reference = policy / counts, reference / counts
    ours = objective_of(*policy.chunk(2), *reference.chunk(2), beta=BETA)
    assert abs(ours - objective_of(*reference.chunk(2), *reference.chunk(2), beta=BETA)) > 0.01
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient(ours, model), gradient(theirs, model), rtol=1e-3, atol=1e-5)


def test_a_batch_of_single_answers_on_a_model(kto_trainer):
    model = kto_trainer.model.eval()
    batch = first_batch(kto_trainer)
    theirs = kto_trainer._compute_loss(model, batch, False)
    labels = torch.as_tensor(batch["label"], dtype=torch.bool)
    rows, others = as_ours(batch), as_ours(batch, "KL_")
    policy, reference = (
        of(model, rows) for of in (objective.model_logprobs, objective.reference_logprobs)
    )
    with torch.no_grad():
        kl = objective.kl_reference(
            objective.model_logprobs(model, others), objective.reference_logprobs(model, others)
        )
    ours = objective.kto(
        policy[labels],
        policy[~labels],
        reference[labels],
        reference[~labels],
        beta=BETA,
        kl=kl,
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient(ours, model), gradient(theirs, model), rtol=1e-3, atol=1e-5)


# -- on given numbers, in float64


def given_numbers(seed, rows=6, tokens=5):
    """(a batch of TRL with `rows` rows of `tokens` answer tokens, its log-probabilities)."""
    g = torch.Generator().manual_seed(seed)
    logprobs = torch.randn(rows, tokens, dtype=torch.float64, generator=g) - 2
    width = tokens + 1
    batch = {
        "input_ids": torch.ones(rows, width, dtype=torch.int64),
        "attention_mask": torch.ones(rows, width, dtype=torch.int64),
        "completion_mask": torch.tensor([[0] + [1] * tokens] * rows),
    }
    zeros = torch.zeros_like(logprobs)
    given = SimpleNamespace(
        log_probs=logprobs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
    )
    reference = torch.randn(rows, dtype=torch.float64, generator=g) * 4 - 10
    return batch, given, reference


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("name", ["sigmoid", "ipo"])
def test_given_numbers_of_pairs(dpo_trainer, monkeypatch, seed, beta, name):
    batch, given, reference = given_numbers(seed)
    for attribute, value in (
        ("loss_types", [name]),
        ("beta", beta),
        ("precompute_ref_logps", True),
    ):
        monkeypatch.setattr(dpo_trainer, attribute, value)
    chosen, rejected = reference.chunk(2)
    batch |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
    theirs = dpo_trainer._compute_loss(lambda **_: given, batch, False)
    tokens = given.log_probs.shape[1] if name == "ipo" else 1
    sides = [
        part / tokens for whole in (given.log_probs.sum(1), reference) for part in whole.chunk(2)
    ]
    ours = {"sigmoid": objective.dpo, "ipo": objective.ipo}[name](*sides, beta=beta)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.33, 0.7)])
def test_given_numbers_of_single_answers(kto_trainer, monkeypatch, seed, weights):
    batch, given, reference = given_numbers(seed)
    others, given_others, reference_others = given_numbers(seed + 100)
    for attribute, value in (
        ("desirable_weight", weights[0]),
        ("undesirable_weight", weights[1]),
        ("precompute_ref_logps", True),
    ):
        monkeypatch.setattr(kto_trainer, attribute, value)
    labels = torch.tensor([True, True, False, True, False, False])
    batch |= {f"KL_{key}": value * 2 for key, value in others.items()}
    batch |= {"label": labels, "ref_logps": reference, "ref_KL_logps": reference_others}
    theirs = kto_trainer._compute_loss(
        lambda input_ids, **_: given if (input_ids == 1).all() else given_others, batch, False
    )
    policy = given.log_probs.sum(1)
    kl = objective.kl_reference(given_others.log_probs.sum(1), reference_others)
    ours = objective.kto(
        policy[labels],
        policy[~labels],
        reference[labels],
        reference[~labels],
        beta=BETA,
        kl=kl,
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_the_reward_trainers_loss():
    rewards = torch.randn(8, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    me = SimpleNamespace(
        model=SimpleNamespace(training=False),
        args=RewardConfig(output_dir="unused", use_cpu=True, bf16=False),
        accelerator=SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x),
        _metrics={"eval": {key: [] for key in METRICS}},
        _total_train_tokens=0,
    )
    inputs = {"attention_mask": torch.ones(8, 3)}
    theirs = RewardTrainer.compute_loss(me, lambda **_: SimpleNamespace(logits=rewards), inputs)
    ours = bradley_terry(*rewards[:, 0].chunk(2))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


METRICS = ("num_tokens", "min_reward", "mean_reward", "max_reward", "accuracy", "margin")
