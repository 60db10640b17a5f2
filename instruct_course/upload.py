"""The upload of a finished run to the hub, asked for before its training starts."""

from collections.abc import Callable

from instruct_course.common.errors import InputError
from instruct_course.config import TuneConfig
from instruct_course.run import Run

__all__ = ["may_upload", "upload"]
OPTION = "--push-to-hub"
FOLDER = "hub"  # of the run directory, with what is uploaded


def may_upload(config: TuneConfig) -> bool:
    """Whether a run is to be uploaded once it is finished; asks on a terminal.

    Args:
        config: its push_to_hub and yes are used.

    Raises:
        InputError: the repository's name is none, or there is nobody to ask.
    """
    import typer

    from instruct_course.deploy.export import may_push

    repo = config.push_to_hub
    if not repo:
        if config.yes:
            raise InputError(f"--yes: there is nothing to upload; use it together with {OPTION}")
        return False
    may_push(repo, yes=config.yes, option=OPTION)
    question = f"Upload the adapter to the private repository {repo} when the run is finished?"
    return config.yes or typer.confirm(question, err=True)


def upload(run: Run, repo: str, say: Callable[[str], None]) -> None:
    """Write a run's adapter with its card into the run directory, and upload that folder.

    Args:
        run: a run that tune has just written; one that was stopped is not uploaded.
        repo: owner/name of a repository, which is made private where it is missing.
        say: gets a sentence about what was done.

    Raises:
        InputError: the hub did not take it; the run is whole.
    """
    from instruct_course.deploy.export import export, push

    if run.report["stopped"]:
        say(f"not uploaded, since the run was stopped; go on with --resume {OPTION} {repo}")
        return
    folder, _ = export(run.path, run.path / FOLDER, format="adapter", quiet=True)
    say(f"uploaded to {push(folder, repo, option=OPTION)}")
