"""JSON lists in blocks: what the standard library reads, row by row; a sentence for all else."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_course.data.files import read_json_list, read_rows
from instruct_course.data.formats import parse

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, width=64) | TEXT
)  # infinity is written as Infinity


def read(text, block=1 << 20):
    return list(read_json_list(io.StringIO(text), block=block))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.recursive(
            PLAIN,
            lambda x: st.lists(x, max_size=3) | st.dictionaries(TEXT, x, max_size=3),
        ),
        max_size=6,
    ),
    block=st.integers(1, 9),
    indent=st.sampled_from([None, 1]),
)
def test_a_json_list_is_read_in_blocks_as_json_reads_it(rows, block, indent):
    text = json.dumps(rows, ensure_ascii=False, indent=indent)
    assert read(text, block) == rows


@pytest.mark.parametrize("number", ["12.5", "1e+5", "-1.25e-3", "-Infinity", "12"])
def test_a_number_that_a_block_cuts_stays_one_number(number):
    for block in range(1, 12):
        assert read(f"[{number}, {number} ]", block) == [float(number)] * 2


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(1, 40), block=st.integers(1, 9))
def test_a_truncated_json_list_is_refused(cut, block):
    text = json.dumps([{"a": 1.5, "b": '猫 " ]'}, {"a": [1, 2]}], ensure_ascii=False)
    with pytest.raises(ValueError):
        read(text[: len(text) - min(cut, len(text) - 1)], block)


@pytest.mark.parametrize("block", [1, 4, 1 << 20])
@pytest.mark.parametrize(
    "text, says",
    [
        ("", "the file is empty"),
        (" \n", "the file is empty"),
        ("{}", "does not start with '['"),
        ("hello", "does not start with '['"),
        ("[", "stops before the closing bracket"),
        ('[{"a": 1}', "stops before the closing bracket"),
        ('[{"a": 1},', "stops before the closing bracket"),
        ('[{"a": 1', "not valid JSON (Expecting ',' delimiter); it was cut off"),
        ('[{"a": "x', "not valid JSON (Unterminated string starting at); it was cut off"),
        ("[{'a': 1}]", "not valid JSON (Expecting property name enclosed in double quotes)"),
        ('[{"a": 1},]', "not valid JSON (Expecting value)"),
        ('[{"a": 1} {"a": 2}]', "a comma is missing between two rows"),
        ('[{"a": 1}] x', "text after the closing ']'"),
        ("[] []", "text after the closing ']'"),
    ],
)
def test_what_is_no_list_has_its_sentence(text, says, block):
    with pytest.raises(ValueError) as error:
        read(text, block)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_nothing_is_lost_that_other_parsers_lose():
    """ijson's fast parser makes '?' of half a pair and refuses long integers, NaN and 1e400."""
    whole, half, long, huge = read('["\\ud83d\\ude42", "\\ud83d", 123456789012345678901, 1e400]')
    assert (whole, half, long, huge) == ("🙂", "\ud83d", 123456789012345678901, float("inf"))
    (row,) = read('[{"prompt": "a", "completion": "b", "score": NaN}]')
    assert parse(row).output == "b"
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        parse({"prompt": "a", "completion": half})


def test_rows_are_numbered_as_a_person_counts(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n\n{"a"\n7\n', encoding="utf-8")
    (first, a), (third, error), (fourth, seven) = read_rows(path)
    assert (first, a, third, fourth, seven) == (1, {"a": 1}, 3, 4, 7)
    assert isinstance(error, ValueError) and "column 5" in str(error)


# -- the forms that a file of rows may have

PAIR = [{"q": "2+2=", "a": "4"}, {"q": "猫", "a": "cat\n🙂"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in PAIR)
FORMS = {
    "list": json.dumps(PAIR),
    "pretty list": json.dumps(PAIR, indent=1),
    "lines": LINES,
    "lines between empty ones": "\n" + LINES.replace("}\n", "}\n\n"),
    "data": json.dumps({"version": 1, "data": PAIR}),
    "pretty data": json.dumps({"about": {"by": ["me"]}, "data": PAIR}, indent=1),
    "open brace": '{"data": [\n' + ",\n".join(map(json.dumps, PAIR)) + "\n]}",
    "only a split": json.dumps({"validation": PAIR}),
    "splits": json.dumps({"test": PAIR[:1], "train": PAIR, "dev": PAIR[1:]}),
    "columns": json.dumps({"q": [r["q"] for r in PAIR], "a": [r["a"] for r in PAIR]}),
    "pretty columns": json.dumps({k: [r[k] for r in PAIR] for k in "qa"}, indent=1),
    "columns by index": json.dumps({k: {str(i): r[k] for i, r in enumerate(PAIR)} for k in "qa"}),
}


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".JSON", ".JsonL", ".ndjson"])
@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_json_is_read_under_each_suffix(tmp_path, form, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_text(FORMS[form], encoding="utf-8")
    assert [row for _, row in read_rows(path, say=list().append)] == PAIR


@pytest.mark.parametrize(
    "form, says",
    [
        ("list", []),
        ("columns", []),
        ("data", ["the rows under 'data' are read"]),
        ("splits", ["the rows under 'train' are read, not test, dev"]),
        ("only a split", ["the rows under 'validation' are read"]),
    ],
)
def test_it_is_said_which_rows_of_an_object_are_read(tmp_path, form, says):
    path = tmp_path / "x.json"
    path.write_text(FORMS[form], encoding="utf-8")
    said = []
    list(read_rows(path, say=said.append))
    assert said == [f"{path}: {line}" for line in says]


@pytest.mark.parametrize(
    "row",
    [
        {"q": "2+2=", "a": "4"},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"messages": [{"role": "user", "content": "a"}], "tools": [{"name": "f"}]},
        {"history": [["a", "b"]], "instruction": "c", "output": "d"},
        {},
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_a_single_row_is_a_row(tmp_path, row, indent):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(row, indent=indent), encoding="utf-8")
    assert list(read_rows(path)) == [(1, row)]


@pytest.mark.parametrize(
    "text, says",
    [
        (json.dumps({"data": PAIR, "rows": PAIR}), "several lists of rows (data, rows)"),
        (json.dumps({"test": PAIR, "dev": PAIR}), "name the one to read 'train'"),
        ('{"q": ["a", "b"], "a": ["c"]}', "different lengths (q 2, a 1)"),
        ('{"data": [{"q": 1}, {"q": 2}', "stops before the closing bracket"),
        ('{"data": [{"q": 1} {"q": 2}]}', "a comma is missing between two rows"),
        ('{"data": [{"q": 1}]} {}', "text after the closing '}'"),
        ('{"data": [{"q": 1}]', "stops before the closing bracket"),
        ('{"data" [{"q": 1}]}', "a name is missing"),
        ("{data: 1}", "Expecting value"),
    ],
)
def test_an_object_that_holds_no_rows_has_its_sentence(tmp_path, text, says):
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError) as error:
        list(read_rows(path, say=list().append))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_broken_first_line_of_json_lines_is_a_bad_row(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"q": \n{"q": "a"}\n', encoding="utf-8")
    (_, error), (number, row) = read_rows(path)
    assert isinstance(error, ValueError) and (number, row) == (2, {"q": "a"})


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("form", ["lines", "data", "row", "cut"])
def test_a_first_line_may_be_long(tmp_path, form, suffix):
    rows = [{"q": "x" * 700, "a": str(i)} for i in range(2000)]
    long = {"q": "x" * 1_500_000, "a": "y"}
    text, expected = {
        "lines": (json.dumps(long) + "\n" + LINES, [long, *PAIR]),
        "data": (json.dumps({"data": rows}), rows),
        "row": (json.dumps(long), [long]),
        "cut": (json.dumps(long)[:-1], None),
    }[form]
    path = tmp_path / f"x{suffix}"
    path.write_text(text, encoding="utf-8")
    if expected:
        assert [row for _, row in read_rows(path, say=list().append)] == expected
    elif suffix == ".json":
        with pytest.raises(ValueError, match="stops before the closing bracket"):
            list(read_rows(path))
    else:
        assert isinstance(list(read_rows(path))[0][1], ValueError)


def test_lists_on_lines_stay_bad_rows(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("[1]\n[2]\n", encoding="utf-8")
    assert list(read_rows(path)) == [(1, [1]), (2, [2])]


@pytest.mark.parametrize("form", ["list", "lines", "data", "splits"])
def test_memory_stays_flat(tmp_path, form):
    """Of 32 MB, a few windows of a megabyte are held."""
    import tracemalloc

    row = json.dumps({"q": "question", "a": "x" * 2000})
    whole = f"[{','.join([row] * 16_000)}]"
    text = {
        "list": whole,
        "lines": f"{row}\n" * 16_000,
        "data": f'{{"data": {whole}}}',
        "splits": f'{{\n"train": {whole},\n"test": {whole}}}',
    }[form]
    path = tmp_path / ("x.jsonl" if form == "lines" else "x.json")
    path.write_text(text, encoding="utf-8")
    tracemalloc.start()
    count = sum(1 for _ in read_rows(path, say=list().append))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 16_000 and peak < len(whole) * 0.35, f"{peak / 1e6:.1f} MB"


# -- compression


def packed(data, suffix):
    import gzip

    import pyarrow as pa

    return gzip.compress(data) if suffix == ".gz" else pa.compress(data, "zstd", asbytes=True)


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.csv", "x.TSV", "x.JSONL"])
@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_file_gives_the_same_rows(tmp_path, name, suffix):
    separator = "," if name == "x.csv" else "\t"
    table = f"q{separator}a\n2+2={separator}4\n猫{separator}" + '"cat\n🙂"\n'
    text = {".json": FORMS["splits"], ".jsonl": LINES}.get(name[1:].lower(), table)
    path = tmp_path / (name + suffix)
    path.write_bytes(packed(text.encode(), suffix))
    assert [row for _, row in read_rows(path, say=list().append)] == PAIR


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_file_that_is_cut_off_is_refused(tmp_path, suffix):
    path = tmp_path / f"x.jsonl{suffix}"
    data = packed(LINES.encode() * 5000, suffix)
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(OSError):
        list(read_rows(path))


@pytest.mark.parametrize("name", ["x.txt", "x", "x.parquet.gz", "x.xlsx.zst", "x.gz", "x.zip"])
def test_other_files_are_refused(tmp_path, name):
    path = tmp_path / name
    path.touch()
    with pytest.raises(ValueError, match=r"are not read; use one of .json, .jsonl"):
        list(read_rows(path))


@pytest.mark.parametrize("encoding", ["gbk", "utf-8-sig", "utf-16", "gb18030"])
@pytest.mark.parametrize("name", ["x.csv", "x.json", "x.jsonl", "x.tsv"])
def test_every_text_file_may_have_its_encoding(tmp_path, name, encoding):
    rows = [
        {"instruction": "请把下面的句子翻译成英文。", "output": "今天天气很好，我们去公园玩吧。"}
    ]
    separator = "\t" if name.endswith("tsv") else ","
    table = "".join(separator.join(cells) + "\r\n" for cells in (rows[0], rows[0].values()))
    text = {"x.json": json.dumps(rows, ensure_ascii=False)}.get(name, table)
    text = json.dumps(rows[0], ensure_ascii=False) + "\n" if name == "x.jsonl" else text
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    assert [row for _, row in read_rows(path, say=list().append)] == rows
