"""Rows of one's own, read as the options say, with one line on how they were read.

By hand: no notebook exports it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from instruct_course.common.errors import InputError
from instruct_course.data import dataset
from instruct_course.data.formats import Reader
from instruct_course.data.source import parse_sources
from instruct_course.data.weights import weighted

__all__ = ["load_rows", "reader_for", "train_and_held_out"]


def reader_for(options) -> Reader:
    """The reader that a configuration asks for; it has `columns`, `json_output`, `response_marker`.

    Raises:
        InputError: one of them is written wrongly.
    """
    return Reader(options.columns, options.json_output, options.response_marker)


def load_rows(
    sources: Sequence[str],
    options,
    *,
    limit: int | None = None,
    skip_bad: bool | None = None,
    rejects: Path | None = None,
    say: Callable[[str], None] | None = None,
):
    """The rows of some sources.

    Args:
        sources: files, folders or data sets, as `source.parse_source` reads them.
        options: a configuration with `columns`, `encoding`, `json_output`, `response_marker` and
            `skip_bad`.
        limit: the good rows to stop after.
        skip_bad: in place of the option.
        rejects: the file for bad rows, with `skip_bad`.
        say: gets the line that names the forms and columns that were read.

    Returns:
        A data set as `dataset.load` gives it.

    Raises:
        InputError: a source or a row is wrong; nothing stays behind.
    """
    reader = reader_for(options)
    rows = dataset.load(
        list(sources),
        encoding=options.encoding,
        reader=reader,
        skip_bad=options.skip_bad if skip_bad is None else skip_bad,
        rejects=rejects,
        limit=limit,
        say=say,
    )
    if say:
        say(reader.summary())
    return rows


def train_and_held_out(
    config,
    *,
    rejects: Path | None = None,
    say: Callable[[str], None] | None = None,
):
    """The training rows, weighted by source, and the held-out rows of a configuration.

    Args:
        config: as `load_rows` needs it, with `data`, `holdout`, `limit` and `seed`.
        rejects, say: as in `load_rows`.

    Returns:
        (training rows, held-out rows), two data sets. No question stands on both sides.

    Raises:
        InputError: as `load_rows`; or too few rows.
    """
    rows = load_rows(config.data, config, limit=config.limit, rejects=rejects, say=say)
    if len(rows) < 2:
        raise InputError(
            f"{', '.join(config.data)}: one row is not enough to train and to judge; "
            "give at least two"
        )
    train, held = dataset.split(
        rows,
        config.holdout or "0.1",
        seed=config.seed,
        encoding=config.encoding,
        reader=reader_for(config),
    )
    return weighted(train, parse_sources(config.data), seed=config.seed), held
