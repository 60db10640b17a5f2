"""Defaults that follow a model's size and kind, never the name that was typed."""

import re
from dataclasses import dataclass, replace

from instruct_course.common.errors import InputError
from instruct_course.config import PlanConfig, RehearseConfig, TuneConfig
from instruct_course.objective_options import BY_OBJECTIVE, slower
from instruct_course.plan import report, shapes
from instruct_course.plan.gpus import GPU, GPUS, machine
from instruct_course.plan.memory import Setting
from instruct_course.train import loop

__all__ = [
    "Budget",
    "budget_for",
    "choose_template",
    "count_parameters",
    "fill_defaults",
    "parse_noise",
    "plan_for",
    "planned_shape",
    "setting_for",
]
TINY = 20e6  # parameters below which a model is a toy, as nano is
LARGE = 1e9  # parameters above which a model is planned before it is loaded
BY_SIZE = {
    "tiny": {"epochs": 3.0, "lr": 1e-3, "lora_alpha": 256.0, "batch_tokens": 512},
    "small": {"epochs": 2.0, "lr": 8e-4, "lora_alpha": 32.0, "batch_tokens": 512},
    "large": {"epochs": 2.0, "lr": 2e-4, "lora_alpha": 32.0, "batch_tokens": 4096},
}  # tiny: measured on the development split; large: Dettmers et al. 2023, table 9


def size_of(parameters: int) -> str:
    """'tiny', 'small' or 'large', by the number of parameters."""
    if parameters < TINY:
        return "tiny"
    return "small" if parameters <= LARGE else "large"


@dataclass(frozen=True)
class Budget:
    """How much of a run is spent on judging.

    Attributes:
        answers_before, answers_after, answers_if_stopped: held-out rows that the base, the tuned
            and a stopped model answer (None: all); the loss is taken over all of them.
        prompted: rows that the base answers with prompts of its own kind.
        new_tokens: tokens per answer at most.
        batch_size: answers made at a time.
    """

    answers_before: int | None
    answers_after: int | None
    answers_if_stopped: int | None
    prompted: int
    new_tokens: int
    batch_size: int


_TINY = Budget(300, None, 32, prompted=150, new_tokens=40, batch_size=128)
_REAL = Budget(32, 32, 32, prompted=16, new_tokens=96, batch_size=16)


def budget_for(parameters: int, eval_rows: int | None = None) -> Budget:
    """What is spent on judging a model of so many parameters, with `eval_rows` answers if given."""
    budget = _TINY if size_of(parameters) == "tiny" else _REAL
    if eval_rows is None:
        return budget
    return replace(
        budget,
        answers_before=eval_rows,
        answers_after=eval_rows,
        answers_if_stopped=min(eval_rows, budget.answers_if_stopped),
        prompted=min(eval_rows, budget.prompted),
    )


def fill_defaults(config: TuneConfig, parameters: int) -> TuneConfig:
    """`config` with the defaults of a model of so many parameters in place of None."""
    defaults = BY_SIZE[size_of(parameters)] | BY_OBJECTIVE[config.objective]
    if slower(config.objective):
        defaults |= {"lr": defaults["lr"] / 20, "epochs": 1.0}
    if config.objective == "grpo":  # a step holds a group of answers per prompt
        defaults["batch_tokens"] = 4096
    return replace(config, **{k: v for k, v in defaults.items() if getattr(config, k) is None})


def choose_template(model: str, tokenizer, response_marker: str | None = None) -> str:
    """The template that fits a model: its kind shows in its tokenizer and its name.

    Returns:
        'verbatim' where rows are one text with a response marker, 'article' where the tokenizer
        has that template's tokens, 'chat' for a model that was instruction-tuned before (it has a
        chat template, and its name says so), else 'alpaca'.
    """
    if response_marker:
        return "verbatim"
    if "<inst>" in tokenizer.get_vocab():
        return "article"
    names = f"{model} {getattr(tokenizer, 'name_or_path', '')}".lower()
    is_instruct = re.search(r"(instruct|chat|[-_]it\b)", names) or model == "smollm2"
    return "chat" if is_instruct and tokenizer.chat_template else "alpaca"


def count_parameters(model: str) -> int:
    """The parameters of a model, from its config.json alone; a guess where its kind is unknown.

    Raises:
        InputError: there is no such model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    values = shapes.config(model)
    try:
        config = type(AutoConfig.for_model(values["model_type"])).from_dict(values)
        with torch.device("meta"):
            made = AutoModelForCausalLM.from_config(config)
    except (KeyError, ValueError, TypeError, AttributeError):
        return round(LARGE / 10)  # loading it says what is wrong with it
    return sum(parameter.numel() for parameter in made.parameters())


def planned_shape(model: str) -> shapes.Shape | None:
    """The shape of a model that is planned before it is loaded; None for others.

    Raises:
        InputError: there is no such model.
    """
    values = shapes.config(model)
    try:
        shape = shapes.shape(model, values)
    except InputError:
        return None
    return shape if shape.parameters > LARGE else None


def plan_for(config: PlanConfig) -> dict:
    """What `tune` would do with a model on a GPU, by the same options and the same defaults.

    Raises:
        InputError: the model or the GPU is not known.
    """
    gpu = _find_gpu(config.gpu, config.memory)
    values = shapes.config(config.model)
    parameters = shapes.shape(config.model, values).parameters
    asked = {
        name: getattr(config, name)
        for name in (
            "max_length",
            "batch_tokens",
            "lora_r",
            "lora_targets",
            "optimizer",
            "micro_batches",
            "gradient_checkpointing",
        )
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    asked.setdefault("batch_tokens", BY_SIZE[size_of(parameters)]["batch_tokens"])
    setting = Setting(**asked)
    return report.plan(
        config.model, gpu, setting, tokens=config.tokens, price=config.price, values=values
    )


def _find_gpu(name: str | None, memory: float | None) -> GPU:
    """A GPU of the list, one that only its GB of memory are known of, or this machine's."""
    if name is None:
        if memory is None:
            return machine()
        return GPU(f"a GPU with {memory:g} GB", memory * 1e9, 0.0, "bfloat16")
    if name.lower() not in GPUS:
        raise InputError(f"--gpu {name}: use one of {', '.join(GPUS)}, or --memory with its GB")
    gpu = GPUS[name.lower()]
    return gpu if memory is None else replace(gpu, memory=memory * 1e9)


def setting_for(config: RehearseConfig) -> Setting:
    """The settings of a rehearsal on this machine. Raises InputError where it cannot be."""
    import torch

    from instruct_course.model.load import compute_dtype
    from instruct_course.train.state import check_optimizer

    check_optimizer(config.optimizer)
    if config.folder is not None and not config.mapped:
        raise InputError(
            "--folder: weights are written to a folder only with --mapped; use them together"
        )
    return Setting(
        max_length=config.max_length,
        batch_tokens=config.batch_tokens or config.max_length,
        lora_r=config.lora_r,
        lora_targets=config.lora_targets,
        optimizer=config.optimizer,
        micro_batches=config.micro_batches,
        gradient_checkpointing=config.gradient_checkpointing,
        dtype=config.dtype or str(compute_dtype("any")).removeprefix("torch."),
        device="cuda" if torch.cuda.is_available() else "cpu",
        mapped=config.mapped,
    )


def parse_noise(text: str | None) -> loop.Noise | None:
    """`gaussian:S` or `neftune:A`, each with `:spare` behind it where the response gets none.

    Raises:
        InputError: it is written in another way.
    """
    if text is None:
        return None
    kind, _, rest = text.partition(":")
    strength, _, spare = rest.partition(":")
    try:
        if spare not in ("", "spare"):
            raise ValueError
        return loop.Noise(kind, float(strength), spare_response=bool(spare))
    except ValueError:  # an InputError is one too
        raise InputError(
            f"--noise {text}: use gaussian:S or neftune:A with a strength of at least 0, such as "
            "neftune:5, or neftune:5:spare to spare the response"
        ) from None
