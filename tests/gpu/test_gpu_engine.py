"""The engine beside transformers and PEFT on a GPU: losses, gradients, no leak between rows.

How far may it be? Every result in 16 bits is rounded, by at most eps/2 of itself each time
(eps = 2^-7 in bfloat16, 2^-10 in float16), and a gradient is the end of a long chain of such
roundings. No bound on that chain is both safe and sharp, so the plain path is the yardstick: the
same weights in the next wider dtype give the exact result, and the errors of the engine, relative
to it, may on average be at most `TIMES` those of transformers with PEFT in the same dtype. The
factor is there because PEFT multiplies by its adapters in float32 and the engine in 16 bits,
which adds a rounding of xA and one of its product with B to each layer. The error of a single
adapter is a draw of a random sum: it may be `TIMES_EACH` times the plain path's error for it, or
for the adapter in the middle where the plain path was lucky. (On CPUs the average is 0.8 to 1.4
times the plain path's.) A loss is a sum in float32 of numbers whose errors cancel: one eps.
"""

from statistics import median
from unittest import mock

import numpy as np
import pytest
import torch
from tiny_models import V, library_in_float64, tiny

from instruct_course.data.template import Encoded
from instruct_course.doctor.compute import GRADIENT_ERROR, WEIGHT_ERROR, four_bit_errors
from instruct_course.model import lora, quantize
from instruct_course.train import batch, engine, loop, varlen
from instruct_course.train.loss import token_losses

TIMES = 2
TIMES_EACH = 4


def rows_alike(count=6, begin=24, longest=40, seed=0) -> list[Encoded]:
    """Rows of ragged lengths with a common beginning; the end of each is supervised."""
    rng = np.random.default_rng(seed)
    common = rng.integers(2, V, begin).tolist()
    rows = []
    for i in range(count):
        ids = common + rng.integers(2, V, 8 + (7 * i) % longest).tolist()
        learnt = 4 + i
        rows.append(Encoded(ids, [-100] * (len(ids) - learnt) + ids[-learnt:]))
    return rows


def model_of(kind: str, device: str, dtype: torch.dtype, weights=None):
    """A small model with float32 adapters whose B is not zero; `weights` of another model."""
    model = tiny(kind, dtype=dtype)
    for name, p in model.named_parameters():
        if "lora" in name:
            p.data = p.data.to(torch.promote_types(dtype, torch.float32))
    if weights is not None:
        model.load_state_dict(weights)
    return model.to(device)


def named_gradients(model, made, **options) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss per token of a batch and the gradient of each adapter, in float64 on the CPU."""
    model.zero_grad()
    with library_in_float64():
        total, count = engine.batch_loss(model, made, **options)
        total.backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    grads = {n: p.grad.double().cpu().clone() for n, p in trained.items()}
    model.zero_grad()
    return total.item() / count, grads


def relative_errors(got: dict, exact: dict) -> dict[str, float]:
    """The length of each difference, relative to the exact gradient's."""
    assert got.keys() == exact.keys()
    return {n: ((got[n] - g).norm() / g.norm()).item() for n, g in exact.items()}


def compare(place, rough, exact, rows, pad_id=0, **options) -> None:
    """The engine is as near to the exact result as the plain path is; see the head of the file."""
    device = rough.device
    exact_loss, exact_grads = named_gradients(exact, batch.collate(rows, pad_id, device))
    plain_loss, plain_grads = named_gradients(rough, batch.collate(rows, pad_id, device))
    plain_errors = relative_errors(plain_grads, exact_grads)
    middle = median(plain_errors.values())
    assert abs(plain_loss - exact_loss) <= place.eps * exact_loss
    for share in (0, 2):  # with the common beginning once, and without
        packed = batch.pack(rows, device, share=share)
        assert (packed.prefix_length > 0) == (share == 0)
        loss, grads = named_gradients(rough, packed, engine=engine.Engine(rough, **options))
        assert abs(loss - exact_loss) <= place.eps * exact_loss
        errors = relative_errors(grads, exact_grads)
        assert errors.keys() == plain_errors.keys() and len(errors) > 10
        ratios = [errors[name] / plain_errors[name] for name in errors]
        assert sum(ratios) / len(ratios) <= TIMES
        for name, error in errors.items():
            assert error <= TIMES_EACH * max(plain_errors[name], middle), name


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_losses_and_the_gradient_of_every_adapter(place, kind, checkpointing):
    rough = model_of(kind, place.device, place.dtype)
    exact = model_of(kind, place.device, place.reference, rough.state_dict())
    compare(place, rough, exact, rows_alike(), gradient_checkpointing=checkpointing)


def losses_by_row(model, rows, packed) -> list[torch.Tensor]:
    with torch.no_grad():
        losses = engine.batch_loss(model, packed, loss=token_losses).cpu()
    return list(losses.split([sum(l != -100 for l in row.labels[1:]) for row in rows]))


@pytest.mark.parametrize("share", [0, 2], ids=["shared beginning", "whole rows"])
def test_nothing_leaks_between_documents(place, share):
    """Change the own tokens of one row: the losses of all others stay, to the bit.

    The shapes stay, so the same kernels run, and each entry of a product depends on one row of
    its left factor: there is nothing that could be rounded in another way.
    """
    model = model_of("llama", place.device, place.dtype)
    rows = rows_alike()
    begin = batch.common_prefix(rows) if share == 0 else 0
    before = losses_by_row(model, rows, batch.pack(rows, place.device, share=share))
    for changed in range(len(rows)):
        row = rows[changed]
        own = [2 + (t + 7) % (V - 2) for t in row.ids[begin:]]
        ids = [*row.ids[:begin], *own]
        labels = [-100 if l == -100 else i for i, l in zip(ids, row.labels)]
        others = [*rows[:changed], Encoded(ids, labels), *rows[changed + 1 :]]
        # the beginning may not become longer or shorter
        packed = batch.pack(others, place.device, share=share)
        assert packed.prefix_length == begin
        after = losses_by_row(model, others, packed)
        for i, (a, b) in enumerate(zip(before, after)):
            assert torch.equal(a, b) == (i != changed), (changed, i)


# -- four bits


def test_a_four_bit_layer_gives_back_its_weights_and_gradients(device):
    weights, gradients = four_bit_errors(device)
    assert 0 < weights < WEIGHT_ERROR and gradients < GRADIENT_ERROR


def conversation(tokenizer, count=4) -> list[Encoded]:
    rows = []
    for i in range(count):
        ids = tokenizer(f"The capital of France is Paris, and {i} is a number.").input_ids
        begin = tokenizer("The capital of France is Paris.").input_ids
        ids = begin + ids
        rows.append(Encoded(ids, [-100] * len(begin) + ids[len(begin) :]))
    return rows


def test_a_step_in_four_bits(sixteen_bits, nano_at):
    """Real weights in NF4: as near to float32 as the library's own 4-bit layers are."""
    place = sixteen_bits
    base, wide = nano_at(place), nano_at(type(place)(place.device, torch.float32))
    rows = conversation(base.tokenizer)
    adapted = []
    for loaded in (base, wide):
        model = lora.attach(loaded.model, lora_r=4).train()
        generator = torch.Generator().manual_seed(0)
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.data.copy_(0.02 * torch.randn(p.shape, generator=generator))
        adapted.append(model)
    try:
        compare(place, *adapted, rows)
    finally:
        for model in adapted:
            model.unload()


def test_steps_in_four_bits_learn_and_leave_the_base_alone(usual_place, nano_at):
    base = nano_at(usual_place)
    rows = conversation(base.tokenizer)
    layer_type = quantize.bitsandbytes().nn.Linear4bit
    layers = [m for m in base.model.modules() if isinstance(m, layer_type)]
    before = [m.weight.data.clone() for m in layers]
    model = lora.attach(base.model, lora_r=4)
    try:
        config = loop.TrainConfig(epochs=4, lr=5e-3, batch_tokens=4096, warmup=0)
        history = loop.fit(model, rows, config, pad_id=0)
    finally:
        model.unload()
    losses = [numbers["loss"] for numbers in history]
    assert len(losses) == 4 and losses[-1] < losses[0] - 0.1
    assert len(layers) == 28
    assert all(torch.equal(a, m.weight.data) for a, m in zip(before, layers))


# -- attention of variable lengths


@pytest.mark.parametrize("prefix", [0, 24])
def test_the_kernel_of_variable_lengths_is_its_reference(place, prefix):
    """Results and gradients, as near to the wider dtype as the reference in this dtype is."""
    bounds = varlen.sequences_of(prefix, [5, 70, 1, 33])
    total = int(bounds.cu_queries[-1])
    bounds = batch.to_device(bounds, place.device)
    generator = torch.Generator().manual_seed(0)
    q, k, v, pull = (
        torch.randn(total, heads, 64, generator=generator).to(place.dtype) for heads in (4, 2, 2, 4)
    )
    asking = torch.arange(prefix, total, 3, device=place.device)

    def results(attend, dtype):
        x = [t.to(place.device, dtype).requires_grad_() for t in (q, k, v)]
        with mock.patch.object(varlen, "varlen_attend", attend):
            out = varlen.attend_sequences(*x, bounds, None, 0.125)
            few = varlen.attend_sequences(x[0][asking], *x[1:], bounds, asking, 0.125)
        weights = pull.to(place.device, dtype)
        grads = torch.autograd.grad((out * weights).sum() + few.sum(), x)
        return [t.double() for t in (out, few, *grads)]

    exact = results(varlen.varlen_reference, place.reference)
    plain = results(varlen.varlen_reference, place.dtype)
    kernel = varlen.varlen_attend
    if place.dtype == torch.float32:  # there is no such kernel
        kernel = varlen.varlen_reference
    for got, rough, wanted in zip(results(kernel, place.dtype), plain, exact):
        allowed = TIMES * max((rough - wanted).norm(), place.eps * wanted.norm())
        assert (got - wanted).norm() <= allowed


def test_a_gpu_takes_the_kernel_where_there_is_one(place):
    """In 16 bits on Ampere and later; a packed batch brings its sequences along on any GPU."""
    packed = batch.pack(rows_alike(), place.device)
    assert (packed.sequences is not None) == (place.device == "cuda")
    h = torch.zeros(2, 8, device=place.device, dtype=place.dtype)
    newer = place.device == "cuda" and torch.cuda.get_device_capability() >= (8, 0)
    expected = newer and place.dtype != torch.float32
    assert varlen.supports_varlen(h, 64) == expected
