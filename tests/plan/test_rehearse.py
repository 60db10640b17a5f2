"""A rehearsal takes what was planned, and the committed table says so of the others."""

import json
from types import SimpleNamespace

import forked
import jsonschema
import pytest
import torch

from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.model import lora, quantize
from instruct_course.plan import random_model
from instruct_course.plan.memory import Setting, memory
from instruct_course.plan.random_model import build
from instruct_course.plan.rehearse import NoProducts, describe, random_rows, rehearse
from instruct_course.plan.shapes import Shape
from instruct_course.train import engine, loop
from tools.rehearsals import GRID, read

SCHEMA = json.loads((ASSETS / "schemas" / "rehearsal.schema.json").read_text(encoding="utf-8"))
SMALL = {
    "model_type": "qwen2",
    "vocab_size": 300,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}


def quiet(text):
    """Say nothing."""


def test_the_table_is_whole_and_within_five_percent():
    rows = read()["rows"]
    assert [r["row"] for r in rows] == list(range(len(GRID))), (
        "python -m tools.rehearsals --missing"
    )
    for r in rows:
        jsonschema.validate(r, SCHEMA)
        wanted = GRID[r["row"]]
        assert (
            r["setting"] == {**r["setting"], **wanted["setting"]}
            and r["products"] == wanted["products"]
            and r["development"] == wanted["development"]
        )
    large = [r for r in rows if r["measured"]["bytes"] > 0.99e9]
    assert (
        len(large) >= 24
        and sum(not r["development"] for r in large) >= len(large) / 2
        and any(r["model"] == "Qwen/Qwen2.5-7B" for r in large)
    )
    assert [r["row"] for r in rows if not 0.95 <= r["measured_over_planned"] <= 1.05] == []


@pytest.mark.parametrize("row", [6, 12, 20, 28])
def test_what_was_planned_is_planned_today(row):
    r = read()["rows"][row]
    planned = memory(Shape(**r["shape"]), Setting(**r["setting"]))
    assert sum(planned.values()) == pytest.approx(r["planned"]["bytes"], rel=1e-9), (
        "the plan or the engine has changed; python -m tools.rehearsals --plans"
    )


def test_one_is_made_again(tmp_path):
    """In a process of its own, as the table is made."""
    row = 29
    code = (
        f"import json; from tools.rehearsals import GRID, one; print(json.dumps(one(GRID[{row}])))"
    )
    done = forked.python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout.splitlines()[-1])
    assert made["measured"]["bytes"] > 1e9 and 0.9 < made["measured_over_planned"] < 1.1


def test_a_built_model_has_the_true_shapes_and_the_engine_takes_it():
    from transformers import AutoConfig, AutoModelForCausalLM

    model, seconds = build(SMALL, dtype=torch.float32, say=quiet)
    with torch.device("meta"):
        wanted = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SMALL))
    bnb = quantize.bitsandbytes()

    def shapes(m):
        return {
            n: tuple(w.quant_state.shape if isinstance(w, bnb.nn.Params4bit) else w.shape)
            for n, w in m.named_parameters()
        }

    assert (
        shapes(model) == shapes(wanted)
        and seconds > 0
        and engine.supports(lora.attach(model, lora_r=2))
    )
    codes = [l.mlp.up_proj.weight for l in model.base_model.layers]
    assert torch.equal(codes[0], codes[2]) and codes[0].data_ptr() != codes[2].data_ptr()


def test_without_products_shapes_and_dtypes_stay():
    a, b, c = torch.randn(3, 4), torch.randn(4, 5), torch.randn(2, 3, 4)
    with NoProducts():
        out = [
            a @ b,
            torch.addmm(torch.ones(5), a, b),
            torch.bmm(c, c.transpose(1, 2)),
            torch.baddbmm(torch.ones(2, 3, 3), c, c.transpose(1, 2)),
            (a.bfloat16() @ b.bfloat16()),
        ]
        kept = torch.ones(3, 5).addmm_(a, b)
    assert (
        [tuple(t.shape) for t in out] == [(3, 5), (3, 5), (2, 3, 3), (2, 3, 3), (3, 5)]
        and all((t == 0).all() for t in out)
        and out[-1].dtype == torch.bfloat16
    )
    assert (kept == 1).all() and not ((a @ b) == 0).all()


def test_a_rehearsal_trains(capsys):
    """Real products: two steps, times, and the loss of a model that knows nothing."""
    said = []
    made = rehearse(
        "small",
        Setting(max_length=32, batch_tokens=64, lora_r=2, dtype="float32", device="cpu"),
        values=SMALL,
        say=said.append,
    )
    jsonschema.validate(made, SCHEMA)
    losses = [float(line.split("loss ")[1]) for line in said if "loss" in line]
    assert (
        len(made["measured"]["seconds"]) == 2
        and all(s > 0 for s in made["measured"]["seconds"])
        and all(abs(loss - 5.7) < 0.3 for loss in losses)
        and len(losses) == 2
    )  # ln 300 = 5.70
    without = rehearse(
        "small",
        Setting(max_length=32, batch_tokens=64, lora_r=2, dtype="float32", device="cpu"),
        values=SMALL,
        products=False,
        say=quiet,
    )
    assert without["measured"]["seconds"] is None and without["planned"] == made["planned"]


MAPPED = Setting(
    max_length=32,
    batch_tokens=32,
    lora_r=2,
    gradient_checkpointing=True,
    dtype="float32",
    device="cpu",
    mapped=True,
)


def steps(model):
    """(losses, adapters) of two steps with a model."""
    net = lora.attach(model, lora_r=2, seed=0)
    config = loop.TrainConfig(
        epochs=1, lr=1e-2, batch_tokens=32, gradient_checkpointing=True, cache=False
    )
    rows = random_rows(SMALL["vocab_size"], MAPPED, 2)
    losses = [h["loss"] for h in loop.fit(net, rows, config, pad_id=0)]
    return losses, {n: p.detach() for n, p in net.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mapped_step_is_bitwise_the_unmapped_one(tmp_path, dtype):
    folder, _ = random_model.write(SMALL, tmp_path / "four", dtype=dtype, say=quiet)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    losses, adapters = steps(quantize.read(folder, mapped=True))
    wanted_losses, wanted = steps(quantize.read(folder, mapped=False))
    assert losses == wanted_losses and len(losses) == 2
    assert adapters.keys() == wanted.keys()
    assert all(torch.equal(adapters[name], value) for name, value in wanted.items())
    assert any(value.abs().max() > 0 for name, value in wanted.items() if "lora_B" in name)
    assert files == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_mapped_rehearsal_counts_files_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("INSTRUCT_COURSE_CACHE", str(tmp_path / "cache"))
    made = rehearse("small", MAPPED, values=SMALL, say=quiet)
    jsonschema.validate(made, SCHEMA)
    assert made["measured"]["file_bytes"] == pytest.approx(
        made["planned"]["file_bytes"], rel=0.2
    )  # of so small a model headers and tables are much
    assert "4-bit weights" not in made["planned"]["parts"]
    assert made["measured"]["resident_bytes"] > made["measured"]["bytes"]
    assert "the weights stayed in their files" in describe(made)
    assert list((tmp_path / "cache").iterdir()) == []
    said = []
    rehearse("small", MAPPED, values=SMALL, folder=tmp_path / "kept", say=said.append)
    assert quantize.read(tmp_path / "kept").config.num_hidden_layers == 3
    assert said[0].startswith("writing random 4-bit weights, 0.0 GB, to")


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(
        random_model.shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000)
    )
    with pytest.raises(InputError, match="random weights take .* GB of the disk while they are"):
        random_model.write(SMALL, tmp_path / "above" / "four", say=quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_model_on_the_disk_is_the_model_in_memory(tmp_path):
    """The same names, shapes and codes in every layer; untied, the head is its own."""
    values = SMALL | {"tie_word_embeddings": False}
    folder, seconds = random_model.write(values, tmp_path / "four", dtype=torch.float32, say=quiet)
    filed = quantize.read(folder, mapped=True)
    built, _ = build(values, dtype=torch.float32, say=quiet)
    shapes = [{n: p.shape for n, p in m.named_parameters()} for m in (filed, built)]
    assert shapes[0] == shapes[1] and seconds > 0
    codes = [layer.mlp.up_proj.weight for layer in filed.base_model.layers]
    assert torch.equal(codes[0], codes[2]) and codes[0].data_ptr() != codes[2].data_ptr()
    embedding, head = filed.get_input_embeddings().weight, filed.get_output_embeddings().weight
    assert not torch.equal(embedding, head)
    assert embedding.std().item() == pytest.approx(0.02, rel=0.02)


def test_a_rehearsal_trains_the_targets_alone(monkeypatch):
    from instruct_course.plan import rehearse as module

    trained = []
    real = module.loop.fit

    def fit(model, *args, **options):
        trained.append({n.split(".lora_")[0].split(".")[-1] for n, p in model.named_parameters()
                        if p.requires_grad})  # fmt: skip
        return real(model, *args, **options)

    monkeypatch.setattr(module.loop, "fit", fit)
    setting = Setting(max_length=32, batch_tokens=32, lora_r=2, lora_targets="q_proj,v_proj",
                      dtype="float32", device="cpu")  # fmt: skip
    made = rehearse("small", setting, values=SMALL, say=quiet)
    assert trained[-1] == {"q_proj", "v_proj"}
    assert made["setting"]["lora_targets"] == "q_proj,v_proj"


def test_the_command(command):
    code, out, err = command(
        "rehearse",
        str(ASSETS / "nano"),
        "--max-length",
        "32",
        "--lora-r",
        "2",
        "--dtype",
        "float32",
    )
    assert code == 0 and "measured" in out and "planned" in out and "step 2 of 2" in err
