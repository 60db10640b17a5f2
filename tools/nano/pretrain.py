"""From corpus to weights: the byte-level BPE tokenizer and the training of the nano Llama."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIALS = ("<pad>", "<eos>", "<inst>", "<inp>", "<out>")
VOCAB = 4096
PRECISION = (
    torch.bfloat16 if torch.cpu.get_capabilities().get("avx512_bf16") else torch.float32
)  # five times faster where there is such a product


def make_tokenizer(texts):
    """Byte-level BPE whose merges never join two Han characters or digits.

    Merges are learnt with Han characters and digits split off; without such merges the plain pre-tokenizer
    (single digits, then GPT-2's; llama.cpp calls it `smollm`) gives the same tokens.
    """
    tok = Tokenizer(models.BPE())
    digits, bytes_ = (
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    )
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.Split(Regex(r"[\u4e00-\u9fff]"), "isolated"), bytes_]
    )
    tok.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCAB,
            special_tokens=list(SPECIALS),
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tok.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    tok.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tok,
        pad_token="<pad>",
        eos_token="<eos>",
        model_max_length=1024,
        additional_special_tokens=["<inst>", "<inp>", "<out>"],
        clean_up_tokenization_spaces=False,
    )


def config(tokenizer):
    """Four layers of 256, 4 query heads and 2 key-value heads of 64, tied head, context 1,024."""
    return LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="bfloat16",
    )


def corpus_hash(texts):
    """sha256 of all documents, each closed by a zero byte."""
    h = hashlib.sha256()
    for t in texts:
        h.update(t.encode() + b"\0")
    return h.hexdigest()


def pack(texts, tokenizer):
    """All documents as one stream of ids, (N,) uint16, each closed by <eos>."""
    out, eos = [], tokenizer.eos_token_id
    for i in range(0, len(texts), 10_000):
        for e in tokenizer.backend_tokenizer.encode_batch_fast(
            texts[i : i + 10_000], add_special_tokens=False
        ):
            out.append(np.array(e.ids + [eos], dtype=np.uint16))
    return np.concatenate(out)


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by five Newton-Schulz steps (Jordan et al. 2024).

    torch's own Muon always multiplies in bfloat16, which a CPU without that instruction emulates 50 times slower.
    """

    def __init__(self, params, lr=0.02, momentum=0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("momentum", torch.zeros_like(p))
                m.lerp_(p.grad, 1 - group["momentum"])
                x = p.grad.lerp(m, group["momentum"]).to(PRECISION)
                tall = x.shape[0] > x.shape[1]
                x = x.T if tall else x
                x = x / (x.norm() + 1e-7)
                for _ in range(5):
                    a = x @ x.T
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
                p.add_(
                    x.T if tall else x, alpha=-group["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5
                )


def losses(
    stream,
    model,
    *,
    steps,
    batch=16,
    length=256,
    lr=0.02,
    seed=0,
    compile=True,
    stop=None,
    dtype=PRECISION,
):
    """Yield (step, loss) while training `model` in place for `steps`; `stop` ends early and keeps the schedule.

    Matrices: Muon; embeddings and norms: AdamW. Warm-up over 2 %, then linear decay.
    Weights and updates are float32; `dtype` is what the products of the forward and backward pass are in.
    Every eighth batch holds a quarter as many sequences, four times as long (the whole context).
    """
    torch.manual_seed(seed)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "embed" not in n)]
    optimizers = [
        Muon(matrices, lr=lr),
        torch.optim.AdamW(rest, lr=0.15 * lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    base = [o.param_groups[0]["lr"] for o in optimizers]
    step_model = torch.compile(model, dynamic=False) if compile else model
    tokens, rng = batch * length, np.random.default_rng(seed)
    order = rng.permutation(len(stream) // tokens)
    model.train()
    for step in range(stop or steps):
        scale = min(1, (step + 1) / (0.02 * steps), (steps - step) / (0.9 * steps))
        for o, b in zip(optimizers, base):
            o.param_groups[0]["lr"] = b * scale
        at = order[step % len(order)] * tokens
        ids = torch.from_numpy(stream[at : at + tokens].astype(np.int64))
        ids = (
            ids.view(batch // 4, length * 4) if step % 8 == 7 else ids.view(batch, length)
        )  # (B, T)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = step_model(input_ids=ids, use_cache=False).logits  # (B, T, V)
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten()
        )
        loss.backward()
        for o in optimizers:
            o.step()
            o.zero_grad(set_to_none=True)
        yield step, loss.item()


def new_model(tokenizer, seed):
    torch.manual_seed(seed)
    return LlamaForCausalLM(config(tokenizer)).float()


def save(model, tokenizer, folder: Path):
    """Config, bf16 safetensors and tokenizer; returns the sha256 of the weights."""
    model = model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
