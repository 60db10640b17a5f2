"""Too little memory: a step goes through in smaller parts, with the same result, and a row that
does not fit is named.
"""

import json
import sys

import forked
import jsonschema
import pytest
import torch
from tiny_models import CONFIG, ROWS, adapter, tiny_llama

from instruct_course.common.errors import OutOfMemory
from instruct_course.common.files import ASSETS
from instruct_course.data.template import Encoded
from instruct_course.train import checkpoint, loop, micro_batches, objective

REASONS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    MemoryError(),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 65536 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: "
        "you tried to allocate 65536 bytes."
    ),
]


def with_room(monkeypatch, most: int, reason=REASONS[0], backward=False):
    """From now on a part of more than `most` tokens fails, in its forward pass or only on its way
    back.
    """

    def part(model, rows, *others, real=objective.micro_batch_loss, **options):
        loss = real(model, rows, *others, **options)
        if sum(len(r.ids) for r in rows) <= most:
            return loss
        if not backward:
            raise reason

        def fail(_):
            raise reason

        loss.register_hook(fail)
        return loss

    monkeypatch.setattr(objective, "micro_batch_loss", part)


def trained(config=CONFIG, rows=ROWS, **options):
    model, said = tiny_llama(), []
    history = loop.fit(model, rows, config, pad_id=0, **{"say": said.append} | options)
    return adapter(model), history, said


def split(k: int, **others) -> loop.TrainConfig:
    return loop.TrainConfig(**CONFIG.__dict__ | {"micro_batches": k} | others)


@pytest.fixture(scope="module")
def in_four():
    """A run with --micro-batches 4."""
    return trained(split(4, epochs=1))


@pytest.mark.parametrize(
    "reason,backward",
    [(REASONS[0], True), *((r, False) for r in REASONS)],
    ids=["backward", "cuda", "python", "cublas", "linux", "windows"],
)
def test_the_step_is_that_of_more_micro_batches(in_four, monkeypatch, reason, backward):
    """The first step fails in one part and in two, so all go through in four.

    The same bits as with --micro-batches 4.
    """
    wanted, plain, _ = in_four
    with_room(monkeypatch, 40, reason, backward)
    got, history, said = trained(split(1, epochs=1))
    assert torch.equal(got, wanted)
    assert [h["loss"] for h in history] == [h["loss"] for h in plain] and [
        h["grad_norm"] for h in history
    ] == [h["grad_norm"] for h in plain]
    assert [h["parts"] for h in history] == [4] * len(history) and not any(
        "parts" in h for h in plain
    )
    assert said == [
        "memory is too small for a step in 1 part; from now on each goes through in 2, "
        "with the same result",
        "memory is too small for a step in 2 parts; from now on each goes through in 4, "
        "with the same result",
    ]


def test_the_gradients_of_the_first_parts_are_thrown_away(monkeypatch):
    """Only the last part of some step is too long.

    What the parts before it left in .grad must not count twice. Dropout and noise are drawn
    again as they were.
    """
    config = loop.TrainConfig(**CONFIG.__dict__ | {"noise": loop.Noise("neftune", 5)})
    failed = []

    def once(model, rows, *others, real=objective.micro_batch_loss, **options):
        loss = real(model, rows, *others, **options)
        if not failed and len(calls) == 2 * 3 + 2:  # the second half of the fourth step
            failed.append(len(calls))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        calls.append(1)
        return loss

    calls = [1]
    model, said = tiny_llama(lora_dropout=0.2), []
    monkeypatch.setattr(objective, "micro_batch_loss", once)
    history = loop.fit(
        model,
        ROWS,
        loop.TrainConfig(**config.__dict__ | {"micro_batches": 2}),
        pad_id=0,
        say=said.append,
    )
    monkeypatch.undo()
    assert (
        failed
        and [h.get("parts") for h in history[:3]] == [None] * 3
        and {h.get("parts") for h in history[3:]} == {4}
        and len(said) == 1
    )
    # the same: two parts for three steps, four from then on
    again = tiny_llama(lora_dropout=0.2)
    parts = []

    def counted(items, k, real=micro_batches.np.array_split):
        parts.append(k)
        return real(items, 2 if len(parts) <= 3 else 4)

    monkeypatch.setattr(micro_batches.np, "array_split", counted)
    loop.fit(again, ROWS, loop.TrainConfig(**config.__dict__ | {"micro_batches": 2}), pad_id=0)
    assert torch.equal(adapter(model), adapter(again))


def test_a_run_that_goes_on_keeps_the_parts(monkeypatch, tmp_path):
    """Stopped after step 2 and resumed.

    No second search, and the bits of a run that was never stopped.
    """
    with_room(monkeypatch, 40)
    whole, history, _ = trained()
    keep = loop.Checkpoints(tmp_path / "c", every=1, say=lambda text: None)
    trained(checkpoints=keep, on_step=lambda h: h["step"] == 2)
    assert checkpoint.newest(keep.folder)[2]["history"][-1]["parts"] == history[0]["parts"] == 4
    again, resumed, said = trained(checkpoints=keep)
    assert (
        torch.equal(again, whole)
        and said == []
        and [h["parts"] for h in resumed] == [h["parts"] for h in history]
    )


def test_checkpoints_say_it_where_nobody_else_does(monkeypatch, tmp_path, capsys):
    with_room(monkeypatch, 75)
    said = []
    trained(say=None, checkpoints=loop.Checkpoints(tmp_path / "c", every=100, say=said.append))
    assert len(said) == 1 and "goes through in 2" in said[0] and not capsys.readouterr().out
    trained(say=None)
    assert capsys.readouterr().out == said[0] + "\n"


def test_one_row_that_does_not_fit_is_named(monkeypatch):
    longest = Encoded([7] * 35, [-100] * 30 + [7] * 5)
    with_room(monkeypatch, 34)
    for config, way in (
        (CONFIG, ", --gradient-checkpointing"),
        (split(1, gradient_checkpointing=True), ""),
    ):
        with pytest.raises(
            OutOfMemory,
            match=r"^memory is too small for a single row of 35 tokens; use a lower --max-length"
            rf"{way} or a smaller --model$",
        ):
            trained(config, [*ROWS[:12], longest])


def test_other_failures_are_not_taken_for_it(monkeypatch):
    for reason in (
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
        ValueError("out of memory"),
        KeyError("x"),
    ):
        with monkeypatch.context() as patch:
            with_room(patch, 0, reason)
            with pytest.raises(type(reason)):
                trained()


def test_the_memory_of_the_failed_try_is_free_before_the_next(monkeypatch):
    """The activations of the first try are gone when the second one begins.

    Nothing holds on to them, not even the exception.
    """
    import weakref

    alive, seen = [], []

    def part(model, rows, *others, real=objective.micro_batch_loss, **options):
        if alive:
            seen.append([ref() is None for ref in alive])
        loss = real(model, rows, *others, **options)
        if len(rows) > 1 and not seen:
            alive.extend([weakref.ref(loss), weakref.ref(loss.grad_fn)])
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return loss

    monkeypatch.setattr(objective, "micro_batch_loss", part)
    model = tiny_llama()
    loop.fit(model, ROWS, CONFIG, pad_id=0, on_step=lambda h: True, say=lambda text: None)
    assert seen[0] == [True, True]


def test_metrics_with_parts_keep_to_the_schema(monkeypatch):
    schema = json.loads((ASSETS / "schemas" / "metrics.schema.json").read_text(encoding="utf-8"))
    with_room(monkeypatch, 60)
    _, history, _ = trained()
    for h in history:
        jsonschema.validate({"version": 1, **h}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"version": 1, **history[0], "parts": 1}, schema)


# -- the real thing

LIMITED = """
import json, resource, torch
from instruct_course.common.memory import frugal_malloc
from instruct_course.data.template import Encoded
from instruct_course.train import loop, micro_batches, objective
from tiny_models import adapter, tiny_llama
frugal_malloc()
ids = [[2 + (i * j) % 50 for j in range(1, 400)] for i in range(1, 9)]
rows = [Encoded(row, [-100] * 397 + [5, 1]) for row in ids]

def fit(room, parts=1):
    model, said = tiny_llama(), []
    status = open("/proc/self/status", encoding="utf-8").read()
    now = 1024 * int(status.split("VmData:")[1].split()[0])
    unlimited = resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_DATA, (now + room if room else unlimited, unlimited))
    config = loop.TrainConfig(epochs=1, lr=1e-3, batch_tokens=4000, micro_batches=parts, seed=3)
    try:
        history = loop.fit(model, rows, config, pad_id=0, say=said.append)
    except micro_batches.OutOfMemory as error:
        return str(error)
    bits = adapter(model).view(torch.int32).tolist()
    return [h.get("parts", parts) for h in history], said, [h["loss"] for h in history], bits

fit(0)                                                      # what any step needs is there
short = fit(20_000_000)
print(json.dumps([short, fit(2_000_000), fit(0, short[0][-1])]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
def test_real_memory_that_is_too_small(tmp_path):
    """The system refuses torch's allocator.

    The run finds its parts, and its adapter has the bits of a run that began with as many.
    """
    done = forked.python(LIMITED, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    (parts, said, *result), hopeless, (same, silent, *roomy) = json.loads(
        done.stdout.splitlines()[-1]
    )
    assert (
        parts[-1] in (2, 4, 8)
        and 2 ** len(said) == parts[-1]
        and all("memory is too small for a step in" in text for text in said)
    )
    assert hopeless.startswith("memory is too small for a single row of 399 tokens")
    assert same == parts and silent == [] and roomy == result


# -- two processes


TOGETHER = """
import json, torch
from test_micro_batches import ROWS, adapter, split, tiny_llama
from instruct_course.train import loop, micro_batches, objective
rank, world = loop.processes()
real, tried, most = objective.micro_batch_loss, [], 40
def part(model, rows, *others, **options):
    tried.append(len(rows))
    if rank == 1 and sum(len(r.ids) for r in rows) > most:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return real(model, rows, *others, **options)
objective.micro_batch_loss = part
model, said = tiny_llama(), []
history = loop.fit(model, ROWS, split(1, epochs=.5), pad_id=0, say=said.append)
most = 0
try:
    loop.fit(tiny_llama(), ROWS, split(1, epochs=.5), pad_id=0, say=said.append)
except micro_batches.OutOfMemory as error:
    end = str(error)
parts = [h.get("parts", 1) for h in history]
losses = [h["loss"] for h in history]
with open(f"out{rank}", "w", encoding="utf-8") as file:
    json.dump([parts, losses, adapter(model).tolist(), end], file)
with open(f"said{rank}", "w", encoding="utf-8") as file:
    json.dump(said, file)
"""


def test_two_processes_agree(tmp_path):
    """Only the second one runs out of memory.

    Both go on in the same number of parts, to the result of one process, and both end where one
    row is too long.
    """
    for done in forked.two_pythons(TOGETHER, tmp_path):
        assert done.returncode == 0, done.stderr[-2000:]

    def read(name):
        return json.loads((tmp_path / name).read_text(encoding="utf-8"))

    (parts, losses, weights, end), other = read("out0"), read("out1")
    assert (
        other == [parts, losses, weights, end]
        and parts[-1] > 1
        and end.startswith("memory is too small for a single row of ")
    )
    assert len(read("said0")) > 0 == len(read("said1"))
    alone = tiny_llama()
    history = loop.fit(alone, ROWS, split(1, epochs=0.5), pad_id=0)
    assert losses == pytest.approx([h["loss"] for h in history], rel=1e-5)
    torch.testing.assert_close(torch.tensor(weights), adapter(alone), rtol=1e-5, atol=1e-5)
