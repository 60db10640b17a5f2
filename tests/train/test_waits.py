"""Where a step waits for its device: once, for its loss and the length of its gradient.

On a GPU the CPU hands out work and goes on; it has to wait wherever Python needs a number, or a
shape that depends on numbers. These calls are counted here on a CPU, where they cost nothing.
"""

from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from tiny_models import ROWS, tiny_llama
from torch.utils._python_dispatch import TorchDispatchMode

from instruct_course.train import loop, objective
from instruct_course.train.engine import supports

aten = torch.ops.aten
# they give Python a number, or a result whose shape depends on numbers
WAITING = {
    aten._local_scalar_dense,
    aten.bincount,
    aten.equal,
    aten.is_nonzero,
    aten.masked_select,
    aten.nonzero,
    aten.unique_dim,
    aten._unique2,
}


def waits(function, args) -> bool:
    """Whether a call with these arguments has to wait for a GPU."""
    if function.overloadpacket in WAITING or function is aten.repeat_interleave.Tensor:
        return True
    if function.overloadpacket not in (aten.index, aten.index_put, aten.index_put_):
        return False
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])


class Waits(TorchDispatchMode):
    """Counts the calls that wait, by name; inside `paused` none."""

    def __init__(self):
        super().__init__()
        self.names = []
        self.calls = 0
        self.on = True

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls += 1
        if self.on and waits(function, args):
            self.names.append(str(function))
        return function(*args, **(kwargs or {}))

    def paused(self, function):
        """The function, without what it counts: it works on tensors of the CPU."""

        def call(*args, **options):
            self.on = False
            try:
                return function(*args, **options)
            finally:
                self.on = True

        return call


def test_the_counter_sees_what_waits():
    x = torch.arange(4.0)
    with Waits() as seen:
        x.sum().item()
        x[x > 1]
        bool(x.any())
        x.nonzero()
        x[torch.tensor([1, 2])]
        x.sum() / 2
    names = [name.removeprefix("aten.") for name in seen.names]
    one = "_local_scalar_dense.default"
    assert names == [one, "index.Tensor", one, "nonzero.default"]


@contextmanager
def counted():
    """Inside, `loop.fit` is counted, but for `pack` and `read_numbers`: (counter, its reads)."""
    seen = Waits()
    reads = mock.Mock(wraps=seen.paused(loop.read_numbers))
    with (
        mock.patch.object(objective, "pack", seen.paused(objective.pack)),
        mock.patch.object(loop, "read_numbers", reads),
        seen,
    ):
        yield seen, reads


@pytest.mark.parametrize(
    "dtype,options",
    [
        (torch.float32, {}),
        (torch.float32, {"micro_batches": 3, "max_grad_norm": 0.0}),
        (torch.bfloat16, {"gradient_checkpointing": True}),
        (torch.float16, {}),
        (torch.float32, {"noise": loop.Noise("neftune", 5.0, spare_response=True)}),
    ],
    ids=["plain", "micro-batches", "checkpointing", "loss scale", "noise"],
)
def test_a_step_waits_once(dtype, options):
    model = tiny_llama(dtype=dtype)
    assert supports(model)
    config = loop.TrainConfig(max_steps=3, batch_tokens=120, cache=False, **options)
    draw = loop.Noise.draw
    with counted() as (seen, reads):
        with mock.patch.object(loop.Noise, "draw", lambda *args: seen.paused(draw)(*args)):
            history = loop.fit(model, ROWS, config, pad_id=0)
    assert len(history) == 3 and seen.calls > 300
    assert seen.names == []
    assert reads.call_count == 3


def test_numbers_are_read_as_they_are():
    numbers = [torch.tensor(0.1), torch.tensor(float("inf")), torch.tensor(1 / 3).double()]
    assert loop.read_numbers(*numbers) == [n.item() for n in numbers]
