"""The commands of `instruct-course reward`: train a reward model, score answers, best of n."""

from functools import partial

import typer

from instruct_course import commands
from instruct_course.commands import print_json
from instruct_course.reward_config import RewardBestConfig, RewardScoreConfig, RewardTrainConfig

__all__ = ["app"]
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Train a reward model on pairs, score answers with it, take the best of n.",
)
command = partial(commands.command, app)


@command(RewardTrainConfig, json_help="print report.json and nothing else", yaml=True)
def train(config: RewardTrainConfig, as_json: bool):
    """Train a reward model on pairs of a better and a worse answer."""
    from instruct_course import reward
    from instruct_course.reward import show

    run = reward.train(config, quiet=as_json)
    if not run.report:  # one of several processes, and not the first
        return
    if as_json:
        print_json(run.report)
    else:
        show.print_parts(show.describe_training(run))
    if run.report["stopped"]:
        raise typer.Exit(130)


@command(RewardScoreConfig, json_help="print the summary as JSON and nothing else")
def score(config: RewardScoreConfig, as_json: bool):
    """Give each answer of a file a reward; of pairs, say how many are ranked rightly."""
    from instruct_course import reward
    from instruct_course.reward import show

    summary = reward.score(config, quiet=as_json)
    if as_json:
        print_json(summary)
    else:
        show.print_parts(show.describe_scores(summary))


@command(RewardBestConfig, json_help="print the summary as JSON and nothing else")
def best(config: RewardBestConfig, as_json: bool):
    """Answer questions by the best of n samples, as a reward model judges them."""
    from instruct_course import reward
    from instruct_course.reward import show

    summary = reward.best(config, quiet=as_json)
    if as_json:
        print_json(summary)
    else:
        show.print_parts(show.describe_best(summary))
