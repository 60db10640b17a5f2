"""lm-eval, which professionals compare models with, run on a loaded model: 4-bit, with its adapter.

By hand: no notebook exports it (workshop/10_judge shows it). It is named after the library, which
is imported absolutely: `import lm_eval` is never this module.
"""

import contextlib
import copy
import io
import logging
import random
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.data.example import Example, Turn
from instruct_course.data.template import pieces

__all__ = ["KNOWLEDGE", "lm_eval"]

KNOWLEDGE = ASSETS / "lm_eval" / "knowledge.yaml"


def lm_eval(
    model,
    tokenizer,
    task: str | Path = KNOWLEDGE,
    *,
    template=None,
    limit: int | None = None,
    batch_size: int = 8,
) -> dict:
    """Run a task of lm-eval on a model as it stands in memory, quantised and with its adapter.

    Neither the model, the tokenizer nor the random state is changed.

    Args:
        model, tokenizer: who is asked.
        task: a YAML file, a folder of them, or the name of one of lm-eval's own tasks (which
            fetch their data from the hub).
        template: the questions are written in it, as `template.prompt` writes an instruction;
            without one they stand as they are.
        limit: the first so many rows of each task.
        batch_size: requests at a time.

    Returns:
        {version, lm_eval, limit, tasks: {name: {n, scores: {metric: value}, stderr: {metric:
        value}}}}.

    Raises:
        InputError: lm-eval is missing, or the task cannot be run.
    """
    if limit is not None and limit < 1 or batch_size < 1:
        raise InputError("lm-eval: limit and batch_size must be 1 or more")
    _require()
    tasks = _tasks(task)
    with _unchanged(model), _in_one_sentence(task):
        with _quietly():
            results = _run(model, tokenizer, tasks, task, template, limit, batch_size)
    return {
        "version": 1,
        "lm_eval": version("lm_eval"),
        "limit": limit,
        "tasks": {
            name: _scores(values, results["n-samples"].get(name))
            for name, values in results["results"].items()
        },
    }


def _require() -> None:
    """Raise InputError where lm-eval is not installed."""
    try:
        with _quietly():
            import lm_eval  # noqa: F401
            import lm_eval.models.huggingface  # noqa: F401
    except ImportError:
        raise InputError(
            'lm-eval is not installed; install it with: pip install "instruct_course[eval]"'
        ) from None


def _run(model, tokenizer, tasks: list, task, template, limit, batch_size: int) -> dict:
    """What lm-eval's `simple_evaluate` gives."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=not all(isinstance(t, dict) for t in tasks))
    known = [t for t in tasks if isinstance(t, dict) or t in manager.all_tasks]
    if not known:
        raise InputError(
            f"lm-eval knows no task '{task}', and there is no such file; "
            "name a .yaml file, a folder, or a task that lm-eval lists"
        )
    return simple_evaluate(
        _wrapped(model, tokenizer, template, batch_size),
        tasks=known,
        task_manager=manager,
        limit=limit,
        apply_chat_template=bool(template),
        log_samples=False,
        bootstrap_iters=100,
        batch_size=batch_size,
        random_seed=None,
        numpy_random_seed=None,
        torch_random_seed=None,
        fewshot_random_seed=0,
    )


def _wrapped(model, tokenizer, template, batch_size: int):
    """The model as lm-eval's own class, whose chat template is our template."""
    from lm_eval.models.huggingface import HFLM

    class Loaded(HFLM):
        """A model in memory."""

        def chat_template(self, chat_template=False):
            """A name for lm-eval's records."""
            return template.name if template else ""

        def apply_chat_template(self, chat_history, add_generation_prompt=True):
            """The prompt of the last turn, in our template."""
            *earlier, last = chat_history
            history = tuple(Turn(message["role"], message["content"]) for message in earlier)
            example = Example(last["content"].strip(), history=history)
            parts, lead, _ = pieces(template, self.tokenizer, example)
            return "".join(text for _, text in parts) + lead

        def get_model_info(self):
            """Nothing: lm-eval would ask the hub who the model is."""
            return {}

    # lm-eval would tie the weights again, which fails where an adapter trains rows of a tied
    # embedding
    model.tie_weights = _do_nothing
    try:
        return Loaded(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)
    finally:
        del model.tie_weights


def _do_nothing(*_, **__) -> None:
    """In place of a method that must not run."""


def _scores(values: dict, samples: dict | None) -> dict:
    """{n, scores, stderr} of one task."""
    named = {
        key.removesuffix(",none"): float(value)
        for key, value in values.items()
        if "," in key and isinstance(value, (int, float))
    }
    return {
        "n": samples["effective"] if samples else None,
        "scores": {key: value for key, value in named.items() if "_stderr" not in key},
        "stderr": {
            key.replace("_stderr", ""): value for key, value in named.items() if "_stderr" in key
        },
    }


# ---- what surrounds a run


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """lm-eval warns about every model that is handed over loaded, and draws bars; no news here."""
    known = [name for name in logging.root.manager.loggerDict if name.startswith("lm_eval")]
    loggers = [logging.getLogger(name) for name in ("lm_eval", "lm-eval", "datasets", *known)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with (
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


@contextlib.contextmanager
def _unchanged(model) -> Iterator[None]:
    """Put the model's mode and the random states back afterwards."""
    import numpy as np
    import torch

    training = model.training
    state = random.getstate()
    numpy_state = np.random.get_state()
    torch_state = torch.get_rng_state()
    try:
        yield
    finally:
        model.train(training)
        random.setstate(state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)


@contextlib.contextmanager
def _in_one_sentence(task) -> Iterator[None]:
    """Turn lm-eval's own errors into an InputError."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, ConnectionError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).splitlines()[0][:200] if str(error) else "no reason given"
        raise InputError(
            f"lm-eval could not run '{Path(str(task)).name}' ({type(error).__name__}: {reason}); "
            "check its data, and the network where its data comes from the hub"
        ) from None


# ---- task files


def _tasks(task) -> list:
    """What lm-eval is to run: configurations of local files, or a name of its own."""
    path = Path(task).expanduser()
    if path.is_dir():
        found = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
        if not found:
            raise InputError(
                f"{path}: there is no .yaml file in this folder; "
                "name a folder or a file with a task of lm-eval"
            )
        return [_config(file) for file in found]
    if path.suffix in (".yaml", ".yml"):
        if not path.exists():
            raise InputError(f"{path}: there is no such task file; check the path")
        return [_config(path)]
    return [str(task)]


def _config(path: Path) -> dict:
    """A task file as lm-eval reads it, whose data files are found from any folder."""
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        config = load_yaml(path, resolve_func=True)
    except Exception as error:  # YAML's and lm-eval's own errors
        reason = str(error).splitlines()[0][:200]
        raise InputError(
            f"{path}: it cannot be read as a task of lm-eval ({reason}); "
            "write a YAML file with task, dataset_path and doc_to_text"
        ) from None
    if not isinstance(config, dict) or not isinstance(config.get("task"), str):
        raise InputError(f"{path}: a task file needs a line 'task: NAME'; add it")
    options = config.get("dataset_kwargs") or {}
    if not options.get("data_files"):
        return config
    found = _beside(path, options["data_files"])
    return config | {"dataset_kwargs": options | {"data_files": found}}


def _beside(path: Path, name):
    """A data file beside `path`, or all those in a list or dict, as paths from any folder."""
    if isinstance(name, dict):
        return {key: _beside(path, value) for key, value in name.items()}
    if isinstance(name, list):
        return [_beside(path, value) for value in name]
    if "://" in str(name):
        return name
    found = path.parent / str(name)
    if not any(sign in str(name) for sign in "*?[") and not found.exists():
        raise InputError(
            f"{path}: the data file {name} is not beside it; "
            "put it there, or name it by its whole path"
        )
    return str(found)
