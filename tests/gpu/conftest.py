"""Where the tests of this folder run: on the GPU, and the same functions on a CPU.

On a machine without a GPU the CPU's part runs, so that the tests themselves are tested; on one
with a GPU only the GPU's part does, as `load_base` puts every model there.
"""

from dataclasses import dataclass

import pytest
import torch

from instruct_course.model.load import load_base

HAS_GPU = torch.cuda.is_available()


@dataclass(frozen=True)
class Place:
    """A device and the dtype that a model computes in there."""

    device: str
    dtype: torch.dtype

    def __str__(self):
        return f"{self.device}-{str(self.dtype).removeprefix('torch.')}"

    @property
    def eps(self) -> float:
        """The distance from 1 to the next number of the dtype."""
        return torch.finfo(self.dtype).eps

    @property
    def reference(self) -> torch.dtype:
        """The dtype of exact results: the next wider one."""
        return torch.float64 if self.dtype == torch.float32 else torch.float32


PLACES = [
    Place("cpu", torch.float32),
    Place("cpu", torch.bfloat16),
    Place("cpu", torch.float16),
    Place("cuda", torch.float32),
    Place("cuda", torch.bfloat16),
    Place("cuda", torch.float16),
]


def _parameter(place: Place):
    if place.device == "cuda":
        reason = "torch sees no GPU here (torch.cuda.is_available() is False)"
        mark = pytest.mark.skipif(not HAS_GPU, reason=reason)
    else:
        reason = "there is a GPU here, and its part of this test runs"
        mark = pytest.mark.skipif(HAS_GPU, reason=reason)
    return pytest.param(place, marks=mark, id=str(place))


@pytest.fixture(scope="session", params=[_parameter(place) for place in PLACES])
def place(request):
    """A device with a dtype."""
    return request.param


def _some(*indices: int) -> list:
    return [_parameter(PLACES[i]) for i in indices]


@pytest.fixture(scope="session", params=_some(0, 1, 3, 4, 5))
def usual_place(request):
    """A device with a dtype that `load_base` chooses for some machine."""
    return request.param


@pytest.fixture(scope="session", params=_some(1, 4, 5))
def sixteen_bits(request):
    """A device with a dtype of 16 bits that real models are trained in there."""
    return request.param


@pytest.fixture(scope="session", params=_some(0, 3), ids=["cpu", "cuda"])
def device(request):
    """A device, for what depends on no dtype."""
    return request.param.device


@pytest.fixture(scope="session")
def nano_at():
    """nano_at(place) -> the built-in base in 4 bits there; tests must leave it as it is."""
    loaded = {}

    def load(place: Place):
        if place not in loaded:
            loaded[place] = load_base("nano", dtype=place.dtype, say=lambda text: None)
            assert loaded[place].model.device.type == place.device
        return loaded[place]

    return load
