"""The options that say what training makes smaller, and what it starts from."""

from instruct_course.common.options import option

__all__ = [
    "BY_OBJECTIVE",
    "OBJECTIVES",
    "PAIRS",
    "UNITS",
    "beta",
    "contrastive_temperature",
    "contrastive_weight",
    "group_size",
    "objective",
    "clip",
    "num_iterations",
    "reward",
    "max_completion_length",
    "sampling_temperature",
    "slower",
    "start_from",
]
PAIRS = ("sft+contrastive", "dpo", "ipo", "kto")  # objectives that read preference pairs
OBJECTIVES = ("sft", *PAIRS, "grpo")
_GROUPS = {
    "beta": 0.04,
    "reward": "exact",
    "group_size": 8,
    "sampling_temperature": 1.0,
    "max_completion_length": None,
    "num_iterations": 1,
    "clip": 0.2,
}
BY_OBJECTIVE = {
    "sft": {},
    "sft+contrastive": {"contrastive_weight": 0.1, "contrastive_temperature": 0.1},
    "dpo": {"beta": 0.1},
    "ipo": {"beta": 0.1},
    "kto": {"beta": 0.1},
    "grpo": _GROUPS,
}  # the options that each objective has, and their defaults
UNITS = {
    "sft": "nats per token",
    "sft+contrastive": "nats per token, and per pair",
    "dpo": "nats per pair",
    "ipo": "squared nats per pair",
    "kto": "from 0 to 1, per answer",
    "grpo": "advantage per answer",
}  # of each objective's loss


def objective():
    """The option that chooses the objective."""
    return option(
        "what is made smaller: cross-entropy (sft), a loss of preference pairs (sft+contrastive, "
        "dpo, ipo, kto), or of sampled answers that a program rewards (grpo)",
        "sft",
        choices=OBJECTIVES,
    )


def start_from():
    """The option that names a run to go on from."""
    return option(
        "a run directory whose adapter is trained further; its model, template and adapter "
        "options are taken over, and the reference is the model as that run left it",
        None,
    )


def slower(objective: str) -> bool:
    """Whether an objective starts from what a model can do already, and wants small steps."""
    return objective not in ("sft", "sft+contrastive")


def beta():
    """The option for the price of leaving the reference."""
    return option(
        "dpo, ipo, kto, grpo: what leaving the reference costs; default: 0.1, for grpo 0.04",
        None,
        above=0,
        at_most=100,
    )


def contrastive_weight():
    """The option for the weight of the contrastive term."""
    return option("sft+contrastive: weight of InfoNCE; default: 0.1", None, above=0, at_most=100)


def contrastive_temperature():
    """The option for the temperature of the contrastive term."""
    return option("sft+contrastive: its temperature; default: 0.1", None, above=0, at_most=100)


def reward():
    """The option that says what a sampled answer is rewarded for."""
    return option(
        "grpo: exact gives 1 for the expected output and else 0, rouge the overlap with it from 0 "
        "to 1, instructions the share of a row's verifiable instructions that the answer follows "
        "(rows as eval --ifeval reads them); default: exact",
        None,
        choices=("exact", "rouge", "instructions"),
    )


def group_size():
    """The option for the sampled answers per prompt."""
    return option("grpo: answers sampled per prompt; default: 8", None, at_least=2, at_most=256)


def num_iterations():
    """The option for the steps on one set of samples."""
    return option(
        "grpo: steps that are taken on each set of sampled answers; default: 1",
        None,
        at_least=1,
        at_most=64,
    )


def clip():
    """The option for the range in which a ratio counts."""
    return option(
        "grpo: with --num-iterations above 1, how far a token's probability may move from what it "
        "was when it was drawn, as a ratio (TRL's epsilon); default: 0.2",
        None,
        above=0,
        below=1,
    )


def max_completion_length():
    """The option for the length of sampled answers."""
    return option(
        "grpo: tokens per sampled answer at most; default: 40 below 20 million parameters, else 96",
        None,
        at_least=1,
    )


def sampling_temperature():
    """The option for the temperature of sampling."""
    return option("grpo: temperature of sampling; default: 1", None, above=0, at_most=10)
