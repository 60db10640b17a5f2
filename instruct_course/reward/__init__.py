"""Reward models: trained on pairs, asked for the rewards of answers, and for the best of n."""

from instruct_course.reward.best_of_n import best
from instruct_course.reward.scoring import score
from instruct_course.reward.training import train

__all__ = ["train", "score", "best"]
