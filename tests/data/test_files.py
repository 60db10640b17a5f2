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
