"""A base that the hub holds in bitsandbytes' NF4: loaded as it is, trained on, merged."""

import json
import shutil

import pytest
import torch

import instruct_course
from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.common.quiet import quiet_transformers
from instruct_course.data import dataset
from instruct_course.deploy.export import export
from instruct_course.deploy.merge import merge
from instruct_course.deploy.merged import open_merged
from instruct_course.model import hub, load, quantize
from instruct_course.model.footprint import memory_footprint
from instruct_course.model.load import load_base, weight_bytes
from instruct_course.model.tensors import read_layout, read_tensor, stored_quantization
from instruct_course.run import open_run

DOUBLE = {"bnb_4bit_use_double_quant": True}


def write_stored(folder, source=ASSETS / "nano", **options):
    """What transformers writes of nano in NF4: in bf16 around it, as the hub's folders are."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    quantize.bitsandbytes()
    config = BitsAndBytesConfig(
        **{
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": torch.bfloat16,
            "bnb_4bit_quant_storage": torch.uint8,
        }
        | DOUBLE
        | options
    )
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.bfloat16, quantization_config=config
        )
        model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def computed_in_float32():
    """On every machine, so that logits can be compared closely."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "compute_dtype", lambda name: torch.float32)
        yield


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return write_stored(tmp_path_factory.mktemp("stored") / "nano-bnb-4bit")


@pytest.fixture(scope="module")
def tuned(stored, tmp_path_factory):
    """A run of a few steps on the stored base."""
    folder = tmp_path_factory.mktemp("run")
    rows = [dataset.example(row) for row in dataset.builtin("train").select(range(60))]
    dataset.save(folder / "rows.jsonl", rows)
    return instruct_course.tune(
        model=str(stored),
        data=str(folder / "rows.jsonl"),
        holdout="0.2",
        epochs=2,
        out=str(folder / "run"),
        quiet=True,
    )


def logits_of(model, seed=0):
    ids = torch.randint(5, 4000, (2, 24), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model(ids.to(model.device)).logits.float().cpu()


@pytest.mark.parametrize("double", [True, False])
def test_its_codes_and_scales_are_taken_as_they_are(tmp_path, monkeypatch, double):
    """The weights mean what the library says that they mean, and nothing is quantised again."""
    folder = write_stored(tmp_path / "model", bnb_4bit_use_double_quant=double)
    monkeypatch.setattr(load, "KEEP_ABOVE", 0)
    monkeypatch.setenv("INSTRUCT_COURSE_CACHE", str(tmp_path / "cache"))
    base = load_base(str(folder), dtype=torch.float32, say=pytest.fail)
    assert stored_quantization(folder) == base.quantization == "nf4"
    assert base.fingerprint == hub.fingerprint(folder) != hub.fingerprint(ASSETS / "nano")
    assert not any(p.requires_grad for p in base.model.parameters())
    name = "model.layers.1.mlp.up_proj"
    layer = base.model.get_submodule(name)
    assert layer.compute_dtype == layer.weight.quant_state.dtype == torch.float32
    theirs = quantize.bitsandbytes().functional.dequantize_4bit(
        layer.weight.data, layer.weight.quant_state
    )
    ours = read_tensor(folder, f"{name}.weight")
    assert ours.shape == (704, 256)
    torch.testing.assert_close(ours, theirs.cpu(), rtol=1e-6, atol=1e-8)
    original = read_tensor(ASSETS / "nano", f"{name}.weight")
    assert 0 < (ours - original).norm() / original.norm() < 0.12
    layout = read_layout(folder)
    assert layout.names == read_layout(ASSETS / "nano").names and layout.quantized == set()


def test_its_bytes_are_counted(stored):
    real = sum(memory_footprint(load_base(str(stored), dtype=torch.float32).model).values())
    assert weight_bytes(stored, "nf4", torch.float32) == pytest.approx(real, rel=0.02)
    whole = weight_bytes(ASSETS / "nano", "none", torch.float32)
    assert weight_bytes(stored, "none", torch.float32) == whole


def test_what_is_stored_otherwise_is_refused(stored, tmp_path):
    with pytest.raises(InputError, match="stored in NF4, so they cannot.*--quantization none"):
        load_base(str(stored), quantization="none")
    shutil.copytree(stored, tmp_path / "other")
    config = json.loads((stored / "config.json").read_text(encoding="utf-8"))
    for change, says in (
        ({"bnb_4bit_quant_type": "fp4"}, "quantised already .fp4."),
        ({"load_in_4bit": False, "load_in_8bit": True}, "quantised already .8bit."),
    ):
        made = config | {"quantization_config": config["quantization_config"] | change}
        (tmp_path / "other" / "config.json").write_text(json.dumps(made), encoding="utf-8")
        with pytest.raises(InputError, match=says):
            load_base(str(tmp_path / "other"))
        with pytest.raises(InputError, match="name the 16-bit original"):
            read_layout(tmp_path / "other")


def test_a_run_on_it_records_its_fingerprint(tuned, stored):
    assert tuned.made["base"]["fingerprint"] == hub.fingerprint(stored)
    assert tuned.made["base"]["quantization"] == "nf4"
    origin = json.loads((tuned.path / "adapter" / "origin.json").read_text(encoding="utf-8"))
    assert hub.fingerprint(stored) in json.dumps(origin)
    assert tuned.report["after"]["loss"] < tuned.report["before"]["loss"]


def test_another_base_under_the_same_name_is_refused(tuned, stored, tmp_path):
    aside = tmp_path / "aside"
    stored.rename(aside)
    try:
        write_stored(stored, bnb_4bit_use_double_quant=False)
        with pytest.raises(InputError, match="differ"):
            open_run(tuned.path).ready()
        with pytest.raises(InputError, match="base at hand differ"):
            merge(tuned.path, tmp_path / "merged", quiet=True)
        assert not (tmp_path / "merged").exists()
    finally:
        shutil.rmtree(stored)
        aside.rename(stored)


def test_a_merge_is_the_trained_model_on_what_the_codes_mean(tuned, tmp_path):
    folder, made = merge(tuned.path, tmp_path / "merged", dtype="float32", quiet=True)
    assert made["onto"] == "dequantized"
    near = made["report"]["variants"]["dequantized"]
    assert near["kl"] < 1e-6 and near["top1"] == 1
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    merged, *_ = open_merged(folder)
    trained, *_ = open_run(tuned.path).ready()
    torch.testing.assert_close(logits_of(merged), logits_of(trained), rtol=0, atol=1e-3)
    base = load_base(str(tuned.made["base"]["name"]), dtype=torch.float32)
    rows = min(merged.vocab_size, base.model.vocab_size)
    far = (logits_of(base.model)[..., :rows] - logits_of(merged)[..., :rows]).abs().max()
    assert far > 0.1  # the adapter does something


def test_the_merge_is_written_in_the_bases_own_16_bits(tuned, tmp_path):
    folder, made = merge(tuned.path, tmp_path / "merged", limit=0, quiet=True)
    assert made["dtype"] == "bfloat16"
    weight = read_tensor(folder, "model.layers.0.self_attn.q_proj.weight")
    assert weight.dtype == torch.bfloat16 and weight.shape == (256, 256)


def test_there_are_no_16_bit_weights_to_merge_onto(tuned, tmp_path):
    for onto in ("16bit", "both"):
        with pytest.raises(InputError, match="stored in 4 bits.*use --onto dequantized"):
            merge(tuned.path, tmp_path / "merged", onto=onto, quiet=True)
    with pytest.raises(InputError, match="stored in 4 bits.*use --onto dequantized"):
        export(tuned.path, tmp_path / "gguf", onto="16bit", quiet=True)
    assert list(tmp_path.iterdir()) == []
