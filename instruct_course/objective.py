"""The objective of a run: which one, with which reference, and what it samples.

By hand: no notebook exports it.
"""

from instruct_course import verifiable_rows
from instruct_course.common.files import sha256
from instruct_course.data import dataset
from instruct_course.data import template as templates
from instruct_course.data.example import Example
from instruct_course.evaluate.metrics import rouge_l
from instruct_course.job import Job, Rows, Student
from instruct_course.objectives.grpo import exact_reward, instruction_reward
from instruct_course.objectives.paired import Contrastive
from instruct_course.objectives.policy import GRPO
from instruct_course.objectives.preference import DPO, IPO, KTO, mismatched
from instruct_course.train.logprobs import pair_logprobs, reference_logprobs
from instruct_course.train.objective import CrossEntropy, Objective

__all__ = ["REWARDS", "create"]


def rouge_reward(example: Example, text: str) -> float:
    """The overlap of an answer with the output of its row, ROUGE-L, from 0 to 1."""
    return rouge_l(text, example.output)


REWARDS = {
    "exact": exact_reward,
    "rouge": rouge_reward,
    "instructions": instruction_reward,
}  # by the names of --reward


def create(job: Job, student: Student, rows: Rows) -> Objective:
    """The objective that was asked for.

    The reference of a preference loss is the model as it stands before the first step: the base
    with its adapter switched off, or the run that was started from. Its log-probabilities are
    computed once, and lie beside the checkpoints.

    Raises:
        InputError: what was kept of the reference belongs to another base, template or pairs.
    """
    config = job.config
    if config.objective == "sft":
        return CrossEntropy()
    if config.objective == "sft+contrastive":
        return Contrastive(
            contrastive_weight=config.contrastive_weight,
            temperature=config.contrastive_temperature,
        )
    if config.objective == "grpo":
        return _grpo(job, student, rows)
    reference = _reference(job, student, rows.encoded, "reference")
    if config.objective == "kto":
        others = mismatched(rows.encoded)
        pairs = [(row, chosen) for row, (chosen, _) in zip(others, rows.encoded)]
        return KTO(
            reference,
            beta=config.beta,
            mismatched=others,
            mismatched_reference=_reference(job, student, pairs, "reference_mismatched")[:, 0],
        )
    return {"dpo": DPO, "ipo": IPO}[config.objective](reference, beta=config.beta)


def _grpo(job: Job, student: Student, rows: Rows) -> GRPO:
    """The objective that rewards sampled answers."""
    config = job.config
    prompts = None
    if rows.held_prompts is not None:
        prompts = [verifiable_rows.prompt(row) for row in rows.train]
    return GRPO(
        student.model,
        student.base.tokenizer,
        student.template,
        [dataset.example(row) for row in rows.train],
        reward=REWARDS[config.reward],
        asked=prompts,
        beta=config.beta,
        group_size=config.group_size,
        temperature=config.sampling_temperature,
        max_new_tokens=job.new_tokens,
        num_iterations=config.num_iterations or 1,  # unfinished runs of earlier versions have None
        clip=config.clip or 0.2,
    )


def _reference(job: Job, student: Student, pairs: list, name: str):
    """The log-probabilities of pairs before the first step, (n, 2) in nats."""
    base = student.base
    options = {
        "pad_id": templates.pad_id(base.tokenizer),
        "batch_tokens": max(job.config.batch_tokens, 2048),
        "progress": lambda n: job.progress("reference: pairs", n, len(pairs)),
    }
    if not job.is_first:  # only the first process writes
        return pair_logprobs(student.model, pairs, reference=job.start is None, **options)
    about = {"fingerprint": base.fingerprint, "quantization": base.quantization}
    if job.start:
        about["adapter"] = sha256(job.start / "adapter" / "adapter_model.safetensors")
    return reference_logprobs(
        job.partial.folder / f"{name}.safetensors",
        student.model,
        pairs,
        base=about,
        template=student.template,
        with_adapter=job.start is not None,
        **options,
    )
