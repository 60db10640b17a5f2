"""Tables are split where their header says; cells of workbooks keep their types."""

import csv
import io
import zipfile

import pytest

from instruct_course.common.errors import InputError
from instruct_course.data.files import read_rows
from instruct_course.data.table import read_table, read_workbook, separator_of


def read(text, **options):
    return list(read_table(io.StringIO(text, newline=""), **options))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_same_rows_for_each_separator(separator, end):
    rows = [
        {"instruction": "a,b;c\td", "output": "x"},
        {"instruction": 'said "no"', "output": "1,5; 2,5"},
        {"instruction": "two\nlines", "output": "é 猫"},
    ]
    file = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if end == "\r" else csv.QUOTE_MINIMAL
    writer = csv.DictWriter(
        file, list(rows[0]), delimiter=separator, lineterminator=end, quoting=quoting
    )
    writer.writeheader()
    writer.writerows(rows)
    assert read(file.getvalue()) == list(enumerate(rows, 1))


@pytest.mark.parametrize(
    "text, separator",
    [
        ("question;answer\nred, green, blue;yes\n", ";"),
        ("question,answer\nred; green; blue,yes\n", ","),
        ('"question, in words";"answer"\na;b\n', ";"),
        ('"question; in words","answer"\na,b\n', ","),
        ('"a ""quoted"", name";b\n1;2\n', ";"),
        ('"two\nlines, in a name";b\n1;2\n', ";"),
        ("question\tanswer, if any\na\tb\nc\td, e, f\n", "\t"),
        ("a;b,c\n1;2,3\n4,5\n", ","),
        ("\n\nquestion;answer\n", ";"),
        ("question\na, b\n", ","),
        ("", ","),
    ],
)
def test_the_separator_is_that_of_the_header(text, separator):
    assert separator_of(text.splitlines(keepends=True)) == separator


@pytest.mark.parametrize("text", ["a;b,c\n", "a;b,c\n1;2,3\n4;5,6\n"])
def test_an_uncertain_separator_is_refused(text):
    with pytest.raises(ValueError, match="split at commas or semicolons; put the names"):
        read(text)


def test_excels_own_line_names_the_separator():
    assert read("sep=|\r\na|b,c\r\n1|2\r\n") == [(1, {"a": "1", "b,c": "2"})]


def test_a_long_row_is_bad_and_a_short_one_has_nothing():
    (_, long), (_, short) = read("a,b\n1,2,3\n4\n")
    assert isinstance(long, ValueError) and "more fields than the header" in str(long)
    assert short == {"a": "4", "b": None}


@pytest.mark.parametrize(
    "text, says",
    [
        ("a,b,a\n1,2,3\n", "names 'a' twice"),
        ('a,b\n1,2\n3,"4\n', "what follows row 1 is no table"),
        ('a,b\n1,"2" 3\n', "what follows row 0 is no table"),
    ],
)
def test_what_is_no_table_has_its_sentence(text, says):
    with pytest.raises(ValueError, match=says):
        read(text)


def test_empty_names_at_the_end_of_a_header_are_no_error():
    assert read("a,b,,\n1,2,,\n")[0][1]["b"] == "2"


# -- workbooks


def workbook(path, sheets):
    """A workbook of {title: rows}."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for cells in rows:
            sheet.append(cells)
    book.save(path)
    return path


def computed(path, values):
    """Write values beside the formulas of a workbook, as Excel does when it saves one."""
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    sheet = parts["xl/worksheets/sheet1.xml"].decode()
    for formula, value in values.items():
        assert f"<f>{formula}</f><v" in sheet
        sheet = sheet.replace(f"<f>{formula}</f><v />", f"<f>{formula}</f><v>{value}</v>")
        sheet = sheet.replace(f"<f>{formula}</f><v></v>", f"<f>{formula}</f><v>{value}</v>")
        sheet = sheet.replace(f"<f>{formula}</f><v/>", f"<f>{formula}</f><v>{value}</v>")
    parts["xl/worksheets/sheet1.xml"] = sheet.encode()
    with zipfile.ZipFile(path, "w") as file:
        for name, data in parts.items():
            file.writestr(name, data)
    return path


def test_cells_keep_their_types_and_empty_rows_are_counted(tmp_path):
    rows = [["指令", "output", "n"], ["加", "2", 2], [None, None, None], ["x", 2.5, True], ["y"]]
    path = workbook(tmp_path / "x.XLSX", {"Sheet": rows, "Notes": [["a"]], "More": []})
    said = []
    assert list(read_rows(path, say=said.append)) == [
        (1, {"指令": "加", "output": "2", "n": 2}),
        (3, {"指令": "x", "output": 2.5, "n": True}),
        (4, {"指令": "y", "output": None, "n": None}),
    ]
    assert said == [f"{path}: the first sheet, 'Sheet', is read; these are not: Notes, More"]


def test_a_formula_counts_by_its_value(tmp_path):
    rows = [["instruction", "output"], ["1+1=", "=1+1"], ["2+2=", "=2+2"]]
    path = computed(workbook(tmp_path / "x.xlsx", {"S": rows}), {"1+1": 2})
    (_, first), (_, second) = read_rows(path)
    assert first == {"instruction": "1+1=", "output": 2}
    assert isinstance(second, ValueError)
    assert "under 'output' is a formula without a value" in str(second)


def test_an_error_in_a_cell_and_a_cell_beyond_the_header_are_bad_rows(tmp_path):
    rows = [["a", "b"], ["1", "#N/A"], ["1", "2", "3"], ["1", "2"]]
    (_, error), (_, wide), (_, good) = read_rows(workbook(tmp_path / "x.xlsx", {"S": rows}))
    assert "is the error #N/A" in str(error) and "more cells than the header" in str(wide)
    assert good == {"a": "1", "b": "2"}


def test_a_broken_workbook_is_one_sentence(tmp_path):
    path = tmp_path / "x.xlsx"
    path.write_bytes(b"junk")
    with pytest.raises(ValueError, match="not a readable Excel workbook"):
        list(read_rows(path))
    workbook(path, {"S": [["a", "a"], ["1", "2"]]})
    with pytest.raises(ValueError, match="names 'a' twice"):
        list(read_rows(path))


def test_a_workbook_that_breaks_off_is_one_sentence(tmp_path):
    path = workbook(tmp_path / "x.xlsx", {"S": [["a", "b"], *([["1", "2"]] * 50)]})
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    parts["xl/worksheets/sheet1.xml"] = parts["xl/worksheets/sheet1.xml"][:-200]
    with zipfile.ZipFile(path, "w") as file:
        for name, data in parts.items():
            file.writestr(name, data)
    with pytest.raises(ValueError, match="not a readable Excel workbook"):
        list(read_rows(path))


def test_without_openpyxl_the_command_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(InputError, match=r"pip install 'instruct_course\[xlsx\]'"):
        list(read_workbook(io.BytesIO(), io.BytesIO(), say=print))
