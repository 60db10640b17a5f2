"""What a user names is read as a file, a folder or a data set; hubs are faked."""

import sys
import types

import pytest

from instruct_course.common.errors import InputError
from instruct_course.data.source import (
    HUGGING_FACE,
    MODELSCOPE,
    Source,
    files_in,
    hub_rows,
    parse_source,
    parse_sources,
    raw_rows,
)

HF = HUGGING_FACE


@pytest.mark.parametrize(
    "text, source",
    [
        ("a.jsonl", Source("a.jsonl")),
        ("a.jsonl:2", Source("a.jsonl", weight=2.0)),
        ("rows/a.CSV.gz:0.5", Source("rows/a.CSV.gz", weight=0.5)),
        ("folder/", Source("folder/")),
        ("folder/:3", Source("folder/", weight=3.0)),
        ("./rows", Source("./rows")),
        ("rows", Source("rows")),
        ("a/b/c", Source("a/b/c")),
        (r"C:\rows\a.jsonl", Source(r"C:\rows\a.jsonl")),
        (r"C:\rows\a.jsonl:2", Source(r"C:\rows\a.jsonl", weight=2.0)),
        ("D:/rows/a.jsonl:0.5", Source("D:/rows/a.jsonl", weight=0.5)),
        (r"rows\a.jsonl:2", Source(r"rows\a.jsonl", weight=2.0)),
        ("owner/set", Source("owner/set", HF)),
        ("owner/set:0.5", Source("owner/set", HF, weight=0.5)),
        ("owner/set:config@split", Source("owner/set", HF, "config", "split")),
        ("owner/set@split", Source("owner/set", HF, None, "split")),
        ("owner/set@split:2", Source("owner/set", HF, None, "split", 2.0)),
        ("owner/set:en-zh@split:0.5", Source("owner/set", HF, "en-zh", "split", 0.5)),
        ("owner/set.v1_x:config", Source("owner/set.v1_x", HF, "config")),
        ("modelscope:owner/set", Source("owner/set", MODELSCOPE)),
        ("modelscope:owner/set:c@s:2", Source("owner/set", MODELSCOPE, "c", "s", 2.0)),
        ("rows@home/a.jsonl", Source("rows@home/a.jsonl")),
    ],
)
def test_each_form_has_its_parts(text, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_source(text) == source


def test_what_exists_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "set").mkdir(parents=True)
    assert parse_source("owner/set") == Source("owner/set")
    assert parse_source("owner/set:2") == Source("owner/set", weight=2.0)
    if sys.platform != "win32":
        (tmp_path / "a:2").touch()
        assert parse_source("a:2") == Source("a:2")


@pytest.mark.parametrize(
    "text, says",
    [
        ("a.jsonl:two", "the weight 'two' is not a number; write a.jsonl:2"),
        ("a.jsonl:", "the weight '' is not a number"),
        (r"C:\rows\a.jsonl:x", "the weight 'x' is not a number"),
        ("a.jsonl:0", "the weight 0 must lie above 0"),
        ("a.jsonl:-1", "the weight -1 must lie above 0"),
        ("owner/set:nan", "the weight nan must lie above 0"),
        ("owner/set:en@test:1e9", "the weight 1e9 must lie above 0 and not above 100"),
        ("owner/set@train[:10%]", "write owner/set:config@split:weight"),
        ("owner/set:a:b", "write owner/set:config@split:weight"),
        ("modelscope:set", "write owner/set:config@split:weight"),
    ],
)
def test_a_bad_source_is_one_sentence(text, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        parse_source(text)
    assert says in str(error.value) and text in str(error.value) and "\n" not in str(error.value)


def test_a_missing_path_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        parse_sources([tmp_path / "no.jsonl"])
    with pytest.raises(InputError, match="no source"):
        parse_sources([])


# -- folders


def test_a_folder_is_read_in_order_and_what_is_not_read_is_named_once(tmp_path):
    (tmp_path / "b.jsonl").write_text('{"q": 1}\n\n{"q": 2}\n', encoding="utf-8")
    (tmp_path / "a.csv").write_text("q\n3\n4\n", encoding="utf-8")
    (tmp_path / "README.md").touch()
    (tmp_path / ".hidden").touch()
    (tmp_path / "inner").mkdir()
    said = []
    rows = list(raw_rows([Source("x", HF), Source(str(tmp_path))][1:], say=said.append))
    where = [(row.source, row.file, row.number) for row in rows]
    a, b = str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl")
    assert where == [(0, a, 1), (0, a, 2), (0, b, 1), (0, b, 3)]
    assert [row.content["q"] for row in rows] == ["3", "4", 1, 2]
    assert said == [f"{tmp_path}: not read: README.md, inner/"]


def test_a_folder_without_rows_is_refused(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match="this folder holds no file of rows"):
        files_in(tmp_path)


def test_the_sentence_names_the_file_of_a_folder(tmp_path):
    (tmp_path / "a.csv").write_text("q\n3\n", encoding="utf-8")
    (tmp_path / "b.json").write_text('[{"q": 1}', encoding="utf-8")
    with pytest.raises(InputError, match="b.json: the file is not valid JSON"):
        list(raw_rows([Source(str(tmp_path))]))


# -- hubs


@pytest.fixture
def hub(monkeypatch):
    """`datasets.load_dataset` gives five rows, and keeps what it was asked and what was taken."""
    import datasets

    asked = types.SimpleNamespace(calls=[], taken=0, error=None)

    def load_dataset(*args, **options):
        asked.calls.append((args, options))
        if asked.error:
            raise asked.error
        return stream()

    def stream():
        for number in range(5):
            asked.taken += 1
            yield {"instruction": f"q{number}", "output": "a"}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_configuration_and_split_are_passed_on(hub):
    said = []
    rows = list(hub_rows(parse_source("owner/set:en@test"), say=said.append))
    assert rows[4] == (5, {"instruction": "q4", "output": "a"})
    assert hub.calls == [(("owner/set", "en"), {"split": "test", "streaming": True})]
    assert said == ["reading the data set owner/set, split test, from Hugging Face"]
    list(hub_rows(parse_source("owner/set")))
    assert hub.calls[1] == (("owner/set", None), {"split": "train", "streaming": True})


@pytest.mark.parametrize(
    "source, error, says",
    [
        (
            "openai/gsm8k",
            ValueError(
                "Config name is missing.\nPlease pick one among the available configs: "
                "['main', 'socratic']\nExample of usage:\n\t`load_dataset('openai/gsm8k', 'main')`"
            ),
            "several configurations (main, socratic); name one of them, such as openai/gsm8k:main",
        ),
        (
            "owner/set:fr",
            ValueError("BuilderConfig 'fr' not found. Available: ['de', 'en']"),
            "no configuration 'fr' (it has de, en); name one of them, such as owner/set:de",
        ),
        (
            "owner/set:en",
            ValueError("Bad split: train. Available splits: ['test', 'dev']"),
            "no split 'train' (it has test, dev); name one of them, such as owner/set:en@test",
        ),
        (
            "owner/set",
            RuntimeError("Dataset scripts are no longer supported, but found set.py"),
            "is a program, which is not run",
        ),
        ("owner/set", ConnectionError("a\nb"), "check the spelling, the network or HF_ENDPOINT"),
    ],
)
def test_what_datasets_says_becomes_one_sentence(hub, source, error, says):
    hub.error = error
    with pytest.raises(InputError) as raised:
        list(hub_rows(parse_source(source)))
    assert says in str(raised.value) and "\n" not in str(raised.value)


def test_real_messages_of_datasets_are_understood(tmp_path):
    """A folder with configurations and splits, read as a hub's data set is."""
    lines = '{"instruction": "a", "output": "b"}\n'
    for config in ("de", "en"):
        (tmp_path / config).mkdir()
        (tmp_path / config / "test.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: de\n  data_files:\n  - split: test\n    path: de/*\n"
        "- config_name: en\n  data_files:\n  - split: test\n    path: en/*\n---\n",
        encoding="utf-8",
    )
    name = str(tmp_path)
    assert list(hub_rows(Source(name, HF, "en", "test")))[0][1]["output"] == "b"
    for source, says in (
        (Source(name, HF), "several configurations (de, en)"),
        (Source(name, HF, "fr"), "no configuration 'fr' (it has de, en)"),
        (Source(name, HF, "en"), "no split 'train' (it has test)"),
    ):
        with pytest.raises(InputError) as error:
            list(hub_rows(source))
        assert says in str(error.value)


def test_modelscope_is_downloaded_and_read_like_a_hub(hub, monkeypatch):
    folder = types.ModuleType("modelscope.hub.snapshot_download")
    folder.dataset_snapshot_download = lambda name: f"cache of {name}"
    for name in ("modelscope", "modelscope.hub"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, folder.__name__, folder)
    said = []
    assert len(list(hub_rows(parse_source("modelscope:owner/set:c"), say=said.append))) == 5
    assert hub.calls == [(("cache of owner/set", "c"), {"split": "train", "streaming": True})]
    assert said == ["reading the data set owner/set, split train, from ModelScope"]

    def fails(name):
        raise LookupError(name)

    folder.dataset_snapshot_download = fails
    with pytest.raises(InputError, match="modelscope:owner/set: ModelScope does not give"):
        list(hub_rows(parse_source("modelscope:owner/set")))


def test_without_modelscope_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "modelscope", None)
    monkeypatch.setitem(sys.modules, "modelscope.hub.snapshot_download", None)
    with pytest.raises(InputError, match=r"pip install 'instruct_course\[modelscope\]'"):
        list(hub_rows(parse_source("modelscope:owner/set")))
