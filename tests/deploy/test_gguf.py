"""A GGUF file holds what was merged: formats keep their bounds, and others read it back."""

import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bases import byte_level_base, inputs_of

from instruct_course import generate
from instruct_course.common.errors import InputError
from instruct_course.data import dataset
from instruct_course.data import template as templates
from instruct_course.deploy.gguf import (
    GGUF_DTYPES,
    permute,
    read_gguf,
    rounded,
    stored_as,
    write_gguf,
)
from instruct_course.deploy.gguf_tokenizer import pre_tokenizer
from instruct_course.deploy.merge import merge
from instruct_course.deploy.merged import open_merged
from instruct_course.deploy.ollama import GOLDEN, compare_prompts, ollama_ids, prompt_text
from instruct_course.deploy.variants import kl_divergence
from instruct_course.model import hub


@pytest.fixture(scope="module")
def merged(inputs):
    return dict(inputs.tensors("dequantized", torch.float32))


@pytest.fixture(scope="module")
def files(inputs, tmp_path_factory):
    """{dtype: (file, facts)} of nano."""
    out = {}
    for dtype in GGUF_DTYPES:
        file = tmp_path_factory.mktemp(dtype) / "model.gguf"
        out[dtype] = file, write_gguf(inputs, file, dtype)
    return out


# -- numbers


@given(st.integers(1, 6), st.floats(-4, 4), st.integers(0, 99), st.sampled_from(list(GGUF_DTYPES)))
@settings(deadline=None, max_examples=40)
def test_each_format_keeps_its_bound(rows, scale, seed, dtype):
    weight = torch.randn(rows, 64, generator=torch.Generator().manual_seed(seed)) * 10**scale
    stored, back = rounded(weight, dtype)
    top = weight.view(-1, 32).abs().amax(1, keepdim=True)
    # half a step, and the scale in float16
    bound = {
        "f32": torch.zeros_like(weight),
        "bf16": weight.abs() * 2**-8,
        "f16": weight.abs() * 2**-11 + 2**-25,
        "q8_0": (top * (1 / 254 + 2**-11) + 127 * 2**-25).expand(-1, 32).reshape(weight.shape),
    }[dtype]
    assert ((back - weight).abs() <= bound * 1.0001).all()
    size = {"f32": 4, "bf16": 2, "f16": 2, "q8_0": 34 / 32}[dtype]
    assert stored.nbytes == size * weight.numel()
    assert torch.equal(rounded(back, dtype)[1], back) or dtype == "q8_0"


def test_where_each_format_is_used():
    shapes = ((64,), (3, 64), (3, 48))
    assert [stored_as(shape, "q8_0") for shape in shapes] == ["f32", "q8_0", "f16"]
    assert stored_as((3, 48), "bf16") == "bf16"


@given(st.integers(1, 5), st.integers(1, 8), st.integers(1, 4))
@settings(deadline=None)
def test_the_permutation_interleaves_the_halves(heads, half, columns):
    weight = torch.arange(heads * 2 * half * columns).view(-1, columns)
    found = permute(weight, heads)
    for head in range(heads):
        start = head * 2 * half
        for i in range(half):
            assert torch.equal(found[start + 2 * i], weight[start + i])
            assert torch.equal(found[start + 2 * i + 1], weight[start + half + i])


# -- a file, read back


@pytest.mark.parametrize("dtype", GGUF_DTYPES)
def test_nano_is_read_back_by_transformers(files, merged, dtype):
    file, facts = files[dtype]
    model = read_gguf(file)
    state = model.state_dict()
    wanted = dict(merged)
    if dtype == "bf16":
        wanted = {n: w.bfloat16().float() if w.dim() == 2 else w for n, w in merged.items()}
    assert set(state) - {"lm_head.weight"} == set(merged)
    assert model.config.tie_word_embeddings
    assert model.config.eos_token_id == 1
    worst = max((state[name] - weight).abs().max().item() for name, weight in wanted.items())
    if dtype in ("f32", "bf16"):
        assert worst == 0
    else:
        assert worst == pytest.approx(facts["largest_error"])
    relative = {"f32": 0, "bf16": 2**-8, "f16": 2**-11, "q8_0": 0.007}[dtype]
    assert facts["relative_error"] <= relative
    assert facts["tensors"] == 38
    assert facts["bytes"] == file.stat().st_size


def test_the_whole_way_gives_the_same_answers(tuned_run, files, tmp_path):
    """Adapter on NF4, dequantised merge, GGUF in float32; and a margin that says why."""
    trained, tokenizer, template = tuned_run.ready()
    rows = [dataset.example(r) for r in dataset.builtin("inputs").select(range(0, 600, 40))]
    prompts = [templates.prompt(template, tokenizer, ex) for ex in rows]
    stops = templates.stop_ids(template, tokenizer)

    def answers(model):
        said = generate.complete(model, tokenizer, prompts, stop_ids=stops, max_new_tokens=24)
        return [answer.ids for answer in said]

    folder, _ = merge(tuned_run.path, tmp_path / "merged", limit=0, quiet=True)
    wanted = answers(trained)
    assert answers(open_merged(folder)[0]) == wanted
    assert answers(read_gguf(files["f32"][0])) == wanted
    assert sum(map(len, wanted)) > 30
    with torch.no_grad():
        logits = [
            trained(input_ids=torch.tensor([ids + new])).logits[0, len(ids) - 1 :]
            for ids, new in zip(prompts, wanted)
        ]
    best = torch.cat(logits).topk(2).values
    assert (best[:, 0] - best[:, 1]).min() > 1e-4


@pytest.mark.parametrize(
    "kind,rule", [("qwen2", "qwen2"), ("llama", "llama-bpe"), ("llama", "gpt-2")]
)
def test_other_architectures_and_their_tokenizers(tmp_path, kind, rule):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = byte_level_base(tmp_path / "base", kind, rule)
    inputs = inputs_of(folder)
    (tmp_path / "out").mkdir()
    file = tmp_path / "out" / "model.gguf"
    write_gguf(inputs, file, "f32", onto="16bit")
    ours = AutoModelForCausalLM.from_pretrained(folder)
    theirs = read_gguf(file)
    assert type(ours) is type(theirs)
    assert pre_tokenizer(inputs.tokenizer) == rule
    state = theirs.state_dict()
    assert all(torch.equal(weight, state[name]) for name, weight in ours.state_dict().items())
    assert ("model.layers.0.self_attn.q_proj.bias" in ours.state_dict()) == (kind == "qwen2")
    ids = torch.arange(40)[None] + 5
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)
    tokenizer = inputs.tokenizer
    other = AutoTokenizer.from_pretrained(tmp_path / "out", gguf_file="model.gguf")
    for instruction, text in GOLDEN:
        asked = instruction + text
        wanted = tokenizer(asked, add_special_tokens=False).input_ids
        assert other(asked, add_special_tokens=False).input_ids == wanted
    found = compare_prompts(
        inputs.template, tokenizer, lambda ex: ollama_ids(inputs.template, tokenizer, ex)
    )
    assert found == {"n": len(GOLDEN), "equal": len(GOLDEN), "different": []}


@pytest.mark.parametrize(
    "change,says",
    [
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "linear"),
        ({"model_type": "mistral", "architectures": ["MistralForCausalLM"]}, "mistral"),
    ],
)
def test_other_architectures_are_refused(tmp_path, change, says):
    folder = shutil.copytree(hub.resolve("nano"), tmp_path / "base")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
    with pytest.raises(InputError, match=says):
        write_gguf(inputs_of(folder), tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


def test_the_metadata_of_the_file(files, inputs):
    import gguf

    fields = gguf.GGUFReader(files["f32"][0]).fields
    for key, wanted in (
        ("general.architecture", "llama"),
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", "smollm"),
        ("llama.rope.freq_base", 10000),
        ("tokenizer.ggml.add_bos_token", False),
        ("tokenizer.ggml.eos_token_id", 1),
    ):
        assert fields[key].contents() == wanted, key
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    assert len(tokens) == len(types) == 4096
    assert tokens[:5] == ["<pad>", "<eos>", "<inst>", "<inp>", "<out>"]
    assert types[:6] == [3] * 5 + [1]
    assert "tokenizer.chat_template" not in fields
    assert inputs.tokenizer.convert_ids_to_tokens(100) == tokens[100]


# -- llama.cpp itself, where it is installed


def test_llama_cpp_reads_the_same_model(files, tuned_run):
    """Tokens, logits and greedy answers of llama.cpp on the float32 file."""
    llama_cpp = pytest.importorskip("llama_cpp")
    import numpy as np

    trained, tokenizer, template = tuned_run.ready()
    # type_k, type_v: a cache in float32
    llm = llama_cpp.Llama(
        str(files["f32"][0]),
        n_ctx=256,
        logits_all=True,
        verbose=False,
        n_threads=1,
        type_k=0,
        type_v=0,
    )
    rows = [dataset.example(r) for r in dataset.builtin("inputs").select(range(0, 600, 60))]
    stops = templates.stop_ids(template, tokenizer)
    worst = 0.0
    kl = 0.0
    for ex in rows:
        ids = templates.prompt(template, tokenizer, ex)
        text = prompt_text(template, tokenizer, ex).encode()
        assert llm.tokenize(text, add_bos=False, special=True) == ids
        (wanted,) = generate.complete(trained, tokenizer, [ids], stop_ids=stops, max_new_tokens=16)
        whole = ids + wanted.ids
        llm.reset()
        llm.eval(whole)
        ours = trained(input_ids=torch.tensor([whole])).logits[0].detach().log_softmax(-1)
        theirs = torch.from_numpy(np.array(llm.scores[: len(whole)])).log_softmax(-1)
        worst = max(worst, (ours - theirs).abs().max().item())
        kl = max(kl, kl_divergence(ours, theirs).mean().item())
        # its greedy choice at every step
        assert theirs[len(ids) - 1 : -1].argmax(-1).tolist() == wanted.ids
    print(f"llama.cpp {llama_cpp.__version__}: KL ≤ {kl:.2e}, log-probabilities ± {worst:.2e}")
    assert kl < 1e-6
    assert worst < 0.01
    for instruction, text in GOLDEN:
        asked = instruction + text
        found = llm.tokenize(asked.encode(), add_bos=False, special=True)
        assert found == tokenizer(asked, add_special_tokens=False).input_ids
