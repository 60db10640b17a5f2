import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest


@pytest.fixture(scope="session")
def nano():
    """The built-in base in 4 bits; tests must leave it as it is."""
    from instruct_course.model import load
    return load("nano")


@pytest.fixture
def fresh():
    """A base that a test may change."""
    from instruct_course.model import load
    return load("nano")


@pytest.fixture(scope="session")
def smollm2_folder():
    """SmolLM2 from the registry wheel or the cache; skipped where neither can be had."""
    from instruct_course.data import InputError
    from instruct_course.model import resolve
    try:
        return resolve("smollm2")
    except InputError as error:
        pytest.skip(str(error))
