"""The options of `instruct-course reward train`, `reward score` and `reward best`.

Those that `tune` has too are declared in `config.py`, once for both.
"""

from dataclasses import dataclass, field

from instruct_course import row_options
from instruct_course.common.options import option
from instruct_course.config import TuneConfig

__all__ = ["RewardTrainConfig", "RewardScoreConfig", "RewardBestConfig"]
MISMATCH = "go on where base or template are not those of training"
REWARD_RUN = "a run directory that reward train wrote"
COLUMNS = (
    "which columns to read, such as instruction=ask,chosen=good,rejected=bad; "
    "default: found by their names"
)


def as_tune(name: str, help: str | None = None):
    """The option that `tune` has under this name, with a help of its own where one is given."""
    declared = TuneConfig.__dataclass_fields__[name]
    metadata = dict(declared.metadata) | ({"help": help} if help else {})
    return field(default=declared.default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class RewardTrainConfig:
    """What `reward train` does. The options that `tune` has too mean the same here."""

    model: str = as_tune("model")
    data: list[str] | None = as_tune(
        "data",
        "pairs to learn from, each a prompt with a chosen and a rejected answer: files, folders or "
        "hub data sets as for tune; may be given several times; default: the built-in pairs",
    )
    columns: str | None = as_tune("columns", COLUMNS)
    encoding: str | None = as_tune("encoding")
    holdout: str | None = as_tune(
        "holdout", "pairs to judge by: a share (0.1), the end of the file (last:0.1) or a file"
    )
    template: str | None = as_tune("template")
    out: str | None = as_tune("out")
    resume: bool = as_tune("resume")
    epochs: float | None = as_tune("epochs")
    max_steps: int | None = as_tune("max_steps")
    lr: float | None = as_tune("lr")
    schedule: str = as_tune("schedule")
    warmup_ratio: float = as_tune("warmup_ratio")
    weight_decay: float = as_tune("weight_decay")
    max_grad_norm: float = as_tune("max_grad_norm")
    optimizer: str = as_tune("optimizer")
    lora_r: int = as_tune("lora_r")
    lora_alpha: float | None = as_tune("lora_alpha")
    lora_dropout: float = as_tune("lora_dropout")
    lora_targets: str = as_tune("lora_targets")
    use_rslora: bool = as_tune("use_rslora")
    use_dora: bool = as_tune("use_dora")
    noise: str | None = as_tune("noise")
    max_length: int = as_tune("max_length")
    batch_tokens: int | None = as_tune("batch_tokens")
    micro_batches: int = as_tune("micro_batches")
    gradient_checkpointing: bool = as_tune("gradient_checkpointing")
    limit: int | None = as_tune("limit", "use only so many pairs")
    seed: int = as_tune("seed")
    skip_bad: bool = as_tune("skip_bad", "go on without bad pairs; rejects.jsonl gets them")
    quantization: str = as_tune("quantization")
    mapped: bool = as_tune("mapped")
    save_steps: int | None = as_tune("save_steps")

    def __post_init__(self):
        row_options.as_list(self, "data")


@dataclass(frozen=True, kw_only=True)
class RewardScoreConfig:
    """What `reward score` does."""

    run: str = option(REWARD_RUN)
    data: str = option("the answers to score: rows as for tune, or pairs as for reward train")
    columns: str | None = row_options.columns()
    encoding: str | None = row_options.encoding()
    json_output: bool = row_options.json_output()
    response_marker: str | None = row_options.response_marker()
    limit: int | None = option("score only so many rows", None, at_least=1)
    batch_tokens: int = option("tokens that go through the model together", 4096, at_least=16)
    skip_bad: bool = option("go on without bad rows, and say how many there are", False)
    out: str | None = option(
        "the .jsonl file to write; default: NAME.rewards.jsonl beside the rows", None
    )
    allow_mismatch: bool = option(MISMATCH, False)


@dataclass(frozen=True, kw_only=True)
class RewardBestConfig:
    """What `reward best` does."""

    run: str = option("a run directory that tune wrote, which answers")
    reward: str = option(REWARD_RUN + ", which judges")
    data: str = option("the questions: rows as for tune; their outputs, if any, are expected")
    columns: str | None = row_options.columns()
    encoding: str | None = row_options.encoding()
    json_output: bool = row_options.json_output()
    response_marker: str | None = row_options.response_marker()
    n: int = option(
        "answers per question, of which the best one is taken", 8, at_least=1, at_most=64
    )
    temperature: float = option("of the sampling", 1.0, above=0, below=1000)
    max_tokens: int | None = option(
        "tokens per answer at most; default: a quarter more than the longest expected one",
        None,
        at_least=1,
    )
    limit: int | None = option("answer only so many questions", None, at_least=1)
    batch_size: int = option("answers made at a time", 128, at_least=1)
    batch_tokens: int = option("tokens that are judged together", 4096, at_least=16)
    seed: int = option("of the sampling", 0, at_least=0)
    skip_bad: bool = option("go on without bad rows, and say how many there are", False)
    out: str | None = option(
        "the .jsonl file to write; default: NAME.best.jsonl beside the rows", None
    )
    allow_mismatch: bool = option(MISMATCH, False)
