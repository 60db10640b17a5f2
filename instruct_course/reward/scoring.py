"""Rewards of a file of answers, or of both answers of pairs."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from instruct_course.common.errors import InputError
from instruct_course.common.files import write_lines
from instruct_course.common.options import check_options
from instruct_course.common.progress import Progress
from instruct_course.data import dataset
from instruct_course.data import pairs as pair_data
from instruct_course.data.example import Example
from instruct_course.data.fields import Row, from_json
from instruct_course.data.formats import Reader
from instruct_course.data.source import parse_source, parse_sources, raw_rows
from instruct_course.data.turns import is_turns
from instruct_course.objectives.pair_scores import mean_score, score_pairs
from instruct_course.objectives.reward_model import RewardModel, open_reward_model
from instruct_course.reward_config import RewardScoreConfig
from instruct_course.run import open_run

__all__ = ["score", "new_file", "read_answers"]
BLOCK = 500  # rows that are tokenized together


def score(config: RewardScoreConfig | None = None, *, quiet: bool = False, **options) -> dict:
    """The reward of each answer of a file, as a .jsonl file: what `reward score` does.

    Each line has version, file, row and reward; of a pair kind, chosen and rejected instead.

    Args:
        config: what to do; or its fields as keywords.
        quiet: say nothing.

    Returns:
        {version, kind ('rows' or 'pairs'), n, left_out, out, and rewards (a `mean_score` with
        std, min and max) or, of pairs, what `score_pairs` gives}.

    Raises:
        InputError: an option, the run or a row is wrong; nothing is written.
    """
    config = config or RewardScoreConfig(**options)
    check_options(config)
    out = new_file(config.out, config.data, "rewards")
    run = open_run(config.run, kind="reward", allow_mismatch=config.allow_mismatch)
    progress = Progress(quiet)
    try:
        read = read_answers(config, progress.say)
        progress.say(f"loading {run.made['base']['name']} and its reward head")
        judge = open_reward_model(run, batch_tokens=config.batch_tokens)
        lines, summary = _score(judge, read, config, progress)
    finally:
        progress.close()
    write_lines(out, lines)
    return summary | {"out": str(out)}


def new_file(out: str | None, data: str, what: str) -> Path:
    """The file to write: `out`, or NAME.what.jsonl beside the file of the rows.

    Raises:
        InputError: it exists, its folder does not, or the rows are not one file.
    """
    source = parse_source(data)
    if out is None and (source.hub or not source.path.is_file()):
        parse_sources([data])  # which says where there is no such file
        raise InputError(f"--data {data}: this is not one file; name the file to write with --out")
    path = Path(out) if out else source.path.with_name(f"{source.path.stem}.{what}.jsonl")
    if path.exists():
        raise InputError(f"--out {path}: this already exists; name another file or remove it")
    if not path.parent.is_dir():
        raise InputError(f"--out {path}: there is no folder {path.parent}; make it first")
    return path


def _holds_pairs(config) -> bool:
    """Whether the first row of a source has two answers, one chosen and one rejected."""
    if config.columns and {"chosen", "rejected"} & set(pair_data.pair_columns(config.columns)):
        return True
    sources = parse_sources([config.data])
    first = list(islice(raw_rows(sources, encoding=config.encoding, say=_hush), 1))
    if not first or not isinstance(first[0].content, dict):
        return False
    row = Row(first[0].content)
    if row.candidates("chosen") or row.candidates("rejected"):
        return True
    answers = [from_json(first[0].content[name]) for name in row.candidates("output")]
    return any(isinstance(two, list) and len(two) == 2 for two in answers)


def _hush(text: str) -> None:
    """Say nothing: the second reading of the file says it."""


def _open_chat(row: dict, fields: Row) -> tuple[str, list] | None:
    """(column, turns) of a conversation whose next turn is the answer; None where there is none."""
    if fields.filled("output"):
        return None
    for name in fields.candidates("messages"):
        turns = from_json(row[name])
        if isinstance(turns, list) and is_turns(turns):
            last = turns[-1].get("role", turns[-1].get("from"))
            if last in ("user", "human", "tool"):
                return name, turns
    return None


@dataclass(frozen=True)
class Answers:
    """The rows of a file.

    Attributes:
        rows: as `dataset.load` or `load_pairs` gives them.
        pairs: whether they are pairs.
        left_out: how many bad rows were left out.
    """

    rows: object
    pairs: bool
    left_out: int


class QuestionReader(Reader):
    """A reader of rows that may lack an output, for `dataset.load`."""

    def parse(self, row) -> Example:
        """The row as an example, its output empty where it has none; ValueError as `Reader`.

        A conversation that ends with a turn of the user, or with a tool's result, is a question.
        """
        fields = Row(row, self.columns) if isinstance(row, dict) else None
        if fields and (chat := _open_chat(row, fields)):
            name, turns = chat
            turns = [*turns, {"role": "assistant", "content": "?"}]
            return replace(super().parse(row | {name: turns}), output="")
        if not fields or not fields.filled("instruction"):
            return super().parse(row)
        if any(fields.filled(name) for name in ("output", "messages", "text")):
            return super().parse(row)
        column = (fields.candidates("output") or ["output"])[0]
        return replace(super().parse(row | {column: "?"}), output="")


def read_answers(config, say: Callable[[str], None], *, outputs: bool = True) -> Answers:
    """The rows or pairs of `--data`.

    Args:
        config: has `data`, `limit`, `skip_bad` and what says how rows are read.
        say: gets the line on how they were read.
        outputs: rows without an output are bad.

    Raises:
        InputError: as `load_rows` and `load_pairs`.
    """
    pairs = _holds_pairs(config)
    with tempfile.TemporaryDirectory() as folder:
        rejects = Path(folder) / "rejects.jsonl"
        options = {
            "encoding": config.encoding,
            "skip_bad": config.skip_bad,
            "rejects": rejects,
            "limit": config.limit,
            "say": say,
        }
        if pairs:
            rows = pair_data.load_pairs(config.data, columns=config.columns, **options)
        else:
            kind = Reader if outputs else QuestionReader
            reader = kind(config.columns, config.json_output, config.response_marker)
            rows = dataset.load(config.data, reader=reader, **options)
            say(reader.summary())
        text = rejects.read_text(encoding="utf-8") if rejects.exists() else ""
    return Answers(rows, pairs, text.count("\n"))


def _score(judge: RewardModel, read: Answers, config, progress: Progress):
    """(the lines of the file, the summary)."""
    encoded, kept, left_out = _encode(judge, read, config.skip_bad)
    ask = judge.pair_rewards if read.pairs else judge.rewards
    rewards = ask(encoded, lambda done: progress("answers", done, len(encoded))).double().numpy()
    rows = read.rows.select(kept)
    summary = {
        "version": 1,
        "kind": "pairs" if read.pairs else "rows",
        "n": len(encoded),
        "left_out": read.left_out + left_out,
    }
    origin = [{"version": 1, "file": f, "row": r} for f, r in zip(rows["file"], rows["row"])]
    if read.pairs:
        lines = [
            where | {"kind": kind, "chosen": chosen, "rejected": rejected}
            for where, kind, (chosen, rejected) in zip(origin, rows["kind"], rewards.tolist())
        ]
        return lines, summary | score_pairs(rewards, rows["kind"])
    lines = [where | {"reward": reward} for where, reward in zip(origin, rewards.tolist())]
    return lines, summary | {"rewards": spread(rewards)}


def spread(rewards: np.ndarray) -> dict:
    """The mean of rewards (n,) with its interval, their standard deviation, least and greatest."""
    more = {"std": rewards.std(), "min": rewards.min(), "max": rewards.max()}
    return mean_score(rewards) | {name: float(value) for name, value in more.items()}


def _encode(judge: RewardModel, read: Answers, skip_bad: bool) -> tuple[list, list[int], int]:
    """(encoded rows or pairs, their numbers, how many do not fit). Raises InputError."""
    encoded: list = []
    kept: list[int] = []
    for start in range(0, len(read.rows), BLOCK):
        block = read.rows.select(range(start, min(start + BLOCK, len(read.rows))))
        if read.pairs:
            made = judge.encode_pairs([pair_data.pair(row) for row in block])
        else:
            made = judge.encode([dataset.example(row) for row in block])
        for number, (row, one) in enumerate(zip(block, made), start):
            if not isinstance(one, InputError):
                encoded.append(one)
                kept.append(number)
            elif not skip_bad:
                raise InputError(
                    f"{row['file']}, row {row['row']}: {one} (--skip-bad goes on without such rows)"
                )
    if not kept:
        raise InputError("no row fits the reward model; it was trained with a larger --max-length")
    return encoded, kept, len(read.rows) - len(kept)
