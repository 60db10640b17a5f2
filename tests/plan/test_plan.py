"""The plan counts what there is: against bitsandbytes, transformers, autograd and torch's counter of operations; and it says no in one sentence."""

import io
import json
from dataclasses import asdict, replace

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.data.template import Encoded
from instruct_course.model import hub, lora, quantize
from instruct_course.plan.gpus import GPU, GPUS
from instruct_course.plan.memory import Setting, mapped_bytes, memory, nf4_bytes, operations
from instruct_course.plan.report import describe, plan
from instruct_course.plan.savings import choose, need, savings
from instruct_course.plan.shapes import SHAPES, shape
from instruct_course.plan.trace import PARTS, peak, phases, record
from instruct_course.train.batch import pack
from instruct_course.train.engine import Engine, batch_loss
from instruct_course.train.fused import SCORES

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
    targets="all-linear",
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
    return lora.attach(model, lora_r=rank, lora_alpha=8, targets=targets).train(), shape(
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


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_shapes_have_the_parameters_of_the_models_that_transformers_builds(name):
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPES[name]))
    assert sum(p.numel() for p in model.parameters()) == shape(name).parameters


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize(
    "B, T, rank, targets",
    [
        (2, 16, 4, "all-linear"),
        (1, 34, 3, "all-linear"),
        (2, 16, 4, "attention"),
        (1, 16, 4, "q_proj,v_proj"),
        (1, 16, 4, "o_proj"),
        (2, 16, 4, "up_proj,down_proj"),
        (1, 16, 4, "down_proj"),
    ],
)
def test_operations_are_those_that_torch_counts(kind, gradient_checkpointing, B, T, rank, targets):
    net, s = tiny(kind, rank=rank, targets=targets)
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
        lora_targets=targets,
        gradient_checkpointing=gradient_checkpointing,
        dtype="float32",
        device="cpu",
    )
    assert sum(operations(s, setting).values()) == counter.get_total_flops()


@pytest.mark.parametrize(
    "targets", ["all-linear", "attention", "q_proj,v_proj", "mlp.up_proj", "down_proj"]
)
def test_adapters_and_optimizer_follow_the_targets(targets):
    """Bytes of the plan against the parameters that are really trained, and AdamW's tensors."""
    net, s = tiny(layers=7, targets=targets)
    trained = [p for p in net.parameters() if p.requires_grad]
    count = sum(p.numel() for p in trained)
    optimizer = torch.optim.AdamW(trained)
    for p in trained:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    averages = sum(
        t.nbytes for state in optimizer.state.values() for k, t in state.items() if k != "step"
    )
    setting = Setting(max_length=16, batch_tokens=32, lora_r=4, lora_targets=targets, device="cpu")
    parts = memory(s, setting)
    assert parts["adapters"] == 4 * count and parts["optimizer"] == averages == 8 * count


def test_the_8_bit_optimizer_is_planned_as_bitsandbytes_keeps_it():
    """Its tables of 256 levels are shared by all parameters and left out."""
    net, s = tiny(layers=2, hidden=128, intermediate=256, rank=32)
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = bnb.optim.AdamW8bit(trained)
    for p in trained:
        p.grad = torch.ones_like(p)
    optimizer.step()
    there = sum(
        t.nbytes
        for state in optimizer.state.values()
        for k, t in state.items()
        if k not in ("step", "qmap1", "qmap2")
    )
    setting = Setting(max_length=16, lora_r=32, optimizer="paged_adamw_8bit", device="cpu")
    assert memory(s, setting)["optimizer"] == there
    sizes = {p.numel() >= 4096 for p in trained}
    assert sizes == {True, False}, "both kinds are there"


@pytest.mark.parametrize(
    "options, says",
    [
        ({"lora_targets": "q_proj,c_attn"}, "--lora-targets q_proj,c_attn: it must be all-linear"),
        ({"lora_targets": ","}, "--lora-targets ,: it must be"),
        ({"optimizer": "sgd"}, "--optimizer sgd: it must be one of adamw"),
        ({"mapped": True}, "--mapped True: it must be left out on a GPU"),
    ],
)
def test_wrong_settings_are_one_sentence(options, says):
    with pytest.raises(InputError, match=says):
        Setting(**options)


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
    """The trace's activations of one more layer, against the tensors that autograd saves."""
    setting = Setting(
        max_length=T,
        batch_tokens=B * T,
        lora_r=4,
        dtype=str(dtype).removeprefix("torch."),
        device="cpu",
    )

    def traced(layers):
        loss = phases(record(tiny(kind, layers)[1], layers, setting))["loss"]
        return loss[0][PARTS.index("activations")]

    assert traced(4) - traced(3) == kept(kind, 4, B, T, dtype) - kept(kind, 3, B, T, dtype)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_a_few_layers_say_what_all_of_them_take(kind, gradient_checkpointing, device):
    setting = Setting(
        max_length=32,
        batch_tokens=64,
        gradient_checkpointing=gradient_checkpointing,
        micro_batches=1 + gradient_checkpointing,
        device=device,
    )
    s = replace(tiny(kind)[1], layers=8, biases=kind == "qwen2")
    whole = np.concatenate(list(phases(record(s, 8, setting)).values())).sum(1).max()
    assert sum(peak(s, setting).values()) == whole


def test_everything_is_given_back():
    """A step leaves nothing alive but the gradients, which are those of the trained weights."""
    s = tiny()[1]
    trained = s.layers * sum(4 * (out + inner) for out, inner in s.linear)
    for gradient_checkpointing in (False, True):
        setting = Setting(
            max_length=32, lora_r=4, gradient_checkpointing=gradient_checkpointing, device="cpu"
        )
        count = record(s, s.layers, setting)
        begun = count.log.index("prepare")
        alive = {}
        gradients = 0
        for entry in count.log[begun:]:
            if isinstance(entry, str):
                continue
            number, size = entry
            if number < 0:
                alive.pop(-number, None)
                continue
            alive[number] = size
            if count.labels.get(number) == "gradients":
                gradients += size
        assert gradients == 4 * trained
        assert not alive  # `record` gives the gradients back itself


@given(
    st.sampled_from(sorted(SHAPES)),
    st.integers(64, 512),
    st.integers(1, 6),
    st.sampled_from([4, 16]),
    st.booleans(),
)
@settings(max_examples=4, deadline=None)
def test_on_a_gpu_more_of_anything_never_takes_less(
    name, length, rows, lora_r, gradient_checkpointing
):
    s = replace(shape(name), layers=3)
    base = Setting(
        max_length=length,
        batch_tokens=length * rows,
        lora_r=lora_r,
        gradient_checkpointing=gradient_checkpointing,
    )

    def total(**changes):
        return sum(memory(s, replace(base, **changes)).values())

    trained = s.layers * sum(lora_r * (out + inner) for out, inner in s.linear)
    assert total() >= nf4_bytes(s.weights) + s.vocab * s.hidden * 2 * (2 - s.tied)
    assert total(lora_r=2 * lora_r) > total()
    assert total(batch_tokens=length * (rows + 1)) > total()
    # gradients of the parts before are there
    assert total(micro_batches=rows) <= total() + 4 * trained


def test_on_a_processor_rows_take_more_until_scores_are_no_longer_kept():
    """On each side of the engine's limit more rows take more; across it they may take less."""
    s = replace(shape("7b"), layers=3)

    def total(rows):
        setting = Setting(max_length=1033, batch_tokens=1033 * rows, device="cpu")
        return sum(memory(s, setting).values())

    limit = SCORES // (s.heads * 1033**2)
    assert total(limit - 1) < total(limit)
    assert total(limit + 1) < total(limit + 2)


def test_checkpointing_costs_operations():
    twice, once = (
        operations(shape("7b"), Setting(gradient_checkpointing=again))["body"]
        for again in (True, False)
    )
    assert twice > once


def test_savings_go_down_and_choose_makes_only_those_that_change_nothing():
    t4, asked = GPUS["t4"], Setting(dtype="float16")
    found = savings(shape("7b"), asked)
    assert [s.bytes for s in found] == sorted((s.bytes for s in found), reverse=True)
    assert found[0].setting == asked
    chosen = choose(shape("7b"), t4, asked)
    assert (chosen.max_length, chosen.lora_r, chosen.batch_tokens) == (
        asked.max_length,
        asked.lora_r,
        asked.batch_tokens,
    ) and need(shape("7b"), chosen) <= 0.92 * t4.memory
    assert choose(shape("7b"), GPUS["a100-80"], asked) == asked
    with pytest.raises(
        InputError,
        match=r"needs 7\.\d GB, and ten has 8\.3 GB; it fits with .*--max-length|--lora-r",
    ):
        choose(shape("7b"), GPU("ten", 8.3e9, 0, "float16"), asked)
    with pytest.raises(
        InputError,
        match="needs .* GB at least, and small has 4.0 GB; take a smaller model, or a GPU like t4",
    ):
        choose(shape("7b"), GPU("small", 4e9, 0, "float16"), asked)


def test_mapped_weights_are_counted_apart():
    s = shape("7b")
    asked = Setting(max_length=512, batch_tokens=512, gradient_checkpointing=True, device="cpu")
    whole, own = memory(s, asked), memory(s, replace(asked, mapped=True))
    assert own == {part: size for part, size in whole.items() if part in own}
    assert whole.keys() - own.keys() == {"4-bit weights", "embedding and head"}
    filed = mapped_bytes(s, replace(asked, mapped=True))
    assert filed + sum(own.values()) == pytest.approx(sum(whole.values()))
    assert mapped_bytes(s, asked) == 0 and 5.5e9 < filed < 5.6e9 and sum(own.values()) < 1.3e9


def test_on_a_processor_with_little_memory_the_weights_stay_in_their_files():
    asked = Setting(max_length=512, batch_tokens=512, device="cpu")
    s = shape("7b")
    laptop = GPU("this processor", 5e9, 0, "bfloat16", "cpu")
    chosen = choose(s, laptop, asked)
    assert chosen == replace(asked, gradient_checkpointing=True, mapped=True)
    assert need(s, chosen) < 0.92 * laptop.memory
    roomy = choose(s, replace(laptop, memory=32e9), asked)
    assert roomy == asked and not roomy.mapped
    made = plan("7b", laptop, asked)
    assert made["setting"]["mapped"] and made["file_bytes"] == mapped_bytes(s, chosen)
    text = " ".join(printed(made).split())
    assert "--gradient-checkpointing --mapped. It fits." in text
    assert "Another 5.55 GB of weights stay in their files" in text
    with pytest.raises(InputError, match="GB at least.*take a smaller model, or a GPU like"):
        choose(s, replace(laptop, memory=0.2e9), asked)
    assert all(not saving.setting.mapped for saving in savings(s, replace(asked, device="cuda")))


def printed(made: dict) -> str:
    from rich.console import Console

    console = Console(width=80, record=True, file=io.StringIO())
    console.print(describe(made))
    return console.export_text()


def test_a_plan_begins_with_what_tune_would_do():
    made = plan("7b", GPUS["t4"], Setting(), price=0.35)
    schema = json.loads((ASSETS / "schemas" / "plan.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads(json.dumps(made)), schema)
    assert made["bytes"] == pytest.approx(sum(made["parts"].values()))
    assert made["gpu"]["dtype"] == "float16" and made["fits"] and made["refusal"] is None
    assert made["setting"] == asdict(choose(shape("7b"), GPUS["t4"], Setting(dtype="float16")))
    assert made["epoch"]["cost"] == pytest.approx(made["epoch"]["seconds"] * 0.35 / 3600)
    text = printed(made)
    assert text.startswith("tune would train it with --max-length 1024 --batch-tokens 4096")
    assert "It fits." in text and "--micro-batches 4" in text and "predicted" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_plan_says_what_tune_would_refuse_and_what_a_small_model_takes():
    made = plan("7b", GPU("small", 4e9, 0, "float16"), Setting())
    assert not made["fits"] and "take a smaller model, or a GPU like t4" in made["refusal"]
    assert printed(made).startswith("It does not fit, and tune would refuse it.")
    made = plan("nano", GPU("one", 1e9, 0, "bfloat16"), Setting())
    assert made["fits"] and "copies of its weights" in printed(made)


def test_a_plan_takes_the_targets_and_the_optimizer(command):
    """Fewer layers take less, in all parts that hold them; the sentence names the options."""
    made = {}
    for targets in ("all-linear", "attention"):
        args = ("plan", "7b", "--gpu", "a100-40", "--lora-targets", targets, "--json")
        code, out, err = command(*args)
        assert code == 0, err
        made[targets] = json.loads(out)
        schema = (ASSETS / "schemas" / "plan.schema.json").read_text(encoding="utf-8")
        jsonschema.validate(made[targets], json.loads(schema))
    s = shape("7b")
    counts = {
        targets: 16 * s.layers * sum(out + inner for out, inner in layers)
        for targets, layers in (("all-linear", s.linear), ("attention", s.linear[:4]))
    }
    for targets, count in counts.items():
        parts = made[targets]["parts"]
        assert parts["adapters"] == 4 * count and parts["optimizer"] == 8 * count
    args = ("--lora-targets", "attention", "--optimizer", "paged_adamw_8bit")
    code, out, _ = command("plan", "7b", "--gpu", "a100-40", *args)
    assert code == 0 and "--lora-targets attention --optimizer paged_adamw_8bit" in out


def test_names_are_those_of_tune():
    for name, hub_id in hub.HUB.items():
        if hub_id in SHAPES:
            assert shape(name).name == hub_id
    assert {"7b", "llama-3-8b", "mistral-7b"} <= set(hub.NAMES)


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
        (
            ("rehearse", "7b", "--folder", "here"),
            "--folder: weights are written to a folder only with --mapped",
        ),
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
    from instruct_course import job, recipe

    (tmp_path / "seven").mkdir()
    (tmp_path / "seven" / "config.json").write_text(
        json.dumps(SHAPES["Qwen/Qwen2.5-7B"]), encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job, "machine", lambda: GPU("this card", 4e9, 0, "float16"))
    with pytest.raises(
        InputError, match="its training needs .* GB at least, and this card has 4.0 GB"
    ):
        recipe.tune(model=str(tmp_path / "seven"), out="run", max_length=1024, batch_tokens=4096)
    assert [p.name for p in tmp_path.iterdir()] == ["seven"]
    monkeypatch.setattr(job, "machine", lambda: GPUS["t4"])
    with pytest.raises(InputError, match="no .safetensors weights"):
        recipe.tune(model=str(tmp_path / "seven"), out="run", max_length=1024, batch_tokens=4096)
    assert "planned for t4" in capsys.readouterr().err
    monkeypatch.setattr(job, "machine", lambda: GPU("this processor", 5e9, 0, "bfloat16", "cpu"))
    with pytest.raises(InputError, match="no .safetensors weights"):
        recipe.tune(model=str(tmp_path / "seven"), out="run", max_length=512, batch_tokens=512)
    said = capsys.readouterr().err
    assert "--gradient-checkpointing --mapped: another 5.5 GB of weights stay in their" in said
    assert [p.name for p in tmp_path.iterdir()] == ["seven"]
