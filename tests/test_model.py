"""The Llama by hand against transformers: every hidden state, the logits, the cache."""
import pytest
import torch

from instruct_course import model as models
from instruct_course.data import ASSETS, InputError


def parity(folder, ids, atol=1e-4):
    """Logits within `atol` and states within 1e-5 of their largest entry, which is what float32 can tell where they are large."""
    from transformers import AutoModelForCausalLM
    theirs, mine = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), models.by_hand(folder)
    with torch.no_grad():
        wanted, states = theirs(ids, output_hidden_states=True), mine.hidden(ids)
        assert len(states) == len(wanted.hidden_states)
        for i, (a, b) in enumerate(zip(states, wanted.hidden_states)):
            torch.testing.assert_close(a, b, rtol=0, atol=max(atol, 1e-5 * b.abs().max().item()), msg=lambda m: f"after layer {i}: {m}")
        torch.testing.assert_close(mine(ids), wanted.logits, rtol=0, atol=atol)
    return mine


def test_nano_by_hand():
    """nano's states reach 600, so that transformers' own sdpa and eager attention give logits that differ by up to 1.6e-4."""
    parity(ASSETS / "nano", torch.randint(5, 4096, (2, 40), generator=torch.Generator().manual_seed(0)), atol=5e-4)


def test_smollm2_by_hand(smollm2_folder):
    parity(smollm2_folder, torch.randint(5, 40_000, (1, 24), generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("tied", [True, False])
def test_qwen2_by_hand(tmp_path, tied):
    from transformers import Qwen2Config, Qwen2ForCausalLM
    torch.manual_seed(0)
    theirs = Qwen2ForCausalLM(Qwen2Config(vocab_size=80, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                                          tie_word_embeddings=tied, bos_token_id=None, eos_token_id=1, pad_token_id=0))
    for name, p in theirs.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(p)                     # they begin at zero, where nothing could be seen
    theirs.save_pretrained(tmp_path)
    mine = parity(tmp_path, torch.arange(5, 30)[None])
    assert sum(n.endswith("bias") for n, _ in mine.named_parameters()) == 6 and (mine.lm_head.weight is mine.embed_tokens.weight) == tied


def test_the_cache_changes_nothing():
    model, ids = models.by_hand(ASSETS / "nano"), torch.randint(5, 4096, (2, 30), generator=torch.Generator().manual_seed(1))
    whole = model(ids)
    caches = [[] for _ in model.layers]
    pieces = torch.cat([model(part, caches=caches) for part in ids.split([7, 1, 1, 12, 9], 1)], 1)
    torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-4)
    assert caches[0][0].shape == (2, 2, 30, 64)


def test_another_architecture_is_refused(tmp_path):
    from transformers import GPT2Config
    GPT2Config(n_layer=1).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="gpt2 is not a Llama"):
        models.by_hand(tmp_path)
