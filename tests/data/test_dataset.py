import csv
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_course.common.errors import InputError
from instruct_course.data import dataset, files
from instruct_course.data.example import Example, Turn
from instruct_course.data.formats import Reader
from instruct_course.data.weights import weighted

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
FILLED = TEXT.filter(str.strip)
ROW = st.fixed_dictionaries({"instruction": FILLED, "input": TEXT, "output": FILLED})


def write(path, rows):
    """`rows` in the format that the suffix names."""
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    elif path.suffix in (".jsonl", ".ndjson"):
        path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".xlsx":
        import openpyxl

        book = openpyxl.Workbook()
        for cells in (list(rows[0]), *(list(row.values()) for row in rows)):
            book.active.append(cells)
        book.save(path)
    else:
        with path.open("w", encoding="utf-8-sig", newline="") as f:
            writer = csv.DictWriter(
                f, list(rows[0]), delimiter="," if path.suffix == ".csv" else "\t"
            )
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_all_formats_give_the_same_rows(tmp_path, suffix):
    rows = [
        {"instruction": "翻译", "input": 'a,"b"\tc', "output": "é\n🙂"},
        {"instruction": "Count.", "input": "", "output": "2"},
    ]
    got = dataset.load(write(tmp_path / f"x{suffix}", rows))
    assert [dataset.example(r) for r in got] == [Example(**r) for r in rows]
    assert got["row"][:] == [1, 2]


@pytest.mark.parametrize(
    "names",
    [
        ("instruction", "input", "output"),
        ("指令", "输入", "输出"),
        ("prompt", "input", "completion"),
        ("question", "input", "answer"),
    ],
)
def test_all_names_of_fields(tmp_path, names):
    path = write(tmp_path / "x.jsonl", [dict(zip(names, ("c", "x", "y")))])
    assert dataset.example(dataset.load(path)[0]) == Example("c", "x", "y")


def test_messages_keep_context_and_system(tmp_path):
    turns = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "y")]
    path = write(
        tmp_path / "x.jsonl", [{"messages": [{"role": r, "content": t} for r, t in turns]}]
    )
    assert dataset.example(dataset.load(path)[0]) == Example(
        "c", "", "y", system="s", history=(Turn("user", "a"), Turn("assistant", "b"))
    )


BAD = [
    ({"instruction": "a"}, "'output' is missing"),
    ({"instruction": "a", "output": ""}, "'output' is empty"),
    ({"instruction": "a", "output": True}, "'output' is true or false"),
    ({"instruction": "a", "output": None}, "'output' is null"),
    ({"instruction": " ", "output": "b"}, "'instruction' is empty"),
    (7, "not an object"),
    (None, "null"),
    ({"messages": [{"role": "user", "content": "a"}]}, "does not end with"),
    ({"messages": "hi"}, "not a list of turns"),
    ({"instruction": "a", "output": "x" * 1_000_001}, "characters"),
    ({"instruction": "a", "output": "x\ud83d"}, "half of a surrogate pair"),
]


@pytest.mark.parametrize("bad,says", BAD)
def test_a_bad_row_is_named_counted_and_can_be_skipped(tmp_path, bad, says):
    good = {"instruction": "a", "output": "b"}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in (good, bad, good, bad)), encoding="utf-8")
    with pytest.raises(InputError) as error:
        dataset.load(path)
    said = str(error.value)
    assert says in said and "rows.jsonl, row 2" in said and "2 of 4" in said and "\n" not in said
    rejects = tmp_path / "rejects.jsonl"
    assert dataset.load(path, skip_bad=True, rejects=rejects)["row"][:] == [1, 3]
    assert [
        json.loads(line)["row"] for line in rejects.read_text(encoding="utf-8").splitlines()
    ] == [2, 4]


def test_a_line_that_is_not_json_names_its_line(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n\n{"prompt": \n', encoding="utf-8")
    with pytest.raises(InputError, match="row 3: the line is not JSON"):
        dataset.load(path)


@pytest.mark.parametrize(
    "name,content,says",
    [
        ("x.json", b'[{"instruction": "a"', "cut off"),
        ("x.json", b"", "empty"),
        ("x.json", b"{}", "'instruction' is missing"),
        ("x.csv", b"", "no usable row"),
        ("x.jsonl", '{"prompt": "café", "completion": "b"}'.encode("latin-1"), "not UTF-8"),
        ("x.parquet", b"junk", "Parquet"),
        ("x.txt", b"a", "not read"),
        ("x.json", b"[] []", "after the closing"),
        ("x.csv", b"instruction,output\na,b,c\n", "more fields"),
        ("x.json", b"[]", "no usable row"),
        ("x.json", b"[" * 100_000, "nested too deeply"),
        ("x.json", b'[{"prompt": "a", "completion": "b", "n": 1} 7]', "a comma is missing"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        dataset.load(path)
    assert says in str(error.value) and name in str(error.value) and "\n" not in str(error.value)


def test_a_line_that_is_nested_too_deeply_is_a_bad_row(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n' + "[" * 100_000, encoding="utf-8")
    with pytest.raises(InputError, match="row 2: the line is nested too deeply"):
        dataset.load(path)


def test_rejects_are_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    rejects = tmp_path / "rejects.jsonl"
    path.write_text('[{"prompt": "a", "completion": "b"}, 7, {"prompt"', encoding="utf-8")
    with pytest.raises(InputError, match="cut off"):
        dataset.load(path, skip_bad=True, rejects=rejects)
    assert list(tmp_path.iterdir()) == [path]
    path.write_text('[{"prompt": "a", "completion": "b"}]', encoding="utf-8")
    assert len(dataset.load(path, skip_bad=True, rejects=rejects)) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_folders_and_missing_files(tmp_path):
    with pytest.raises(InputError, match="folder"):
        dataset.load(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        dataset.load(tmp_path / "no.json")


def test_nothing_stays_behind(tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    path = write(tmp_path / "x.jsonl", [{"prompt": "a", "completion": None}])
    with pytest.raises(InputError):
        dataset.load(path)
    assert not list((tmp_path / "scratch").iterdir())
    rows = dataset.load(write(tmp_path / "y.jsonl", [{"prompt": "a", "completion": "b"}]))
    del rows
    import gc

    gc.collect()
    assert not list((tmp_path / "scratch").iterdir())


def test_many_rows_stay_out_of_memory(tmp_path):
    import tracemalloc

    path = tmp_path / "big.json"
    with path.open("w", encoding="utf-8") as f:
        f.write(
            "["
            + ",\n".join(
                json.dumps({"instruction": f"question {i}", "output": "x" * 200})
                for i in range(40_000)
            )
            + "]"
        )
    dataset.load(write(tmp_path / "small.json", [{"prompt": "a", "completion": "b"}]))  # imports
    tracemalloc.start()
    rows = dataset.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rows) == 40_000 and peak < path.stat().st_size / 1.5, (
        f"{peak / 1e6:.0f} MB for a file of {path.stat().st_size / 1e6:.0f} MB"
    )


@settings(max_examples=25, deadline=None)
@given(
    questions=st.lists(st.sampled_from("abcdefgh"), min_size=4, max_size=25),
    seed=st.integers(0, 3),
    kind=st.sampled_from(["0.3", "last:0.3"]),
)
def test_a_split_never_leaks(tmp_path_factory, questions, seed, kind):
    path = write(
        tmp_path_factory.mktemp("s") / "x.jsonl",
        [{"instruction": q, "output": str(i)} for i, q in enumerate(questions)],
    )
    rows = dataset.load(path)
    try:
        train, held = dataset.split(rows, kind, seed=seed)
    except InputError:
        return
    assert not set(train["instruction"][:]) & set(held["instruction"][:])
    assert sorted(train["output"][:] + held["output"][:]) == sorted(rows["output"][:])
    if kind.startswith("last"):
        assert questions[-1] in held["instruction"][:]


@pytest.mark.parametrize("holdout", ["2", "0", "half", "last:x", "nowhere.json"])
def test_a_bad_holdout_is_named(tmp_path, holdout):
    rows = dataset.load(
        write(tmp_path / "x.jsonl", [{"instruction": q, "output": "y"} for q in "abcd"])
    )
    with pytest.raises(InputError, match="holdout|nowhere"):
        dataset.split(rows, holdout)


def test_fingerprint_is_of_content_and_order(tmp_path):
    a, b = {"instruction": "a", "output": "1"}, {"instruction": "b", "output": "2"}
    prints = [
        dataset.fingerprint(dataset.load(write(tmp_path / n, r)))
        for n, r in (("1.csv", [a, b]), ("2.jsonl", [a, b]), ("3.jsonl", [b, a]))
    ]
    assert prints[0] == prints[1] != prints[2]


def test_what_is_saved_is_read_back(tmp_path):
    """Histories, marks, tools and calls of the fixtures of all forms."""
    forms = sorted((Path(__file__).parent / "forms").glob("*.json"))
    read = [json.loads(form.read_text(encoding="utf-8")) for form in forms]
    read = [form for form in read if "example" in form]
    examples = [Reader(**form.get("options", {})).parse(form["row"]) for form in read]
    dataset.save(tmp_path / "rows.jsonl", examples)
    back = [dataset.example(row) for row in dataset.load(tmp_path / "rows.jsonl")]
    assert back == examples and any(ex.tool_calls for ex in back) and any(ex.history for ex in back)


# -- several sources


def pair(*names):
    return [{"instruction": name, "output": f"answer to {name}"} for name in names]


def test_several_sources_keep_row_file_and_source(tmp_path):
    one = write(tmp_path / "one.jsonl", pair("a", "b"))
    (tmp_path / "many").mkdir()
    two = write(tmp_path / "many" / "2.csv", pair("c"))
    three = write(tmp_path / "many" / "3.json", pair("d", "e"))
    rows = dataset.load([f"{one}:2", tmp_path / "many"])
    assert rows["instruction"][:] == list("abcde")
    assert rows["row"][:] == [1, 2, 1, 1, 2]
    assert rows["source"][:] == [0, 0, 1, 1, 1]
    assert rows["file"][:] == [str(p) for p in (one, one, two, three, three)]


def test_errors_and_rejects_name_the_right_file(tmp_path):
    one = write(tmp_path / "one.jsonl", pair("a"))
    (tmp_path / "many").mkdir()
    write(tmp_path / "many" / "2.csv", pair("c"))
    bad = write(tmp_path / "many" / "3.jsonl", [*pair("d"), {"instruction": "e"}])
    with pytest.raises(InputError) as error:
        dataset.load([one, tmp_path / "many"])
    assert f"{bad}, row 2: the field 'output' is missing" in str(error.value)
    assert "(1 of 4 rows is bad" in str(error.value)
    rejects = tmp_path / "rejects.jsonl"
    rows = dataset.load([one, tmp_path / "many"], skip_bad=True, rejects=rejects)
    assert rows["instruction"][:] == ["a", "c", "d"]
    (line,) = map(json.loads, rejects.read_text(encoding="utf-8").splitlines())
    assert (line["file"], line["row"], line["content"]) == (str(bad), 2, {"instruction": "e"})


@pytest.mark.parametrize("limit", [1, 3])
def test_a_limit_stops_a_stream(monkeypatch, limit):
    import datasets

    taken = []

    def load_dataset(name, config, *, split, streaming):
        assert (name, config, split, streaming) == ("owner/set", "en", "test", True)
        for number in range(1000):
            taken.append(number)
            yield pair(str(number))[0]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    said = []
    rows = dataset.load("owner/set:en@test:0.5", limit=limit, say=said.append)
    assert len(rows) == limit == len(taken) and len(said) == 1
    assert rows[0]["file"] == "owner/set"


def test_an_encoding_is_found_or_taken_and_said(tmp_path):
    path = tmp_path / "x.csv"
    long = {"instruction": "请把下面的句子翻译成英文。", "output": "今天天气很好，我们去公园玩吧。"}
    for row, options, says in (
        (long, {}, [f"{path}: read as GBK; --encoding names another encoding"]),
        ({"instruction": "狗", "output": "猫"}, {"encoding": "gbk"}, []),
    ):
        cells = ("instruction,output", ",".join(row.values()))
        path.write_bytes("\r\n".join(cells).encode("gbk"))
        said = []
        (got,) = dataset.load(path, say=said.append, **options)
        assert (got["instruction"], got["output"]) == tuple(row.values()) and said == says
    with pytest.raises(InputError, match="x.csv: .*encoding is not certain.*--encoding"):
        dataset.load(path)
    with pytest.raises(InputError, match="x.csv: there is no text encoding named 'gbkk'"):
        dataset.load(path, encoding="gbkk")


def test_a_damaged_archive_is_one_sentence(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match="x.jsonl.gz: the compressed file is cut off or damaged"):
        dataset.load(path)


def test_a_reader_says_what_a_row_means(tmp_path):
    class Reader:
        def parse(self, row):
            if row["q"] == "bad":
                raise ValueError("the field 'q' is bad")
            return Example(row["q"], "", row["a"])

    path = write(tmp_path / "x.jsonl", [{"q": "1", "a": "2"}, {"q": "bad", "a": ""}])
    rows = dataset.load(path, reader=Reader(), skip_bad=True)
    assert [dataset.example(r) for r in rows] == [Example("1", "", "2")]
    with pytest.raises(InputError, match="x.jsonl, row 2: the field 'q' is bad"):
        dataset.load(path, reader=Reader())
    other = write(tmp_path / "y.jsonl", [{"q": "3", "a": "4"}])
    _, held = dataset.split(rows, str(other), reader=Reader())
    assert held["instruction"][:] == ["3"]


def test_a_holdout_may_be_a_data_set(tmp_path, monkeypatch):
    import datasets

    def load_dataset(name, config, *, split, streaming):
        return iter(pair("b", "z")) if split == "test" else iter(())

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = dataset.load(write(tmp_path / "x.jsonl", pair("a", "b", "c")))
    train, held = dataset.split(rows, "owner/set@test")
    assert train["instruction"][:] == ["a", "c"] and held["instruction"][:] == ["b", "z"]


# -- weights


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    weights=st.lists(st.sampled_from([0.1, 0.5, 1, 1.5, 2, 2.25, 3]), min_size=3, max_size=3),
    seed=st.integers(0, 3),
)
def test_weights_repeat_and_thin_out(tmp_path_factory, sizes, weights, seed):
    folder = tmp_path_factory.mktemp("w")
    names = [[f"{s}-{i}" for i in range(size)] for s, size in enumerate(sizes)]
    files_ = [write(folder / f"{s}.jsonl", pair(*part)) for s, part in enumerate(names)]
    sources = [f"{path}:{weight}" for path, weight in zip(files_, weights)]
    rows = dataset.load(sources)
    got = weighted(rows, sources, seed=seed)["instruction"][:]
    for part, weight in zip(names, weights):
        counts = [got.count(name) for name in part]
        assert set(counts) <= {int(weight), int(weight) + 1}
        extra = round((weight - int(weight)) * len(part))
        assert sum(counts) == max(1, int(weight) * len(part) + extra)
    assert len(got) == sum(got.count(name) for part in names for name in part)
    assert weighted(rows, sources, seed=seed)["instruction"][:] == got
    assert weighted(rows, weights, seed=seed)["instruction"][:] == got


def test_weights_keep_the_order_of_each_pass(tmp_path):
    a, b = (write(tmp_path / f"{n}.jsonl", pair(f"{n}1", f"{n}2")) for n in "ab")
    rows = dataset.load([a, b])
    assert weighted(rows, [2, 1])["instruction"][:] == ["a1", "a2", "b1", "b2", "a1", "a2"]
    assert weighted(rows, [1, 1]) is rows
    assert weighted(rows, [a, b]) is rows
    with pytest.raises(ValueError, match="more than 1 sources"):
        weighted(rows, [2])


def test_a_half_is_random(tmp_path):
    path = write(tmp_path / "x.jsonl", pair(*map(str, range(20))))
    rows = dataset.load(path)
    drawn = [weighted(rows, [0.5], seed=s)["instruction"][:] for s in range(3)]
    assert [len(d) for d in drawn] == [10, 10, 10] and len(set(map(tuple, drawn))) == 3
    assert all(d == sorted(d, key=int) for d in drawn)


def test_no_copy_of_a_held_out_question_is_trained_on(tmp_path):
    path = write(tmp_path / "x.jsonl", pair(*map(str, range(30))))
    other = write(tmp_path / "y.jsonl", pair(*map(str, range(20, 40))))
    sources = [f"{path}:3", f"{other}:0.5"]
    train, held = dataset.split(dataset.load(sources), "0.3", seed=1)
    mixed = weighted(train, sources)
    assert not set(mixed["instruction"][:]) & set(held["instruction"][:])
    of_path = [r["instruction"] for r in mixed if r["file"] == str(path)]
    assert len(of_path) == 3 * len(set(of_path)) > 30


BUILTIN_PRINTS = {
    "train": "c4c5988e73ba",
    "dev": "553a35114625",
    "inputs": "f6641009ff1e",
    "wordings": "af566d48d78a",
    "knowledge": "d12e24da3614",
}


def test_the_built_in_rows_are_what_they_were():
    prints = {split: dataset.fingerprint(dataset.builtin(split))[:12] for split in dataset.BUILTIN}
    assert prints == BUILTIN_PRINTS
