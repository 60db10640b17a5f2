"""A merged model is the trained one, also for plain transformers, or is refused in a sentence."""

import json
import shutil

import jsonschema
import pytest
import torch
from tiny_bases import tiny_base

import instruct_course
from instruct_course import generate
from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.data import dataset
from instruct_course.data import template as templates
from instruct_course.data.example import Example
from instruct_course.deploy import merge as merge_module
from instruct_course.deploy import merged
from instruct_course.deploy.adapter import read_adapter
from instruct_course.deploy.merge import merge
from instruct_course.deploy.merged import is_merged, open_merged


def valid(value):
    schema = ASSETS / "schemas" / "merge.schema.json"
    jsonschema.validate(value, json.loads(schema.read_text(encoding="utf-8")))


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def both(small_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("merge") / "both"
    return merge(small_run.path, out, onto="both", quiet=True)


# -- a whole run


def test_the_dequantised_merge_is_the_trained_model(both, small_run):
    folder, made = both
    report = made["report"]
    near = report["variants"]["dequantized"]
    far = report["variants"]["16bit"]
    trained = report["trained"]["loss"]
    assert near["kl"] < 1e-6
    assert near["top1"] == 1
    assert near["loss"] == pytest.approx(trained, abs=1e-4)
    assert far["kl"] > 1e-3
    assert far["top1"] < 1
    assert report["rows"] == 16
    # that which tune reported
    assert trained == pytest.approx(small_run.report["after"]["loss"], rel=1e-4)
    size = sum(p.stat().st_size for p in (folder / "16bit").iterdir() if p.name != "merge.json")
    for place, onto in ((".", "both"), ("dequantized", "dequantized"), ("16bit", "16bit")):
        written = read_json(folder / place / "merge.json")
        valid(written)
        assert written["onto"] == onto
        assert written["report"] == report
        assert written["bytes"]["16bit"] == size


def test_plain_transformers_answers_the_same_and_stops(both, small_run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = both[0] / "dequantized"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    template = templates.read(folder / "template.json")
    assert model.dtype == torch.float32
    assert model.generation_config.eos_token_id == [1]
    assert not hasattr(model.config, "quantization_config")
    trained, theirs, _ = small_run.ready()
    rows = [dataset.example(r) for r in dataset.load(small_run.path / "heldout.jsonl")][:8]
    prompts = [templates.prompt(template, tokenizer, ex) for ex in rows]
    assert prompts == [templates.prompt(template, theirs, ex) for ex in rows]
    stops = templates.stop_ids(template, theirs)
    wanted = generate.complete(
        trained, theirs, prompts, stop_ids=stops, max_new_tokens=24, batch_size=1
    )
    for ids, answer in zip(prompts, wanted):
        output = model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)
        new = output[0, len(ids) :].tolist()
        assert [i for i in new if i != 1] == answer.ids
        assert answer.reason == "length" or new[-1] == 1


def letters_tokenizer(folder):
    """Write a tokenizer that knows letters and no token of a template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    letters = "abcdefghijklmnopqrstuvwxyzĠĊ.,:0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    trainer = trainers.BpeTrainer(
        vocab_size=99, initial_alphabet=list(letters), special_tokens=["<eos>"]
    )
    made.train_from_iterator(["abc"], trainer)
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>").save_pretrained(folder)


@pytest.mark.parametrize("tied", [False, True])
def test_new_tokens_are_merged_with_their_rows(tmp_path, tied):
    """A template whose tokens the base does not know."""
    base = tiny_base(tmp_path / "base", "llama", tied=tied, max_position_embeddings=512)
    letters_tokenizer(base)
    rows = [
        Example("Say a.", output="a b"),
        Example("Say b.", "x", "b"),
        Example("Say c.", output="c"),
        Example("Say d.", output="d"),
    ]
    dataset.save(tmp_path / "rows.jsonl", rows)
    run = instruct_course.tune(
        model=str(base),
        data=str(tmp_path / "rows.jsonl"),
        holdout="0.5",
        epochs=3,
        template="article",
        lora_r=2,
        out=str(tmp_path / "run"),
        quiet=True,
    )
    folder, made = merge(run.path, tmp_path / "out", dtype="float32", quiet=True)
    model, tokenizer, _ = open_merged(folder)
    config = read_json(folder / "config.json")
    embedding = model.get_input_embeddings().weight
    assert config["vocab_size"] == embedding.shape[0] == max(100, len(tokenizer))
    assert config["tie_word_embeddings"] is tied
    ids = tokenizer.convert_tokens_to_ids(["<inst>", "<inp>", "<out>"])
    assert max(ids) >= 70
    assert made["report"]["variants"]["dequantized"]["kl"] < 2e-4
    trained = read_adapter(run.path / "adapter").rows
    for name, (at, values) in trained.items():
        assert set(at) == set(ids)
        assert torch.equal(model.get_submodule(name).weight[at], values)
    assert len(trained) == (1 if tied else 2)


# -- when things go wrong


def test_the_command_and_its_refusals(small_run, tmp_path, command):
    run = ("merge", "--run", small_run.path)
    code, out, _ = command(*run, "--out", tmp_path / "m", "--limit", "4", "--json")
    made = json.loads(out)
    valid(made)
    assert code == 0
    assert made["onto"] == "dequantized"
    assert made["report"]["rows"] == 4
    assert is_merged(tmp_path / "m")
    for args, says in (
        (["--out", tmp_path / "m"], "already exists"),
        (["--out", tmp_path / "n", "--onto", "4bit"], "--onto 4bit"),
        (["--out", tmp_path / "n", "--dtype", "int8"], "--dtype"),
        (["--out", tmp_path / "n", "--limit", "-1"], "--limit"),
        (["--out", tmp_path / "m" / "config.json" / "n"], "--out"),
    ):
        code, out, err = command(*run, *args)
        assert code == 2
        assert says in err
        assert not out
        assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"m"}


def test_a_merge_without_a_report_in_another_dtype(small_run, tmp_path, command):
    bare = tmp_path / "deep" / "bare"
    options = ("--limit", "0", "--onto", "16bit", "--dtype", "bfloat16")
    code, out, _ = command("merge", "--run", small_run.path, "--out", bare, *options)
    assert code == 0
    assert "Not judged" in out
    assert read_json(bare / "config.json")["dtype"] == "bfloat16"


def test_another_base_or_template_is_refused_and_nothing_stays(small_run, tmp_path):
    base = {"name": "nano", "fingerprint": "0" * 64, "quantization": "nf4"}
    text = "<inst> {instruction}!<inp> {input}<out> "
    for file, key, value, says in (
        ("adapter/origin.json", "base", base, "the base at hand"),
        ("template.json", "with_input", text, "the template at hand"),
    ):
        copy = tmp_path / says.split()[1]
        shutil.copytree(small_run.path, copy)
        made = read_json(copy / file)
        (copy / file).write_text(json.dumps(made | {key: value}), encoding="utf-8")
        with pytest.raises(InputError, match=says):
            merge(copy, tmp_path / "out" / "x", quiet=True)
        assert not (tmp_path / "out").exists()
    merge(copy, tmp_path / "out", allow_mismatch=True, limit=0, quiet=True)


def test_a_base_that_was_not_quantised_has_one_merge(small_run, tmp_path):
    copy = shutil.copytree(small_run.path, tmp_path / "plain")
    for file in ("run.json", "adapter/origin.json"):
        made = read_json(copy / file)
        made["base"]["quantization"] = "none"
        (copy / file).write_text(json.dumps(made), encoding="utf-8")
    with pytest.raises(InputError, match="not in 4 bits"):
        merge(copy, tmp_path / "out", onto="both", quiet=True)
    made = merge(copy, tmp_path / "out", limit=4, quiet=True)[1]
    assert made["onto"] == "16bit"
    assert made["report"]["variants"]["16bit"]["kl"] < 1e-6
    valid(made)


def test_without_memory_to_judge_the_merge_stands(small_run, tmp_path, monkeypatch):
    def full(*args, **options):
        raise InputError("its weights need 15.2 GB here")

    monkeypatch.setattr(merged, "open_merged", full)
    folder, made = merge(small_run.path, tmp_path / "out", limit=2, quiet=True)
    assert made["report"] is None
    assert "15.2 GB" in made["no_report"]
    assert (folder / "model.safetensors").exists()
    valid(made)


def test_a_failure_half_way_leaves_nothing(small_run, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(merge_module, "write_model_files", fail)
    with pytest.raises(KeyboardInterrupt):
        merge(small_run.path, tmp_path / "deep" / "out", quiet=True)
    assert not list(tmp_path.iterdir())
