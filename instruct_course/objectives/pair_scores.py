"""How good a judge of pairs is: accuracy with its interval, by kind of worse answer, and rewards.

By hand: no notebook exports it.
"""

from collections.abc import Sequence

import numpy as np

from instruct_course.data.template import IGNORE_INDEX, Encoded
from instruct_course.evaluate.intervals import interval
from instruct_course.objectives.paired import TIE, EncodedPair

__all__ = ["score_pairs", "mean_score", "length_judge"]


def mean_score(values) -> dict:
    """The mean of values (n,) over rows.

    Returns:
        {value, interval (95 %), n}.
    """
    values = np.asarray(values, dtype=np.float64)
    return {"value": float(values.mean()), "interval": list(interval(values)), "n": len(values)}


def score_pairs(rewards, kinds: Sequence[str]) -> dict:
    """What the rewards of pairs say about their judge.

    Args:
        rewards: (n, 2), of chosen and rejected answers, in log-odds.
        kinds: in which way each worse answer is worse; "" where nobody said so.

    Returns:
        {n; accuracy, a `mean_score`, a tie counts half; by_kind, the same for each kind; loss,
        Bradley and Terry's in nats per pair (Eq. 11.3); chosen and rejected: {mean, std}}.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    margins = rewards[:, 0] - rewards[:, 1]
    right = _right(margins)
    kinds = np.asarray(kinds)
    named = sorted(set(kinds.tolist()) - {""})
    return {
        "n": len(rewards),
        "accuracy": mean_score(right),
        "by_kind": {kind: mean_score(right[kinds == kind]) for kind in named},
        "loss": float(np.logaddexp(0, -margins).mean()),
        "chosen": _spread(rewards[:, 0]),
        "rejected": _spread(rewards[:, 1]),
    }


def _right(margins: np.ndarray) -> np.ndarray:
    """1 where the chosen answer has more, 0 where less, 0.5 where they differ by rounding."""
    return (margins > TIE) + 0.5 * (np.abs(margins) <= TIE)


def _spread(values: np.ndarray) -> dict:
    """Mean and standard deviation of rewards."""
    return {"mean": float(values.mean()), "std": float(values.std())}


def length_judge(train: Sequence[EncodedPair], held: Sequence[EncodedPair]) -> dict:
    """The control: a judge that sees nothing but the lengths of two answers.

    Whether longer or shorter ones win it learns from the training pairs.

    Args:
        train, held: (chosen, rejected) as `encode_pair` gives them.

    Returns:
        {prefers ('longer' or 'shorter'), accuracy: a `mean_score` over `held`}.
    """
    longer = _right(_length_margins(train)).mean() >= 0.5
    margins = _length_margins(held)
    accuracy = mean_score(_right(margins if longer else -margins))
    return {"prefers": "longer" if longer else "shorter", "accuracy": accuracy}


def _length_margins(pairs: Sequence[EncodedPair]) -> np.ndarray:
    """(n,): by how many tokens each chosen answer is longer than its rejected one."""

    def tokens(row: Encoded) -> int:
        return sum(label != IGNORE_INDEX for label in row.labels)

    return np.array([tokens(chosen) - tokens(rejected) for chosen, rejected in pairs])
