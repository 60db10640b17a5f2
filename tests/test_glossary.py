"""The glossary: each link to a term finds its anchor, and each lesson that it names is there."""

import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from test_house import NOTEBOOKS, ROOT

GLOSSARY = ROOT / "nbs" / "99_glossary.ipynb"
LINK = re.compile(r"\(([^()\s]*99_glossary\.ipynb)(?:#([^()\s]*))?\)")
ROW = re.compile(
    r"^\| (?:<a id=\"[a-z0-9-]+\"></a>)+[^|<]+\|[^|]+\|[^|]+\| \[[^]]+\]\(([^()]+)\) \|$"
)


def prose(path: Path) -> str:
    """The Markdown cells of a notebook."""
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def anchors() -> list[str]:
    """The anchors of the glossary, in order."""
    return re.findall(r'<a id="([^"]*)"></a>', prose(GLOSSARY))


def broken(text: str, folder: Path, known: set[str]) -> list[str]:
    """Links of a text in `folder` to the glossary that lead nowhere."""
    links = ((match[0], match[1], match[2]) for match in LINK.finditer(text))
    return [
        whole
        for whole, file, slug in links
        if (folder / file).resolve() != GLOSSARY or (slug is not None and slug not in known)
    ]


def test_a_broken_link_is_found():
    known = {"rank"}
    text = "[a](99_glossary.ipynb#rank), [b](99_glossary.ipynb), [c](99_glossary.ipynb#ranks)"
    assert broken(text, ROOT / "nbs", known) == ["(99_glossary.ipynb#ranks)"]
    assert len(broken(text, ROOT / "nbs" / "workshop", known)) == 3
    assert broken("[a](../99_glossary.ipynb#rank)", ROOT / "nbs" / "workshop", known) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_links_to_terms_find_them(path):
    assert broken(prose(path), path.parent, set(anchors())) == []


def test_anchors_are_unique_and_follow_the_rule():
    assert [name for name, n in Counter(anchors()).items() if n > 1] == []
    assert [name for name in anchors() if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)] == []


def test_each_term_has_four_columns_and_a_lesson_that_is_there():
    lines = [line for line in prose(GLOSSARY).splitlines() if "<a id=" in line]
    assert len(lines) >= 80
    assert [line for line in lines if not ROW.match(line)] == []
    lessons = {ROW.match(line)[1] for line in lines}
    assert [name for name in sorted(lessons) if not (GLOSSARY.parent / name).exists()] == []
