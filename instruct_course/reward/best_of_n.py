"""The best of n sampled answers, as a reward model judges them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from instruct_course import generate
from instruct_course.common.errors import InputError
from instruct_course.common.files import write_lines
from instruct_course.common.options import check_options
from instruct_course.common.progress import Progress
from instruct_course.data import dataset
from instruct_course.data import template as templates
from instruct_course.data.example import Example
from instruct_course.evaluate.intervals import difference
from instruct_course.evaluate.metrics import exact_match
from instruct_course.objectives.best_of import best_of, kl_bound, sizes
from instruct_course.objectives.grpo import sample_groups
from instruct_course.objectives.pair_scores import mean_score
from instruct_course.objectives.reward_model import open_reward_model
from instruct_course.reward.scoring import new_file, read_answers
from instruct_course.reward_config import RewardBestConfig
from instruct_course.run import Run, open_run

__all__ = ["best"]


@dataclass(frozen=True)
class Sampled:
    """n answers to each of N questions.

    Attributes:
        rows: the questions as a data set, with file and row.
        examples: the same as examples; the outputs are what is expected, or empty.
        texts, reasons: N lists of n answers, and why each ended.
        left_out: how many bad rows were left out.
    """

    rows: object
    examples: list[Example]
    texts: list[list[str]]
    reasons: list[list[str]]
    left_out: int


def best(config: RewardBestConfig | None = None, *, quiet: bool = False, **options) -> dict:
    """Answer questions by the best of n samples: what `reward best` does.

    Writes a .jsonl file, one line per question: version, file, row, instruction, input, expected,
    best, reward, and answers: each sample's text, reward and reason.

    Args:
        config: what to do; or its fields as keywords.
        quiet: say nothing.

    Returns:
        {version, n, questions, left_out, out, curve, reward, exact_match}. The curve has for
        k = 1, 2, 4 … n: {k, kl_bound (nats), reward, exact_match}, each a `mean_score` over
        questions of the best of k. `reward` and `exact_match` are best of n minus one sample,
        paired: {mean, interval, n}. exact_match is None where no row has an expected output.

    Raises:
        InputError: an option, a run or a row is wrong; nothing is written.
    """
    config = config or RewardBestConfig(**options)
    check_options(config)
    out = new_file(config.out, config.data, "best")
    tuned = open_run(config.run, allow_mismatch=config.allow_mismatch)
    judge = open_run(
        config.reward, kind="reward", option="--reward", allow_mismatch=config.allow_mismatch
    )
    progress = Progress(quiet)
    try:
        sampled = sample(tuned, config, progress)
        tuned.release()  # before the second base is loaded
        rewards = judge_samples(judge, sampled, config, progress)
    finally:
        progress.close()
    write_lines(out, _lines(sampled, rewards))
    return _summary(sampled, rewards) | {"out": str(out)}


def sample(tuned: Run, config: RewardBestConfig, progress: Progress) -> Sampled:
    """n answers of the tuned model to each question. Raises InputError."""
    read = read_answers(config, progress.say, outputs=False)
    examples = [dataset.example(row) for row in read.rows]
    progress.say(f"loading {tuned.made['base']['name']} and its adapter")
    model, tokenizer, template = tuned.ready()
    new_tokens = config.max_tokens or _answer_tokens(tokenizer, examples)
    limit = generate.context(model)
    room = limit and limit - new_tokens
    for row, ex in zip(read.rows, examples):
        _check_fits(row, template, tokenizer, ex, room)
    total = len(examples) * config.n
    groups = sample_groups(
        model,
        tokenizer,
        template,
        examples,
        size=config.n,
        max_new_tokens=new_tokens,
        temperature=config.temperature,
        seed=config.seed,
        batch_size=config.batch_size,
        progress=lambda n: progress("samples", n, total),
    )
    return Sampled(
        rows=read.rows,
        examples=examples,
        texts=_groups(groups.texts, config.n),
        reasons=_groups(groups.reasons, config.n),
        left_out=read.left_out,
    )


def _groups(items: list[str], n: int) -> list[list[str]]:
    """The items, n at a time."""
    return [items[start : start + n] for start in range(0, len(items), n)]


def _check_fits(row: dict, template, tokenizer, ex: Example, room: int | None) -> None:
    """Raise InputError by file and row where a question does not fit."""
    try:
        templates.prompt(template, tokenizer, ex, max_length=room)
    except InputError as error:
        raise InputError(f"{row['file']}, row {row['row']}: {error}") from None


def _answer_tokens(tokenizer, examples: Sequence[Example]) -> int:
    """Tokens per answer at most: a quarter more than the longest expected one, and 16."""
    longest = max(len(tokenizer(ex.output).input_ids) for ex in examples)
    return min(16 + 5 * longest // 4, 1024) if longest else 256


def judge_samples(
    run: Run, sampled: Sampled, config: RewardBestConfig, progress: Progress
) -> np.ndarray:
    """The rewards of all samples, (N, n) float64. Raises InputError."""
    progress.say(f"loading {run.made['base']['name']} and its reward head")
    judge = open_reward_model(run, batch_tokens=config.batch_tokens)
    room = generate.context(judge.model) or judge.max_length
    judge = replace(judge, max_length=max(room, judge.max_length))
    asked = [(i, text) for i, texts in enumerate(sampled.texts) for text in texts]
    different = list(dict.fromkeys(asked))  # the same answer is judged once
    encoded = judge.encode(
        [replace(sampled.examples[i], output=text, tool_calls="") for i, text in different]
    )
    for (i, _), row in zip(different, encoded):
        if isinstance(row, InputError):
            where = sampled.rows[i]
            raise InputError(f"{where['file']}, row {where['row']}, an answer to it: {row}")
    rewards = judge.rewards(encoded, lambda done: progress("rewards", done, len(encoded)))
    reward_of = dict(zip(different, rewards.tolist()))
    return np.array([reward_of[answer] for answer in asked]).reshape(-1, config.n)


def _lines(sampled: Sampled, rewards: np.ndarray):
    """The lines of the file."""
    picked = rewards.argmax(1)
    for i, (row, ex, place) in enumerate(zip(sampled.rows, sampled.examples, picked.tolist())):
        said = zip(sampled.texts[i], rewards[i].tolist(), sampled.reasons[i])
        yield {
            "version": 1,
            "file": row["file"],
            "row": row["row"],
            "instruction": ex.instruction,
            "input": ex.input,
            "expected": ex.output,
            "best": sampled.texts[i][place],
            "reward": float(rewards[i, place]),
            "answers": [{"text": t, "reward": r, "reason": why} for t, r, why in said],
        }


def _summary(sampled: Sampled, rewards: np.ndarray) -> dict:
    """What `best` returns, without the file's name."""
    n = rewards.shape[1]
    expected = np.array([bool(ex.output) for ex in sampled.examples])
    curves = {"reward": best_of(rewards, rewards)}
    if expected.any():
        right = [
            [exact_match(text, ex.output) for text in texts]
            for ex, texts in zip(sampled.examples, sampled.texts)
        ]
        curves["exact_match"] = best_of(rewards[expected], np.array(right)[expected])
    curve = [
        {"k": k, "kl_bound": kl_bound(k)}
        | {name: mean_score(values[:, k - 1]) for name, values in curves.items()}
        for k in sizes(n)
    ]
    changes = {name: _change(values) for name, values in curves.items()}
    return {
        "version": 1,
        "n": n,
        "questions": len(rewards),
        "left_out": sampled.left_out,
        "curve": [{"exact_match": None} | point for point in curve],
        "exact_match": None,
    } | changes


def _change(values: np.ndarray) -> dict:
    """Best of n minus one sample, paired over questions, from a curve (N, n) of each."""
    found = difference(values[:, 0], values[:, -1])
    return {"mean": found.mean, "interval": [found.low, found.high], "n": found.n}
