"""Options of tune that change what is learnt: written, read back, made again and gone on with."""

import json

import jsonschema
import pytest
import torch

import instruct_course
from instruct_course import job, judging
from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.data.dataset import builtin
from instruct_course.model.quantize import read as read_four_bits
from instruct_course.run import open_run

FAST = {"holdout": "0.2", "eval_rows": 0, "quiet": True}
ALL = {
    "max_steps": 4,
    "weight_decay": 0.1,
    "warmup_ratio": 0.5,
    "max_grad_norm": 0.2,
    "lora_targets": "q_proj,down_proj",
    "use_rslora": True,
    "lora_r": 4,
}


def schema(name):
    return json.loads((ASSETS / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8"))


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def steps(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text("utf-8").splitlines()]


def adapter(path):
    return (path / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for row in builtin("train").select(range(60)):
            kept = {key: row[key] for key in ("instruction", "input", "output")}
            file.write(json.dumps(kept, ensure_ascii=False) + "\n")
    return path


@pytest.fixture(scope="module")
def whole(rows, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    return instruct_course.tune(data=str(rows), out=str(out), **ALL, **FAST)


def test_the_options_stand_in_the_files_of_the_run(whole):
    config = read(whole.path / "adapter" / "adapter_config.json")
    assert sorted(config["target_modules"]) == ["down_proj", "q_proj"]
    assert config["use_rslora"] is True and config["use_dora"] is False and config["r"] == 4
    made = read(whole.path / "run.json")
    jsonschema.validate(made, schema("run"))
    assert {name: made["config"][name] for name in ALL} == ALL
    lines = steps(whole.path)
    assert [line["lr"] / 1e-3 for line in lines] == pytest.approx([1 / 2, 1, 1, 1 / 2])
    import yaml

    kept = yaml.safe_load((whole.path / "run.yaml").read_text(encoding="utf-8"))
    assert {name: kept[name] for name in ALL} == ALL
    assert not {"push_to_hub", "yes", "threads"} & kept.keys()
    assert made["config"]["threads"] == torch.get_num_threads()


def test_run_yaml_makes_the_run_again_with_all_of_them(whole, rows, tmp_path, monkeypatch, command):
    monkeypatch.chdir(rows.parent)
    out = tmp_path / "again"
    code, _, err = command("tune", "--config", whole.path / "run.yaml", "--out", out)
    assert code == 0, err
    assert adapter(out) == adapter(whole.path)
    code, _, err = command("tune", "--config", whole.path / "run.yaml", "--out", tmp_path / "b",
                           "--no-use-rslora", "--max-steps", "2")  # fmt: skip
    assert code == 0, err
    assert len(steps(tmp_path / "b")) == 2 and adapter(tmp_path / "b") != adapter(whole.path)


@pytest.mark.parametrize(
    "options",
    [ALL, {"use_dora": True, "max_steps": 4}, {"quantization": "8bit", "max_steps": 4}],
    ids=["all", "dora", "8bit"],
)
def test_a_stopped_run_goes_on_to_the_same_bits(options, rows, tmp_path):
    def stop(line):
        if line["step"] == 2:
            raise KeyboardInterrupt

    common = {"data": str(rows), **options, **FAST}
    whole = instruct_course.tune(out=str(tmp_path / "whole"), **common)
    cut = instruct_course.tune(out=str(tmp_path / "cut"), on_step=stop, **common)
    assert cut.report["stopped"] and cut.report["steps"] == 2
    again = instruct_course.tune(resume=True, out=str(tmp_path / "cut"), quiet=True)
    assert not again.report["stopped"] and adapter(again.path) == adapter(whole.path)
    for name in ("report", "run"):
        jsonschema.validate(read(again.path / f"{name}.json"), schema(name))
    assert again.report["after"]["loss"] == whole.report["after"]["loss"]
    loaded = open_run(again.path)
    assert loaded.answer("Say yes.", max_new_tokens=4) == again.answer("Say yes.", max_new_tokens=4)


def test_a_run_goes_on_with_the_threads_that_it_began_with(rows, tmp_path, monkeypatch):
    def stop(line):
        raise KeyboardInterrupt

    out = str(tmp_path / "cut")
    instruct_course.tune(data=str(rows), out=out, on_step=stop, threads=1, max_steps=2, **FAST)
    asked = []
    settle = job.settle_threads
    monkeypatch.setattr(job, "settle_threads", lambda n: asked.append(n) or settle(n))
    run = instruct_course.tune(resume=True, out=out, quiet=True)
    assert asked == [1] and run.made["config"]["threads"] == 1


def test_mapped_weights_change_no_bit_of_a_run(rows, tmp_path, monkeypatch):
    """Nor does a run file ask for them on other machines; the run itself is opened with them."""
    options = {"data": str(rows), "max_steps": 4, **FAST}
    usual = instruct_course.tune(out=str(tmp_path / "usual"), **options)
    monkeypatch.setenv("INSTRUCT_COURSE_CACHE", str(tmp_path / "cache"))
    mapped = instruct_course.tune(out=str(tmp_path / "mapped"), mapped=True, **options)
    assert adapter(mapped.path) == adapter(usual.path)
    made = read(mapped.path / "run.json")
    jsonschema.validate(made, schema("run"))
    assert made["config"]["mapped"] is True
    assert "mapped" not in (mapped.path / "run.yaml").read_text(encoding="utf-8")
    asked = []
    monkeypatch.setattr(
        "instruct_course.model.load.quantize.read",
        lambda *a, **options: asked.append(options["mapped"]) or read_four_bits(*a, **options),
    )
    example = builtin("train")[0]["instruction"]
    assert open_run(tmp_path / "mapped").answer(example) == usual.answer(example)
    assert asked == [True]


def test_dora_says_that_it_takes_the_slower_path(rows, tmp_path, capsys):
    out = tmp_path / "r"
    options = {"use_dora": True, "max_steps": 1, "holdout": "0.2", "eval_rows": 0}
    run = instruct_course.tune(data=str(rows), out=str(out), **options)
    err = capsys.readouterr().err
    assert err.count("--use-dora: the fast engine cannot do it") == 1
    assert read(out / "adapter" / "adapter_config.json")["use_dora"] is True
    with pytest.raises(InputError, match="has DoRA, which is not merged here"):
        from instruct_course.deploy.merge import merge

        merge(run.path, tmp_path / "m", quiet=True)
    assert not (tmp_path / "m").exists()


def test_eval_rows_decides_how_many_are_answered(rows, tmp_path, capsys):
    """0: the loss of all held-out rows and nothing else; the tables leave out what is not there."""
    from instruct_course.deploy.card import results_table
    from instruct_course.evaluate.show import print_run

    common = {"data": str(rows), "holdout": "0.2", "max_steps": 2, "quiet": True}
    losses = []
    for count in (0, 5):
        run = instruct_course.tune(out=str(tmp_path / str(count)), eval_rows=count, **common)
        report = read(run.path / "report.json")
        jsonschema.validate(report, schema("report"))
        assert report["before"]["n"] == report["after"]["n"] == report["changes"]["n"] == count
        assert len(report["samples"]) == count
        assert ("exact_match" in report["after"]) == (count > 0)
        assert (report["before"]["best_prompt"] is None) == (count == 0)
        losses.append(
            (report["before"]["loss"], report["after"]["loss"], report["changes"]["loss"])
        )
        print_run(run)
        assert ("exact match" in capsys.readouterr().out) == (count > 0)
        assert ("exact match" in results_table(report["before"], report["after"])) == (count > 0)
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "options, says",
    [
        ({"max_steps": 0}, "--max-steps 0: it must be at least 1"),
        ({"warmup_ratio": 1.5}, "--warmup-ratio 1.5"),
        ({"weight_decay": -0.1}, "--weight-decay -0.1"),
        ({"max_grad_norm": -1.0}, "--max-grad-norm -1.0"),
        ({"optimizer": "sgd"}, "--optimizer sgd: it must be one of adamw, paged_adamw_8bit"),
        ({"lora_targets": "q_proj,c_attn"}, "--lora-targets: the model has no linear layer"),
        ({"quantization": "int4"}, "--quantization int4: it must be one of nf4, 8bit, none"),
        ({"eval_rows": -1}, "--eval-rows -1"),
    ],
)
def test_wrong_values_are_one_sentence_before_any_work(options, says, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "predict", None)
    with pytest.raises(InputError, match=says):
        instruct_course.tune(data=str(rows), out=str(tmp_path / "r"), quiet=True, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_paged_optimizer_needs_a_gpu(command, rows, tmp_path):
    for args in (("tune", "--data", rows, "--out", tmp_path / "r"), ("rehearse", "nano")):
        code, _, err = command(*args, "--optimizer", "paged_adamw_8bit")
        assert code == 2 and "needs a GPU, and this machine has none; use --optimizer adamw" in err
    assert not list(tmp_path.iterdir())


def test_an_unknown_key_is_refused_with_the_nearest_name(tmp_path, command):
    path = tmp_path / "c.yaml"
    path.write_text("lora_target: attention\n", encoding="utf-8")
    code, _, err = command("tune", "--config", path)
    assert code == 2 and "did you mean lora_targets?" in err


# ---- 8 bits


def test_8_bit_layers_are_near_the_base_and_give_gradients(nano):
    """Against plain weights: rounding of a percent or so; gradients through the same weights."""
    from instruct_course.model import lora
    from instruct_course.model.load import load_base
    from instruct_course.model.quantize import bitsandbytes
    from instruct_course.train.engine import supports

    int8, plain = (load_base("nano", quantization=kind) for kind in ("8bit", "none"))
    layers = [m for m in int8.model.modules() if isinstance(m, bitsandbytes().nn.Linear8bitLt)]
    assert len(layers) == 7 * int8.model.config.num_hidden_layers
    assert all(layer.weight.dtype == torch.int8 for layer in layers)
    texts = ["The capital of France is Paris.", "日本的首都是东京。"]
    gradients = []
    for base in (int8, plain):
        model = lora.attach(base.model, lora_r=4, targets="attention")
        for name, p in model.named_parameters():
            if "lora_B" in name:
                torch.manual_seed(len(name))
                torch.nn.init.normal_(p, std=0.02)
        for text in texts:
            ids = base.tokenizer(text, return_tensors="pt").input_ids
            model(input_ids=ids, labels=ids).loss.backward()
        trained = [p.grad.flatten() for p in model.parameters() if p.requires_grad]
        gradients.append(torch.cat(trained))
        assert supports(model) == (base is plain)
    cosine = torch.nn.functional.cosine_similarity(*gradients, dim=0)
    assert cosine > 0.98, cosine
    ids = plain.tokenizer(texts[0], return_tensors="pt").input_ids
    with torch.no_grad():
        a, b = (base.model(ids).logits for base in (int8, plain))
    assert (a - b).norm() / b.norm() < 0.05


def test_8_bit_weights_take_a_byte_each():
    from instruct_course.model.hub import resolve
    from instruct_course.model.load import NF4_BYTES, weight_bytes

    sizes = {
        kind: weight_bytes(resolve("nano"), kind, torch.float32) for kind in ("nf4", "8bit", "none")
    }
    share = (sizes["none"] - sizes["8bit"]) / (sizes["none"] - sizes["nf4"])
    assert share == pytest.approx((4 - 1) / (4 - NF4_BYTES), rel=1e-6)


def test_an_8_bit_run_is_evaluated_merged_and_exported(rows, tmp_path, command):
    out = tmp_path / "r"
    options = {"quantization": "8bit", "max_steps": 3, "holdout": "0.2", "eval_rows": 2}
    run = instruct_course.tune(data=str(rows), out=str(out), quiet=True, **options)
    assert run.report["after"]["loss"] < run.report["before"]["loss"]
    origin = read(out / "adapter" / "origin.json")
    jsonschema.validate(origin, schema("origin"))
    assert origin["base"]["quantization"] == "8bit"
    code, text, err = command("eval", "--run", out, "--limit", "2", "--json")
    assert code == 0, err
    code, text, err = command("merge", "--run", out, "--out", tmp_path / "m", "--json")
    assert code == 0, err
    made = json.loads(text)
    jsonschema.validate(made, schema("merge"))
    assert made["onto"] == "16bit"
    report = made["report"]
    assert report["variants"]["16bit"]["loss"] == pytest.approx(report["trained"]["loss"], rel=0.05)
    code, _, err = command("merge", "--run", out, "--out", tmp_path / "n", "--onto", "dequantized")
    assert code == 2 and "was not in 4 bits" in err
    code, _, err = command("export", "--run", out, "--out", tmp_path / "x", "--format", "adapter")
    assert code == 0, err
