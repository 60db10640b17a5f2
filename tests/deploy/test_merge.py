"""A merged model is the trained one: equal to the library's road, small in memory, loaded and stopped by plain transformers, or refused in a sentence."""

import json
import math
import shutil

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import instruct_course
from instruct_course import generate
from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.data import dataset
from instruct_course.data import template as templates
from instruct_course.data.example import Example
from instruct_course.deploy import merge
from instruct_course.model import hub, nf4, quantize


def valid(value):
    jsonschema.validate(
        value, json.loads((ASSETS / "schemas" / "merge.schema.json").read_text(encoding="utf-8"))
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("merge")
    dataset.save(
        folder / "rows.jsonl",
        [dataset.example(r) for r in dataset.builtin("train").select(range(80))],
    )
    return instruct_course.tune(
        data=str(folder / "rows.jsonl"),
        holdout="0.2",
        epochs=3,
        out=str(folder / "run"),
        quiet=True,
    )


@pytest.fixture(scope="module")
def both(run):
    return merge.merge(run.path, run.path.parent / "both", onto="both", quiet=True)


# -- one tensor


@given(
    st.integers(1, 40),
    st.sampled_from([64, 96, 128, 320]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.integers(0, 99),
)
@settings(deadline=None, max_examples=25)
def test_dequantized_is_what_the_four_bits_mean(rows, columns, dtype, seed):
    w = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(dtype)
    F = quantize.bitsandbytes().functional
    packed, state = F.quantize_4bit(w, blocksize=64, quant_type="nf4", compress_statistics=True)
    state.dtype = torch.float32
    if (
        columns % 64 == 0
    ):  # elsewhere this CPU's kernel may read wrong scales: quantize.protect tells
        assert torch.allclose(
            merge.dequantized(w), F.dequantize_4bit(packed, state).float(), rtol=1e-6, atol=1e-7
        )
    assert merge.dequantized(w).shape == w.shape and merge.dequantized(w).dtype == torch.float32


@given(st.floats(0.001, 0.49), st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_a_change_below_half_a_step_is_erased(part, seed):
    """Eq. 12.3, for every level but the block's scale itself."""
    g, levels = torch.Generator().manual_seed(seed), nf4.NF4_LEVELS
    place = torch.randint(1, 15, (64,), generator=g)
    place[0] = 15
    up = torch.randint(0, 2, (64,), generator=g).bool()
    change = (
        torch.where(
            up, levels[(place + 1).clamp_max(15)] - levels[place], levels[place - 1] - levels[place]
        )
        * part
    )
    change[0] = 0
    back = lambda w: nf4.nf4_dequantize(*nf4.nf4_quantize(w), w.shape, torch.float32)
    assert torch.equal(back(levels[place] + change), levels[place])
    assert (back(levels[place] + change * (0.51 / part))[1:] != levels[place][1:]).all()


def test_rows_are_replaced_and_added():
    w = torch.arange(12.0).view(4, 3)
    got = merge._with_rows(w, [1, 5], torch.tensor([[7.0, 7, 7], [9, 9, 9]]), 6)
    assert (
        got[[0, 2, 3]].tolist() == w[[0, 2, 3]].tolist()
        and got[1].tolist() == [7] * 3
        and got[5].tolist() == [9] * 3
    )
    assert got[4].tolist() == w.mean(0).tolist() and merge._with_rows(w, [], None, 2) is w


# -- against PEFT


def _tiny(folder, kind="qwen2", dtype=torch.float32, tied=False, **options):
    """A base of another architecture, with an index and several files."""
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    torch.manual_seed(0)
    shape = dict(
        vocab_size=100,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    model = AutoModelForCausalLM.from_config(
        (Qwen2Config if kind == "qwen2" else LlamaConfig)(**shape, **options), dtype=dtype
    )
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(p, std=0.1)
    model.save_pretrained(folder, max_shard_size="100KB")
    return folder


def _adapter(base, folder, seed=1, **options):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    model = get_peft_model(
        base,
        LoraConfig(
            **{
                "r": 4,
                "lora_alpha": 8,
                "target_modules": "all-linear",
                "task_type": "CAUSAL_LM",
                "init_lora_weights": False,
            }
            | options
        ),
    )
    for name, p in model.named_parameters():
        if "trainable_tokens_delta" in name:
            p.data += 1
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def _load(folder, nf4):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        quantization_config=quantize.nf4_config(torch.float32) if nf4 else None,
    )


CASES = {
    "qwen2": {},
    "tied": {"tied": True},
    "llama": {"kind": "llama"},
    "bf16": {"dtype": torch.bfloat16},
    "rslora": {"adapter": {"use_rslora": True}},
    "patterns": {
        "adapter": {
            "alpha_pattern": {"q_proj": 3, "layers.1.mlp.up_proj": 5},
            "rank_pattern": {"k_proj": 2},
        }
    },
    "rows": {"adapter": {"trainable_token_indices": {"embed_tokens": [3, 7], "lm_head": [7]}}},
    "tied rows": {"tied": True, "adapter": {"trainable_token_indices": [3, 7]}},
    "head": {"adapter": {"target_modules": ["lm_head", "o_proj"]}},
}


@pytest.mark.parametrize("onto", merge.VARIANTS)
@pytest.mark.parametrize("case", CASES)
def test_equal_to_the_library_road(case, onto, tmp_path):
    from peft import PeftModel

    options = dict(CASES[case])
    adapter = options.pop("adapter", {})
    base = _tiny(tmp_path / "base", **options)
    _adapter(_load(base, False), tmp_path / "adapter", **adapter)
    loaded = _load(base, onto == "dequantized")
    quantized = {
        n for n, m in loaded.named_modules() if isinstance(m, quantize.bitsandbytes().nn.Linear4bit)
    }
    if onto == "dequantized":
        assert merge._layout(base)[1] == quantized and len(quantized) == 14
    theirs = (
        PeftModel.from_pretrained(
            loaded.dequantize() if onto == "dequantized" else loaded, str(tmp_path / "adapter")
        )
        .merge_and_unload()
        .state_dict()
    )
    ours = dict(
        merge._tensors(base, merge.read_adapter(tmp_path / "adapter"), onto, 100, torch.float32)
    )
    assert set(ours) == set(theirs) - ({"lm_head.weight"} if "tied" in case else set())
    for name in ours:
        assert torch.allclose(ours[name], theirs[name].float(), rtol=1e-5, atol=1e-5), name
    plain = dict(merge._tensors(base, merge.Adapter({}, {}), onto, 100, torch.float32))
    assert any((ours[n] - plain[n]).abs().max() > 0.01 for n in ours)


def test_bf16_is_rounded_once(tmp_path):
    base = _tiny(tmp_path / "base", dtype=torch.bfloat16)
    adapter = merge.read_adapter(_adapter(_load(base, False), tmp_path / "adapter"))
    exact, rounded = (
        dict(merge._tensors(base, adapter, "dequantized", 100, dtype))
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert all(torch.equal(exact[n].bfloat16(), rounded[n]) for n in exact) and {
        t.dtype for t in rounded.values()
    } == {torch.bfloat16}


@pytest.mark.parametrize(
    "what,change",
    [
        ("DoRA", {"use_dora": True}),
        ("modules", {"modules_to_save": ["lm_head"]}),
        ("biases", {"bias": "all"}),
        ("pissa", {"init_lora_weights": "pissa"}),
        ("IA3", {"peft_type": "IA3"}),
        ("transposed", {"fan_in_fan_out": True}),
    ],
)
def test_other_adapters_are_refused_in_a_sentence(run, tmp_path, what, change):
    shutil.copytree(run.path / "adapter", tmp_path / "a")
    file = tmp_path / "a" / "adapter_config.json"
    file.write_text(
        json.dumps(json.loads(file.read_text(encoding="utf-8")) | change), encoding="utf-8"
    )
    with pytest.raises(InputError, match=what):
        merge.read_adapter(tmp_path / "a")


def test_a_real_dora_adapter_is_refused_by_its_tensors(tmp_path):
    base = _tiny(tmp_path / "base")
    folder = _adapter(
        _load(base, False), tmp_path / "adapter", use_dora=True, init_lora_weights=True
    )
    made = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(
        json.dumps(made | {"use_dora": False}), encoding="utf-8"
    )
    with pytest.raises(InputError, match="lora_magnitude_vector"):
        merge.read_adapter(folder)
    with pytest.raises(InputError, match="cannot be read"):
        merge.read_adapter(tmp_path / "nothing")


def test_another_base_is_refused_by_names_and_shapes(tmp_path):
    a = merge.read_adapter(_adapter(_load(_tiny(tmp_path / "one"), False), tmp_path / "adapter"))
    with pytest.raises(InputError, match="no layer"):
        dict(
            merge._tensors(
                hub.resolve("nano"),
                merge.Adapter({"model.layers.9.mlp.up_proj": next(iter(a.pairs.values()))}, {}),
                "16bit",
                1,
                torch.float32,
            )
        )
    with pytest.raises(InputError, match="adapter's"):
        dict(merge._tensors(hub.resolve("nano"), a, "16bit", 1, torch.float32))
    (tmp_path / "one" / "model.safetensors.index.json").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        merge._layout(tmp_path / "one")


# -- shards


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 200))
@settings(deadline=None, max_examples=25)
def test_shards_hold_everything_once(tmp_path_factory, sizes, limit):
    from safetensors.torch import load_file

    folder = tmp_path_factory.mktemp("shards")
    tensors = {f"t{i}": torch.full((n,), float(i)) for i, n in enumerate(sizes)}
    assert merge.write_shards(iter(tensors.items()), folder, shard_bytes=limit) == 4 * sum(sizes)
    files = sorted(folder.glob("*.safetensors"))
    read = [load_file(f) for f in files]
    assert sum(map(len, read)) == len(sizes) and all(
        torch.equal(t, tensors[n]) for part in read for n, t in part.items()
    )
    assert all(len(part) == 1 or sum(t.nbytes for t in part.values()) <= limit for part in read)
    assert (folder / "model.safetensors.index.json").exists() == (len(files) > 1) and len(
        list(folder.iterdir())
    ) == len(files) + (len(files) > 1)


def test_memory_is_bounded_by_a_shard_and_not_by_the_model(tmp_path):
    """Eight times the tensors, the same peak: only what is being written is held."""
    if not merge.Path("/proc/self/status").exists():
        pytest.skip("this system does not tell a process's anonymous memory")
    made = lambda n: ((f"t{i}", torch.ones(1 << 20)) for i in range(n))  # 4 MiB each
    grown = []
    for n in (8, 64):
        (tmp_path / str(n)).mkdir()
        with merge.Peak(every=0.002) as peak:
            merge.write_shards(made(n), tmp_path / str(n), shard_bytes=8 << 20)
        grown.append(peak.bytes - peak.before)
    assert grown[1] < 64 << 20


# -- a whole run


def test_the_dequantised_merge_is_the_trained_model(both, run):
    folder, report = both
    r = report["report"]
    near, far = r["variants"]["dequantized"], r["variants"]["16bit"]
    assert (
        near["kl"] < 1e-6
        and near["top1"] == 1
        and near["loss"] == pytest.approx(r["trained"]["loss"], abs=1e-4)
    )
    assert far["kl"] > 1e-3 and far["top1"] < 1
    assert r["rows"] == 16 and r["trained"]["loss"] == pytest.approx(
        run.report["after"]["loss"], rel=1e-4
    )  # that which tune reported
    for place, onto in (
        (folder, "both"),
        (folder / "dequantized", "dequantized"),
        (folder / "16bit", "16bit"),
    ):
        made = json.loads((place / "merge.json").read_text(encoding="utf-8"))
        valid(made)
        assert (
            made["onto"] == onto
            and made["report"] == r
            and made["bytes"]["16bit"]
            == sum(p.stat().st_size for p in (folder / "16bit").iterdir() if p.name != "merge.json")
        )


def test_plain_transformers_answers_the_same_and_stops(both, run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = both[0] / "dequantized"
    model, tokenizer, template = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
        templates.read(folder / "template.json"),
    )
    assert (
        model.dtype == torch.float32
        and model.generation_config.eos_token_id == [1]
        and not hasattr(model.config, "quantization_config")
    )
    trained, theirs, _ = run.ready()
    rows = [dataset.example(r) for r in dataset.load(run.path / "heldout.jsonl")][:8]
    prompts = [templates.prompt(template, tokenizer, ex) for ex in rows]
    assert prompts == [templates.prompt(template, theirs, ex) for ex in rows]
    wanted = generate.complete(
        trained,
        theirs,
        prompts,
        stop_ids=templates.stop_ids(template, theirs),
        max_new_tokens=24,
        batch_size=1,
    )
    for ids, c in zip(prompts, wanted):
        out = model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[
            0, len(ids) :
        ].tolist()
        assert [i for i in out if i != 1] == c.ids and (c.reason == "length" or out[-1] == 1)


def test_a_merged_folder_is_opened_and_others_are_not(both, run, tmp_path):
    folder = both[0]
    assert (
        merge.is_merged(folder / "16bit")
        and not merge.is_merged(folder)
        and not merge.is_merged(run.path)
    )
    model, tokenizer, template = merge.open_merged(folder / "dequantized")
    assert (
        template == templates.read(run.path / "template.json")
        and not model.training
        and not any(p.requires_grad for p in model.parameters())
    )
    ex = dataset.example(next(iter(dataset.load(run.path / "heldout.jsonl"))))
    assert generate.answer(model, tokenizer, template, [ex], max_new_tokens=16) == [
        run.answer(ex.instruction, ex.input, max_new_tokens=16)
    ]
    for other, hint in ((folder, "dequantized"), (run.path, "one that merge wrote")):
        with pytest.raises(InputError, match=hint):
            merge.open_merged(other)


def test_new_tokens_are_merged_with_their_rows(tmp_path):
    """A vocabulary that grows: a template whose tokens the base does not know, on an untied and on a tied base."""
    for tied in (False, True):
        base = _tiny(
            tmp_path / f"base-{tied}", kind="llama", tied=tied, max_position_embeddings=512
        )
        from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
        from tokenizers import models as kinds
        from transformers import PreTrainedTokenizerFast

        made = Tokenizer(kinds.BPE())
        made.pre_tokenizer, made.decoder = (
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            decoders.ByteLevel(),
        )
        made.train_from_iterator(
            ["abc"],
            trainers.BpeTrainer(
                vocab_size=99,
                initial_alphabet=list(
                    "abcdefghijklmnopqrstuvwxyzĠĊ.,:0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                ),
                special_tokens=["<eos>"],
            ),
        )
        PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>").save_pretrained(base)
        dataset.save(
            tmp_path / "rows.jsonl",
            [
                Example("Say a.", output="a b"),
                Example("Say b.", "x", "b"),
                Example("Say c.", output="c"),
                Example("Say d.", output="d"),
            ],
        )
        run = instruct_course.tune(
            model=str(base),
            data=str(tmp_path / "rows.jsonl"),
            holdout="0.5",
            epochs=3,
            template="article",
            lora_r=2,
            out=str(tmp_path / f"run-{tied}"),
            quiet=True,
        )
        folder, report = merge.merge(
            run.path, tmp_path / f"out-{tied}", dtype="float32", quiet=True
        )
        model, tokenizer, template = merge.open_merged(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert (
            config["vocab_size"]
            == model.get_input_embeddings().weight.shape[0]
            == max(100, len(tokenizer))
            and config["tie_word_embeddings"] is tied
        )
        ids = tokenizer.convert_tokens_to_ids(["<inst>", "<inp>", "<out>"])
        assert max(ids) >= 70 and report["report"]["variants"]["dequantized"]["kl"] < 2e-4
        rows = merge.read_adapter(run.path / "adapter").rows
        for name, (at, values) in rows.items():
            assert set(at) == set(ids) and torch.equal(model.get_submodule(name).weight[at], values)
        assert len(rows) == (1 if tied else 2)


# -- when things go wrong


def test_the_command_and_its_refusals(run, tmp_path, command):
    code, out, err = command(
        "merge", "--run", run.path, "--out", tmp_path / "m", "--limit", "4", "--json"
    )
    made = json.loads(out)
    valid(made)
    assert (
        code == 0
        and made["onto"] == "dequantized"
        and made["report"]["rows"] == 4
        and merge.is_merged(tmp_path / "m")
    )
    for args, says in (
        (["--out", tmp_path / "m"], "already exists"),
        (["--out", tmp_path / "n", "--onto", "4bit"], "--onto 4bit"),
        (["--out", tmp_path / "n", "--dtype", "int8"], "--dtype"),
        (["--out", tmp_path / "n", "--limit", "-1"], "--limit"),
        (["--out", tmp_path / "m" / "config.json" / "n"], "--out"),
    ):
        code, out, err = command("merge", "--run", run.path, *args)
        assert (
            code == 2
            and says in err
            and not out
            and len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
        )
    assert {p.name for p in tmp_path.iterdir()} == {"m"}
    code, out, _ = command(
        "merge",
        "--run",
        run.path,
        "--out",
        tmp_path / "deep" / "bare",
        "--limit",
        "0",
        "--onto",
        "16bit",
        "--dtype",
        "bfloat16",
    )
    assert (
        code == 0
        and "Not judged" in out
        and json.loads((tmp_path / "deep" / "bare" / "config.json").read_text(encoding="utf-8"))[
            "dtype"
        ]
        == "bfloat16"
    )


def test_another_base_or_template_is_refused_and_nothing_stays(run, tmp_path):
    for file, key, value, says in (
        (
            "adapter/origin.json",
            "base",
            {"name": "nano", "fingerprint": "0" * 64, "quantization": "nf4"},
            "the base at hand",
        ),
        (
            "template.json",
            "with_input",
            "<inst> {instruction}!<inp> {input}<out> ",
            "the template at hand",
        ),
    ):
        copy = tmp_path / says.split()[1]
        shutil.copytree(run.path, copy)
        made = json.loads((copy / file).read_text(encoding="utf-8"))
        (copy / file).write_text(json.dumps(made | {key: value}), encoding="utf-8")
        with pytest.raises(InputError, match=says):
            merge.merge(copy, tmp_path / "out" / "x", quiet=True)
        assert not (tmp_path / "out").exists()
    merge.merge(copy, tmp_path / "out", allow_mismatch=True, limit=0, quiet=True)


def test_a_base_that_was_not_quantised_has_one_merge(run, tmp_path):
    copy = shutil.copytree(run.path, tmp_path / "plain")
    for file in ("run.json", "adapter/origin.json"):
        made = json.loads((copy / file).read_text(encoding="utf-8"))
        made["base"]["quantization"] = "none"
        (copy / file).write_text(json.dumps(made), encoding="utf-8")
    with pytest.raises(InputError, match="not quantised"):
        merge.merge(copy, tmp_path / "out", onto="both", quiet=True)
    report = merge.merge(copy, tmp_path / "out", limit=4, quiet=True)[1]
    assert report["onto"] == "16bit" and report["report"]["variants"]["16bit"]["kl"] < 1e-6
    valid(report)


def test_without_memory_to_judge_the_merge_stands(run, tmp_path, monkeypatch):
    def full(*args, **options):
        raise InputError("its weights need 15.2 GB here")

    monkeypatch.setattr(merge, "open_merged", full)
    folder, report = merge.merge(run.path, tmp_path / "out", limit=2, quiet=True)
    assert (
        report["report"] is None
        and "15.2 GB" in report["no_report"]
        and (folder / "model.safetensors").exists()
    )
    valid(report)


def test_a_failure_half_way_leaves_nothing(run, tmp_path, monkeypatch):
    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(merge, "_write_beside", fail)
    with pytest.raises(KeyboardInterrupt):
        merge.merge(run.path, tmp_path / "deep" / "out", quiet=True)
    assert not list(tmp_path.iterdir())


def test_kl_is_zero_only_for_the_same():
    p, q = torch.randn(5, 9).log_softmax(-1), torch.randn(5, 9).log_softmax(-1)
    assert torch.equal(merge.kl(p, p), torch.zeros(5)) and (merge.kl(p, q) > 0).all()
    assert merge.kl(
        torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    ).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-6)
