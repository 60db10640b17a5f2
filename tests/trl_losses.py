"""What TRL's trainers make of log-probabilities that are given to them."""

from collections import defaultdict
from types import SimpleNamespace

import torch

from instruct_course.model.quantize import bitsandbytes

bitsandbytes()  # before PEFT, which trl imports: lesson 06 says why
from trl import GRPOTrainer


def padded(values, lengths):
    """A row per answer with its tokens at the start, and the mask of them."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    made = torch.zeros(mask.shape, dtype=values.dtype).masked_scatter(mask, values)
    return made, mask.long()


def grpo_loss(
    policy, old, reference, advantages, lengths, *, clip=0.2, beta=0.04, loss_type="grpo"
):
    """(the loss of TRL's trainer on these log-probabilities, its metrics)."""
    logprobs, mask = padded(policy, lengths)
    accelerator = SimpleNamespace(
        gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1
    )
    metrics = {"eval": defaultdict(list)}
    me = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (
            logprobs,
            torch.zeros(mask.shape),
            None,
        ),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False),
        model=SimpleNamespace(training=False),
        accelerator=accelerator,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=beta,
        epsilon_low=clip,
        epsilon_high=clip,
        loss_type=loss_type,
        max_completion_length=max(lengths),
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        _entropy_bonus_enabled=False,
        _metrics=metrics,
    )
    inputs = {
        "prompt_ids": torch.ones(len(lengths), 2, dtype=torch.int64),
        "prompt_mask": torch.ones(len(lengths), 2, dtype=torch.int64),
        "completion_ids": torch.ones_like(mask),
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": padded(old, lengths)[0],
        "ref_per_token_logps": padded(reference, lengths)[0],
        "num_items_in_batch": mask.sum(),
    }
    return GRPOTrainer._compute_loss(me, None, inputs), metrics["eval"]
