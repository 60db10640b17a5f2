"""lm-eval, the harness that professionals compare models with, run on a loaded model: 4-bit weights, adapter and all. By hand: it has no chapter of its own
(10_judge shows it)."""

import contextlib
import copy
import io
import logging
import random
import warnings
from importlib.metadata import version
from pathlib import Path

from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.data.example import Example

__all__ = ["KNOWLEDGE", "lm_eval"]

KNOWLEDGE = ASSETS / "lm_eval" / "knowledge.yaml"


@contextlib.contextmanager
def _quietly():
    """lm-eval warns about every model that is handed over loaded, and draws bars; neither is news here."""
    loggers = [
        logging.getLogger(n)
        for n in (
            "lm_eval",
            "lm-eval",
            "datasets",
            *[k for k in logging.root.manager.loggerDict if k.startswith("lm_eval")],
        )
    ]
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


def _config(path: Path) -> dict:
    """A task file as lm-eval reads it, with the data files that it names beside it found from any folder. Errors: InputError."""
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        config = load_yaml(path, resolve_func=True)
    except Exception as error:  # YAML's and lm-eval's own errors
        raise InputError(
            f"{path}: it cannot be read as a task of lm-eval ({str(error).splitlines()[0][:200]}); write a YAML file with task, dataset_path and doc_to_text"
        ) from None
    if not isinstance(config, dict) or not isinstance(config.get("task"), str):
        raise InputError(f"{path}: a task file needs a line 'task: NAME'; add it")
    files = (config.get("dataset_kwargs") or {}).get("data_files")

    def beside(name):
        """`name`, or all names in a list or dict, as paths that work from any folder."""
        if isinstance(name, dict):
            return {k: beside(v) for k, v in name.items()}
        if isinstance(name, list):
            return [beside(v) for v in name]
        if "://" in str(name):
            return name
        found = path.parent / str(name)
        if not any(c in str(name) for c in "*?[") and not found.exists():
            raise InputError(
                f"{path}: the data file {name} is not beside it; put it there, or name it by its whole path"
            )
        return str(found)

    return config | (
        {"dataset_kwargs": config["dataset_kwargs"] | {"data_files": beside(files)}}
        if files
        else {}
    )


def _tasks(task) -> list:
    """What lm-eval is to run: configurations of local files, or a name of its own. Errors: InputError."""
    path = Path(task).expanduser()
    if path.is_dir():
        found = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
        if not found:
            raise InputError(
                f"{path}: there is no .yaml file in this folder; name a folder or a file with a task of lm-eval"
            )
        return [_config(p) for p in found]
    if path.suffix in (".yaml", ".yml"):
        if not path.exists():
            raise InputError(f"{path}: there is no such task file; check the path")
        return [_config(path)]
    return [str(task)]


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

    task: a YAML file, a folder of them, or the name of one of lm-eval's own tasks (which fetch their data from the hub). template: the questions are
    written in it, as `template.prompt` writes an instruction; without one they stand as they are. limit: the first so many rows of each task.
    Returns {version, lm_eval, limit, tasks: {name: {n, scores: {metric: value}, stderr: {metric: value}}}}. Neither model, tokenizer nor the
    random state is changed. Errors: InputError when lm-eval is missing, or the task cannot be run.
    """
    if limit is not None and limit < 1 or batch_size < 1:
        raise InputError("lm-eval: limit and batch_size must be 1 or more")
    try:
        with _quietly():
            from lm_eval import simple_evaluate
            from lm_eval.models.huggingface import HFLM
            from lm_eval.tasks import TaskManager
    except ImportError:
        raise InputError(
            'lm-eval is not installed; install it with: pip install "instruct_course[eval]"'
        ) from None
    import numpy as np
    import torch

    from instruct_course.data.template import pieces

    class Loaded(HFLM):
        """A model in memory; the chat template of lm-eval's requests is our template."""

        def chat_template(self, chat_template=False):
            """A name for lm-eval's records."""
            return template.name if template else ""

        def apply_chat_template(self, chat_history, add_generation_prompt=True):
            """The prompt of the last turn, in our template."""
            ex = Example(
                chat_history[-1]["content"].strip(),
                context=tuple((m["role"], m["content"]) for m in chat_history[:-1]),
            )
            parts, lead, _ = pieces(template, self.tokenizer, ex)
            return "".join(text for _, text in parts) + lead

        def get_model_info(self):
            """Nothing: lm-eval would ask the hub who the model is."""
            return {}

    tasks, training, states = (
        _tasks(task),
        model.training,
        (random.getstate(), np.random.get_state(), torch.get_rng_state()),
    )
    try:
        with _quietly():
            manager = TaskManager(include_defaults=not all(isinstance(t, dict) for t in tasks))
            known = [t for t in tasks if isinstance(t, dict) or t in manager.all_tasks]
            if not known:
                raise InputError(
                    f"lm-eval knows no task '{task}', and there is no such file; name a .yaml file, a folder, or a task that lm-eval lists"
                )
            model.tie_weights = (
                lambda *_, **__: None
            )  # lm-eval would tie them again, which fails where an adapter trains rows of a tied embedding
            try:
                loaded = Loaded(
                    pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size
                )
            finally:
                del model.tie_weights
            ran = simple_evaluate(
                loaded,
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
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, ConnectionError) as error:
        raise InputError(
            f"lm-eval could not run '{Path(str(task)).name}' ({type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else 'no reason given'}); "
            "check its data, and the network where its data comes from the hub"
        ) from None
    finally:
        model.train(training)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
    out = {}
    for name, values in ran["results"].items():
        named = {
            k.removesuffix(",none"): float(v)
            for k, v in values.items()
            if "," in k and isinstance(v, (int, float))
        }
        out[name] = {
            "n": ran["n-samples"][name]["effective"] if name in ran["n-samples"] else None,
            "scores": {k: v for k, v in named.items() if "_stderr" not in k},
            "stderr": {k.replace("_stderr", ""): v for k, v in named.items() if "_stderr" in k},
        }
    return {"version": 1, "lm_eval": version("lm_eval"), "limit": limit, "tasks": out}
