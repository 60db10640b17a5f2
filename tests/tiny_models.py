"""Small models and rows that tests share."""

from contextlib import contextmanager
from unittest import mock

import numpy as np
import torch
from hypothesis import strategies as st

from instruct_course.data.template import Encoded
from instruct_course.model import lora
from instruct_course.train import engine, loop

V = 50  # ids of the models of `tiny`
VOCAB = 60  # ids of the models of `tiny_llama`


@st.composite
def row_lists(draw, most=5):
    """Rows with a common beginning of 0 to 6 ids and own tokens behind it. Of most of them the
    end is supervised; of some any tokens are, as in a conversation whose answers are all learnt.
    """
    begin, out = draw(st.lists(st.integers(0, V - 1), max_size=6)), []
    for _ in range(draw(st.integers(1, most))):
        own = draw(st.lists(st.integers(0, V - 1), min_size=1, max_size=7))
        ids = begin + own
        learnt = draw(st.integers(0, len(ids) - 1)) if len(ids) > 1 else 0
        labels = [-100] * (len(ids) - learnt) + ids[len(ids) - learnt :]
        if draw(st.integers(0, 2)) == 0:
            mask = draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
            labels = [i if m else -100 for i, m in zip(ids, mask)]
        out.append(Encoded(ids, labels))
    return out


def tiny(kind="llama", adapted=True, dtype=torch.float64, **options):
    """A small model of a kind, frozen, with adapters whose B is not zero."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    options = {"sliding_window": None} | options if kind == "mistral" else options
    config = AutoConfig.for_model(
        kind,
        vocab_size=V,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        **options,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).requires_grad_(False)
    for name, p in model.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(p, 1, 0.3)
    if adapted:
        model = lora.attach(model, lora_r=3, lora_alpha=6)
        for name, p in model.named_parameters():
            if "lora" in name:
                p.data = torch.nn.init.normal_(p.data.to(dtype), std=0.1)
    return model.train()


@contextmanager
def library_in_float64():
    """Inside, transformers' angles, norms and losses of a float64 model are in float64 as well.

    It converts to float32 for them, from whatever the model computes in.
    """
    to, to_float32 = torch.Tensor.to, torch.Tensor.float

    def convert(tensor, *args, **options):
        wanted = args[0] if args else options.get("dtype")
        if tensor.dtype == torch.float64 and wanted is torch.float32:
            return tensor
        return to(tensor, *args, **options)

    def double(tensor):
        return tensor if tensor.dtype == torch.float64 else to_float32(tensor)

    with mock.patch.multiple(torch.Tensor, to=convert, float=double):
        yield


def gradients(model, made, **options):
    """(total, n, gradient of all that is trained) of a batch."""
    model.zero_grad()
    total, n = engine.batch_loss(model, made, **options)
    total.backward()
    return (
        total.item(),
        n,
        torch.cat(
            [
                torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
                for p in model.parameters()
                if p.requires_grad
            ]
        ),
    )


def tiny_llama(dtype=torch.float32, **options):
    """A small frozen Llama with adapters."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    return lora.attach(
        AutoModelForCausalLM.from_config(config, dtype=dtype).requires_grad_(False),
        **{"lora_r": 4, "lora_alpha": 16, "seed": 1} | options,
    )


def some_rows(n=40, seed=0):
    """Rows of ragged lengths with ragged masks."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        ids = rng.integers(2, VOCAB, rng.integers(4, 20)).tolist()
        learnt = int(rng.integers(1, len(ids)))
        out.append(Encoded(ids, [-100] * (len(ids) - learnt) + ids[-learnt:]))
    return out


ROWS = some_rows()
CONFIG = loop.TrainConfig(epochs=2, lr=3e-3, batch_tokens=120, seed=5)


def adapter(model):
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])


def some_pairs(n=12, seed=0, shortest=1):
    """Pairs of ragged lengths over the ids of `tiny_llama`, answers of `shortest` to 5 tokens."""
    draw = torch.Generator().manual_seed(seed)

    def ids(least, most):
        size = int(torch.randint(least, most, (1,), generator=draw))
        return torch.randint(2, VOCAB, (size,), generator=draw).tolist()

    pairs = []
    for _ in range(n):
        prompt = [5, 6, *ids(1, 9)]
        ignored = [-100] * len(prompt)
        answers = [ids(shortest, 6), ids(shortest, 6)]
        pairs.append(tuple(Encoded([*prompt, *a], [*ignored, *a]) for a in answers))
    return pairs
