"""Preference pairs of a file, and as ids: read with the care of all rows, and with one prompt."""

import gzip
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_course.common.errors import InputError, RowTooLong
from instruct_course.common.files import ASSETS
from instruct_course.data import dataset, pairs
from instruct_course.data.encoded_pairs import encode_pair_rows
from instruct_course.data.example import Example, Turn
from instruct_course.data.pairs import (
    BUILTIN_PAIRS,
    KINDS,
    Pair,
    builtin_pairs,
    encode_pair,
    encode_pairs,
    load_pairs,
    pair,
    pair_columns,
    pairs_fingerprint,
    prompt_length,
)
from instruct_course.data.template import (
    IGNORE_INDEX,
    Template,
    encode,
    named,
    prepare,
    prompt,
    write,
)

GOOD = {"prompt": "Capital of Peru?", "chosen": "Lima", "rejected": "Rome"}
TWO = [GOOD, {"prompt": "首都？", "chosen": "利马", "rejected": "罗马"}]
PAIRS = [
    Pair(*(Example(row["prompt"], output=row[side]) for side in ("chosen", "rejected")))
    for row in TWO
]


def lines(path, rows):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def refusal(*args, **options):
    with pytest.raises(InputError) as error:
        load_pairs(*args, **options)
    said = str(error.value)
    assert "\n" not in said and not said.endswith(".")
    return said


def write_as(path):
    """The two pairs in a file of the kind that the suffix of `path` says."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = [",".join(TWO[0]), *(",".join(row.values()) for row in TWO)]
    text = {
        ".jsonl": "".join(json.dumps(row) + "\n" for row in TWO),
        ".json": json.dumps({"train": TWO}),
        ".csv": "\n".join(table),
        ".tsv": "\n".join(table).replace(",", "\t"),
        ".gz": "\n".join(table),
    }.get(path.suffix, "")
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(TWO), path)
    elif path.suffix == ".xlsx":
        from openpyxl import Workbook

        book = Workbook()
        for cells in (list(TWO[0]), *(list(row.values()) for row in TWO)):
            book.active.append(cells)
        book.save(path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.csv.gz", "a.parquet", "a.xlsx"]
)
def test_pairs_are_read_from_all_kinds_of_files(tmp_path, name):
    write_as(tmp_path / name)
    rows = load_pairs(tmp_path / name, say=lambda line: None)
    assert [pair(row) for row in rows] == PAIRS
    assert rows["row"][:] == [1, 2]


def test_another_encoding_and_several_sources(tmp_path):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in TWO)
    (tmp_path / "gbk.jsonl").write_bytes(text.encode("gbk"))
    lines(tmp_path / "b.jsonl", [GOOD])
    rows = load_pairs([tmp_path / "gbk.jsonl", tmp_path / "b.jsonl"], encoding="gbk")
    assert [pair(row) for row in rows] == [*PAIRS, PAIRS[0]]
    assert rows["source"][:] == [0, 0, 1]


BAD = [
    (GOOD | {"rejected": "Lima"}, "'chosen' and 'rejected' are the same answer"),
    ({"chosen": "Lima", "rejected": "Rome"}, "the prompt is missing (its columns are chosen, rej"),
    (GOOD | {"rejected": " "}, "the field 'rejected' is empty; fill it or remove the row"),
    ({"prompt": "a", "chosen": "b"}, "the field 'rejected' is missing"),
    (["a"], "it is a list, not an object"),
]


@pytest.mark.parametrize("row, says", BAD)
def test_a_bad_pair_is_named_by_file_and_row(tmp_path, row, says):
    path = lines(tmp_path / "mine.jsonl", [GOOD, row, TWO[1]])
    said = refusal(path)
    assert said.startswith(f"{path}, row 2: {says}") and "1 of 3 rows is bad" in said


def test_bad_pairs_are_skipped_and_written_aside(tmp_path):
    path = lines(tmp_path / "mine.jsonl", [row for row, _ in BAD] + TWO)
    rejects = tmp_path / "rejects.jsonl"
    rows = load_pairs(path, skip_bad=True, rejects=rejects)
    assert [pair(row) for row in rows] == PAIRS and rows["row"][:] == [6, 7]
    aside = [json.loads(line) for line in rejects.read_text(encoding="utf-8").splitlines()]
    assert [(r["row"], r["content"]) for r in aside] == list(enumerate([r for r, _ in BAD], 1))


def test_the_limit_counts_good_pairs(tmp_path):
    path = lines(tmp_path / "mine.jsonl", [BAD[0][0], *TWO, BAD[1][0], GOOD])
    rows = load_pairs(path, skip_bad=True, limit=2)
    assert [pair(row) for row in rows] == PAIRS


def test_a_file_without_pairs_is_refused_as_such(tmp_path):
    path = lines(tmp_path / "mine.jsonl", [{"instruction": "a", "output": "b"}] * 3)
    for options in ({}, {"skip_bad": True}):
        said = refusal(path, **options)
        assert said.startswith(f"{path}: none of its 3 rows has a chosen and a rejected answer")
        assert "--columns chosen=NAME,rejected=NAME" in said
    lines(path, [BAD[0][0]])
    assert "no usable pair was found" in refusal(path, skip_bad=True)
    path.write_text("", encoding="utf-8")
    assert str(path) in refusal(path)
    assert "there is no such file" in refusal(tmp_path / "none.jsonl")


def test_the_users_own_names(tmp_path):
    row = {"q": "Capital of Peru?", "chosen": "x", "good": "Lima", "bad": "Rome", "why": "wrong"}
    path = lines(tmp_path / "mine.jsonl", [row])
    rows = load_pairs(path, columns="instruction=q,chosen=good, rejected=bad")
    assert pair(rows[0]) == PAIRS[0]
    rows = load_pairs(path, columns={"instruction": "q", "chosen": "good", "rejected": "bad"})
    assert pair(rows[0]) == PAIRS[0]
    said = refusal(path, columns="instruction=q,chosen=better,rejected=bad")
    assert f"{path}, row 1: the column 'better' of --columns chosen=better is missing" in said
    lines(path, [GOOD | {"response": "Quito"}])
    assert "'response' is a third answer" in refusal(path)
    assert pair(load_pairs(path, columns="output=")[0]) == PAIRS[0]


@pytest.mark.parametrize("text", ["chosen=", "chosen=a,chosen=b", "chosen=a,rejected=a", "x=a", ""])
def test_columns_that_are_no_list_of_fields_are_refused(text):
    with pytest.raises(InputError, match="--columns"):
        pair_columns(text)


def test_what_was_read_is_said(tmp_path):
    said = []
    load_pairs(lines(tmp_path / "a.jsonl", [row | {"id": 1} for row in TWO]), say=said.append)
    assert said[-1] == (
        "2 pairs, the chosen sides read as prompt/chosen (2 rows); "
        "columns used: prompt, chosen; not used: id"
    )


def test_turns_and_tools_survive(tmp_path):
    earlier = [{"role": "user", "content": "d"}, {"role": "assistant", "content": "e"}]
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {}}]}
    row = {"prompt": [*earlier, {"role": "user", "content": "a"}], "tools": [{"name": "f"}]}
    row |= {"chosen": [call], "rejected": [{"role": "assistant", "content": "b"}]}
    two = pair(load_pairs(lines(tmp_path / "a.jsonl", [row]))[0])
    assert two.chosen.tool_calls == '[{"name": "f", "arguments": {}}]'
    assert (two.rejected.output, two.rejected.tool_calls) == ("b", "")
    assert two.chosen.history == (Turn("user", "d"), Turn("assistant", "e", supervised=False))
    assert replace(two.chosen, output="", tool_calls="") == replace(two.rejected, output="")


def test_the_builtin_pairs_are_read_as_they_stand():
    for split in BUILTIN_PAIRS:
        rows = builtin_pairs(split)
        path = ASSETS / "preferences" / f"{split}.jsonl"
        written = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for got, row in zip(map(pair, rows), written, strict=True):
            assert got.kind == row["kind"] and got.kind in KINDS
            assert (got.chosen.instruction, got.chosen.input) == (row["instruction"], row["input"])
            assert (got.chosen.output, got.rejected.output) == (row["chosen"], row["rejected"])
            assert (got.chosen.task, got.chosen.lang) == (row["task"], row["language"])
    with pytest.raises(InputError, match="use train or held"):
        builtin_pairs("dev")


def test_a_split_keeps_a_question_on_one_side(tmp_path):
    rows = [GOOD | {"prompt": f"q{i % 10}", "rejected": f"r{i}"} for i in range(40)]
    train, held = dataset.split(load_pairs(lines(tmp_path / "a.jsonl", rows)), "0.2")
    assert len(train) + len(held) == 40 and len(held) >= 8
    assert not set(train["instruction"][:]) & set(held["instruction"][:])
    assert pair(held[0]).rejected.output == held[0]["rejected"]


def test_a_source_of_pairs_is_held_out_whole(tmp_path):
    train = lines(tmp_path / "a.jsonl", [*TWO, GOOD | {"prompt": "c", "rejected": "x"}])
    held = lines(tmp_path / "b.jsonl", [{"prompt": "首都？", "good": "利马", "bad": "东京"}])
    options = {"columns": "chosen=good,rejected=bad"}
    rest, other = pairs.split_pairs(load_pairs(train), str(held), **options)
    assert [pair(row).chosen.instruction for row in rest] == ["Capital of Peru?", "c"]
    assert [pair(row).rejected.output for row in rest] == ["Rome", "x"]
    assert [pair(row) for row in other] == [
        Pair(*(Example("首都？", output=o) for o in ("利马", "东京")))
    ]
    lines(held, [{"prompt": "a", "chosen": "b"}])
    with pytest.raises(InputError, match="row 1: the field 'rejected' is missing"):
        pairs.split_pairs(load_pairs(train), str(held))
    halves = pairs.split_pairs(load_pairs(train), "last:0.4")
    assert [[pair(row).rejected.output for row in half] for half in halves] == [
        ["Rome", "罗马"],
        ["x"],
    ]


def test_the_fingerprint_sees_both_answers_and_no_file(tmp_path):
    def of(rows, name="a.jsonl"):
        return pairs_fingerprint(load_pairs(lines(tmp_path / name, rows)))

    assert of(TWO) == of(TWO, "b.jsonl")
    others = [TWO[::-1], [TWO[0]], [GOOD | {"rejected": "Oslo"}, TWO[1]]]
    assert len({of(TWO), *map(of, others)}) == 4


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "\n"]), inner)
    ),
    max_leaves=8,
)
NAMES = ["prompt", "chosen", "rejected", "output", "messages", "history", "source", "kind", "\n"]


@settings(max_examples=200, deadline=None)
@given(
    row=VALUES | st.dictionaries(st.sampled_from(NAMES), VALUES),
    columns=st.none()
    | st.dictionaries(st.sampled_from(NAMES[:5]), st.sampled_from(["", *NAMES[:-1]])),
    implicit=st.booleans(),
)
def test_any_row_is_a_pair_or_refused_in_one_sentence(row, columns, implicit):
    columns = {{"prompt": "instruction"}.get(k, k): v for k, v in (columns or {}).items()}
    reader = pairs.PairReader(columns, implicit)
    try:
        chosen = reader.parse(row)
    except ValueError as error:
        assert "\n" not in str(error) and not reader.rejected
        return
    (rejected,) = reader.rejected
    assert (chosen.output, chosen.tool_calls) != (rejected.output, rejected.tool_calls)
    assert replace(chosen, output="", tool_calls="") == replace(rejected, output="", tool_calls="")
    assert "\n" not in reader.summary()


# -- as ids


@pytest.fixture(scope="module")
def coder():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "nano")
    prepare(named("article"), tokenizer)
    return tokenizer


WORDS = st.lists(st.sampled_from("cat dog 猫 red 7 . <eos> <out>".split()), min_size=1, max_size=12)
TEXTS = WORDS.map(" ".join)


@settings(max_examples=80, deadline=None)
@given(
    texts=st.tuples(TEXTS, TEXTS | st.just(""), TEXTS, TEXTS),
    name=st.sampled_from(["article", "article-text", "alpaca"]),
    room=st.integers(8, 120),
)
def test_both_sides_have_one_prompt_and_whole_answers(coder, texts, name, room):
    instruction, text, chosen, rejected = texts
    two = Pair(*(Example(instruction, text, side) for side in (chosen, rejected)))
    template = named(name)
    whole = [
        encode(template, coder, side, max_length=10_000) for side in (two.chosen, two.rejected)
    ]
    try:
        made = encode_pair(template, coder, two, max_length=room)
    except RowTooLong:
        longest = max(len(row.ids) - prompt_length(row) for row in whole)
        bare = Example(instruction, text and "x", "y")
        short = encode(template, coder, bare, max_length=10_000)
        assert longest + prompt_length(short) > room - 2
        return
    starts = [prompt_length(row) for row in made]
    assert starts[0] == starts[1]
    assert made[0].ids[: starts[0]] == made[1].ids[: starts[0]]
    assert made[0].dropped == made[1].dropped
    assert max(len(row.ids) for row in made) == min(room, max(len(row.ids) for row in whole))
    for row, full in zip(made, whole):
        answer = full.ids[prompt_length(full) :]
        assert row.ids[starts[0] :] == answer == row.labels[starts[0] :]
        assert set(row.labels[: starts[0]]) <= {IGNORE_INDEX}
    if not made[0].dropped:
        assert list(made) == whole
        assert made[0].ids[: starts[0]] == prompt(template, coder, two.chosen)


def test_many_pairs_are_encoded_as_one_by_one(coder):
    article = named("article")
    two = [*PAIRS, Pair(*(Example("a " * 50, output=o) for o in "bc"))]
    two.append(Pair(*(Example("a", output=o, system="s") for o in "bc")))
    made = encode_pairs(article, coder, two, max_length=40)
    assert made[:2] == [encode_pair(article, coder, one, max_length=40) for one in PAIRS]
    assert isinstance(made[2], RowTooLong) and "--max-length" in str(made[2])
    assert isinstance(made[3], InputError) and "a system text" in str(made[3])
    for one, error in zip(two[2:], made[2:]):
        with pytest.raises(InputError) as raised:
            encode_pair(article, coder, one, max_length=40)
        assert str(raised.value) == str(error)


def test_pairs_that_do_not_fit_are_named_by_file_and_row(coder, tmp_path):
    rows = [*TWO, GOOD | {"rejected": "Rome " * 60}, GOOD | {"prompt": "a " * 90}]
    path = lines(tmp_path / "a.jsonl", rows)
    config = SimpleNamespace(max_length=50, skip_bad=False)
    article = named("article")
    made = encode_pair_rows(load_pairs(path), article, coder, config)
    assert made.encoded == encode_pairs(article, coder, PAIRS, max_length=50)
    assert made.kept == [0, 1] and [bad["row"] for bad in made.bad] == [3, 4]
    assert made.bad[0]["content"]["rejected"] == rows[2]["rejected"]
    with pytest.raises(InputError) as error:
        made.check(config)
    assert str(error.value).startswith(f"{path}, row 3: its instruction and the longer of its")
    assert "2 of 4 rows do not fit; --skip-bad" in str(error.value)
    config.skip_bad = True
    made.check(config)


CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_only_the_answer_of_a_conversation_is_learnt(coder):
    earlier = (Turn("user", "d"), Turn("assistant", "e", supervised=False))
    two = Pair(*(Example("a", output=o, history=earlier, system="s") for o in ("b", "c c")))
    chosen, rejected = encode_pair(Template("chat", chat=CHAT), coder, two)
    start = prompt_length(chosen)
    assert start == prompt_length(rejected) and chosen.ids[:start] == rejected.ids[:start]
    learnt = [[i for i in row.labels if i != IGNORE_INDEX] for row in (chosen, rejected)]
    assert [coder.decode(ids).strip() for ids in learnt] == ["b<eos>", "c c<eos>"]
    assert coder.decode(chosen.ids[:start]).count("e<eos>") == 1


def test_a_template_with_two_prompts_is_refused(coder, monkeypatch):
    def swayed(template, tokenizer, ex):
        return write(template, tokenizer, replace(ex, instruction=f"{len(ex.output)}"))

    monkeypatch.setattr(pairs, "write", swayed)
    two = Pair(*(Example("a", output=o) for o in ("b", "ccc")))
    with pytest.raises(InputError, match="writes two prompts"):
        encode_pair(named("article"), coder, two)
