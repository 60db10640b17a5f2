"""Float16: the engine computes in it as well as transformers does.

And a model that leaves its range is found, divided, and stays the same model.
"""

import copy

import pytest
import torch
from tiny_models import V, gradients, tiny

from instruct_course import generate
from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.data.template import Encoded
from instruct_course.model import float16, load, lora
from instruct_course.model.load import load_base
from instruct_course.train import batch, engine, loop

EPS = torch.finfo(torch.float16).eps
ROWS = [Encoded([3, 4, 5, 6, 7 + t, 8, t], [-100] * 5 + [8, t]) for t in range(8, 14)]
IDS = torch.tensor([[3, 9, 27, 31, 44, 12, 6, 18]])


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=ids).logits.float()


def bare(kind="llama", dtype=torch.float64, **options):
    return tiny(kind, adapted=False, dtype=dtype, **options).eval()


def plant(model, K: float):
    """The same function with a residual stream and MLP products K times as large.

    The change is in the weights alone: what a published model may look like.
    """
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        tied = head is model.get_input_embeddings().weight
        model.get_input_embeddings().weight.mul_(K)
        model.model.norm.weight.div_(K if tied else 1)
        for layer in model.model.layers:
            for linear in (layer.self_attn.o_proj, layer.mlp.up_proj):
                linear.weight.mul_(K)
                if linear.bias is not None:
                    linear.bias.mul_(K)
            if layer.mlp.down_proj.bias is not None:
                layer.mlp.down_proj.bias.mul_(K)
    for norm in [
        model.model.norm,
        *(
            n
            for layer in model.model.layers
            for n in (layer.input_layernorm, layer.post_attention_layernorm)
        ),
    ]:
        norm.variance_epsilon *= K * K
    model.config.rms_norm_eps *= K * K
    return model


# -- the engine


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_the_engine_in_float16_is_as_near_to_float32_as_transformers_is(kind):
    """float32 masters on the same weights: a relative error of a few roundings.

    A rounding is half an eps. PEFT computes its adapters in float32 and the engine in 16 bits, so
    twice the library's error is allowed.
    """
    exact = tiny(kind, dtype=torch.float32)
    rough = tiny(kind, dtype=torch.float16)
    for (n, p), (_, q) in zip(rough.named_parameters(), exact.named_parameters()):
        if "lora" in n:
            p.data = q.data.clone()
        else:
            q.data = p.data.float()
    assert engine.supports(rough)
    total, n, g = gradients(exact, batch.collate(ROWS, 0))
    far = []
    for made, options in (
        (batch.collate(ROWS, 0), {}),
        (batch.pack(ROWS), {}),
        (batch.pack(ROWS), {"gradient_checkpointing": True}),
    ):
        options = (
            {"engine": engine.Engine(rough, **options)}
            if isinstance(made, batch.PackedBatch)
            else {}
        )
        loss, m, got = gradients(rough, made, **options)
        assert m == n and loss == pytest.approx(total, rel=2 * EPS)
        far.append(((got - g).norm() / g.norm()).item())
    assert all(x < 2 * EPS for x in far) and far[1] < 2 * far[0] and far[1] == far[2]
    assert all(p.grad.dtype == torch.float32 for n, p in rough.named_parameters() if "lora" in n)


def test_nano_in_float16(fresh):
    """The real base in 4 bits: the engine's loss and gradient, beside the library's."""
    half = load_base("nano", dtype=torch.float16, say=lambda text: None)
    exact, rough = (lora.attach(b.model, lora_r=4).train() for b in (fresh, half))
    rows = [
        Encoded([288, 426, 314, 4011, 278, 2882 + t, 16], [-100] * 4 + [278, 2882 + t, 16])
        for t in range(4)
    ]
    total, n, g = gradients(exact, batch.collate(rows, 0))
    far = {}
    for what, made in (("library", batch.collate(rows, 0)), ("engine", batch.pack(rows))):
        loss, _, got = gradients(rough, made)
        assert loss == pytest.approx(total, rel=4 * EPS)
        far[what] = ((got - g).norm() / g.norm()).item()
    assert far["engine"] < 1.5 * far["library"] and far["engine"] < 0.1, far


def test_adapters_in_float16_take_the_plain_path():
    assert not engine.supports(tiny(dtype=torch.float16)), (
        "the loss scale has nothing to divide safely in 16 bits"
    )


def test_trained_rows_beside_float16_are_float32():
    model = lora.attach(bare(dtype=torch.float16), lora_r=2, token_ids=[7, 8])
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    rows = [Encoded([3, 7, 5, 8, 7, t], [-100] * 4 + [7, t]) for t in range(8, 12)]
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    history = loop.fit(
        model, rows * 4, loop.TrainConfig(epochs=6, lr=1e-2, batch_tokens=48), pad_id=0
    )
    taken = [h for h in history if h["grad_norm"] is not None]
    assert len(taken) > len(history) / 2 and history[-1]["loss"] < history[0]["loss"]
    assert all(
        (p - q).abs().max() > 0
        for p, q in zip(before, (p for p in model.parameters() if p.requires_grad))
    )


# -- the rescaling


@pytest.mark.parametrize(
    "kind,options",
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("qwen2", {}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {}),
        ("mistral", {}),
    ],
)
def test_a_divided_stream_changes_nothing_but_itself(kind, options):
    for dtype, tolerance in (
        (torch.float64, 1e-5),
        (torch.float32, 1e-5),
    ):  # transformers' norms compute in float32 in both
        model = bare(kind, dtype, **options)
        was, (stream, product) = logits(model), float16.peaks(model, IDS.tolist())
        float16.rescale(model, 64)
        float16.rescale(model, 0.5)
        assert (
            model.rescaled == 32 and (logits(model) - was).abs().max() < tolerance * was.abs().max()
        )
        now = float16.peaks(model, IDS.tolist())
        assert now[0] == pytest.approx([x / 32 for x in stream], rel=1e-5) and now[
            1
        ] == pytest.approx([x / 32 for x in product], rel=1e-5)


def test_planted_is_the_same_function():
    """The tests' own tool, held against the function it keeps."""
    for kind, options in (
        ("llama", {"mlp_bias": True, "attention_bias": True}),
        ("qwen2", {"tie_word_embeddings": True}),
    ):
        was = logits(bare(kind, **options))
        torch.testing.assert_close(
            logits(plant(bare(kind, **options), 2.0**18)), was, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("noise", [None, loop.Noise("neftune", 5)])
def test_engine_and_library_agree_on_a_divided_model(noise):
    """Loss and gradients, and those of the undivided model too.

    With noise, which is drawn for embeddings as they were.
    """
    results = []
    for s in (1, 32):
        model = bare(dtype=torch.float64)
        if s > 1:
            float16.rescale(model, s)
        model = lora.attach(model, lora_r=3, lora_alpha=6, token_ids=[7, 8]).double().train()
        torch.manual_seed(1)
        for name, p in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.1)
        assert engine.supports(model)
        drawn = noise and [noise.draw(r, 32, (0, i)) for i, r in enumerate(ROWS)]
        for line in (False, True):
            made = batch.pack(ROWS, share=2) if line else batch.collate(ROWS, 0)
            x = None if noise is None else torch.cat(drawn) if line else torch.stack(drawn)
            results.append(gradients(model, made, noise=x))
    for total, _, g in results[1:]:
        assert (
            total == pytest.approx(results[0][0], rel=1e-6)
            and (g - results[0][2]).norm() < 1e-5 * results[0][2].norm()
        )


def test_an_adapter_means_the_published_weights(tmp_path):
    """Made on a divided model and read on an undivided one, and the other way round."""
    divided = bare(dtype=torch.float32)
    plain = bare(dtype=torch.float32)
    float16.rescale(divided, 64)
    for i, (there, here) in enumerate(((divided, plain), (plain, divided))):
        made = lora.attach(copy.deepcopy(there), lora_r=3, token_ids=[9])
        torch.manual_seed(2)
        for p in made.parameters():
            if p.requires_grad:
                torch.nn.init.normal_(p, std=0.2)
        was = logits(made.eval())
        lora.save(made, tmp_path / str(i), base="tiny")
        again = logits(lora.load(copy.deepcopy(here), tmp_path / str(i)))
        assert (was - logits(there)).abs().max() > 0.1
        torch.testing.assert_close(again, was, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("used", [False, True])
def test_8_bit_layers_are_divided_by_their_scales(used):
    """Before the first product the scales are at the weight, afterwards in the layer's state."""
    model = load_base("nano", quantization="8bit", dtype=torch.float32).model
    plain = logits(model)
    if not used:
        model = load_base("nano", quantization="8bit", dtype=torch.float32).model
    float16.rescale(model, 8)
    assert model.rescaled == 8
    assert (logits(model) - plain).norm() / plain.norm() < 0.005


def test_what_cannot_be_divided_is_refused():
    from transformers import AutoConfig, AutoModelForCausalLM

    gpt = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("gpt2", vocab_size=V, n_embd=16, n_layer=1, n_head=2)
    )
    for model in (gpt, tiny()):
        with pytest.raises(InputError, match="cannot be rescaled"):
            float16.rescale(getattr(model, "base_model", model) if model is not gpt else gpt, 2)


# -- the door


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A folder with nano's weights and a stream 256 times as large."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("planted") / "model"
    plant(
        AutoModelForCausalLM.from_pretrained(ASSETS / "nano", dtype=torch.float32), 256.0
    ).save_pretrained(folder)
    AutoTokenizer.from_pretrained(ASSETS / "nano").save_pretrained(folder)
    return folder


SENTENCE = torch.tensor([[288, 426, 314, 4011, 278, 2882, 16]])


def test_a_model_that_leaves_the_range_is_found_and_divided(planted, nano, monkeypatch):
    """In 4 bits: NaN as it is, float32's logits and answers as the door gives it.

    Fingerprint and published weights are untouched.
    """
    said = []
    with monkeypatch.context() as patch:
        patch.setattr(load, "keep_in_range", lambda *a, **k: None)
        assert (
            not logits(load_base(str(planted), dtype=torch.float16).model, SENTENCE)
            .isfinite()
            .all()
        )
    base = load_base(str(planted), dtype=torch.float16, say=said.append)
    exact = load_base(str(planted), dtype=torch.float32)
    assert (
        base.model.rescaled == 1024
        and not hasattr(exact.model, "rescaled")
        and base.fingerprint == exact.fingerprint
    )
    assert len(said) == 1 and "its residual stream is divided by 1024" in said[0]
    top = max(map(max, float16.peaks(base.model, SENTENCE.tolist())))
    assert top < 2**14
    a = logits(base.model, SENTENCE)
    b = logits(exact.model, SENTENCE)
    c = logits(nano.model, SENTENCE)
    assert torch.equal(b, c) and (a - b).abs().max() < 8 * EPS * b.abs().max()
    answers = [
        generate.complete(m, nano.tokenizer, SENTENCE.tolist(), stop_ids=[1], max_new_tokens=6)
        for m in (base.model, nano.model)
    ]
    assert answers[0] == answers[1]


def test_it_learns_and_its_adapter_serves_the_published_base(planted, tmp_path):
    """Half precision, 4 bits, divided by 1,024, with the loss scale.

    The loss falls as in float32, and the adapter gives float32's answers there.
    """
    rows = [
        Encoded([288, 426, 314, 20 + t, 278, 40 + t, 1], [-100] * 5 + [40 + t, 1]) for t in range(6)
    ]
    config = loop.TrainConfig(epochs=12, lr=3e-3, batch_tokens=64)
    history = {}
    for dtype in (torch.float32, torch.float16):
        base = load_base(str(planted), dtype=dtype, say=lambda text: None)
        model = lora.attach(base.model, lora_r=4)
        history[dtype] = loop.fit(model, rows, config, pad_id=0)
    losses = {d: [x["loss"] for x in h] for d, h in history.items()}
    assert losses[torch.float16][0] == pytest.approx(losses[torch.float32][0], rel=0.01)
    assert (
        losses[torch.float16] == pytest.approx(losses[torch.float32], rel=0.05)
        and losses[torch.float16][-1] < 0.1 * losses[torch.float16][0]
    )
    lora.save(model, tmp_path / "adapter", base=base)
    there = lora.load(load_base(str(planted), dtype=torch.float32), tmp_path / "adapter")
    assert (
        there.base_model.model.model.layers[0].mlp.up_proj.scaling["default"]
        == 8
        == 1024 * model.base_model.model.model.layers[0].mlp.up_proj.scaling["default"]
    )
    assert loop.heldout_loss(there, rows, pad_id=0)[0] == pytest.approx(
        loop.heldout_loss(model, rows, pad_id=0)[0], rel=0.02
    )
    prompts = [r.ids[:5] for r in rows]
    said = [
        generate.complete(m, base.tokenizer, prompts, stop_ids=[1], max_new_tokens=2)
        for m in (model.eval(), there)
    ]
    assert said[0] == said[1]


class Words:
    """A tokenizer of a tiny model."""

    all_special_ids = [0, 1]

    def __call__(self, text):
        return type("Encoding", (), {"input_ids": [ord(ch) % V for ch in text]})


@pytest.mark.parametrize(
    "kind,options",
    [
        ("qwen2", {"tie_word_embeddings": True}),
        ("llama", {"mlp_bias": True, "attention_bias": True}),
        ("qwen2", {}),
    ],
)
def test_tiny_models_of_other_shapes(kind, options):
    """Biases and tied heads in float16, and the smallest power of two that is enough."""
    clean = bare(kind, torch.float32, **options).half()
    said = []
    top = max(map(max, float16.peaks(clean.float(), IDS.tolist())))
    K = 2.0 ** (
        16 - torch.tensor(top).log2().floor().item()
    )  # its stream reaches 65,536 to 131,072
    model = plant(bare(kind, torch.float32, **options), K)
    exact = logits(model)
    model = model.half()
    assert not logits(model).isfinite().all()
    float16.keep_in_range(model, Words(), "tiny", say=said.append)
    assert model.rescaled in (8, 16) and len(said) == 1
    assert (logits(model) - exact).abs().max() < 20 * EPS * exact.abs().max()
    assert (
        max(
            map(
                max, float16.peaks(model, [[ord(ch) % V for ch in text] for text in float16.PROBES])
            )
        )
        <= 2**14
    )
    kept = model.rescaled
    float16.keep_in_range(model, Words(), "tiny", say=lambda text: None)
    assert model.rescaled == kept, "once is enough"


def test_no_divisor_helps_where_something_else_is_infinite():
    model = bare(dtype=torch.float16)
    with torch.no_grad():
        model.model.layers[1].mlp.gate_proj.weight[0, 0] = torch.inf
    with pytest.raises(
        InputError,
        match=r"^--model tiny: its numbers leave the range of float16 .*divided by 1024.*"
        r"bf16.*another model$",
    ):
        float16.keep_in_range(model, Words(), "tiny")


def test_other_architectures_are_only_asked_for_numbers():
    from transformers import AutoConfig, AutoModelForCausalLM

    gpt = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("gpt2", vocab_size=V, n_embd=16, n_layer=1, n_head=2),
        dtype=torch.float16,
    ).eval()
    float16.keep_in_range(gpt, Words(), "gpt")
    gpt.lm_head.weight.data[0, 0] = torch.nan
    with pytest.raises(InputError, match="--model gpt: its numbers leave the range"):
        float16.keep_in_range(gpt, Words(), "gpt")
