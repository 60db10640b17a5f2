import os
import sys
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
    "test_server.py",
    "test_rehearse.py",
)


def pytest_collection_modifyitems(items):
    """Under pytest-xdist a file stays in one process, with its fixtures; a chapter is a group."""
    for item in items:
        chapter = "a_chapter_runs" in item.nodeid
        item.add_marker(pytest.mark.xdist_group(item.nodeid if chapter else item.path.name))

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
def tuned_run(tmp_path_factory):
    """The folder of a finished default run, one for all tests, which leave it as it is.

    It is the one that INSTRUCT_COURSE_RUN names, such as that of the README's command in CI; else
    the first test process that asks makes one, in some minutes.
    """
    if made := os.environ.get("INSTRUCT_COURSE_RUN"):
        return Path(made)
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
