"""The plan counts what there is: against bitsandbytes, transformers, autograd and torch's counter of operations; and it says no in one sentence."""

import json
from dataclasses import replace

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.data.template import Encoded
from instruct_course.model import lora, quantize
from instruct_course.plan import memory as planner
from instruct_course.plan.memory import (
    CARDS,
    Card,
    Ledger,
    Setting,
    choose,
    ladder,
    memory,
    nf4_bytes,
    operations,
    shape,
)
from instruct_course.train.batch import pack
from instruct_course.train.engine import Engine, batch_loss

bnb = quantize.bitsandbytes()
KINDS = ("llama", "qwen2", "qwen3")


def tiny(
    kind="llama",
    layers=3,
    hidden=64,
    intermediate=96,
    heads=4,
    kv_heads=2,
    rank=4,
    dtype=torch.float32,
):
    """(a small model with random weights and adapters, its shape)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    values = dict(
        vocab_size=80,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden // heads,
        tie_word_embeddings=False,
    )
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **values), dtype=dtype
    ).requires_grad_(False)
    return lora.attach(model, lora_r=rank, lora_alpha=8).train(), shape(
        "tiny", {"model_type": kind, **values}
    )


def line(B, T):
    """B rows of T tokens, the second half supervised, without a beginning in common."""
    ids = [[(7 * i + i * i + 3 * b) % 80 for i in range(T)] for b in range(B)]
    return pack([Encoded(row, [-100] * (T - T // 2) + row[T - T // 2 :]) for row in ids], share=2)


@given(st.integers(1, 300_000))
@settings(max_examples=20, deadline=None)
def test_nf4_bytes_are_bitsandbytes(n):
    packed, state = bnb.functional.quantize_4bit(
        torch.randn(n), quant_type="nf4", compress_statistics=True
    )
    assert nf4_bytes(2 * (n // 2)) == (
        packed.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
        if n % 2 == 0
        else nf4_bytes(n - 1)
    )


@pytest.mark.parametrize("name", sorted(planner.SHAPES))
def test_shapes_have_the_parameters_of_the_models_that_transformers_builds(name):
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**planner.SHAPES[name]))
    assert sum(p.numel() for p in model.parameters()) == shape(name).parameters


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("B, T, rank", [(2, 16, 4), (1, 34, 3)])
def test_operations_are_those_that_torch_counts(kind, gradient_checkpointing, B, T, rank):
    net, s = tiny(kind, rank=rank)
    in_place = {
        torch.ops.aten.addmm_: lambda out, a, b, *rest, out_shape=None, **options: (
            2 * a[0] * a[1] * b[1]
        )
    }
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        batch_loss(
            net,
            line(B, T),
            engine=Engine(net, cache=False, gradient_checkpointing=gradient_checkpointing),
        )[0].backward()
    setting = Setting(
        max_length=T,
        batch_tokens=B * T,
        lora_r=rank,
        gradient_checkpointing=gradient_checkpointing,
        dtype="float32",
        device="cpu",
    )
    assert sum(operations(s, setting).values()) == counter.get_total_flops()


def kept(kind, layers, B, T, dtype):
    net, _ = tiny(kind, layers, dtype=dtype)
    own, seen = {p.untyped_storage().data_ptr() for p in net.parameters()}, {}

    def pack(t):
        seen.setdefault(t.untyped_storage().data_ptr(), t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        hidden = Engine(net, cache=False).hidden(line(B, T))
    return (
        sum(t.untyped_storage().nbytes() for p, t in seen.items() if p not in own)
        + 0 * hidden.shape[0]
    )


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("B, T", [(2, 16), (1, 34)])
def test_a_layer_keeps_what_autograd_keeps(kind, dtype, B, T):
    """The ledger's activations of one more layer, against the storages of the tensors that autograd saves."""

    def after(shape, setting):
        step = planner._Step(shape, setting)
        for i in range(shape.layers):
            step.book.take("activations", **{f"h{i}": step.N * shape.hidden * step.e})
            planner._forward(step, i, again=False)
        return sum(size for part, size in step.book.live.values() if part == "activations")

    setting = Setting(
        max_length=T,
        batch_tokens=B * T,
        lora_r=4,
        dtype=str(dtype).removeprefix("torch."),
        device="cpu",
    )
    three, four = (after(tiny(kind, n)[1], setting) for n in (3, 4))
    assert four - three == kept(kind, 4, B, T, dtype) - kept(kind, 3, B, T, dtype)


def test_a_ledger_on_paper():
    book = Ledger()
    book.take("activations", a=3, b=4)
    book.drop("a")
    book.pulse(c=5)
    book.take("gradients", a=2)
    assert (book.now, book.most) == (6, 9) and book.parts == dict.fromkeys(planner.PARTS, 0.0) | {
        "activations": 4,
        "working memory": 5,
    }


@given(
    st.sampled_from(sorted(planner.SHAPES)),
    st.integers(64, 2048),
    st.integers(1, 6),
    st.sampled_from([4, 16, 64]),
    st.booleans(),
    st.sampled_from(["cpu", "cuda"]),
)
@settings(max_examples=30, deadline=None)
def test_more_of_anything_never_takes_less(
    name, length, rows, rank, gradient_checkpointing, device
):
    s, base = (
        shape(name),
        Setting(
            max_length=length,
            batch_tokens=length * rows,
            lora_r=rank,
            gradient_checkpointing=gradient_checkpointing,
            device=device,
        ),
    )
    total = sum(memory(s, base).values())
    assert total >= nf4_bytes(s.weights) + s.vocab * s.hidden * 2 * (2 - s.tied)
    assert sum(memory(s, replace(base, lora_r=2 * rank)).values()) > total
    assert sum(memory(s, replace(base, batch_tokens=length * (rows + 1))).values()) > total
    assert (
        sum(memory(s, replace(base, micro_batches=rows)).values()) <= total * 1.05
    )  # gradients of the parts before are there
    assert (
        operations(s, replace(base, gradient_checkpointing=True))["body"]
        > operations(s, replace(base, gradient_checkpointing=False))["body"]
    )


def test_everything_is_given_back():
    """At the end of a step only what was there before it is alive, and the gradients."""
    for gradient_checkpointing in (False, True):
        step = planner._Step(
            shape("7b"),
            Setting(gradient_checkpointing=gradient_checkpointing, micro_batches=2, device="cpu"),
        )
        before = step.book.now
        book = planner._run(step)
        assert book.now - before == pytest.approx(shape("7b").layers * step.A * 4)


def test_the_ladder_goes_down_and_choose_climbs_only_what_changes_nothing():
    t4, asked = CARDS["t4"], Setting(dtype="float16")
    rungs = ladder(shape("7b"), asked)
    assert [r.bytes for r in rungs] == sorted((r.bytes for r in rungs), reverse=True) and rungs[
        0
    ].setting == asked
    chosen = choose(shape("7b"), t4, asked)
    assert (chosen.max_length, chosen.lora_r, chosen.batch_tokens) == (
        asked.max_length,
        asked.lora_r,
        asked.batch_tokens,
    ) and planner.need(shape("7b"), chosen) <= 0.92 * t4.memory
    assert choose(shape("7b"), CARDS["a100-80"], asked) == asked
    with pytest.raises(
        InputError,
        match=r"needs 7\.\d GB, and ten has 8\.3 GB; it fits with .*--max-length|--lora-r",
    ):
        choose(shape("7b"), Card("ten", 8.3e9, 0, "float16"), asked)
    with pytest.raises(
        InputError,
        match="needs .* GB at least, and small has 4.0 GB; take a smaller model, or a GPU like t4",
    ):
        choose(shape("7b"), Card("small", 4e9, 0, "float16"), asked)


def test_the_plan_of_the_command_line(command):
    code, out, err = command("plan", "7b", "--gpu", "T4", "--price", "0.35", "--json")
    made = json.loads(out)
    jsonschema.validate(
        made, json.loads((ASSETS / "schemas" / "plan.schema.json").read_text(encoding="utf-8"))
    )
    assert (
        code == 0
        and made["bytes"] == pytest.approx(sum(made["parts"].values()))
        and made["card"]["dtype"] == "float16"
        and not made["fits"]
    )
    assert made["epoch"]["cost"] == pytest.approx(made["epoch"]["seconds"] * 0.35 / 3600)
    code, out, err = command("plan", "7b", "--gpu", "t4")
    assert (
        code == 0 and "It does not fit." in out and "--micro-batches" in out and "predicted" in out
    )
    code, out, err = command("plan", "nano", "--memory", "1")
    assert code == 0 and "It fits." in out and "copies of its weights" in out


@pytest.mark.parametrize(
    "args, wanted",
    [
        (("plan", "7b", "--gpu", "t5"), "--gpu t5: use one of t4"),
        (("plan", "7b", "--memory", "-1"), "--memory -1.0: it must be above 0"),
        (("plan", "7b", "--price", "0"), "--price 0.0: it must be above 0"),
        (
            ("plan", "7b", "--gpu", "t4", "--max-length", "1"),
            "--max-length 1: it must be at least 16",
        ),
        (("plan", "qwen7"), "there is no such folder"),
        (("plan", "7b", "--gpu", "t4", "--lora-r", "0"), "--lora-r 0"),
        (("rehearse", "7b", "--steps", "0"), "--steps 0"),
        (("plan", "some/model", "--gpu", "t4"), "HF_HUB_OFFLINE forbids the network"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(command, args, wanted):
    code, out, err = command(*args)
    assert (
        code == 2
        and out == ""
        and err.startswith("error: ")
        and wanted in err
        and err.count("\n") == 1
    )


@pytest.mark.parametrize(
    "values, wanted",
    [
        ({"model_type": "gpt2", "n_embd": 768}, "num_attention_heads"),
        (
            {
                "model_type": "llama",
                "vocab_size": 0,
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
            },
            "below 1",
        ),
    ],
)
def test_other_configurations_are_refused(values, wanted):
    with pytest.raises(InputError, match=wanted):
        shape("other", values)


def test_a_tuning_of_a_large_model_is_refused_or_planned_before_anything_is_loaded(
    monkeypatch, tmp_path, capsys
):
    """A folder with nothing but the config.json of a 7B: the plan speaks first, and nothing is written."""
    from instruct_course import recipe

    (tmp_path / "seven").mkdir()
    (tmp_path / "seven" / "config.json").write_text(
        json.dumps(planner.SHAPES["Qwen/Qwen2.5-7B"]), encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(planner, "machine", lambda: Card("this card", 4e9, 0, "float16"))
    with pytest.raises(
        InputError, match="its training needs .* GB at least, and this card has 4.0 GB"
    ):
        recipe.tune(model=str(tmp_path / "seven"), out="run", max_length=1024, batch_tokens=4096)
    assert [p.name for p in tmp_path.iterdir()] == ["seven"]
    monkeypatch.setattr(planner, "machine", lambda: CARDS["t4"])
    with pytest.raises(InputError, match="no .safetensors weights"):
        recipe.tune(model=str(tmp_path / "seven"), out="run", max_length=1024, batch_tokens=4096)
    assert "planned for t4" in capsys.readouterr().err and [p.name for p in tmp_path.iterdir()] == [
        "seven"
    ]
