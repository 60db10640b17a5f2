"""Checkpoints: to the bit, whole or not at all, and the one before is never lost."""

import copy
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from instruct_course.common import files
from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.train import checkpoint
from instruct_course.train.checkpoint import STATE, TENSORS, differences, newest, save

SCHEMA = json.loads((ASSETS / "schemas" / "checkpoint.schema.json").read_text(encoding="utf-8"))
FACTS = {
    "lr": 1e-3,
    "seed": 7,
    "noise": None,
    "data": {"sha256": "ab" * 32, "rows": 3},
    "name": "指令",
    "done": False,
    "some": [1, 2.5, "x"],
}


def state(step, n=5):
    return {"theta": torch.full((n,), float(step)), "step": torch.tensor(float(step))}


def bits(tensor):
    return (
        tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist()
        if tensor.dim()
        else bits(tensor.reshape(1))
    )


def same(a, b):
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and bits(a[k]) == bits(b[k])
        for k in a
    )


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def two(tmp_path):
    """A folder with whole checkpoints of steps 10 and 20."""
    for step in (10, 20):
        save(tmp_path, step, state(step), FACTS)
    return tmp_path


# -- round trip


def test_round_trip_to_the_bit(tmp_path):
    g = torch.Generator().manual_seed(0)
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-45, 3.4e38])
    matrix = torch.randn(4, 6, generator=g)
    tensors = {
        "f32": odd,
        "bf16": torch.randn(3, 5, generator=g).bfloat16(),
        "f16": odd.half(),
        "f64": torch.randn(7, generator=g).double() / 3,
        "i64": torch.tensor([-(2**63), 2**63 - 1, 0]),
        "u8": torch.arange(256, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(5.0),
        "scalar int": torch.tensor(2**40),
        "empty": torch.zeros(0, 3),
        "transposed": matrix.T,
        "part": matrix[1:3, ::2],
        "matrix": matrix,
        "same memory": matrix[:2],
        "parameter": torch.nn.Parameter(torch.ones(2, 2)),
        "bf16 nan": odd.bfloat16(),
    }
    path = save(tmp_path / "deep" / "run", 123, tensors, FACTS)
    assert path == tmp_path / "deep" / "run" / "step-00000123" and names(path) == [STATE, TENSORS]
    step, got, facts = newest(tmp_path / "deep" / "run")
    assert step == 123 and facts == FACTS and same(got, tensors)
    assert not any(t.requires_grad for t in got.values()) and all(
        t.is_contiguous() for t in got.values()
    )


def test_what_was_read_lives_without_the_file(tmp_path):
    path = save(tmp_path, 1, state(1, 100_000), {})
    _, got, _ = newest(tmp_path)
    (path / TENSORS).write_bytes(b"")
    shutil.rmtree(path)
    got["theta"] += 1
    assert torch.equal(got["theta"], torch.full((100_000,), 2.0))


def test_state_json_is_what_its_schema_says(two):
    for path in two.iterdir():
        made = json.loads((path / STATE).read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator.check_schema(SCHEMA)
        jsonschema.validate(made, SCHEMA)
        assert (
            made["version"] == 1
            and made["facts"] == FACTS
            and made["tensors"]["bytes"] == (path / TENSORS).stat().st_size
        )
        assert load_file(path / TENSORS)["theta"].tolist() == [float(made["step"])] * 5
    for change in (
        {"version": 2},
        {"step": -1},
        {"facts": []},
        {"tensors": {}},
        {"sha256": "x"},
        {"more": 1},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(made | change, SCHEMA)


def test_ten_steps_are_four_and_six(tmp_path):
    x = torch.randn(10, 8, 6, generator=torch.Generator().manual_seed(1))

    def begin():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
        return model, torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)

    def go(model, optimizer, first, last):
        for s in range(first, last):
            optimizer.param_groups[0]["lr"] = 0.01 * (10 - s) / 10
            optimizer.zero_grad()
            model(x[s]).pow(2).mean().backward()
            optimizer.step()

    whole, optimizer = begin()
    go(whole, optimizer, 0, 10)
    model, optimizer = begin()
    go(model, optimizer, 0, 4)
    save(
        tmp_path,
        4,
        {
            f"{n}/{k}": t
            for n, p in model.named_parameters()
            for k, t in {"": p, **optimizer.state[p]}.items()
        },
        {},
    )
    model, optimizer = begin()
    step, tensors, _ = newest(tmp_path)
    for n, p in model.named_parameters():
        p.data.copy_(tensors[f"{n}/"])
        optimizer.state[p] = {k: tensors[f"{n}/{k}"] for k in ("step", "exp_avg", "exp_avg_sq")}
    go(model, optimizer, step, 10)
    assert step == 4 and all(
        torch.equal(a, b) for a, b in zip(model.parameters(), whole.parameters(), strict=True)
    )


# -- how many stay


@pytest.mark.parametrize(
    "keep, stay", [(1, [5]), (2, [4, 5]), (3, [3, 4, 5]), (9, [1, 2, 3, 4, 5])]
)
def test_the_newest_stay(tmp_path, keep, stay):
    for step in range(1, 6):
        save(tmp_path, step, state(step), {}, keep=keep)
    assert names(tmp_path) == [f"step-{s:08d}" for s in stay]
    assert newest(tmp_path)[0] == 5


def test_steps_are_ordered_as_numbers(tmp_path):
    for step in (99_999_999, 100_000_000, 1_000_000_000):
        save(tmp_path, step, state(0), {}, keep=9)
        assert newest(tmp_path)[0] == step


def test_a_broken_one_does_not_count_among_those_kept(two):
    (two / "step-00000020" / TENSORS).write_bytes(b"")
    save(two, 30, state(30), {})
    assert names(two) == ["step-00000010", "step-00000020", "step-00000030"], (
        "10 is one of the two newest whole ones"
    )
    save(two, 40, state(40), {})
    assert names(two) == ["step-00000030", "step-00000040"]


def test_the_same_step_again(two):
    path = save(two, 20, state(21), {"again": True})
    assert path.name == "step-00000020-2" and names(two) == ["step-00000010", "step-00000020-2"]
    assert (
        newest(two)[0] == 20
        and newest(two)[2] == {"again": True}
        and same(newest(two)[1], state(21))
    )
    (path / TENSORS).unlink()
    assert save(two, 20, state(20), {}).name == "step-00000020-3" and names(two) == [
        "step-00000010",
        "step-00000020-3",
    ]


def test_an_older_step_is_written_though_a_newer_one_is_there(two):
    path = save(two, 5, state(5), {}, keep=1)
    assert path.is_dir() and same(load_file(path / TENSORS), state(5))


def test_what_is_not_ours_is_left_alone(two):
    (two / "notes.txt").write_text("x", encoding="utf-8")
    (two / "step-00000099").write_text("a file", encoding="utf-8")
    (two / "step-last").mkdir()
    (two / ".hidden").mkdir()
    said = []
    assert newest(two, say=said.append)[0] == 20 and said == []
    save(two, 30, state(30), {}, keep=1)
    assert names(two) == [".hidden", "notes.txt", "step-00000030", "step-00000099", "step-last"]


def test_scratch_of_killed_processes_goes_and_that_of_living_ones_stays(two):
    dead, alive = (
        subprocess.Popen([sys.executable, "-c", text])
        for text in ("", "import time; time.sleep(60)")
    )
    dead.wait()
    mine, gone, living = (
        two / f".step-00000030-{pid}-ab_c1" for pid in (os.getpid(), dead.pid, alive.pid)
    )
    for path in (mine, gone, living):
        path.mkdir()
        (path / TENSORS).write_bytes(b"x")
    assert newest(two)[0] == 20
    save(two, 30, state(30), {})
    alive.kill()
    alive.wait()
    assert names(two) == [living.name, "step-00000020", "step-00000030"]


# -- damage


def damage(path, how):
    tensors, text = path / TENSORS, path / STATE
    raw = tensors.read_bytes()
    made = json.loads(text.read_text(encoding="utf-8"))
    match how:
        case "tensors cut":
            tensors.write_bytes(raw[:-3])
        case "tensors longer":
            tensors.write_bytes(raw + b"\0")
        case "tensors changed":
            tensors.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
        case "tensors gone":
            tensors.unlink()
        case "tensors a folder":
            tensors.unlink(), tensors.mkdir()
        case "state cut":
            text.write_bytes(text.read_bytes()[:-20])
        case "state empty":
            text.write_bytes(b"")
        case "state gone":
            text.unlink()
        case "state a list":
            text.write_text("[]", encoding="utf-8")
        case "state not text":
            text.write_bytes(b"\xff\xfe{}")
        case "state deep":
            text.write_text("[" * 100_000, encoding="utf-8")
        case "facts changed":
            text.write_text(json.dumps(made | {"facts": FACTS | {"lr": 2e-3}}), encoding="utf-8")
        case "of another step":
            text.write_bytes((path.parent / "step-00000010" / STATE).read_bytes())
        case "copy of another":
            shutil.rmtree(path), shutil.copytree(path.parent / "step-00000010", path)
        case "newer":
            text.write_text(json.dumps({"version": 2, "layout": "other"}), encoding="utf-8")


DAMAGE = {
    "tensors cut": r"state.safetensors has \d+ bytes, not \d+",
    "tensors longer": r"state.safetensors has \d+ bytes, not \d+",
    "tensors changed": "state.safetensors was changed",
    "tensors gone": r"state.safetensors cannot be read \(No such file",
    "tensors a folder": "state.safetensors",
    "state cut": "state.json is cut short",
    "state empty": "state.json is cut short",
    "state gone": r"state.json cannot be read \(No such file",
    "state a list": "state.json is cut short or was changed",
    "state not text": "state.json is cut short",
    "state deep": "state.json is cut short",
    "facts changed": "state.json was changed",
    "of another step": "state.json was changed",
    "copy of another": "state.json was changed",
    "newer": "newer version of instruct_course, so upgrade",
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_one_is_passed_over_in_one_sentence(two, how):
    damage(two / "step-00000020", how)
    said = []
    step, tensors, facts = newest(two, say=said.append)
    assert step == 10 and same(tensors, state(10)) and facts == FACTS
    assert len(said) == 1 and re.fullmatch(
        f"the checkpoint step-00000020 is passed over: (it|its) .*{DAMAGE[how].removeprefix('its ')}.*",
        said[0],
    ), said
    assert str(two) not in said[0] and newest(two)[0] == 10, "say may be left out"


@pytest.mark.parametrize("how", DAMAGE)
def test_only_damaged_ones_are_an_error(two, how):
    shutil.copytree(two, two / "kept")
    damage(two / "step-00000020", how)
    (two / "step-00000010" / STATE).unlink()
    with pytest.raises(
        InputError,
        match=r"no checkpoint there is whole \(step-00000020: .*; step-00000010: its state.json cannot be read",
    ):
        newest(two)
    shutil.copytree(two / "kept" / "step-00000010", two / "step-00000010", dirs_exist_ok=True)
    assert newest(two)[0] == 10


def test_none_at_all(tmp_path):
    assert newest(tmp_path / "nowhere") is None and newest(tmp_path) is None
    (tmp_path / "file").write_text("x", encoding="utf-8")
    assert newest(tmp_path / "file") is None


def test_no_flipped_bit_and_no_cut_goes_unseen(tmp_path):
    save(tmp_path, 1, state(1), {"lr": 0.5})
    path = save(tmp_path, 2, state(2), {"lr": 0.25})
    unseen = 0
    for name in (STATE, TENSORS):
        raw = (path / name).read_bytes()
        for i in range(len(raw)):
            for other in (raw[:i] + bytes([raw[i] ^ (1 << i % 8)]) + raw[i + 1 :], raw[:i]):
                (path / name).write_bytes(other)
                step, tensors, facts = newest(tmp_path)
                assert same(tensors, state(step)) and facts == {"lr": 1 / 2**step}, (
                    f"{name}, byte {i}"
                )
                unseen += step == 2
        (path / name).write_bytes(raw)
    assert newest(tmp_path)[0] == 2 and unseen < 30, (
        "only blanks of the JSON can change without harm"
    )


def test_pickles_are_never_read(two, monkeypatch):
    import pickle

    monkeypatch.setattr(pickle, "Unpickler", None)
    monkeypatch.setattr(torch, "load", None)
    (two / "step-00000020" / TENSORS).write_bytes(pickle.dumps({"theta": 1}))
    assert newest(two)[0] == 10


# -- what cannot be written


@pytest.mark.parametrize(
    "facts",
    [
        {"loss": float("nan")},
        {"a": {"b": [float("inf")]}},
        {"shape": (1, 2)},
        {1: 2},
        {"x": {1, 2}},
        {"x": torch.zeros(1)},
        {"x": object()},
    ],
)
def test_facts_are_plain_json(tmp_path, facts):
    with pytest.raises(
        InputError, match="the facts of the checkpoint of step 3 are not plain JSON"
    ):
        save(tmp_path / "run", 3, state(3), facts)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(
            InputError,
            match="the checkpoint of step 3 could not be written .*there is none before it",
        ):
            save(folder, 3, state(3), {})
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        checkpoint.SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
        KeyboardInterrupt(),
        RuntimeError("x"),
    ],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.parametrize(
    "where", ["save_file", "Path.write_text", "files._sync", "os.replace", "files.tempfile.mkdtemp"]
)
def test_a_fault_anywhere_leaves_what_was_there(two, monkeypatch, where, error):
    def fail(*a, **k):
        raise error

    module, _, name = where.rpartition(".")
    with (
        monkeypatch.context() as m,
        pytest.raises(
            InputError if isinstance(error, (OSError, checkpoint.SafetensorError)) else type(error)
        ) as caught,
    ):
        owner = {"files": files, "files.tempfile": files.tempfile}.get(module)
        m.setattr(owner or getattr(checkpoint, module, checkpoint), name, fail)
        save(two, 30, state(30), {})
    if isinstance(caught.value, InputError):
        assert str(caught.value) == (
            f"{two}: the checkpoint of step 30 could not be written (No space left on device); "
            f"the one before is still good: {two / 'step-00000020'}; make room, then resume"
        )
    assert names(two) == ["step-00000010", "step-00000020"] and newest(two)[0] == 20


def test_the_sentence_names_the_newest_whole_one(two, monkeypatch):
    (two / "step-00000020" / TENSORS).write_bytes(b"")
    monkeypatch.setattr(
        checkpoint.os,
        "replace",
        lambda *a: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")),
    )
    with pytest.raises(InputError, match="still good: .*step-00000010;"):
        save(two, 30, state(30), {})


def test_the_disk_confirms_before_the_name_is_given(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os,
        "fsync",
        lambda h: (
            done.append(
                Path(os.readlink(f"/proc/self/fd/{h}")).name
                if Path("/proc/self/fd").exists()
                else "?"
            ),
            fsync(h),
        ),
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("named"), replace(a, b)))
    path = save(tmp_path / "run", 1, state(1), {})
    if "?" not in done:
        assert (
            sorted(done[:2]) == [STATE, TENSORS]
            and done[2].startswith(".step-00000001-")
            and done[3:] == ["named", "run"]
        )
    assert os.name == "nt" or path.stat().st_mode & 0o777 == 0o755


def test_a_disk_that_is_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True
        ).returncode
    ):
        pytest.skip("no small disk can be mounted here")
    try:
        folder, n = disk / "run", 300_000  # 1.2 MB each: a third one does not fit
        for step in (1, 2):
            save(folder, step, state(step, n), FACTS)
        (disk / "ballast").write_bytes(bytes(1_000_000))
        for _ in range(3):
            with pytest.raises(InputError) as caught:
                save(folder, 3, state(3, n), FACTS)
            assert str(caught.value) == (
                f"{folder}: the checkpoint of step 3 could not be written (No space left on device); "
                f"the one before is still good: {folder / 'step-00000002'}; make room, then resume"
            )
            assert (
                names(folder) == ["step-00000001", "step-00000002"]
                and newest(folder)[0] == 2
                and same(newest(folder)[1], state(2, n))
            )
        (disk / "ballast").unlink()
        save(folder, 3, state(3, n), FACTS)
        assert names(folder) == ["step-00000002", "step-00000003"] and same(
            newest(folder)[1], state(3, n)
        )
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# -- in other processes


def elsewhere(text, *arguments):
    """The lines that a Python program prints, run on its own."""
    pytest.importorskip("resource")  # not on Windows, which has no fork either
    made = subprocess.run(
        [sys.executable, "-c", text, *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )
    assert made.returncode == 0, made.stderr
    return made.stdout.splitlines()


FULL = """
import resource, sys, torch
from instruct_course.train.checkpoint import save
for step, n in ((1, 5), (2, 5), (3, 500_000)):
    if step == 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        save(sys.argv[1], step, {"theta": torch.full((n,), float(step)), "step": torch.tensor(float(step))}, {})
    except ValueError as error:
        print(type(error).__name__, error)
"""


def test_a_file_that_may_not_grow(tmp_path):
    said = elsewhere(FULL, tmp_path)
    assert said == [
        f"InputError {tmp_path}: the checkpoint of step 3 could not be written (File too large); "
        f"the one before is still good: {tmp_path / 'step-00000002'}; make room, then resume"
    ]
    assert names(tmp_path) == ["step-00000001", "step-00000002"] and same(
        newest(tmp_path)[1], state(2)
    )


KILLED = """
import json, os, random, signal, sys, time, torch
from pathlib import Path
from instruct_course.train.checkpoint import newest, save
folder, told, rng = Path(sys.argv[1]) / "run", Path(sys.argv[1]) / "told", random.Random(int(sys.argv[2]))
torch.set_num_threads(1)
for kill in range(10):
    before = newest(folder)
    pid = os.fork()
    if pid == 0:                                          # goes on from the newest one, and saves as fast as it can
        step = before[0] if before else 0
        while True:
            step += 1
            save(folder, step, {k: torch.full((1_900_000,), float(step + i)) for i, k in enumerate("abcd")}, {"step": step})
            told.write_text(str(step))
    while not told.exists():                              # the first one may take its time
        time.sleep(0.01)
    time.sleep(rng.random() * 0.4)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    scratch = sum(p.name.startswith(".") for p in folder.iterdir())
    step, tensors, facts = newest(folder)
    whole = facts == {"step": step} and all(torch.equal(tensors[k], torch.full((1_900_000,), float(step + i))) for i, k in enumerate("abcd"))
    print(json.dumps([step, int(told.read_text() or 0), whole, scratch]))
save(folder, step + 1, {"a": torch.zeros(1)}, {})
print(json.dumps(sorted(p.name for p in folder.iterdir())))
"""


def test_killed_at_any_moment(tmp_path):
    *kills, after = map(json.loads, elsewhere(KILLED, tmp_path, 0))
    assert len(kills) == 10 and all(whole for _, _, whole, _ in kills)
    assert all(step >= told for step, told, _, _ in kills), "what save had returned from is there"
    steps = [step for step, *_ in kills]
    assert steps == sorted(steps) and after == [f"step-{s:08d}" for s in (steps[-1], steps[-1] + 1)]
    assert sum(scratch > 0 for *_, scratch in kills) >= 3, "the kills fell into writes"


EACH = """
import builtins, json, os, signal, sys, torch
from pathlib import Path
from instruct_course.train import checkpoint
from instruct_course.train.checkpoint import newest, save
facts = {"at": None}
state = lambda step: {"a": torch.full((3,), float(step))}
def killing(call, count, at):                             # before its `at`-th call the process kills itself
    def inner(*a, **k):
        count[0] += 1
        if count[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*a, **k)
    return inner
for again in (False, True):
    for at in range(1, 100):
        folder = Path(sys.argv[1]) / f"{again}-{at}"
        for step in (1, 2):
            save(folder, step, state(step), {"step": step})
        pid, step = os.fork(), 2 if again else 3
        if pid == 0:
            count = [0]
            for owner, name in ((checkpoint, "save_file"), (os, "fsync"), (os, "replace"), (os, "rename"), (os, "mkdir"), (os, "chmod"), (os, "open"), (os, "unlink"),
                                (os, "rmdir"), (Path, "write_text")):
                setattr(owner, name, killing(getattr(owner, name), count, at))
            save(folder, step, state(step), {"step": step})
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        got = newest(folder)
        whole = torch.equal(got[1]["a"], state(got[0])["a"]) and got[2] == {"step": got[0]} and all(checkpoint.inspect(p)[0] for p in checkpoint.checkpoints_in(folder))
        names = sorted(p.name for p in folder.iterdir())
        save(folder, 4, state(4), {"step": 4})
        print(json.dumps([again, os.WIFSIGNALED(status), got[0], whole, names, sorted(p.name for p in folder.iterdir())]))
        if not os.WIFSIGNALED(status):
            break
"""


def test_killed_before_each_call_to_the_system(tmp_path):
    lines = [json.loads(line) for line in elsewhere(EACH, tmp_path)]
    for again in (False, True):
        mine = [line for line in lines if line[0] == again]
        steps = [step for _, _, step, *_ in mine]
        assert len(mine) >= 12 and [killed for _, killed, *_ in mine] == [True] * (
            len(mine) - 1
        ) + [False]
        assert (
            all(whole for _, _, _, whole, *_ in mine)
            and steps == sorted(steps)
            and set(steps) == ({2} if again else {2, 3})
        )
        assert not any(name.startswith(".") for *_, after in mine for name in after), (
            "the next save clears up"
        )
        assert all("step-00000004" in after and len(after) == 2 for *_, after in mine)
        last = mine[-1][4]
        assert last == (
            ["step-00000001", "step-00000002-2"] if again else ["step-00000002", "step-00000003"]
        )


# -- what differs


def test_differences_in_words():
    was = {
        "lr": 0.001,
        "seed": 0,
        "schedule": "linear",
        "noise": None,
        "data": {"sha256": "a" * 64, "rows": 10},
        "old": 1,
        "texts": "a" * 60,
        "flag": True,
    }
    now = {
        "lr": 0.002,
        "seed": 0,
        "schedule": "cosine",
        "noise": {"kind": "neftune"},
        "data": {"sha256": "b" * 64, "rows": 11},
        "texts": "a" * 59 + "b",
        "flag": 1,
        "new": [],
    }
    assert differences(was, now) == [
        "lr (0.001 there, 0.002 here)",
        "schedule (linear there, cosine here)",
        'noise (none there, {"kind": "neftune"} here)',
        f"data.sha256 ({'a' * 24}… there, {'b' * 24}… here)",
        "data.rows (10 there, 11 here)",
        "old (1 there, nothing here)",
        "texts (not the same there and here)",
        "flag (true there, 1 here)",
        "new (nothing there, [] here)",
    ]
    assert (
        differences(was, was) == differences({}, {}) == []
        and differences({"epochs": 3}, {"epochs": 3.0}) == []
    )
    assert differences({"a": {}}, {}) == ["a ({} there, nothing here)"] and differences(
        {"a": ""}, {"a": "x"}
    ) == ['a ("" there, x here)']


LEAVES = (
    st.none()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("abc", max_size=60)
    | st.lists(st.text("xy", max_size=2), max_size=3)
)
DICTS = st.recursive(
    st.dictionaries(st.sampled_from("abcde"), LEAVES, max_size=4),
    lambda inner: st.dictionaries(st.sampled_from("abcde"), inner | LEAVES, max_size=4),
    max_leaves=12,
)


def leaves(facts, path=()):
    """The dotted path of each entry of `facts` that is no dict with entries."""
    for key, value in facts.items():
        yield from (
            leaves(value, (*path, key)) if isinstance(value, dict) and value else [(*path, key)]
        )


@settings(deadline=None, max_examples=150)
@given(DICTS, DICTS)
def test_differences_are_empty_for_equals_only_and_alike_both_ways(a, b):
    assert differences(a, copy.deepcopy(a)) == [] == differences(a, json.loads(json.dumps(a)))
    assert (differences(a, b) == []) == (a == b)

    def names_of(texts):
        return sorted(t.split(" (")[0] for t in texts)

    assert names_of(differences(a, b)) == names_of(differences(b, a))
    assert all(
        re.fullmatch(
            r"[a-e](\.[a-e])* \(.* there, .* here\)|[a-e](\.[a-e])* \(not the same there and here\)",
            t,
        )
        for t in differences(a, b)
    )


@settings(deadline=None, max_examples=150)
@given(DICTS.filter(lambda d: list(leaves(d))), st.data())
def test_one_changed_entry_is_the_one_that_is_named(facts, draw):
    path = draw.draw(st.sampled_from(list(leaves(facts))))
    now = copy.deepcopy(facts)
    inner = now
    for key in path[:-1]:
        inner = inner[key]
    if draw.draw(st.booleans()):
        inner[path[-1]] = "another value"
    else:
        del inner[path[-1]]
    said = differences(facts, now)
    assert len(said) == 1 and said[0].startswith(".".join(path) + " (")


@settings(deadline=None, max_examples=25)
@given(DICTS)
def test_facts_come_back_as_they_were(tmp_path_factory, facts):
    folder = tmp_path_factory.mktemp("facts")
    save(folder, 0, {"a": torch.zeros(1)}, facts)
    assert newest(folder)[2] == facts and differences(newest(folder)[2], facts) == []
    shutil.rmtree(folder)
