"""The Llama by hand against transformers: every hidden state, the logits, the cache; and the door, with what it says when it stays shut."""

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from instruct_course import generate
from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.data import template
from instruct_course.data.example import Example
from instruct_course.model import attention, hub, llama, load, quantize
from instruct_course.model.load import load_base, weight_bytes


def parity(folder, ids, atol=1e-4):
    """Logits within `atol` and states within 1e-5 of their largest entry, which is what float32 can tell where they are large."""
    from transformers import AutoModelForCausalLM

    theirs, mine = (
        AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval(),
        llama.by_hand(folder),
    )
    with torch.no_grad():
        wanted, states = theirs(ids, output_hidden_states=True), mine.hidden(ids)
        assert len(states) == len(wanted.hidden_states)
        for i, (a, b) in enumerate(zip(states, wanted.hidden_states)):
            torch.testing.assert_close(
                a,
                b,
                rtol=0,
                atol=max(atol, 1e-5 * b.abs().max().item()),
                msg=lambda m: f"after layer {i}: {m}",
            )
        torch.testing.assert_close(mine(ids), wanted.logits, rtol=0, atol=atol)
    return mine


def some_ids(*shape, seed=0):
    return torch.randint(5, 4096, shape, generator=torch.Generator().manual_seed(seed))


def test_nano_by_hand():
    parity(ASSETS / "nano", some_ids(2, 24))


def test_only_the_angles_differ(monkeypatch):
    """The library computes the rotary angles in float32. With its angles our logits are its own to 1e-5, also far from the start."""
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(
        ASSETS / "nano", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ids, x = some_ids(2, 200), torch.zeros(1)
    monkeypatch.setattr(
        attention,
        "rope",
        lambda positions, width, theta: tuple(
            t[0, :, : width // 2] for t in theirs.model.rotary_emb(x, positions[None])
        ),
    )
    with torch.no_grad():
        torch.testing.assert_close(
            llama.by_hand(ASSETS / "nano")(ids), theirs(ids).logits, rtol=0, atol=1e-5
        )


def test_smollm2_by_hand(smollm2_folder):
    parity(
        smollm2_folder,
        torch.randint(5, 40_000, (1, 24), generator=torch.Generator().manual_seed(0)),
    )


@pytest.mark.parametrize("tied", [True, False])
def test_qwen2_by_hand(tmp_path, tied):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    theirs = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=80,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=tied,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
    )
    for name, p in theirs.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(p)  # they begin at zero, where nothing could be seen
    theirs.save_pretrained(tmp_path)
    mine = parity(tmp_path, torch.arange(5, 30)[None])
    assert (
        sum(n.endswith("bias") for n, _ in mine.named_parameters()) == 6
        and (mine.lm_head.weight is mine.embed_tokens.weight) == tied
    )


def test_the_cache_changes_nothing():
    model, ids = (
        llama.by_hand(ASSETS / "nano"),
        torch.randint(5, 4096, (2, 30), generator=torch.Generator().manual_seed(1)),
    )
    whole = model(ids)
    caches = [[] for _ in model.layers]
    pieces = torch.cat([model(part, caches=caches) for part in ids.split([7, 1, 1, 12, 9], 1)], 1)
    torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-4)
    assert caches[0][0].shape == (2, 2, 30, 64)


def test_another_architecture_is_refused(tmp_path):
    from transformers import GPT2Config

    GPT2Config(n_layer=1).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="gpt2 is not a Llama"):
        llama.by_hand(tmp_path)


@pytest.mark.parametrize(
    "change,says",
    [
        (
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 500000.0,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 512,
                }
            },
            "rotary positions of type llama3",
        ),
        ({"mlp_bias": True}, "an MLP with biases"),
        ({"attention_bias": True}, "attention with biases"),
    ],
)
def test_what_the_hand_does_not_do_is_refused(tmp_path, change, says):
    from transformers import LlamaConfig

    LlamaConfig(
        vocab_size=64, hidden_size=64, num_hidden_layers=1, num_attention_heads=2, **change
    ).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=says):
        llama.by_hand(tmp_path)


# -- the door


def copy_of_nano(folder, **config):
    shutil.copytree(ASSETS / "nano", folder)
    made = json.loads((folder / "config.json").read_text(encoding="utf-8")) | config
    (folder / "config.json").write_text(json.dumps(made), encoding="utf-8")
    return folder


def test_a_near_miss_is_named():
    with pytest.raises(InputError, match="did you mean nano"):
        load_base("nanoo")


@pytest.mark.parametrize(
    "config,says",
    [
        ({"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM is not a causal language model"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised already .gptq."),
        ({"model_type": "nobody"}, "does not load as a causal"),
    ],
)
def test_what_is_no_plain_causal_model_is_refused(tmp_path, config, says):
    folder = copy_of_nano(tmp_path / "model", **config)
    with pytest.raises(InputError, match=says):
        load_base(str(folder))


def test_a_broken_config_is_refused(tmp_path):
    folder = copy_of_nano(tmp_path / "model")
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="config.json cannot be read"):
        load_base(str(folder))


def test_too_little_memory_is_said_before_loading(monkeypatch):
    import psutil

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("M", (), {"available": 6_000_000})())
    monkeypatch.setattr(load, "_weights", lambda *a: pytest.fail("it was loaded"))
    with pytest.raises(InputError, match=r"need 0.0 GB here.*quantization=.nf4"):
        load_base("nano", quantization="none")
    monkeypatch.undo()
    assert (
        weight_bytes(ASSETS / "nano", "none", torch.float32) == 16_000_000
        and 5.6e6 < weight_bytes(ASSETS / "nano", "nf4", torch.float32) < 6e6
    )


@pytest.mark.parametrize(
    "quantization,dtype", [("nf4", torch.float32), ("nf4", torch.bfloat16), ("none", torch.float32)]
)
def test_the_count_of_bytes_is_true(quantization, dtype):
    """Within 2 %: what is left out are small tables and the rounding up of short blocks."""
    real = sum(
        quantize.account(load_base("nano", quantization=quantization, dtype=dtype).model).values()
    )
    assert weight_bytes(ASSETS / "nano", quantization, dtype) == pytest.approx(real, rel=0.02)


class Hub(BaseHTTPRequestHandler):
    """A hub on this machine that answers as the real one does to a name that is gated, missing or unlucky."""

    def do_GET(self):
        if "/down/" in self.path:
            return self.close_connection  # not a word
        code, why = (403, "GatedRepo") if "/gated/" in self.path else (404, "RepoNotFound")
        self.send_response(code)
        self.send_header("X-Error-Code", why)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


def test_each_no_of_the_hub_has_its_own_way_on():
    code = """
import sys
from instruct_course.common.errors import InputError
from instruct_course.model.hub import resolve
for name in sys.argv[1:]:
    try:
        resolve(name)
    except InputError as error:
        print(error)
"""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"
        }
        done = subprocess.run(
            [sys.executable, "-c", code, "gated/model", "missing/model", "down/model"],
            capture_output=True,
            text=True,
            env=env,
        )
        server.shutdown()
    lines = [line for line in done.stdout.splitlines() if line.startswith("--model")]
    wanted = (
        "gated/model only to those who agreed to its terms",
        "has no model missing/model, or it is private",
        "set HF_ENDPOINT to a mirror",
    )
    assert len(lines) == 3 and all(w in line for w, line in zip(wanted, lines)), (
        done.stdout + done.stderr
    )
    assert "downloading" not in done.stdout  # it is known before anything is fetched


def test_a_full_disk_is_said(monkeypatch):
    import huggingface_hub

    def snapshot_download(hub_id, local_files_only=False, **options):
        raise FileNotFoundError() if local_files_only else OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(hub, "_has_disk", lambda name, hub_id: 1000)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(InputError, match="the disk is full.*files that are whole stay"):
        load_base("owner/thing", say=lambda text: None)


def test_no_network_is_said_when_it_was_forbidden():
    with pytest.raises(InputError, match="HF_HUB_OFFLINE forbids the network"):
        load_base("owner/thing", say=lambda text: None)


def test_a_big_base_is_quantised_once(tmp_path, monkeypatch):
    """Above the limit the 4-bit form is kept, said, and read back to the same logits; a changed base is quantised anew."""
    monkeypatch.setenv("INSTRUCT_COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(load, "KEEP_ABOVE", 1e6)
    folder, ids, said = copy_of_nano(tmp_path / "model"), some_ids(1, 12), []
    first = load_base(str(folder), say=said.append)
    assert (
        len(said) == 1
        and "keeping the 4-bit weights" in said[0]
        and len(list((tmp_path / "cache" / "nf4").iterdir())) == 1
    )
    with monkeypatch.context() as m:
        m.setattr(load, "_weights", lambda *a: pytest.fail("it was quantised again"))
        again = load_base(str(folder), say=said.append)
    assert (
        len(said) == 1
        and torch.equal(first.model(ids).logits, again.model(ids).logits)
        and again.fingerprint == first.fingerprint
    )
    assert not any(p.requires_grad for p in again.model.parameters()) and not again.model.training
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-2] + b"\x00\x3f")
    assert (
        load_base(str(folder), say=said.append).fingerprint != first.fingerprint and len(said) == 2
    )


def test_without_the_libraries_kernels_nothing_is_fetched():
    """The door imports bitsandbytes by our own way, in a process that has imported nothing yet."""
    code = "import sys\nfrom instruct_course.model.load import load_base\nload_base('nano')\nassert 'kernels' not in sys.modules\nprint('fine')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "fine" and "Failed to load" not in done.stderr, (
        done.stdout + done.stderr
    )


def test_names_that_lead_nowhere(tmp_path, monkeypatch):
    for name, says in (
        ("nowhere", "no such folder"),
        ("./nowhere", "no such folder"),
        (str(tmp_path), "config.json"),
        ("owner/nothing", "is not in the local cache"),
    ):
        with pytest.raises(InputError, match=says):
            load_base(name, say=lambda text: None)


def test_a_folder_is_loaded_and_pickles_are_refused(tmp_path):
    folder = copy_of_nano(tmp_path / "copy")
    base = load_base(str(folder))
    assert base.fingerprint == load_base("nano").fingerprint
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled"):
        load_base(str(folder))


def test_the_fingerprint_sees_one_changed_byte(tmp_path):
    source = (ASSETS / "nano" / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(
        source[:-9] + bytes([source[-9] ^ 1]) + source[-8:]
    )
    assert hub.fingerprint(tmp_path) != hub.fingerprint(ASSETS / "nano")


def test_downloads_are_said_and_the_mirror_is_named(monkeypatch):
    said = []
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")
    monkeypatch.setattr(hub, "_has_disk", lambda name, hub_id: 15.2e9)
    with pytest.raises(InputError):
        hub.resolve("7b", say=said.append)
    assert said == ["downloading Qwen/Qwen2.5-7B, 15.2 GB, from mirror.example"]


def test_a_gguf_with_a_wrong_hash_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("INSTRUCT_COURSE_CACHE", str(tmp_path))
    (tmp_path / hub.GGUF).write_bytes(b"not it")
    with pytest.raises(InputError, match="sha256"):
        hub.resolve("smollm2", say=lambda text: None)
    assert not (tmp_path / "smollm2").exists()


def test_smollm2_speaks(smollm2_folder):
    base = load_base(str(smollm2_folder))
    (said,) = generate.answer(
        base.model,
        base.tokenizer,
        template.named("chat", base.tokenizer),
        [Example("What is the capital of France?")],
        max_new_tokens=12,
    )
    assert "Paris" in said
