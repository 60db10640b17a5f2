"""How each lesson opens: badges that lead somewhere, and a set-up cell that installs the course."""

import importlib.util
import subprocess
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from tools import opening
from tools.opening import Origin

GITHUB = Origin("https://github.com/owner/instruct_course")
LESSONS = sorted((opening.ROOT / "nbs").glob("*.ipynb"))


def page(*cells):
    return nbformat.v4.new_notebook(cells=list(cells))


def markdown(text, id):
    return nbformat.v4.new_markdown_cell(text, id=id)


def test_all_lessons_open_as_settings_say():
    assert len(LESSONS) > 15
    assert list(opening.stale()) == [], "run python -m tools.opening"


def test_a_set_up_cell_follows_each_title():
    """Of lesson 13 it stands in a section of its own."""
    for path in LESSONS:
        cells = nbformat.read(path, as_version=4).cells
        assert cells[0].source.split("\n\n")[1].startswith("[![Open in Colab]")
        place = 2 if path.stem == "13_seven_b" else 1
        assert opening.SET_UP_ID.fullmatch(cells[place].id) and not cells[place].outputs
        assert len(cells[place].source.splitlines()) <= 25


def test_no_badge_is_dead_while_nothing_is_published():
    line = opening.badges("03_loss.ipynb", Origin())
    assert line.endswith("(https://colab.research.google.com/#upload=true)")
    assert line.count("[![") == 1
    assert opening.badges("03_loss.ipynb", Origin("https://gitee.com/owner/course")) == line


def test_badges_open_this_very_notebook():
    line = opening.badges("03_loss.ipynb", GITHUB)
    path = "owner/instruct_course/blob/main/nbs/03_loss.ipynb)"
    assert line.count(path) == line.count("[![Open in ") == 3
    assert f"(https://colab.research.google.com/github/{path}" in line
    assert f"(https://kaggle.com/kernels/welcome?src=https://github.com/{path}" in line
    assert f"(https://modelscope.cn/notebook/share/github/{path}" in line


@pytest.mark.parametrize("written", ["https://github.com/o/n", "https://github.com/o/n.git/", ""])
def test_the_origin_is_read(tmp_path, written):
    text = f"[DEFAULT]\ngit_url = {written}\ngit_branch = trunk\n"
    (tmp_path / "settings.ini").write_text(text, encoding="utf-8")
    made = opening.read_origin(tmp_path)
    assert made == Origin("https://github.com/o/n" if written else "", "trunk")


def test_the_rest_of_a_title_moves_below_the_set_up_and_once():
    cells = [markdown("# T\n\n**What**: x\n\n**Time**: y\n\nMore:\n\nand more", "t-title")]
    notebook = page(*cells, nbformat.v4.new_code_cell("1", id="t-one"))
    opening.open_lesson(notebook, "t.ipynb", Origin())
    assert [c.id for c in notebook.cells] == ["t-title", "t-install", "t-overview", "t-one"]
    title = notebook.cells[0].source
    assert title.startswith("# T\n\n[![Open in Colab]")
    assert title.endswith("give it this notebook.")
    assert "**What**: x\n\n**Time**: y\n\nThe first cell installs the course" in title
    assert notebook.cells[2].source == "More:\n\nand more"
    first = nbformat.writes(notebook)
    opening.open_lesson(notebook, "t.ipynb", Origin())
    assert nbformat.writes(notebook) == first
    opening.open_lesson(notebook, "t.ipynb", GITHUB)
    assert "upload" not in notebook.cells[0].source
    opening.open_lesson(notebook, "t.ipynb", Origin())
    assert nbformat.writes(notebook) == first


def test_a_set_up_cell_elsewhere_stays_there_and_the_title_keeps_its_text():
    notebook = page(
        markdown("# T\n\n[![Open in Colab](a)](b)\n\nAll of it.", "t-title"),
        markdown("## Set-up", "t-install-intro"),
        nbformat.v4.new_code_cell("old", id="t-install"),
    )
    opening.open_lesson(notebook, "t.ipynb", GITHUB)
    assert [c.id for c in notebook.cells] == ["t-title", "t-install-intro", "t-install"]
    assert notebook.cells[0].source.endswith("\n\nAll of it.")
    assert "(b)" not in notebook.cells[0].source
    assert notebook.cells[2].source == opening.set_up(GITHUB)


# ---- the set-up cell


@pytest.fixture
def run_set_up(tmp_path, monkeypatch):
    """Run the cell in a folder below tmp_path; gives what it asked pip to install."""
    folder = tmp_path / "a" / "folder"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)

    def run(origin=Origin(), *, installed=None, code=0, stderr=""):
        asked = []

        def pip(command, **_):
            asked.append(command[-1])
            return SimpleNamespace(returncode=code, stderr=stderr)

        with monkeypatch.context() as m:
            m.setattr(importlib.util, "find_spec", lambda name: installed)
            m.setattr(subprocess, "run", pip)
            exec(compile(opening.set_up(origin), "set-up", "exec"), {})
        return asked

    return run


def checkout(folder: Path, name="instruct_course"):
    folder.mkdir(exist_ok=True)
    (folder / "settings.ini").write_text(f"[DEFAULT]\nlib_name = {name}\n", encoding="utf-8")
    return folder


def test_where_it_is_installed_nothing_happens(run_set_up, capsys):
    assert run_set_up(installed=SimpleNamespace(origin="/x/instruct_course/__init__.py")) == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("place", ["instruct_course", "..", "../.."])
def test_a_checkout_beside_or_above_is_installed(run_set_up, capsys, place):
    """Also one whose folder python takes for a package without code."""
    made = checkout(Path(place)).resolve()
    Path("instruct_course-9-py3-none-any.whl").touch()
    asked = run_set_up(GITHUB, installed=SimpleNamespace(origin=None))
    assert asked == [f"instruct_course[lessons] @ {made.as_uri()}"]
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and said.startswith("Installing instruct_course @ file:")


def test_a_wheel_beside_is_installed_and_a_stranger_is_not(run_set_up):
    checkout(Path("other"), "fastai")
    wheel = Path("instruct_course-0.1.0-py3-none-any.whl").resolve()
    wheel.touch()
    assert run_set_up(GITHUB) == [f"instruct_course[lessons] @ {wheel.as_uri()}"]


def test_else_the_published_repository_or_the_registry(run_set_up):
    assert run_set_up(GITHUB) == [f"instruct_course[lessons] @ git+{GITHUB.url}"]
    assert run_set_up() == ["instruct_course[lessons]"]


def test_where_nothing_is_reachable_one_sentence_says_what_to_do(run_set_up):
    with pytest.raises(RuntimeError) as raised:
        run_set_up(code=1, stderr="WARNING: slow\nERROR: No matching distribution found\n")
    said = str(raised.value)
    assert "put its checkout, or its wheel (instruct_course-….whl), beside this notebook" in said
    assert said.endswith("pip says: ERROR: No matching distribution found") and "\n" not in said
    with pytest.raises(RuntimeError, match="pip says: nothing"):
        run_set_up(code=1)
