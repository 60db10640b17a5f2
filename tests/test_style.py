"""The limits of tools/style.py hold, but for a list of exceptions that may only become shorter."""

import ast
import json
import subprocess
import sys

import pytest
from style_exceptions import EXCEPTIONS

from tools import style


def test_ruff_would_lay_nothing_out_anew():
    command = [sys.executable, "-m", "ruff", "format", "--check", "."]
    done = subprocess.run(command, cwd=style.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_each_limit_has_its_list():
    assert EXCEPTIONS.keys() == style.LIMITS.keys()
    assert all(names == sorted(set(names)) for names in EXCEPTIONS.values())


@pytest.mark.parametrize("limit", style.LIMITS)
def test_the_limit_holds_but_for_its_exceptions(limit):
    found = style.LIMITS[limit]()
    new = sorted(found - set(EXCEPTIONS[limit]))
    assert not new, f"{limit}: {', '.join(new)}"
    mended = sorted(set(EXCEPTIONS[limit]) - found)
    assert not mended, f"{limit}: take it off the list: {', '.join(mended)}"


# -- the measures bite


def cell(kind, source, outputs=(), name="a"):
    made = {"cell_type": kind, "id": name, "source": source}
    return made | ({"outputs": list(outputs)} if kind == "code" else {})


def test_a_notebook_is_measured(tmp_path):
    picture = {"output_type": "display_data", "data": {"image/png": ""}}
    cells = [
        cell("markdown", "# Two words\n![a drawing](x.svg)\n指令"),
        cell("code", "#| export\n\n" + "x = 1\n" * 9),
        cell("code", "y = 1\n" * 26 + "#" * 101, [picture]),
        cell("code", "#| hide"),
        cell("code", "z = 1"),
    ]
    path = tmp_path / "nbs" / "00_a.ipynb"
    path.parent.mkdir()
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    made = style.measure(path)
    assert made.cells == [9, 27, 1] and made.exported == [9]
    assert (made.wide, made.drawings, made.plots) == (1, 1, 1)
    assert made.long_share == 2 / 3 and made.exported_share == 9 / 37
    assert made.is_lesson
    assert made.words == 2 + 2 + 2 + 2  # title, text of the drawing, its file, two characters


@pytest.mark.parametrize("name", ["3f2a9c01", "7", "cell-12", "0c9ee6b8-3b9f-4d6e", "Untitled-1"])
def test_an_id_without_a_meaning_is_found(name):
    assert style.NO_NAME.fullmatch(name)


@pytest.mark.parametrize("name", ["loss-title", "bed", "nf4-bins", "adamw-2"])
def test_a_name_is_a_name(name):
    assert not style.NO_NAME.fullmatch(name)


def test_lines_of_a_function_are_counted_without_its_docstring():
    source = (
        'def f():\n    """One.\n\n    Two.\n    """\n    def g():\n        pass\n    return 1\n'
    )
    found = dict(style.functions(ast.parse(source), "m"))
    assert {n: style.function_lines(f) for n, f in found.items()} == {"m.f": 4, "m.f.g": 2}


def test_imports_are_seen_in_all_their_forms():
    source = """
from instruct_course.train import loop
from instruct_course.model.lora import attach as on, _hidden
import instruct_course.recipe
import instruct_course.run as r
from ..common import files
import torch
"""
    bound = {}
    for node in ast.parse(source).body:
        bound |= style.imported_modules(node, "train.engine")
    assert bound == {
        "loop": "train.loop",
        "on": "model.lora.attach",
        "_hidden": "model.lora._hidden",
        "instruct_course.recipe": "recipe",
        "r": "run",
        "files": "common.files",
    }
    assert style.module_of("model.lora._hidden") == "model.lora"
    assert style.module_of("torch") is None
