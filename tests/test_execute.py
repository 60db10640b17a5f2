"""Notebooks are executed as Jupyter does, and their outputs compared."""

from types import SimpleNamespace

import nbformat
import nbformat.v4 as v4
import pytest

from tools import execute
from tools.export import notebooks


def written(folder, *sources):
    """The path of a notebook of code cells with ids c0, c1, …"""
    cells = [v4.new_code_cell(source, id=f"c{i}") for i, source in enumerate(sources)]
    path = folder / "page.ipynb"
    nbformat.write(v4.new_notebook(cells=cells), path)
    return path


def test_what_a_page_shows(tmp_path):
    path = written(
        tmp_path,
        "import asyncio\nprint('one')\n2 + 2",
        "await asyncio.sleep(0)\n'top level'",
        "asyncio.get_running_loop().is_running()",
        "from matplotlib import pyplot as plt\nplt.plot([1, 2]);",
        "x = 3\nx;",
    )
    fresh = execute.execute(path)
    shown = [execute.texts(cell) for cell in fresh.cells]
    assert shown == ["one\n4", "'top level'", "True", "image", ""]


def test_a_cell_that_fails_is_named(tmp_path):
    with pytest.raises(RuntimeError, match=r"page.ipynb, cell c1: ZeroDivisionError"):
        execute.execute(written(tmp_path, "1", "1 / 0", "3"))


def test_differences_are_told_and_mended(tmp_path):
    path = written(tmp_path, "print('loss 1.000')", "print('right')")
    committed = execute.execute(path)
    committed.cells[0].outputs[0].text = "loss 1.009\n"
    committed.cells[1].outputs[0].text = "wrong\n"
    nbformat.write(committed, path)
    fresh = execute.execute(path)
    assert execute.differences(committed, fresh) == {"c1": ("wrong", "right")}
    execute.update(path, fresh)
    assert [c.outputs[0].text for c in nbformat.read(path, 4).cells] == ["loss 1.009\n", "right\n"]


def test_a_picture_that_looks_different_is_written(tmp_path):
    drawn = "from matplotlib import pyplot as plt\nplt.subplots()[1].set_title('{}');"
    path = written(tmp_path, drawn.format("one answer"), drawn.format("two answers"))
    fresh = execute.execute(path)
    right = [cell.outputs[0].data["image/png"] for cell in fresh.cells]
    committed = execute.execute(path)
    committed.cells[0].outputs = committed.cells[1].outputs  # its text is <Figure …>, as before
    nbformat.write(committed, path)
    assert execute.differences(committed, fresh) == {}
    execute.update(path, fresh)
    now = [cell.outputs[0].data["image/png"] for cell in nbformat.read(path, 4).cells]
    assert now == right and right[0] != right[1]


def test_the_hash_follows_code_and_outputs_but_no_prose(tmp_path):
    path = written(tmp_path, "x = 1", "print(x)")
    before = execute.fingerprint(path)
    page = nbformat.read(path, as_version=4)
    page.cells.insert(0, v4.new_markdown_cell("some prose"))
    nbformat.write(page, path)
    assert execute.fingerprint(path) == before
    page.cells[1].source = "x = 2"
    nbformat.write(page, path)
    assert execute.fingerprint(path) != before
    page.cells[1].source = "x = 1"
    page.cells[2].outputs = [v4.new_output("stream", text="1")]
    nbformat.write(page, path)
    assert execute.fingerprint(path) != before


def test_lessons_are_always_executed():
    lessons = [path for path in notebooks() if path.parent.name == "nbs"]
    workshop = {path.name for path in notebooks() if path.parent.name == "workshop"}
    assert len(lessons) > 12 and all(map(execute.is_stale, lessons))
    assert set(execute.recorded()) <= workshop


def test_a_lesson_is_not_recorded_under_the_name_of_a_notebook_of_the_workshop(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(execute, "RECORDED", tmp_path / "executed.json")
    lesson, other = (path for path in notebooks() if path.name == "04_attention.ipynb")
    execute.record([lesson])
    assert execute.recorded() == {}
    execute.record([lesson, other])
    assert execute.recorded() == {other.name: execute.fingerprint(other)}
    assert not execute.is_stale(other) and execute.is_stale(lesson)


def test_a_picture_that_is_given_as_bytes_is_kept_as_text():
    shown = SimpleNamespace(data={"image/png": b"\x89PNG", "text/plain": "an image"}, metadata={})
    (out,) = execute.outputs_of(SimpleNamespace(stdout="", stderr="", outputs=[shown]))
    assert out.data == {"image/png": "iVBORw==", "text/plain": "an image"}
