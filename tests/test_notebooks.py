"""`instruct-course notebooks DEST`: a copy of the course that a learner writes in."""

import json
import re
import sys

import pytest

from instruct_course import notebooks
from instruct_course.common.errors import InputError
from instruct_course.common.files import sha256

LESSON = "nbs/00_why.ipynb"


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A course of three files in a wheel's place."""
    packed = tmp_path / "packed"
    for name, text in {"nbs/a.ipynb": "A", "nbs/images/b.png": "B", "docs/c.md": "C"}.items():
        path = packed / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(notebooks, "PACKED", packed)
    return packed


def names_below(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def texts(folder):
    """(file, text) of each page and each Markdown cell below a folder."""
    for path in folder.rglob("*.md"):
        yield path, path.read_text(encoding="utf-8")
    for path in folder.rglob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                yield path, "".join(cell["source"])


def relative_links(text):
    found = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def test_all_notebooks_are_copied_and_links_between_them_lead_somewhere(tmp_path, command):
    """From this checkout; tests/test_wheel.py says that a wheel holds the same files."""
    dest = tmp_path / "new" / "course"
    code, out, _ = command("notebooks", str(dest))
    assert code == 0
    files = notebooks.course_files()
    assert names_below(dest) == sorted([*files, notebooks.MANIFEST])
    assert f"{len(files)} files written" in out and f"jupyter lab {dest}" in out
    assert (dest / LESSON).read_bytes() == files[LESSON].read_bytes()
    assert len([name for name in files if name.startswith("nbs/workshop/")]) > 80
    links = [(page, link) for page, text in texts(dest) for link in relative_links(text)]
    assert len(links) > 300
    assert [(p.name, link) for p, link in links if not (p.parent / link).exists()] == []


def test_what_the_user_changed_stays(tmp_path, small):
    dest = tmp_path / "course"
    assert notebooks.copy(dest).written == ["docs/c.md", "nbs/a.ipynb", "nbs/images/b.png"]
    assert notebooks.copy(dest).same == ["docs/c.md", "nbs/a.ipynb", "nbs/images/b.png"]
    (dest / "nbs/a.ipynb").write_text("mine", encoding="utf-8")
    (dest / "docs/c.md").unlink()
    for name in ("nbs/a.ipynb", "nbs/images/b.png", "docs/c.md"):
        (small / name).write_text("new", encoding="utf-8")
    made = notebooks.copy(dest)
    assert (made.kept, made.updated) == (["nbs/a.ipynb"], ["nbs/images/b.png"])
    assert made.written == ["docs/c.md"] and made.same == []
    assert (dest / "nbs/a.ipynb").read_text(encoding="utf-8") == "mine"
    assert (dest / "nbs/images/b.png").read_text(encoding="utf-8") == "new"
    said = notebooks.describe(made, dest)
    assert "1 files written, 1 files brought up to date" in said and "  nbs/a.ipynb" in said
    recorded = json.loads((dest / notebooks.MANIFEST).read_text(encoding="utf-8"))["files"]
    assert recorded["nbs/images/b.png"] == sha256(small / "nbs/images/b.png")
    assert notebooks.copy(dest).kept == ["nbs/a.ipynb"]  # also when it is asked once more


def test_a_file_that_was_there_before_is_the_users(tmp_path, small):
    dest = tmp_path / "course"
    (dest / "nbs").mkdir(parents=True)
    (dest / "nbs" / "a.ipynb").write_text("mine", encoding="utf-8")
    (dest / "nbs" / "images").write_text("a file where a folder goes", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be written"):
        notebooks.copy(dest)
    (dest / "nbs" / "images").unlink()
    made = notebooks.copy(dest)
    assert made.kept == ["nbs/a.ipynb"] and made.same == ["docs/c.md"]
    assert (dest / "nbs" / "a.ipynb").read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_nothing_is_written_through_a_link(tmp_path, small):
    dest = tmp_path / "course"
    notebooks.copy(dest)
    outside = tmp_path / "outside"
    outside.write_text("A", encoding="utf-8")
    (dest / "nbs/a.ipynb").unlink()
    (dest / "nbs/a.ipynb").symlink_to(outside)
    (small / "nbs/a.ipynb").write_text("new", encoding="utf-8")
    assert notebooks.copy(dest).kept == ["nbs/a.ipynb"]
    assert outside.read_text(encoding="utf-8") == "A"


def test_a_copy_that_breaks_off_leaves_nothing(tmp_path, small, monkeypatch):
    """In a new folder; in one that exists, what was written is whole and recorded."""
    whole = notebooks._copy_file

    def full_disk(source, target):
        if source.name == "b.png":
            raise OSError(28, "No space left on device")
        whole(source, target)

    monkeypatch.setattr(notebooks, "_copy_file", full_disk)
    with pytest.raises(InputError, match=r"DEST .*: it cannot be written \(No space left"):
        notebooks.copy(tmp_path / "x" / "course")
    assert not (tmp_path / "x").exists()
    old = tmp_path / "old"
    old.mkdir()
    (old / "notes.txt").touch()
    with pytest.raises(InputError, match="No space left"):
        notebooks.copy(old)
    recorded = json.loads((old / notebooks.MANIFEST).read_text(encoding="utf-8"))["files"]
    assert sorted(recorded) == ["docs/c.md", "nbs/a.ipynb"]
    assert names_below(old) == sorted([notebooks.MANIFEST, *recorded, "notes.txt"])


def test_errors_are_one_sentence_and_exit_with_2(tmp_path, small, command):
    file = tmp_path / "file"
    file.touch()
    code, out, err = command("notebooks", str(file))
    assert (code, out) == (2, "")
    assert err == f"error: DEST {file}: this is a file; name a folder\n"
    code, _, err = command("notebooks", str(file / "below"))
    assert code == 2 and "cannot be written" in err and err.count("\n") == 1
    dest = tmp_path / "course"
    notebooks.copy(dest)
    (dest / notebooks.MANIFEST).write_text("{", encoding="utf-8")
    code, _, err = command("notebooks", str(dest))
    assert code == 2 and "which copies were changed is not known" in err


def test_an_installation_without_notebooks_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "PACKED", tmp_path / "none")
    monkeypatch.setattr(notebooks, "CHECKOUT", tmp_path)
    with pytest.raises(InputError, match="missing from this installation"):
        notebooks.copy(tmp_path / "course")
    assert not (tmp_path / "course").exists()


def test_the_command_to_start_with_is_quoted_where_it_must_be(monkeypatch):
    said = notebooks.describe(notebooks.Copied(), "my course")
    assert 'jupyter lab "my course"' in said and "nothing written" in said
    monkeypatch.setattr(notebooks.importlib.util, "find_spec", lambda name: None)
    said = notebooks.describe(notebooks.Copied(), "course")
    assert said.endswith("Jupyter is missing here: first run pip install jupyterlab ipykernel")
