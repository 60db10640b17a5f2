"""Attention by sequences of variable lengths: what the engine tells the kernel, on a CPU.

The kernel itself needs a GPU (tests/gpu); here the reference stands in its place.
"""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from tiny_models import gradients, library_in_float64, row_lists, tiny

from instruct_course.data.template import Encoded
from instruct_course.train import batch, engine, varlen


@pytest.fixture(scope="module")
def llama():
    return tiny()


def test_the_sequences_of_a_prefix_and_three_rows():
    made = varlen.sequences_of(2, [3, 2, 3])
    assert made.cu_queries.tolist() == [0, 2, 5, 7, 10]
    assert made.cu_keys.tolist() == [0, 2, 7, 11, 16]
    assert made.cu_queries.dtype == made.cu_keys.dtype == torch.int32
    assert (made.max_queries, made.max_keys) == (3, 5)
    assert made.key_indices.tolist() == [0, 1, 0, 1, 2, 3, 4, 0, 1, 5, 6, 0, 1, 7, 8, 9]
    assert made.own_keys.tolist() == [0, 1, 4, 5, 6, 9, 10, 13, 14, 15]
    assert made.prefix_keys.tolist() == [[2, 3], [7, 8], [11, 12]]


def test_without_a_prefix_the_keys_are_the_tokens():
    made = varlen.sequences_of(0, [3, 2])
    assert made.cu_queries.tolist() == made.cu_keys.tolist() == [0, 3, 5]
    x = torch.randn(5, 2, 4)
    assert varlen.repeat_prefix(x, made) is x


def test_the_gradient_of_the_prefix_is_that_of_all_its_copies():
    made = varlen.sequences_of(2, [3, 2, 3])
    x = torch.randn(10, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: varlen.repeat_prefix(t, made), x)


def test_the_engine_by_sequences_gives_the_librarys_loss_and_gradient(llama):
    """With the reference for the kernel, whatever the rows are."""

    @settings(max_examples=60, deadline=None)
    @given(row_lists())
    def check(rows):
        with library_in_float64():
            total, count, wanted = gradients(llama, batch.collate(rows, 0))
        for share in (0, 2):
            packed = batch.pack(rows, share=share, sequences=True)
            with (
                mock.patch.object(engine, "supports_varlen", lambda h, d: True),
                mock.patch.object(engine, "query_index", side_effect=AssertionError("a mask")),
            ):
                loss, n, got = gradients(llama, packed)
            assert n == count and loss == pytest.approx(total, rel=1e-9, abs=1e-10)
            torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-10)

    check()


def test_checkpointing_by_sequences_gives_the_same_bits(llama):
    rows = [Encoded([7, 8, 9, 10 + t, 3, 4], [-100] * 4 + [3, 4]) for t in range(5)]
    packed = batch.pack(rows, sequences=True)
    assert packed.prefix_length == 3
    with mock.patch.object(engine, "supports_varlen", lambda h, d: True):
        kept = gradients(llama, packed, engine=engine.Engine(llama))
        again = gradients(llama, packed, engine=engine.Engine(llama, gradient_checkpointing=True))
    assert kept[:2] == again[:2] and torch.equal(kept[2], again[2])


def test_no_kernel_on_a_cpu_and_no_sequences_unless_asked_for(llama):
    rows = [Encoded([5, 6, 7], [-100, 6, 7])]
    assert batch.pack(rows).sequences is None
    for dtype in (torch.float32, torch.bfloat16):
        assert not varlen.supports_varlen(torch.zeros(2, 8, dtype=dtype), 64)
    a = engine.batch_loss(llama, batch.pack(rows))[0]
    b = engine.batch_loss(llama, batch.pack(rows, sequences=True))[0]
    assert torch.equal(a, b)


def on_a_gpu(dtype=torch.bfloat16):
    states = mock.Mock(spec=["device", "dtype"])
    states.device, states.dtype = torch.device("cuda", 0), dtype
    return states


@pytest.mark.parametrize(
    "dtype,head_dim,capability,flash,expected",
    [
        (torch.bfloat16, 128, (9, 0), True, True),
        (torch.float16, 64, (8, 0), True, True),
        (torch.float16, 64, (7, 5), True, False),  # a T4
        (torch.float32, 64, (9, 0), True, False),
        (torch.bfloat16, 20, (9, 0), True, False),
        (torch.bfloat16, 512, (9, 0), True, False),
        (torch.bfloat16, 64, (9, 0), False, False),
    ],
)
def test_where_there_is_a_kernel(monkeypatch, dtype, head_dim, capability, flash, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: flash)
    assert varlen.supports_varlen(on_a_gpu(dtype), head_dim) is expected
