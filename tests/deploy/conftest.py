"""Runs that the tests of this folder share; tests must leave them as they are."""

import pytest

import instruct_course
from instruct_course import run as runs
from instruct_course.data import dataset
from instruct_course.deploy.merge import merge_inputs


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """A nano run on 64 rows, with 16 held out."""
    folder = tmp_path_factory.mktemp("deploy")
    rows = [dataset.example(row) for row in dataset.builtin("train").select(range(80))]
    dataset.save(folder / "rows.jsonl", rows)
    return instruct_course.tune(
        data=str(folder / "rows.jsonl"),
        holdout="0.2",
        epochs=3,
        out=str(folder / "run"),
        quiet=True,
    )


@pytest.fixture(scope="session")
def tuned_run(named_run, request):
    """A finished nano run: that of INSTRUCT_COURSE_RUN, where there is one, else `small_run`."""
    if named_run:
        return runs.open_run(named_run)
    return request.getfixturevalue("small_run")


@pytest.fixture(scope="session")
def inputs(tuned_run):
    """What `tuned_run` is merged from."""
    return merge_inputs(tuned_run)
