"""Held-out losses: of each row what the library says of it alone, and the same for any batch size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import ROWS, row_lists, tiny, tiny_llama
from torch.nn import functional as F

from instruct_course.train import heldout


@pytest.fixture(scope="module")
def llama():
    return tiny()


def test_heldout_loss_is_the_same_at_any_batch_size():
    model = tiny_llama()
    longest = max(len(r.ids) for r in ROWS)
    got = [heldout.heldout_loss(model, ROWS, pad_id=0, batch_tokens=longest * k) for k in (1, 3, 8)]
    assert len({n for _, n in got}) == 1 and max(x for x, _ in got) - min(x for x, _ in got) < 1e-6


@given(
    rows=st.lists(row_lists(), min_size=1, max_size=3).map(
        lambda parts: [r for p in parts for r in p]
    ),
    budget=st.integers(8, 60),
)
@settings(deadline=None, max_examples=15)
def test_each_row_costs_what_the_library_says_of_it_alone(llama, rows, budget):
    for (nats, n), row in zip(
        heldout.row_losses(llama, rows, pad_id=0, batch_tokens=budget), rows, strict=True
    ):
        labels = torch.tensor(row.labels[1:], dtype=torch.long)
        with torch.no_grad():
            logits = llama(input_ids=torch.tensor([row.ids])).logits[0, :-1]
        assert n == (labels != -100).sum() and nats == pytest.approx(
            F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum").item(), rel=1e-7
        )  # transformers' norms are float32
