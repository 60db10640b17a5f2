"""An environment, and a copy of the package, to be broken."""

import os
import shutil
import sys
import venv
from pathlib import Path

import pytest
from planted import PACKAGE, SITE


@pytest.fixture
def elsewhere(tmp_path):
    """A virtual environment with links to all that is installed here, to be broken.

    (its python, its site-packages).
    """
    venv.EnvBuilder(symlinks=True).create(tmp_path / "venv")
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    for entry in SITE.iterdir():
        if not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
    (tmp_path / "venv" / "share").symlink_to(Path(sys.prefix) / "share")
    return tmp_path / "venv" / "bin" / "python", site


@pytest.fixture
def copied(tmp_path):
    """A folder with a copy of the package (links, but for what a test breaks), for PYTHONPATH."""
    shutil.copytree(
        PACKAGE,
        tmp_path / "copy" / "instruct_course",
        copy_function=os.symlink,
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    # Python files are copied for real, since __file__ must lie in the copy
    for path in (tmp_path / "copy" / "instruct_course").rglob("*.py"):
        shutil.copy(path.resolve(), f"{path}.new")
        os.replace(f"{path}.new", path)
    return tmp_path / "copy"
