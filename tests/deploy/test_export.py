"""What is exported is what was merged: weights read back, prompts equal to training's token for token, a card that says what is true, and no upload without a yes."""

import http.server
import json
import os
import runpy
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import instruct_course
from instruct_course import generate
from instruct_course import run as runs
from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.data import dataset
from instruct_course.data import template as templates
from instruct_course.data.example import Example
from instruct_course.deploy import export, merge
from instruct_course.model import hub


def valid(value):
    jsonschema.validate(
        value, json.loads((ASSETS / "schemas" / "export.schema.json").read_text(encoding="utf-8"))
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished nano run: that of INSTRUCT_COURSE_RUN, where somebody just made one, else a small one."""
    if made := os.environ.get("INSTRUCT_COURSE_RUN"):
        return runs.open_run(made)
    folder = tmp_path_factory.mktemp("export")
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
def parts(run):
    return merge.parts(run)


@pytest.fixture(scope="module")
def merged(parts):
    return dict(parts.tensors("dequantized", torch.float32))


@pytest.fixture(scope="module")
def files(parts, tmp_path_factory):
    """{dtype: (file, facts)} of nano."""
    out = {}
    for dtype in export.GGUF_DTYPES:
        file = tmp_path_factory.mktemp(dtype) / "model.gguf"
        out[dtype] = file, export.write_gguf(parts, file, dtype)
    return out


# -- numbers


@given(
    st.integers(1, 6),
    st.floats(-4, 4),
    st.integers(0, 99),
    st.sampled_from(list(export.GGUF_DTYPES)),
)
@settings(deadline=None, max_examples=40)
def test_each_format_keeps_its_bound(rows, scale, seed, dtype):
    w = torch.randn(rows, 64, generator=torch.Generator().manual_seed(seed)) * 10**scale
    stored, back = export.rounded(w, dtype)
    top = w.view(-1, 32).abs().amax(1, keepdim=True)
    bound = {
        "f32": torch.zeros_like(w),
        "bf16": w.abs() * 2**-8,
        "f16": w.abs() * 2**-11 + 2**-25,
        "q8_0": (top * (1 / 254 + 2**-11) + 127 * 2**-25).expand(-1, 32).reshape(w.shape),
    }[dtype]  # half a step, and the scale in float16
    assert ((back - w).abs() <= bound * 1.0001).all()
    assert stored.nbytes == {"f32": 4, "bf16": 2, "f16": 2, "q8_0": 34 / 32}[dtype] * w.numel()
    assert torch.equal(export.rounded(back, dtype)[1], back) or dtype == "q8_0"


def test_where_each_format_is_used():
    assert [export.stored_as(s, "q8_0") for s in ((64,), (3, 64), (3, 48))] == [
        "f32",
        "q8_0",
        "f16",
    ] and export.stored_as((3, 48), "bf16") == "bf16"


@given(st.integers(1, 5), st.integers(1, 8), st.integers(1, 4))
@settings(deadline=None)
def test_the_permutation_interleaves_the_halves(heads, half, columns):
    w = torch.arange(heads * 2 * half * columns).view(-1, columns)
    got = export.permute(w, heads)
    for h in range(heads):
        for i in range(half):
            assert torch.equal(got[h * 2 * half + 2 * i], w[h * 2 * half + i]) and torch.equal(
                got[h * 2 * half + 2 * i + 1], w[h * 2 * half + half + i]
            )


# -- a file, read back


@pytest.mark.parametrize("dtype", export.GGUF_DTYPES)
def test_nano_is_read_back_by_transformers(files, merged, dtype):
    file, facts = files[dtype]
    model = export.read_gguf(file)
    state = model.state_dict()
    wanted = {
        n: w.bfloat16().float() if dtype == "bf16" and w.dim() == 2 else w
        for n, w in merged.items()
    }
    assert (
        set(state) - {"lm_head.weight"} == set(merged)
        and model.config.tie_word_embeddings
        and model.config.eos_token_id == 1
    )
    worst = max((state[n] - w).abs().max().item() for n, w in wanted.items())
    assert (
        worst == 0 if dtype in ("f32", "bf16") else worst == pytest.approx(facts["largest_error"])
    )
    relative = {"f32": 0, "bf16": 2**-8, "f16": 2**-11, "q8_0": 0.007}[dtype]
    assert (
        facts["relative_error"] <= relative
        and facts["tensors"] == 38
        and facts["bytes"] == file.stat().st_size
    )


def test_the_whole_way_gives_the_same_answers(run, parts, files, tmp_path):
    """Adapter on NF4, dequantised merge, GGUF in float32: greedy answers in float32, and a margin that says why."""
    trained, tokenizer, template = run.ready()
    rows = [dataset.example(r) for r in dataset.builtin("inputs").select(range(0, 600, 40))]
    prompts, stops = (
        [templates.prompt(template, tokenizer, ex) for ex in rows],
        templates.stop_ids(template, tokenizer),
    )
    ask = lambda model: [
        c.ids
        for c in generate.complete(model, tokenizer, prompts, stop_ids=stops, max_new_tokens=24)
    ]
    folder, _ = merge.merge(run.path, tmp_path / "merged", limit=0, quiet=True)
    wanted = ask(trained)
    assert (
        ask(merge.open_merged(folder)[0]) == wanted == ask(export.read_gguf(files["f32"][0]))
        and sum(map(len, wanted)) > 30
    )
    with torch.no_grad():
        best = (
            torch.cat(
                [
                    trained(input_ids=torch.tensor([p + new])).logits[0, len(p) - 1 :]
                    for p, new in zip(prompts, wanted)
                ]
            )
            .topk(2)
            .values
        )
    assert (best[:, 0] - best[:, 1]).min() > 1e-4


def _base(folder, kind, rule, **options):
    """A base of another architecture with a byte-level tokenizer that is cut by `rule`."""
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
    from tokenizers import models as kinds
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

    made = Tokenizer(kinds.BPE())
    made.decoder = decoders.ByteLevel()
    if rule in ("qwen2", "llama-bpe"):
        regex = export._RULES[rule][0]["pattern"]["Regex"]
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(regex), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if rule == "qwen2":
        made.normalizer = normalizers.NFC()
    made.train_from_iterator(
        ["the words of a line\n\nand 2024 more"] * 3,
        trainers.BpeTrainer(
            vocab_size=290,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<eos>", "<bos>"],
        ),
    )
    PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<eos>", bos_token="<bos>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    shape = dict(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        max_position_embeddings=256,
        eos_token_id=0,
    )
    model = AutoModelForCausalLM.from_config(
        {"llama": LlamaConfig, "qwen2": Qwen2Config}[kind](**shape | options)
    )
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(p, std=0.1)
    model.save_pretrained(folder)
    return folder


def _parts(folder, template="alpaca"):
    from transformers import AutoTokenizer

    run = SimpleNamespace(path=Path("tiny"), made={"base": {"quantization": "none"}})
    return merge.Parts(
        run,
        folder,
        merge.Adapter({}, {}),
        AutoTokenizer.from_pretrained(folder),
        templates.named(template),
        320,
        torch.float32,
    )


@pytest.mark.parametrize(
    "kind,rule", [("qwen2", "qwen2"), ("llama", "llama-bpe"), ("llama", "gpt-2")]
)
def test_other_architectures_and_their_tokenizers(tmp_path, kind, rule):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = _base(tmp_path / "base", kind, rule)
    p = _parts(folder)
    (tmp_path / "out").mkdir()
    export.write_gguf(p, tmp_path / "out" / "model.gguf", "f32", onto="16bit")
    ours, theirs = (
        AutoModelForCausalLM.from_pretrained(folder),
        export.read_gguf(tmp_path / "out" / "model.gguf"),
    )
    assert type(ours) is type(theirs) and export.pre_tokenizer(p.tokenizer) == rule
    assert all(torch.equal(w, theirs.state_dict()[n]) for n, w in ours.state_dict().items()) and (
        kind == "llama" or "model.layers.0.self_attn.q_proj.bias" in ours.state_dict()
    )
    ids = torch.arange(40)[None] + 5
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)
    other = AutoTokenizer.from_pretrained(tmp_path / "out", gguf_file="model.gguf")
    for c, x in export.GOLDEN:
        assert (
            other(c + x, add_special_tokens=False).input_ids
            == p.tokenizer(c + x, add_special_tokens=False).input_ids
        )
    got = export.compare_prompts(
        p.template, p.tokenizer, lambda ex: export.ollama_ids(p.template, p.tokenizer, ex)
    )
    assert got == {"n": len(export.GOLDEN), "equal": len(export.GOLDEN), "different": []}


def test_what_gguf_cannot_say_is_refused(tmp_path):
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    t = AutoTokenizer.from_pretrained(hub.resolve("nano"))
    assert export.pre_tokenizer(t) == "smollm"
    for rule in (
        pre_tokenizers.Whitespace(),
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=False),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        ),
    ):
        t.backend_tokenizer.pre_tokenizer = rule
        with pytest.raises(InputError, match="convert_hf_to_gguf"):
            export.pre_tokenizer(t)
    for i, (change, says) in enumerate(
        (
            (
                {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
                "linear",
            ),
            ({"model_type": "mistral", "architectures": ["MistralForCausalLM"]}, "mistral"),
        )
    ):
        folder = shutil.copytree(hub.resolve("nano"), tmp_path / str(i))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
        with pytest.raises(InputError, match=says):
            export.write_gguf(_parts(folder), tmp_path / "x.gguf")
        assert not (tmp_path / "x.gguf").exists()


def test_the_facts_of_the_file(files, parts):
    import gguf

    reader = gguf.GGUFReader(files["f32"][0])
    get = lambda key: reader.fields[key].contents()
    assert (
        get("general.architecture") == "llama"
        and get("tokenizer.ggml.model") == "gpt2"
        and get("tokenizer.ggml.pre") == "smollm"
        and get("llama.rope.freq_base") == 10000
    )
    tokens, types = get("tokenizer.ggml.tokens"), get("tokenizer.ggml.token_type")
    assert (
        len(tokens) == len(types) == 4096
        and tokens[:5] == ["<pad>", "<eos>", "<inst>", "<inp>", "<out>"]
        and types[:6] == [3] * 5 + [1]
    )
    assert (
        not get("tokenizer.ggml.add_bos_token")
        and get("tokenizer.ggml.eos_token_id") == 1
        and "tokenizer.chat_template" not in reader.fields
    )
    assert parts.tokenizer.convert_ids_to_tokens(100) == tokens[100]


# -- prompts


@pytest.mark.parametrize("name", ["article", "alpaca"])
def test_prompts_are_those_of_training(parts, name):
    t, tokenizer = templates.named(name), parts.tokenizer
    asked = lambda ex: export.ollama_ids(t, tokenizer, ex)
    assert export.compare_prompts(t, tokenizer, asked) == {"n": 9, "equal": 9, "different": []}
    assert export.compare_prompts(t, tokenizer, asked, export.EDGES)["different"] == [
        ["Say <out> now. <eos>", ""]
    ]  # the engine parses what training did not


CHAT = "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<eos>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"


def test_a_chat_template_in_go(tmp_path):
    p = _parts(_base(tmp_path / "base", "llama", "gpt-2"))
    p.tokenizer.chat_template = CHAT
    t = templates.named("chat", p.tokenizer)
    go = export.go_template(t, p.tokenizer)
    assert go.startswith("{{ if .System }}") and go.endswith("{{ end }}")
    for system in ("", "Be brief.", "系统"):
        for c, _ in export.GOLDEN:
            assert export.render_go(go, prompt=c, system=system) == p.tokenizer.apply_chat_template(
                ([{"role": "system", "content": system}] if system else [])
                + [{"role": "user", "content": c}],
                add_generation_prompt=True,
                tokenize=False,
            ).removeprefix("<bos>" if export._adds_bos(p.tokenizer) else "")


def test_the_renderer_knows_its_subset_only():
    assert (
        export.render_go(
            "a{{ if .System }}[{{ .System }}]{{ else }}-{{ end }}{{ .Prompt }}",
            prompt="{{ .System }}",
            system="s",
        )
        == "a[s]{{ .System }}"
    )
    with pytest.raises(InputError, match="subset"):
        export.render_go("{{ range .Messages }}{{ end }}", prompt="x")
    with pytest.raises(InputError, match="Modelfile"):
        export.go_template(
            templates.Template("odd", "{instruction}{input}", '"""{instruction}'),
            SimpleNamespace(bos_token_id=None),
        )


class _Engine(http.server.BaseHTTPRequestHandler):
    """Answers as vLLM and Ollama do, and remembers what it was asked."""

    asked = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        said = json.dumps(
            {"choices": [{"text": " four "}]}
            if self.path == "/v1/completions"
            else {"response": " four "}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *args):
        pass


@pytest.fixture
def engine():
    _Engine.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Engine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("all")
    return {
        f: export.export(
            run.path, folder / f, format=f, gguf_dtype="f16", license="mit", quiet=True
        )
        for f in export.FORMATS
    }


def test_the_scripts_ask_as_training_did(exported, parts, engine):
    t, tokenizer = parts.template, parts.tokenizer
    for form, path in (("vllm", "/v1/completions"), ("ollama", "/api/generate")):
        ask = runpy.run_path(str(exported[form][0] / "ask.py"))
        for c, x in export.GOLDEN + (export.EDGES if form == "vllm" else export.EDGES[1:]):
            assert ask["ask"](ask["Example"](c, x), engine, "m", 5) == "four"
            at, body = _Engine.asked[-1]
            ids = body["prompt"] if form == "vllm" else export.as_engine(tokenizer, body["prompt"])
            assert (
                at == path
                and ids == templates.prompt(t, tokenizer, Example(c, x))
                and body["model"] == "m"
            )
        assert (
            (body["stop_token_ids"] == [1] and body["max_tokens"] == 5 and body["temperature"] == 0)
            if form == "vllm"
            else (
                body["raw"] is True
                and body["options"] == {"temperature": 0, "num_predict": 5, "stop": ["<eos>"]}
            )
        )
    with pytest.raises(SystemExit, match="<out>"):
        ask["ask"](ask["Example"]("Say <out>."), engine, "m", 5)


def test_a_script_stands_alone(exported, engine, tmp_path):
    """In a process of its own, from another folder, without this package."""
    (tmp_path / "instruct_course.py").write_text(
        "raise ImportError('not here')\n", encoding="utf-8"
    )
    done = subprocess.run(
        [
            sys.executable,
            str(exported["vllm"][0] / "ask.py"),
            "Count the words.",
            "cat, dog",
            "--url",
            engine,
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "four" and done.returncode == 0, done.stderr[-500:]
    assert all(isinstance(i, int) for i in _Engine.asked[-1][1]["prompt"])


# -- the folder


def test_every_export_is_whole_and_says_what_it_is(exported, run):
    import yaml

    want = {
        "gguf": {"model.gguf", "tokenizer"},
        "ollama": {"model.gguf", "tokenizer", "Modelfile", "ask.py"},
        "vllm": {"model", "serve.sh", "ask.py"},
        "adapter": {"adapter", "template.json", "tokenizer.json", "tokenizer_config.json"},
    }
    for form, (folder, made) in exported.items():
        assert {p.name for p in folder.iterdir()} == want[form] | {"README.md", "export.json"}
        valid(made)
        assert json.loads((folder / "export.json").read_text(encoding="utf-8")) == made
        assert {f: export.sha256(folder / f) for f in made["files"]} == {
            f: v["sha256"] for f, v in made["files"].items()
        }
        assert made["gguf"] is None or made["gguf"]["read_back"] == {
            "reader": "transformers",
            "equal": True,
            "largest_difference": 0.0,
        }
        assert made["prompts"] is None or made["prompts"]["equal"] == made["prompts"]["n"] == 9
        text = (folder / "README.md").read_text(encoding="utf-8")
        head = yaml.safe_load(text.split("---")[1])
        assert (
            head["license"] == "mit"
            and head["language"] == ["en", "zh"]
            and "qlora" in head["tags"]
            and "base_model" not in head
        )  # nano is no model of the hub
        assert head["library_name"] == {"vllm": "transformers", "adapter": "peft"}.get(form, "gguf")
        after, source = run.report["after"], run.made["data"]
        for said in (
            source["sha256"],
            f"{source['rows']:,} rows",
            f"{after['loss']:.3f} [",
            f"{100 * after['exact_match']:.1f} [",
            "Intended use",
            "rank 16",
            f"`{run.made['config']['template']}`",
        ):
            assert said in text, (form, said)
        assert (
            f"Not run when this was written: {', '.join(export.NOT_RUN[form]) or 'nothing'}."
            in text
            and "$" not in text
        )
        for file in folder.rglob("*"):
            if file.suffix in (".json", ".md", ".py", ".sh", "") and file.is_file():
                assert str(folder.parent) not in file.read_text(encoding="utf-8") and str(
                    run.path.parent
                ) not in file.read_text(encoding="utf-8"), file.name


def test_engines_are_told_what_was_not_run(exported):
    modelfile = (exported["ollama"][0] / "Modelfile").read_text(encoding="utf-8")
    assert (
        'TEMPLATE """<inst> {{ .Prompt }}<inp><out>"""' in modelfile
        and 'PARAMETER stop "<eos>"' in modelfile
        and "PARAMETER num_ctx 1024" in modelfile
        and "was not run" in modelfile.splitlines()[0]
    )
    script = exported["vllm"][0] / "serve.sh"
    assert (
        "was not run" in script.read_text(encoding="utf-8")
        and "--host 127.0.0.1" in script.read_text(encoding="utf-8")
        and os.access(script, os.X_OK)
    )
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0 and merge.is_merged(
        exported["vllm"][0] / "model"
    )


def test_an_exported_adapter_is_the_run_s(exported, run):
    for name in ("adapter_model.safetensors", "origin.json"):
        assert (exported["adapter"][0] / "adapter" / name).read_bytes() == (
            run.path / "adapter" / name
        ).read_bytes()


def test_a_licence_is_not_guessed(parts, exported):
    text = export.card(parts, "gguf", exported["gguf"][1])
    assert "license: other" in text and "was not named" in text


def test_the_command_and_its_refusals(run, tmp_path, command):
    code, out, _ = command(
        "export", "--run", run.path, "--out", tmp_path / "g", "--format", "adapter", "--json"
    )
    valid(json.loads(out))
    assert code == 0
    for args, says in (
        (["--out", tmp_path / "g"], "already exists"),
        (["--out", tmp_path / "n", "--format", "onnx"], "--format onnx"),
        (["--out", tmp_path / "n", "--gguf-dtype", "q4"], "--gguf-dtype"),
        (["--out", tmp_path / "n", "--onto", "both"], "--onto"),
        (["--out", tmp_path / "n", "--push", "nobody"], "owner/name"),
        (["--out", tmp_path / "n", "--push", "me/it"], "nobody to ask"),
    ):
        code, out, err = command("export", "--run", run.path, *args)
        assert code == 2 and says in err and not out
    assert {p.name for p in tmp_path.iterdir()} == {"g"}


def test_a_failure_half_way_leaves_nothing(run, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "card", fail)
    with pytest.raises(KeyboardInterrupt):
        export.export(run.path, tmp_path / "deep" / "out", format="adapter", quiet=True)
    assert not list(tmp_path.iterdir())


# -- the hub


def test_nothing_is_uploaded_without_a_yes(run, tmp_path, command, monkeypatch):
    import huggingface_hub
    import typer

    calls = []
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "create_repo",
        lambda self, repo, **o: calls.append(("create", repo, o)),
    )
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "upload_folder",
        lambda self, **o: calls.append(("upload", o["repo_id"], Path(o["folder_path"]).name)),
    )
    go = lambda name, *more: command(
        "export",
        "--run",
        run.path,
        "--out",
        tmp_path / name,
        "--format",
        "adapter",
        "--push",
        "me/it",
        *more,
    )
    assert go("a")[0] == 2 and not calls and not (tmp_path / "a").exists()
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(typer, "confirm", lambda text, **o: "me/it" not in text)
    code, out, err = go("b")
    assert code == 0 and not calls and "not uploaded" in err and (tmp_path / "b").exists()
    code, out, err = go("c", "--yes")
    assert (
        code == 0
        and [c[:2] for c in calls] == [("create", "me/it"), ("upload", "me/it")]
        and calls[0][2]["private"] is True
        and calls[1][2] == "c"
        and "hf_secret" not in out + err
    )

    def refuse(self, repo, **o):
        raise OSError("401 for token hf_secret")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    code, out, err = go("d", "--yes")
    assert (
        code == 2
        and "hub did not take it" in err
        and "hf_secret" not in out + err
        and (tmp_path / "d" / "export.json").exists()
    )


# -- llama.cpp itself, where it is installed


def test_llama_cpp_reads_the_same_model(files, run, parts):
    """Tokens, logits and greedy answers of llama.cpp on the float32 file."""
    llama_cpp = pytest.importorskip("llama_cpp")
    import numpy as np

    trained, tokenizer, template = run.ready()
    llm = llama_cpp.Llama(
        str(files["f32"][0]),
        n_ctx=256,
        logits_all=True,
        verbose=False,
        n_threads=1,
        type_k=0,
        type_v=0,
    )  # a cache in float32
    rows = [dataset.example(r) for r in dataset.builtin("inputs").select(range(0, 600, 60))]
    worst, kl = 0.0, 0.0
    for ex in rows:
        ids = templates.prompt(template, tokenizer, ex)
        assert (
            llm.tokenize(
                export.raw_text(template, tokenizer, ex).encode(), add_bos=False, special=True
            )
            == ids
        )
        (wanted,) = generate.complete(
            trained,
            tokenizer,
            [ids],
            stop_ids=templates.stop_ids(template, tokenizer),
            max_new_tokens=16,
        )
        llm.reset()
        llm.eval(ids + wanted.ids)
        ours = (
            trained(input_ids=torch.tensor([ids + wanted.ids])).logits[0].detach().log_softmax(-1)
        )
        theirs = torch.from_numpy(np.array(llm.scores[: len(ids) + len(wanted.ids)])).log_softmax(
            -1
        )
        worst, kl = (
            max(worst, (ours - theirs).abs().max().item()),
            max(kl, merge.kl(ours, theirs).mean().item()),
        )
        assert (
            theirs[len(ids) - 1 : -1].argmax(-1).tolist() == wanted.ids
        )  # its greedy choice at every step
    print(
        f"llama.cpp {llama_cpp.__version__}: KL at most {kl:.2e}, log-probabilities within {worst:.2e}"
    )
    assert kl < 1e-6 and worst < 0.01
    for c, x in export.GOLDEN:
        assert (
            llm.tokenize((c + x).encode(), add_bos=False, special=True)
            == tokenizer(c + x, add_special_tokens=False).input_ids
        )
