"""All options of all commands, each declared once: name, type, default, help and range.

Those of commands that take a finished run stand in `run_config.py`.
"""

from dataclasses import dataclass

from instruct_course import objective_options, row_options
from instruct_course.common.options import option
from instruct_course.run_config import (
    DTYPES,
    ChatConfig,
    EvalConfig,
    ExportConfig,
    MergeConfig,
    ServeConfig,
)

__all__ = [
    "TuneConfig",
    "AuditConfig",
    "EvalConfig",
    "ChatConfig",
    "ServeConfig",
    "MergeConfig",
    "ExportConfig",
    "PlanConfig",
    "RehearseConfig",
    "DoctorConfig",
    "NotebooksConfig",
]
MODEL = (
    "nano, smollm2, smollm2-base, 7b, llama-3-8b and the like, a folder, a hub id or "
    "modelscope:owner/name"
)
TARGETS = "layers that get adapters: all-linear, attention or names such as q_proj,v_proj"
PARTS = "parts in which the rows of a step go through the model"
OPTIMIZERS = ("adamw", "paged_adamw_8bit")


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """What `tune` does. None means the default for the model, which `run.yaml` then tells."""

    model: str = option(MODEL, "nano")
    data: list[str] | None = option(
        "rows to learn from: a file (.json, .jsonl, .csv, .tsv, .parquet, .xlsx), a folder, or a "
        "hub data set owner/set:config@split, each with :2 or :0.5 behind it to weigh it; may be "
        "given several times; default: the built-in rows",
        None,
    )
    columns: str | None = row_options.columns()
    encoding: str | None = row_options.encoding()
    json_output: bool = row_options.json_output()
    response_marker: str | None = row_options.response_marker()
    holdout: str | None = option(
        "rows to judge by: a share (0.1), the end of the file (last:0.1) or a file", None
    )
    template: str | None = option(
        "the prompt template; default: article where the tokenizer has its tokens, "
        "chat for an instruct model, verbatim with --response-marker, else alpaca",
        None,
        choices=("article", "article-text", "alpaca", "verbatim", "chat"),
    )
    turns: str = option("answers of a conversation that are learnt", "all", choices=("all", "last"))
    objective: str = objective_options.objective()
    start_from: str | None = objective_options.start_from()
    beta: float | None = objective_options.beta()
    contrastive_weight: float | None = objective_options.contrastive_weight()
    contrastive_temperature: float | None = objective_options.contrastive_temperature()
    reward: str | None = objective_options.reward()
    group_size: int | None = objective_options.group_size()
    sampling_temperature: float | None = objective_options.sampling_temperature()
    max_completion_length: int | None = objective_options.max_completion_length()
    num_iterations: int | None = objective_options.num_iterations()
    clip: float | None = objective_options.clip()
    out: str | None = option("the run directory to write; default: a new one under runs/", None)
    resume: bool = option(
        "go on with the unfinished run of --out (or the newest under runs/), bitwise as if "
        "it had never stopped",
        False,
    )
    epochs: float | None = option(
        "passes over the rows; default: 3 below 20 million parameters, else 2; 1 for dpo, ipo, "
        "kto and grpo",
        None,
        above=0,
        at_most=1000,
    )
    max_steps: int | None = option(
        "steps in all, in place of --epochs; the schedule runs over them", None, at_least=1
    )
    lr: float | None = option(
        "peak learning rate; default: 1e-3 below 20 million parameters, 8e-4 up to a billion, "
        "2e-4 above; a twentieth of that for dpo, ipo, kto and grpo",
        None,
        above=0,
        below=10,
    )
    schedule: str = option(
        "what the rate does after the warm-up",
        "linear",
        choices=("linear", "cosine", "constant"),
    )
    warmup_ratio: float = option(
        "share of the steps in which the rate rises", 0.03, at_least=0, at_most=1
    )
    weight_decay: float = option("AdamW's, of all that is trained", 0.0, at_least=0, below=10)
    max_grad_norm: float = option(
        "a longer gradient is scaled down to this length; 0 leaves it as it is", 1.0, at_least=0
    )
    optimizer: str = option(
        "paged_adamw_8bit keeps its averages in 8 bits and needs a GPU", "adamw", choices=OPTIMIZERS
    )
    lora_r: int = option("rank of the adapters", 16, at_least=1, at_most=1024)
    lora_alpha: float | None = option(
        "their scale is lora_alpha / lora_r; default: 256 below 20 million parameters, else 32",
        None,
        above=0,
    )
    lora_dropout: float = option(
        "share of an adapter's inputs that is dropped (takes the slower path)",
        0.0,
        at_least=0,
        below=1,
    )
    lora_targets: str = option(TARGETS, "all-linear")
    use_rslora: bool = option("scale by lora_alpha / sqrt(lora_r)", False)
    use_dora: bool = option(
        "train lengths and directions of the weights apart (takes the slower path)", False
    )
    noise: str | None = option(
        "noise on the embeddings: gaussian:S or neftune:A, such as neftune:5; with :spare "
        "behind it the response gets none",
        None,
    )
    max_length: int = option(
        "tokens per row; a longer one loses the end of its input", 1024, at_least=16
    )
    batch_tokens: int | None = option(
        "tokens per step, padding included; default: 512 up to a billion parameters, else 4096",
        None,
        at_least=16,
    )
    micro_batches: int = option(PARTS + "; more parts need less memory", 1, at_least=1)
    gradient_checkpointing: bool = option(
        "compute activations twice instead of keeping them: less memory, a third more time", False
    )
    limit: int | None = option("use only so many rows", None, at_least=1)
    seed: int = option("one seed, one result", 0)
    skip_bad: bool = option("go on without bad rows; they are written to rejects.jsonl", False)
    truncate_response: bool = option(
        "cut outputs that cannot fit instead of refusing the row", False
    )
    quantization: str = option(
        "of the frozen base; 8bit is LLM.int8 (takes the slower path)",
        "nf4",
        choices=("nf4", "8bit", "none"),
    )
    mapped: bool = option("leave 4-bit weights in files of the cache; chosen if needed", False)
    save_steps: int | None = option(
        "steps between two checkpoints; default: a tenth of the run", None, at_least=1
    )
    eval_steps: int | None = option(
        "steps between two validations on held-out rows; the best adapter is kept",
        None,
        at_least=1,
    )
    patience: int | None = option(
        "end after so many validations without a better one", None, at_least=1
    )
    eval_rows: int | None = option(
        "held-out rows that are answered before and after, at even distances; 0 takes the loss "
        "alone; default: 300 and all of them below 20 million parameters, else 32",
        None,
        at_least=0,
    )
    report_to: str | None = option(
        "draw the curves elsewhere too",
        None,
        choices=("tensorboard", "wandb", "trackio", "swanlab"),
    )
    push_to_hub: str | None = option(
        "upload the adapter with a card to this private repository of the hub (owner/name) after "
        "the run; asks before it starts",
        None,
    )
    yes: bool = option("upload without asking", False)
    threads: int | None = option(
        "threads of the processor, at most one per core; default: OMP_NUM_THREADS, or what a short "
        "measurement at the start finds fastest",
        None,
        at_least=1,
    )
    processes: int | None = option(
        "refuse to start unless so many processes train together", None, at_least=1
    )

    def __post_init__(self):
        row_options.as_list(self, "data")


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """What `audit` does. The options that `tune` has too mean the same here."""

    data: list[str] | None = option("the rows, as for tune; default: the built-in rows", None)
    columns: str | None = row_options.columns()
    encoding: str | None = row_options.encoding()
    json_output: bool = row_options.json_output()
    response_marker: str | None = row_options.response_marker()
    model: str = option(MODEL + "; only its tokenizer is fetched", "nano")
    template: str | None = option(
        "the prompt template; default: as tune chooses",
        None,
        choices=("article", "article-text", "alpaca", "verbatim", "chat"),
    )
    turns: str = option("answers of a conversation that are learnt", "all", choices=("all", "last"))
    holdout: str | None = option(
        "look for copies of held-out rows too: a share (0.1), the end of the file (last:0.1) "
        "or a file",
        None,
    )
    max_length: int = option("tokens per row", 1024, at_least=16)
    truncate_response: bool = option(
        "cut outputs that cannot fit instead of refusing the row", False
    )
    limit: int | None = option("look at only so many rows", None, at_least=1)
    seed: int = option("of the random draw of held-out rows", 0)
    fast: bool = option("look at a sample of 2,000 rows, and not for near duplicates", False)
    html: str | None = option("write the report as one HTML page to this file, too", None)
    picture: str | None = option("write the worst rows' tokens as a PNG to this file, too", None)

    def __post_init__(self):
        row_options.as_list(self, "data")


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What `plan` does. The options that `tune` has too mean the same here."""

    model: str = option(MODEL, positional=True)
    gpu: str | None = option(
        "t4, v100, l4, a10, 3090, 4090, a100-40, a100-80 or h100; default: this machine", None
    )
    memory: float | None = option("GB of memory of a GPU that is not in the list", None, above=0)
    max_length: int | None = option("tokens of the longest row; default: 1024", None, at_least=16)
    batch_tokens: int | None = option("tokens per step; default: as tune's", None, at_least=16)
    lora_r: int | None = option("rank of the adapters; default: 16", None, at_least=1, at_most=1024)
    lora_targets: str | None = option(TARGETS + "; default: all-linear", None)
    optimizer: str | None = option("default: adamw", None, choices=OPTIMIZERS)
    micro_batches: int | None = option(PARTS + "; default: as tune chooses", None, at_least=1)
    gradient_checkpointing: bool | None = option(
        "compute activations twice instead of keeping them; default: as tune chooses", None
    )
    tokens: int = option(
        "tokens per epoch, for its time and cost", 1_000_000, at_least=1, below=1e15
    )
    price: float | None = option("what an hour costs, in your currency", None, above=0)


@dataclass(frozen=True, kw_only=True)
class RehearseConfig:
    """What `rehearse` does."""

    model: str = option(MODEL + "; only its config.json is fetched", positional=True)
    max_length: int = option("tokens of the longest row", 512, at_least=16)
    batch_tokens: int | None = option("tokens per step; default: one row", None, at_least=16)
    lora_r: int = option("rank of the adapters", 16, at_least=1, at_most=1024)
    lora_targets: str = option(TARGETS, "all-linear")
    optimizer: str = option("paged_adamw_8bit needs a GPU", "adamw", choices=OPTIMIZERS)
    micro_batches: int = option(PARTS, 1, at_least=1)
    gradient_checkpointing: bool = option("compute activations twice instead of keeping them", True)
    steps: int = option("steps to train", 2, at_least=1)
    dtype: str | None = option("default: what this machine computes in", None, choices=DTYPES)
    memory_only: bool = option(
        "leave the matrix products out: the same memory in much less time", False
    )
    mapped: bool = option("leave weights in files, 6 to 8 GB for a 7B; on a CPU", False)
    folder: str | None = option("keep the files of --mapped here; default: temporary", None)


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """What `doctor` does."""

    only: list[str] | None = option(
        "look at this alone, such as torch or hub; may be given again", None
    )


@dataclass(frozen=True, kw_only=True)
class NotebooksConfig:
    """What `notebooks` does."""

    dest: str = option("the folder to copy the lessons and the workshop to", positional=True)
