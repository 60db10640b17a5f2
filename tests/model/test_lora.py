"""Adapters: the layer by hand against PEFT's, where they go, what a saved one refuses."""

import copy
import dataclasses
import json

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.data import template as template_
from instruct_course.model import lora
from instruct_course.model.load import Base, load_base
from instruct_course.model.quantize import bitsandbytes

bnb = bitsandbytes()
from peft import LoraConfig, get_peft_model  # after bitsandbytes: chapter 06 says why

# -- the layer


def four_bit(width, out, bias, compute_dtype, nested=True):
    layer = bnb.nn.Linear4bit(
        width,
        out,
        bias=bias,
        compute_dtype=compute_dtype,
        quant_type="nf4",
        compress_statistics=nested,
    ).to("cpu")
    layer.support_avx512bf16_for_cpu = False
    return layer


def pair(base, rank, alpha, seed=0):
    """(our layer, PEFT's) around two copies of `base`, with the same random A and B."""
    torch.manual_seed(seed)
    ours = lora.LoRALinear(copy.deepcopy(base), rank, alpha)
    model = torch.nn.ModuleDict({"only": base})
    if isinstance(base, bnb.nn.Linear4bit):
        model.is_loaded_in_4bit = True  # how PEFT knows that it is not a plain layer
    peft = get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=alpha, target_modules=["only"])
    ).base_model.model["only"]
    torch.nn.init.normal_(ours.lora_B)
    for a, b in (
        (ours.lora_A, peft.lora_A["default"].weight),
        (ours.lora_B, peft.lora_B["default"].weight),
    ):
        assert a.shape == b.shape and a.dtype == b.dtype
        b.data.copy_(a.data)
    return ours, peft


def results(layer, x, above, parameters):
    x = x.clone().requires_grad_(True)
    y = layer(x)
    return [y, *torch.autograd.grad(y, [x, *parameters], above)]


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["plain", "nf4"]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    bias=st.booleans(),
    rank=st.integers(1, 9),
    alpha=st.sampled_from([1, 2.5, 16, 256]),
    out=st.integers(1, 5),
    shape=st.sampled_from([(3,), (2, 3), (1, 1, 2), ()]),
    seed=st.integers(0, 999),
)
def test_the_layer_is_pefts_in_value_and_gradient(kind, dtype, bias, rank, alpha, out, shape, seed):
    torch.manual_seed(seed)
    if kind == "plain":
        base = torch.nn.Linear(64, 16 * out, bias=bias).to(dtype)
    else:
        base = four_bit(
            64, 16 * out, bias, torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
        )
    ours, peft = pair(base, rank, alpha, seed)
    assert type(peft).__name__ == ("Linear" if kind == "plain" else "Linear4bit"), (
        "the library's layer for this base"
    )
    x = torch.randn(*shape, 64).to(dtype)
    above = torch.randn(*shape, 16 * out).to(dtype)
    mine = results(ours, x, above, [ours.lora_A, ours.lora_B])
    theirs = results(peft, x, above, [peft.lora_A["default"].weight, peft.lora_B["default"].weight])
    for what, a, b in zip(("output", "dX", "dA", "dB"), mine, theirs):
        assert a.dtype == b.dtype and a.shape == b.shape, what
        torch.testing.assert_close(
            a, b, rtol=1e-6, atol=1e-6, msg=lambda m, what=what: f"{what}: {m}"
        )


def test_the_compute_dtype_need_not_be_the_inputs():
    ours, peft = pair(four_bit(64, 32, True, torch.bfloat16), 4, 8)
    x = torch.randn(5, 64)
    torch.testing.assert_close(ours(x), peft(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "base", [torch.nn.Linear(64, 48), four_bit(64, 48, True, torch.float32)], ids=["plain", "nf4"]
)
def test_a_fresh_layer_is_its_base_and_only_the_adapter_learns(base):
    layer = lora.LoRALinear(base, 8, 16)
    x = torch.randn(7, 64)
    assert (layer(x) - base(x)).abs().max() == 0.0
    assert (tuple(layer.lora_A.shape), tuple(layer.lora_B.shape)) == (
        (8, 64),
        (48, 8),
    ) and layer.lora_B.abs().max() == 0
    assert {n for n, p in layer.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
    layer(x).sum().backward()
    assert layer.lora_A.grad.abs().max() == 0 and layer.lora_B.grad.abs().max() > 0, "B moves first"


def test_a_begins_as_pefts_does():
    """Uniform within 1 / sqrt(in), the same law as the library's."""
    torch.manual_seed(0)
    ours = lora.LoRALinear(torch.nn.Linear(400, 8), 200, 1).lora_A.detach().flatten()
    bound = 400**-0.5
    theirs = (
        get_peft_model(
            torch.nn.ModuleDict({"only": torch.nn.Linear(400, 8)}),
            LoraConfig(r=200, target_modules=["only"]),
        )
        .base_model.model["only"]
        .lora_A["default"]
        .weight.detach()
        .flatten()
    )
    for a in (ours, theirs):
        assert a.abs().max() <= bound and a.std() == pytest.approx(bound / 3**0.5, rel=0.01)
    steps = torch.linspace(0, 1, 21, dtype=ours.dtype)
    torch.testing.assert_close(
        ours.quantile(steps), theirs.quantile(steps), rtol=0, atol=0.05 * bound
    )


def test_other_layers_and_ranks_are_refused():
    for base, rank in ((torch.nn.Embedding(4, 4), 2), (torch.nn.Linear(4, 4), 0)):
        with pytest.raises(InputError, match="linear layer and a rank"):
            lora.LoRALinear(base, rank, 1)


# -- where adapters go


def small(**options):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            **dict(
                vocab_size=64,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                pad_token_id=0,
                bos_token_id=None,
                eos_token_id=1,
            )
            | options
        )
    ).requires_grad_(False)


def adapted(model):
    return {
        n.split(".lora_A")[0].split(".")[-1] for n, _ in model.named_parameters() if ".lora_A" in n
    }


ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize(
    "targets, wanted",
    [
        ("all-linear", ATTENTION | MLP),
        ("attention", ATTENTION),
        (["q_proj", "v_proj"], {"q_proj", "v_proj"}),
        (("mlp.up_proj",), {"up_proj"}),
        ("q_proj, v_proj", {"q_proj", "v_proj"}),
    ],
)
def test_targets(targets, wanted):
    model = lora.attach(small(), lora_r=3, targets=targets)
    assert adapted(model) == wanted
    sizes = {
        "q_proj": (32, 32),
        "k_proj": (32, 16),
        "v_proj": (32, 16),
        "o_proj": (32, 32),
        "gate_proj": (32, 64),
        "up_proj": (32, 64),
        "down_proj": (64, 32),
    }
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2 * 3 * sum(
        sum(sizes[n]) for n in wanted
    )


def test_attention_of_another_architecture():
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=32,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
        )
    )
    assert adapted(lora.attach(model, lora_r=2, targets="attention")) == {
        "query_key_value",
        "dense",
    }


@pytest.mark.parametrize(
    "targets, says",
    [
        ("mlp", "no linear layer 'mlp' to adapt; use all-linear, attention or names of down_proj"),
        (["q_proj", "c_attn"], "no linear layer 'c_attn' to adapt"),
        ("q_proj,lm_head", "no linear layer 'lm_head' to adapt"),
        ([], "no linear layer"),
        (" , ", "no linear layer"),
    ],
)
def test_targets_that_are_not_there(targets, says):
    with pytest.raises(InputError, match=says):
        lora.attach(small(), targets=targets)


@pytest.mark.parametrize("tied", [True, False])
def test_token_rows_come_along_with_any_targets(tied):
    model = lora.attach(
        small(tie_word_embeddings=tied), lora_r=1, targets=["q_proj"], token_ids=[5, 3]
    )
    assert (
        sum(p.numel() for p in model.parameters() if p.requires_grad)
        == 2 * (32 + 32) + (1 if tied else 2) * 2 * 32
    )


@pytest.mark.parametrize("options", [{"use_rslora": True}, {"use_dora": True}, {}])
def test_variants_are_pefts_own(options):
    """Outputs and losses of the first steps equal those of PEFT's model under torch's AdamW."""
    from peft import LoraConfig, get_peft_model

    ids = torch.arange(1, 25).reshape(2, 12)
    losses, outputs = [], []
    for attach in (
        lambda m: lora.attach(m, lora_r=4, lora_alpha=8, targets="q_proj,down_proj", **options),
        lambda m: get_peft_model(
            m,
            LoraConfig(
                r=4,
                lora_alpha=8,
                target_modules=["q_proj", "down_proj"],
                task_type="CAUSAL_LM",
                **options,
            ),
        ),
    ):
        model = small()
        torch.manual_seed(0)
        model = attach(model).train()
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2)
        steps = []
        for _ in range(4):
            loss = model(input_ids=ids, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps.append(loss.item())
        losses.append(steps)
        outputs.append(model.eval()(ids).logits)
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0]
    assert torch.equal(*outputs)


def test_rslora_scales_by_the_root_of_the_rank(tmp_path):
    """Twice the scale at rank 4, in the layers, in the written file and after loading."""
    ids = torch.arange(1, 13)[None]
    plain, rooted = (
        lora.attach(small(), lora_r=4, lora_alpha=8, use_rslora=root) for root in (False, True)
    )
    for name, p in rooted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
            plain.get_parameter(name).data.copy_(p.detach() * 2)
    layer = rooted.base_model.model.model.layers[0].self_attn.q_proj
    assert layer.scaling["default"] == 8 / 4**0.5
    with torch.no_grad():
        assert torch.allclose(plain.eval()(ids).logits, rooted.eval()(ids).logits, atol=1e-6)
        lora.save(rooted, tmp_path / "a", base="tiny")
        config = json.loads((tmp_path / "a" / "adapter_config.json").read_text(encoding="utf-8"))
        assert config["use_rslora"] and config["r"] == 4 and config["lora_alpha"] == 8
        again = lora.load(small(), tmp_path / "a")
        assert torch.equal(again(ids).logits, rooted(ids).logits)


def test_dora_is_written_and_read_back(tmp_path):
    ids = torch.arange(1, 13)[None]
    model = lora.attach(small(), lora_r=4, targets="attention", use_dora=True)
    for name, p in model.named_parameters():
        if "lora_B" in name or "magnitude" in name:
            p.data += 0.1
    lora.save(model, tmp_path / "a", base="tiny")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["use_dora"] and config["target_modules"] and "up_proj" not in config
    with torch.no_grad():
        again = lora.load(small(), tmp_path / "a")
        assert torch.equal(again(ids).logits, model.eval()(ids).logits)


def test_dora_refuses_a_divided_model():
    model = small()
    model.rescaled = 64
    with pytest.raises(InputError, match="--use-dora: .* float16"):
        lora.attach(model, use_dora=True)


# -- saved and loaded

IDS = torch.tensor([[5, 6, 7, 8]])


def as_base(model, **options):
    return Base(
        **dict(model=model, tokenizer=None, name="tiny", fingerprint="ab" * 32, quantization="none")
        | options
    )


def trained():
    model = lora.attach(small(), lora_r=2, lora_alpha=4, token_ids=[3])
    for i, p in enumerate(p for p in model.parameters() if p.requires_grad):
        p.data += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
    return model


@pytest.fixture
def kept(tmp_path):
    """(folder, the logits that it must give)."""
    model = trained()
    lora.save(model, tmp_path / "adapter", base=as_base(None), template=template_.named("article"))
    return tmp_path / "adapter", model.eval()(IDS).logits.detach()


def test_there_and_back(kept):
    folder, wanted = kept
    for base, options in (
        (as_base(small()), {"template": template_.named("article")}),
        (as_base(small()), {}),
        (small(), {}),
        (small(), {"template": template_.named("article")}),
    ):
        model = lora.load(base, folder, **options)
        assert torch.equal(model(IDS).logits, wanted) and not model.training
    assert sorted(p.name for p in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "origin.json",
    ]
    assert [p.name for p in folder.parent.iterdir()] == ["adapter"], "no scratch stays behind"


def test_origin_is_what_its_schema_says(kept, tmp_path):
    schema = json.loads((ASSETS / "schemas" / "origin.schema.json").read_text(encoding="utf-8"))
    lora.save(trained(), tmp_path / "bare", base="tiny")
    for folder in (kept[0], tmp_path / "bare"):
        made = json.loads((folder / "origin.json").read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator(schema).validate(made)
    assert made == {
        "version": 1,
        "base": {"name": "tiny", "fingerprint": None, "quantization": None},
        "template": None,
    }
    assert lora.origin(kept[0]) == (
        {"name": "tiny", "fingerprint": "ab" * 32, "quantization": "none"},
        template_.named("article"),
    )
    assert lora.load(
        as_base(small(), fingerprint="cd" * 32),
        tmp_path / "bare",
        template=template_.named("alpaca"),
    ), "nothing recorded, nothing to refuse"


@settings(max_examples=30, deadline=None)
@given(
    values=st.tuples(*[st.text(max_size=20)] * 5),
    markers=st.lists(st.text(max_size=5), max_size=3),
    chat=st.text(max_size=20),
)
def test_any_template_comes_back(tmp_path_factory, values, markers, chat):
    form = template_.Template(*values, markers=tuple(markers), chat=chat)
    folder = tmp_path_factory.mktemp("t") / "a"

    class Nothing:
        peft_config = {}

        def save_pretrained(self, *args, **kwargs):
            pass

    lora.save(Nothing(), folder, base=as_base(None), template=form)
    assert lora.origin(folder)[1] == form


@pytest.mark.parametrize(
    "base, template, says",
    [
        (
            {"fingerprint": "cd" * 32, "name": "other"},
            None,
            r"the base \(trained on tiny with weights abababab, here other with cdcdcdcd\) "
            r"differs from",
        ),
        (
            {"quantization": "nf4"},
            None,
            r"the quantisation \(trained on none, here nf4\) differs from",
        ),
        ({}, "alpaca", r"the template \(trained with article, here alpaca\) differs from"),
        ({}, "changed", r"trained with article, here article with other texts"),
        (
            {"fingerprint": "cd" * 32, "quantization": "nf4"},
            "alpaca",
            r"the base .* and the quantisation .* and the template .* differ from",
        ),
    ],
)
def test_a_mismatch_is_refused_and_can_be_overridden(kept, base, template, says):
    folder, wanted = kept
    form = (
        dataclasses.replace(template_.named("article"), with_input="{instruction}{input}")
        if template == "changed"
        else template and template_.named(template)
    )
    model = small()
    with pytest.raises(InputError, match=says) as refused:
        lora.load(as_base(model, **base), folder, template=form)
    assert (
        "allow_mismatch=True" in str(refused.value)
        and "--allow-mismatch" in str(refused.value)
        and "\n" not in str(refused.value)
    )
    assert not any("lora" in n for n, _ in model.named_parameters()), (
        "a refusal leaves the model as it was"
    )
    assert torch.equal(
        lora.load(as_base(model, **base), folder, template=form, allow_mismatch=True)(IDS).logits,
        wanted,
    )


def damage(folder, name, how):
    path = folder / name
    if how == "missing":
        path.unlink()
    elif how == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "noise":
        path.write_bytes(b"\xff\xfe\x00 no" * 50)
    elif how == "list":
        path.write_text("[1]", encoding="utf-8")
    else:
        path.write_text("{}", encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.safetensors", "origin.json"]
)
@pytest.mark.parametrize("how", ["missing", "half", "empty", "noise", "list", "object"])
def test_a_broken_folder_is_refused(kept, name, how):
    folder, _ = kept
    damage(folder, name, how)
    with pytest.raises(InputError, match="adapter") as refused:
        lora.load(as_base(small()), folder)
    assert "\n" not in str(refused.value) and str(folder) in str(refused.value)


def test_a_newer_origin_and_no_folder(kept):
    path = kept[0] / "origin.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace('"version": 1', '"version": 2'), encoding="utf-8"
    )
    with pytest.raises(InputError, match="newer version"):
        lora.load(as_base(small()), kept[0])
    with pytest.raises(InputError, match="is missing"):
        lora.load(as_base(small()), kept[0].parent / "nowhere")


def test_weights_of_another_shape_or_with_holes_are_refused(kept):
    from safetensors.torch import load_file, save_file

    folder, _ = kept
    model = small(hidden_size=64, num_attention_heads=4)
    with pytest.raises(InputError, match="does not fit this model"):
        lora.load(model, folder)
    assert not any("lora" in n for n, _ in model.named_parameters())
    weights = load_file(folder / "adapter_model.safetensors")
    weights.pop(next(k for k in weights if "lora_B" in k))
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="missing adapter keys"):
        lora.load(small(), folder)


def test_a_row_that_the_vocabulary_has_not_is_refused(tmp_path):
    lora.save(lora.attach(small(), lora_r=1, token_ids=[63]), tmp_path / "a", base="tiny")
    with pytest.raises(InputError):
        lora.load(small(vocab_size=60), tmp_path / "a")


def test_saving_overwrites_nothing_and_leaves_nothing_half(kept, tmp_path):
    with pytest.raises(InputError, match="already"):
        lora.save(trained(), kept[0], base="tiny")

    class Broken:
        peft_config = {}

        def save_pretrained(self, folder, **options):
            (tmp_path / folder / "adapter_model.safetensors").write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError):
        lora.save(Broken(), tmp_path / "b", base="tiny")
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]
    (tmp_path / "empty").mkdir()
    lora.save(trained(), tmp_path / "empty", base="tiny")
    assert (tmp_path / "empty" / "origin.json").exists()


def test_a_real_base_is_known_again(fresh, tmp_path):
    lora.save(
        lora.attach(fresh.model, lora_r=2, token_ids=[2, 3, 4]),
        tmp_path / "a",
        base=fresh,
        template=template_.named("article"),
    )
    assert lora.load(load_base("nano"), tmp_path / "a", template=template_.named("article"))
    with pytest.raises(InputError, match=r"the quantisation \(trained on nf4, here none\)"):
        lora.load(load_base("nano", quantization="none"), tmp_path / "a")
