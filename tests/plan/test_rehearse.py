"""A rehearsal takes what was planned, and the committed table says so of the others."""

import json

import forked
import jsonschema
import pytest
import torch

from instruct_course.common.files import ASSETS
from instruct_course.model import lora, quantize
from instruct_course.plan.memory import Setting, memory
from instruct_course.plan.rehearse import NoProducts, build, rehearse
from instruct_course.plan.shapes import Shape
from instruct_course.train import engine
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
