"""What is done before any training: rows, tokenizer and template of a model, and their audit."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from instruct_course.common.errors import InputError
from instruct_course.common.progress import Progress
from instruct_course.common.quiet import quiet_transformers
from instruct_course.config import AuditConfig
from instruct_course.data import audit as audits
from instruct_course.data import dataset
from instruct_course.data import template as templates
from instruct_course.data.rows import load_rows, reader_for
from instruct_course.data.walk import Source
from instruct_course.defaults import choose_template
from instruct_course.model import hub

__all__ = ["audit", "load_tokenizer", "tokenizer_folder"]
TOKENIZER_FILES = ["*.json", "*.model", "*.txt", "*.jinja"]


def tokenizer_folder(name: str) -> Path:
    """A folder with a model's configuration and tokenizer; no weights are fetched.

    Args:
        name: a built-in name, a folder or a hub id. Of smollm2 there is only the whole model.

    Raises:
        InputError: there is no such model, or it cannot be had.
    """
    if name == "smollm2":
        return hub.resolve(name)
    folder = hub.config_file(name).parent
    if name == "nano" or Path(name).expanduser().exists():
        return folder
    import huggingface_hub

    hub_id = hub.HUB.get(name, name)
    try:
        return Path(
            huggingface_hub.snapshot_download(
                hub_id, allow_patterns=TOKENIZER_FILES, ignore_patterns=["*.index.json"]
            )
        )
    except Exception as error:  # its own errors, those of its HTTP library and of the system
        raise InputError(
            f"--model {name}: the hub did not give the tokenizer of {hub_id} "
            f"({type(error).__name__}); check the network, or name a local folder"
        ) from None


def load_tokenizer(name: str):
    """A model's tokenizer, without its weights and without remote code.

    Args:
        name: as for `tokenizer_folder`.

    Raises:
        InputError: there is no such model, or its tokenizer does not load.
    """
    from transformers import AutoTokenizer

    folder = tokenizer_folder(name)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, KeyError, RuntimeError, ValueError, ImportError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise InputError(
            f"--model {name}: its tokenizer does not load ({why}); name another model"
        ) from None


def audit(config: AuditConfig | None = None, *, quiet: bool = False, **options) -> dict:
    """Say before any training what will be supervised, and what is wrong with the rows.

    Args:
        config: what to look at; or its fields as keywords.
        quiet: say nothing.

    Returns:
        The report, as `data.audit.audit` gives it.

    Raises:
        InputError: an option or a file is wrong, or no row can be read.
    """
    config = config or AuditConfig(**options)
    progress = Progress(quiet)
    tokenizer = load_tokenizer(config.model)
    name = config.template or choose_template(config.model, tokenizer, config.response_marker)
    template = templates.named(name, tokenizer)
    no_end = tokenizer.eos_token_id is None
    templates.prepare(template, tokenizer)
    with tempfile.TemporaryDirectory() as scratch:
        rejects = Path(scratch) / "rejects.jsonl"
        rows, held = _read_rows(config, rejects, progress.say)
        try:
            with quiet_transformers():  # which warns of long rows
                return audits.audit(
                    rows,
                    tokenizer,
                    template,
                    held=held,
                    model=config.model,
                    max_length=config.max_length,
                    truncate_response=config.truncate_response,
                    turns=config.turns,
                    rejects=_rejected(rejects),
                    end_token_added=no_end,
                    fast=config.fast,
                    progress=progress,
                )
        finally:
            progress.close()


def _read_rows(config: AuditConfig, rejects: Path, say) -> tuple[list[Source], Source | None]:
    """The rows to train on and those that are held out; bad ones go to the file `rejects`."""
    if config.data is None:
        rows = dataset.builtin("train")
        if config.limit:
            rows = rows.select(range(min(config.limit, len(rows))))
    else:
        options = {"limit": config.limit, "skip_bad": True, "rejects": rejects, "say": say}
        rows = load_rows(config.data, config, **options)
    names = config.data or ["built-in rows"]
    if config.holdout is None:
        return _by_source(rows, names), None
    trained, held = dataset.split(
        rows,
        config.holdout,
        seed=config.seed,
        encoding=config.encoding,
        reader=reader_for(config),
    )
    is_file = len(trained) + len(held) != len(rows) or Path(config.holdout).exists()
    return _by_source(trained, names), Source(held, config.holdout if is_file else names[0])


def _by_source(rows, names: list[str]) -> list[Source]:
    """The rows of each source by itself, those without a row left out."""
    if len(names) == 1:
        return [Source(rows, names[0])]
    numbers = rows["source"][:]
    of = [[i for i, number in enumerate(numbers) if number == n] for n in range(len(names))]
    return [Source(rows.select(some), name) for some, name in zip(of, names) if some]


def _rejected(path: Path) -> Iterator[dict]:
    """The bad rows of a file that `dataset.load` wrote, if it wrote one."""
    if path.exists():
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)
