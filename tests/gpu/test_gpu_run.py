"""A run on a GPU: too little memory, and a run that goes on from a checkpoint.

On a CPU both are the same to the bit. On a GPU some backward kernels add in an order that is not
fixed, so the yardstick is a repetition: a run that was never disturbed, made twice. What was
disturbed may be `TIMES` as far from it as the repetition is. Where the repetition has the same
bits, one eps of what was learnt is left for kernels that the smaller parts choose.
"""

from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
import torch
from tiny_models import VOCAB, adapter, tiny_llama

from instruct_course.common.errors import OutOfMemory
from instruct_course.data.template import Encoded
from instruct_course.train import checkpoint, loop, objective

TIMES = 4
# (rows, tokens of the longest one): on a GPU enough for hundreds of MB, beside which the
# allocator's blocks of 2 and 20 MB are small
SIZES = {"cpu": (8, 12), "cuda": (64, 1024)}


def random_rows(count: int, longest: int, seed=0) -> list[Encoded]:
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        ids = rng.integers(2, VOCAB, longest - i % 4).tolist()
        rows.append(Encoded(ids, [-100] * (len(ids) // 2) + ids[len(ids) // 2 :]))
    return rows


def train(place, rows, *, micro_batches=1, steps=2, **options):
    """(the adapter before and after, the history, what was said) of a run of some steps."""
    model = tiny_llama(dtype=place.dtype).to(place.device)
    before = adapter(model).clone()
    tokens = sum(len(row.ids) for row in rows) + 4 * len(rows)
    config = loop.TrainConfig(
        max_steps=steps, lr=3e-3, batch_tokens=tokens, seed=5, micro_batches=micro_batches
    )
    said = []
    history = loop.fit(model, rows, config, pad_id=0, **{"say": said.append} | options)
    return before, adapter(model), history, said


def same_adapter(place, start, wanted, repeated, got) -> None:
    """`got` is `wanted`; see the head of the file."""
    noise = (wanted - repeated).norm()
    learnt = (wanted - start).norm()
    floor = 0 if place.device == "cpu" else place.eps * learnt
    assert learnt > 0
    assert (got - wanted).norm() <= max(TIMES * noise, floor)


def peak(place, rows, parts: int) -> int:
    """Bytes that the allocator takes from the GPU for a step in so many parts."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    train(place, rows, micro_batches=parts)
    return torch.cuda.max_memory_reserved()


@contextmanager
def memory_limit(place, *, tokens: float, size: float):
    """Inside, memory is too small for a part of a step.

    On a CPU a part of more than `tokens` tokens fails; on a GPU the allocator may take `size`
    bytes and no more.
    """
    if place.device == "cpu":

        def limited(model, rows, *args, real=objective.micro_batch_loss, **options):
            if sum(len(row.ids) for row in rows) > tokens:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return real(model, rows, *args, **options)

        with mock.patch.object(objective, "micro_batch_loss", limited):
            yield
        return
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(size / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def size_between(place, rows, fits: int, too_few: int) -> float:
    """Bytes in which a step fits in `fits` parts and not in `too_few`; 0 on a CPU."""
    if place.device == "cpu":
        return 0
    low, high = peak(place, rows, fits), peak(place, rows, too_few)
    assert high > low + 100 * 2**20, "the sizes are too close to put a limit between them"
    return (low + high) / 2


def test_the_ladder_ends_where_a_step_fits(usual_place):
    place = usual_place
    rows = random_rows(*SIZES[place.device])
    start, wanted, plain, _ = train(place, rows, micro_batches=4)
    repeated = train(place, rows, micro_batches=4)[1]
    size = size_between(place, rows, 4, 2)
    with memory_limit(place, tokens=sum(len(row.ids) for row in rows) / 3, size=size):
        _, got, history, said = train(place, rows)
    assert [numbers["parts"] for numbers in history] == [4, 4]
    assert len(said) == 2
    assert "in 1 part; from now on each goes through in 2" in said[0]
    assert "in 2 parts; from now on each goes through in 4" in said[1]
    same_adapter(place, start, wanted, repeated, got)
    losses = [numbers["loss"] for numbers in plain]
    assert [numbers["loss"] for numbers in history] == pytest.approx(losses, rel=place.eps)


def test_a_row_that_does_not_fit_is_named(usual_place):
    place = usual_place
    longest = 24 if place.device == "cpu" else 1 << 16
    rows = random_rows(1, longest)
    held = 0 if place.device == "cpu" else torch.cuda.memory_reserved()
    with memory_limit(place, tokens=longest - 1, size=held + 48 * 2**20):
        with pytest.raises(OutOfMemory, match=f"a single row of {longest:,} tokens; use a lower"):
            train(place, rows)


def test_a_run_goes_on_where_it_was_stopped(usual_place, tmp_path):
    place = usual_place
    rows = random_rows(8, 24)
    start, wanted, history, _ = train(place, rows, steps=3)
    repeated = train(place, rows, steps=3)[1]
    kept = loop.Checkpoints(tmp_path / "kept", every=1, say=lambda text: None)
    train(place, rows, steps=3, checkpoints=kept, on_step=lambda numbers: numbers["step"] == 2)
    assert len(checkpoint.newest(kept.folder)[2]["history"]) == 2
    _, got, resumed, _ = train(place, rows, steps=3, checkpoints=kept)
    same_adapter(place, start, wanted, repeated, got)
    losses = [numbers["loss"] for numbers in history]
    assert [numbers["loss"] for numbers in resumed] == pytest.approx(losses, rel=place.eps)
