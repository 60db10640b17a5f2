"""Batches: of one group and like length, and packed batches that hold the rows and nothing else."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import row_lists

from instruct_course.data.template import Encoded
from instruct_course.train import batch
from instruct_course.train.loss import supervised


@settings(max_examples=200, deadline=None)
@given(row_lists())
def test_a_packed_batch_holds_the_rows(rows):
    packed = batch.pack(rows, share=0)
    p, flat = packed.prefix_length, packed.input_ids[0]
    lengths = [len(r.ids) - p for r in rows]
    assert (
        min(lengths) >= 1
        and flat.numel()
        == p + sum(lengths)
        == packed.position_ids.numel()
        == packed.targets.numel()
    )
    for row, own, n in zip(rows, packed.pad_indices, lengths):
        assert [*flat[:p].tolist(), *flat[own[:n]].tolist()] == list(row.ids)
        assert packed.position_ids[0, own[:n]].tolist() == list(range(p, p + n))
        want = [l for l in row.labels[1:] if l != -100]
        assert [l for l in packed.targets[own[:n]].tolist() if l != -100] == want
    assert (packed.targets[:p] == -100).all() and packed.pad_indices.flatten()[
        packed.unpad_indices
    ].tolist() == list(range(p, flat.numel()))
    assert sorted(packed.targets[packed.targets != -100].tolist()) == sorted(
        supervised(batch.collate(rows, 0)["labels"])[1].tolist()
    )


def test_a_beginning_that_saves_little_is_not_shared():
    rows = [Encoded([7, *range(10 * t, 10 * t + 20), 3], [-100] * 21 + [3]) for t in range(4)]
    assert batch.pack(rows, share=0).prefix_length == 1 and batch.pack(rows).prefix_length == 0
    alike = [Encoded([*range(20), t, 3], [-100] * 21 + [3]) for t in range(4)]
    assert batch.pack(alike).prefix_length == 20 and batch.pack(alike, share=2).prefix_length == 0


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=60),
    room=st.integers(16, 200),
    seed=st.integers(0, 99),
)
def test_a_batch_is_of_one_group(lengths, room, seed):
    groups = torch.randint(
        3, (len(lengths),), generator=torch.Generator().manual_seed(seed)
    ).tolist()
    got = batch.batches(lengths, room, groups=groups)
    assert sorted(i for b in got for i in b) == list(range(len(lengths))) and all(
        len({groups[i] for i in b}) == 1 for b in got
    )
    assert all(len(b) == 1 or max(lengths[i] for i in b) * len(b) <= room for b in got)


def test_groups_are_common_prefixes():
    begin = {name: [k] * 16 for k, name in enumerate("abc")}
    rows = [Encoded([*begin[name], i], []) for i, name in enumerate("a" * 10 + "b" * 9 + "c")] + [
        Encoded([0, 1], [])
    ]
    got = batch.prefix_groups(rows)
    assert (
        len(set(got[:10])) == len(set(got[10:19])) == 1
        and got[0] != got[10]
        and 0 not in (got[0], got[10])
        and got[19:] == [0, 0]
    )
