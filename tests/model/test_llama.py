"""The Llama by hand against transformers: every hidden state, the logits, the cache."""

import pytest
import torch

from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.model import attention, llama


def eager(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def parity(folder, ids, atol=1e-4):
    """Logits as near to the library's in float64 as its own in float32 are, within a factor of 2.

    An error below `atol` is none. States are within 1e-5 of their largest entry: that is what
    float32 can tell where they are large.
    """
    theirs = eager(folder)
    mine = llama.by_hand(folder)
    with torch.no_grad():
        wanted = theirs(ids, output_hidden_states=True)
        states = mine.hidden(ids)
        assert len(states) == len(wanted.hidden_states)
        for i, (a, b) in enumerate(zip(states, wanted.hidden_states)):
            bound = max(atol, 1e-5 * b.abs().max().item())
            assert (a - b).abs().max() <= bound, f"after layer {i}"
        exact = theirs.double()(ids).logits
        error = (mine(ids) - exact).abs().max().item()
        assert error <= max(atol, 2 * (wanted.logits - exact).abs().max().item())
    return mine


def some_ids(*shape, seed=0):
    return torch.randint(5, 4096, shape, generator=torch.Generator().manual_seed(seed))


def test_nano_by_hand():
    parity(ASSETS / "nano", some_ids(2, 24))


def test_only_the_angles_differ(monkeypatch):
    """The library computes the rotary angles in float32.

    With its angles our logits are its own to 1e-5, also far from the start.
    """
    theirs = eager(ASSETS / "nano")
    ids = some_ids(2, 200)

    def librarys_rope(positions, width, theta):
        angles = theirs.model.rotary_emb(torch.zeros(1), positions[None])
        return tuple(t[0, :, : width // 2] for t in angles)

    monkeypatch.setattr(attention, "rope", librarys_rope)
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
    assert sum(n.endswith("bias") for n, _ in mine.named_parameters()) == 6
    assert (mine.lm_head.weight is mine.embed_tokens.weight) == tied


def test_the_cache_changes_nothing():
    model = llama.by_hand(ASSETS / "nano")
    ids = some_ids(2, 30, seed=1)
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
