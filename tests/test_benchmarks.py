"""The benchmarks count what they say they count."""

import importlib.util
import math

import pytest
import torch

from benchmarks import contender, products, sft
from instruct_course.data.template import Encoded
from instruct_course.train.batch import pack


class Tiny:
    """A configuration small enough for paper."""

    (
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        hidden_size,
        head_dim,
        intermediate_size,
        vocab_size,
    ) = 2, 2, 1, 4, 2, 6, 10


def count(part, **options):
    shape = products.Shape(tokens=5, asked=3, own=(2, 2), prefix=1, most=2)
    return sum(p.operations for p in products.step(Tiny, shape, **options) if p.part == part)


def test_operations_of_a_tiny_step():
    qkv, o, gate, down = 4 * (4 + 2 + 2), 4 * 4, 4 * 12, 6 * 4  # weights of each group
    first = 5 * (qkv + 2 * (o + gate + down))  # nothing wants a gradient below the first layer
    last = 2 * (
        5 * 4 * (2 + 2) + 3 * (4 * 4 + o + gate + down)
    )  # keys and values of 5 tokens, the rest of 3
    assert count("body") == 2 * (first + last)
    assert count("body", forward=2) == 2 * (first + last) + 2 * (
        5 * (qkv + o + gate + down) + 5 * 16 + 3 * (16 + o + gate + down)
    )
    assert count("head") == 2 * 2 * 3 * 4 * 10
    assert count("attention") == 2 * 6 * 2 * (
        (2 * 2 * 2 * 3) + (2 * 1 * 1) + (2 * 2 * 2 * 3)
    )  # 6 products of d = 2: own tokens, the beginning; then the last layer

    def lora(rows, inner, *outs):
        return (
            2 * rows * sum(3 * inner + 3 * out for out in outs)
        )  # rank 2: forwards, gradient of the weight, gradient of the input

    first = lora(5, 4, 4, 2, 2) - 3 * 2 * 5 * 4 + lora(5, 4, 4) + lora(5, 4, 6, 6) + lora(5, 6, 4)
    last = lora(3, 4, 4) + lora(5, 4, 2, 2) + lora(3, 4, 4) + lora(3, 4, 6, 6) + lora(3, 6, 4)
    assert count("adapters", rank=2) == 2 * (first + last)
    assert count("adapters", rank=0) == 0


def test_the_clock_runs_every_product():
    rows = [
        Encoded([1, 2, 3, 4, 5], [-100, -100, -100, 4, 5]),
        Encoded([1, 2, 3, 9], [-100, -100, -100, 9]),
    ]
    shape = products.shape_of(pack(rows, share=0))
    assert (shape.tokens, shape.asked, shape.prefix, shape.most) == (7, 3, 2, 2)
    made = products.step(Tiny, shape, rank=2)
    assert set(products.Clock(torch.float32).seconds(made)) == {
        "body",
        "adapters",
        "attention",
        "head",
    }
    assert set(products.Clock(torch.float32, layers=1).seconds(made)) == {
        "body",
        "adapters",
        "attention",
        "head",
    }


def test_the_time_to_a_loss_lies_on_the_line():
    points = [(0, 2.0), (10, 1.0), (20, 0.5)]
    assert (
        sft.reached(points, 1.5) == 5
        and sft.reached(points, 0.5) == 20
        and sft.reached(points, 0.4) is None
        and sft.reached(points, 3) == 0
    )


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed")
@pytest.mark.parametrize("name", ["defaults", contender.STRONGEST, "padding-free"])
def test_trl_sees_the_same_tokens(name, tmp_path):
    from instruct_course.data import dataset, template
    from instruct_course.model import lora
    from instruct_course.model.load import load_base

    base = load_base("nano")
    form = template.named("alpaca")
    rows = [
        template.encode(form, base.tokenizer, dataset.example(r))
        for r in dataset.builtin("dev").select(range(11))
    ]
    made = contender.trainer(
        lora.attach(base.model, lora_r=2),
        rows,
        base.tokenizer,
        contender.TRL[name],
        epochs=1,
        folder=str(tmp_path),
    )
    batches = list(made.get_train_dataloader())
    real = sum(
        int(b["attention_mask"].sum()) if "attention_mask" in b else b["input_ids"].numel()
        for b in batches
    )
    assert len(batches) == math.ceil(11 / made.args.per_device_train_batch_size) and real == sum(
        len(r.ids) for r in rows
    )
    assert sum(int((b["labels"][:, 1:] != -100).sum()) for b in batches) == sum(
        map(contender.supervised, rows)
    )


def test_dpo_is_compared_round_by_round():
    """Each round's seconds against those of ours in the same round; losses step by step."""
    from benchmarks import dpo

    turns = {
        "ours": [{"seconds": 1.0, "losses": [0.5, 0.4]}, {"seconds": 2.0, "losses": [0.5, 0.4]}],
        "TRL": [{"seconds": 5.0, "losses": [0.5, 0.402]}, {"seconds": 6.0, "losses": [0.5, 0.4]}],
    }
    found = dpo.summary(turns, tokens=300)
    assert found["TRL"]["times_slower"] == [4.0, 3.0, 5.0]
    assert found["ours"]["times_slower"] == [1.0, 1.0, 1.0]
    assert found["ours"]["tokens_per_second"] == pytest.approx(200)
    assert found["TRL"]["loss_difference"] == pytest.approx(0.005)
    assert "| TRL | 55 | 4.0 (3.0–5.0) | 0.50% |" in dpo.table(found)
