"""Each row of the table in docs/data.md is read as the table says, and the table is current."""

import json

import pytest

from instruct_course.data.example import Example, Turn
from instruct_course.data.formats import Reader
from instruct_course.data.preferences import parse_pair
from tools import forms


def expected(fields: dict) -> Example:
    """The Example of a fixture; fields that are not named are at their defaults."""
    history = tuple(Turn(**turn) for turn in fields.get("history", []))
    return Example(**fields | {"history": history})


@pytest.mark.parametrize("path", forms.fixtures(), ids=lambda path: path.stem)
def test_a_form_is_read_as_the_table_says(path):
    form = json.loads(path.read_text(encoding="utf-8"))
    row = json.dumps(form["row"])
    if "pair" in form:
        sides = tuple(expected(form["pair"][side]) for side in ("chosen", "rejected"))
        assert parse_pair(form["row"], **form.get("options", {})) == sides
        assert json.dumps(form["row"]) == row, "a row is not changed by reading it"
        with pytest.raises(ValueError):
            Reader().parse(form["row"])
        return
    reader = Reader(**form.get("options", {}))
    if "refused" in form:
        with pytest.raises(ValueError) as error:
            reader.parse(form["row"])
        said = str(error.value)
        assert form["refused"] in said and "\n" not in said and not said.endswith(".")
        assert sum(reader.forms.values()) == 0
    else:
        assert reader.parse(form["row"]) == expected(form["example"])
        assert sum(reader.forms.values()) == 1
    assert json.dumps(form["row"]) == row, "a row is not changed by reading it"


def test_the_page_is_made_from_the_fixtures():
    assert forms.PAGE.read_text(encoding="utf-8") == forms.page(), "run python -m tools.forms"


def test_the_page_holds_every_form():
    page = forms.page()
    assert len(forms.fixtures()) >= 30
    for path in forms.fixtures():
        assert f"({path.relative_to(forms.ROOT).as_posix()}".replace("(", "(../") in page


def test_a_bar_in_a_row_does_not_break_the_table():
    assert forms.cell("a|b\nc") == "a\\|b c"
