"""Files and folders appear whole or not at all."""

import hashlib
import json
import os

import pytest

from instruct_course.common import files
from instruct_course.common.errors import InputError


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_file_keeps_its_old_content_when_writing_fails(tmp_path, error):
    files.write_json(tmp_path / "a.json", {"zh": "你好", "n": 1})
    with pytest.raises(type(error)), files.write_file(tmp_path / "a.json") as scratch:
        scratch.write_text("half", encoding="utf-8")
        raise error
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"zh": "你好", "n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_row_that_is_no_json_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        files.write_lines(tmp_path / "a.jsonl", [{"a": 1}, {"a": object()}])
    assert not list(tmp_path.iterdir())
    files.write_lines(tmp_path / "a.jsonl", [{"a": 1}, {"b": "二"}])
    lines = (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"a": 1}, {"b": "二"}]


@pytest.mark.parametrize("sync", [False, True])
def test_a_folder_appears_whole(tmp_path, sync):
    out = tmp_path / "deep" / "er"
    with files.write_folder(out, sync=sync) as scratch:
        (scratch / "sub").mkdir()
        (scratch / "sub" / "a").write_text("x", encoding="utf-8")
        assert not out.exists()
    assert (out / "sub" / "a").read_text(encoding="utf-8") == "x"
    assert os.stat(out).st_mode & 0o777 == 0o755
    assert [p.name for p in out.parent.iterdir()] == ["er"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_folder_leaves_nothing_not_even_its_parents(tmp_path, error):
    with pytest.raises(type(error)), files.write_folder(tmp_path / "deep" / "er") as scratch:
        (scratch / "a").write_text("half", encoding="utf-8")
        raise error
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_never_overwritten(tmp_path):
    (tmp_path / "there").mkdir()
    with files.write_folder(tmp_path / "there") as scratch:  # an empty folder may be filled
        (scratch / "a").write_text("1", encoding="utf-8")
    with pytest.raises(InputError, match="already exists"), files.write_folder(tmp_path / "there"):
        pytest.fail("the block ran")
    assert (tmp_path / "there" / "a").read_text(encoding="utf-8") == "1"


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="--out .*cannot be written there"):
        with files.write_folder(tmp_path / "file" / "below"):
            pytest.fail("the block ran")
