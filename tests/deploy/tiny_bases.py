"""Bases and adapters of other architectures, small enough to make in a test."""

from pathlib import Path
from types import SimpleNamespace

import torch

from instruct_course.data import template as templates
from instruct_course.deploy.adapter import Adapter
from instruct_course.deploy.gguf_tokenizer import PRE_TOKENIZERS
from instruct_course.deploy.merge import MergeInputs
from instruct_course.model import quantize


def tiny_base(folder, kind="qwen2", *, dtype=torch.float32, tied=False, shards="100KB", **options):
    """Write a Llama or Qwen2 of two layers without a tokenizer; in several files by default."""
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    torch.manual_seed(0)
    shape = {
        "vocab_size": 100,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": tied,
    }
    config = {"llama": LlamaConfig, "qwen2": Qwen2Config}[kind](**shape | options)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(p, std=0.1)
    model.save_pretrained(folder, max_shard_size=shards)
    return folder


def tiny_adapter(base, folder, seed=1, **options):
    """Write an adapter of PEFT on a loaded base, with random numbers in all of it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": "all-linear",
        "task_type": "CAUSAL_LM",
        "init_lora_weights": False,
    }
    model = get_peft_model(base, LoraConfig(**config | options))
    for name, p in model.named_parameters():
        if "trainable_tokens_delta" in name:
            p.data += 1
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def load_tiny(folder, nf4=False):
    """A tiny base in float32, or in four bits."""
    from transformers import AutoModelForCausalLM

    config = quantize.nf4_config(torch.float32) if nf4 else None
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=config
    )


def byte_level_base(folder, kind, rule):
    """Write a tiny base with a byte-level tokenizer whose text is cut by `rule`."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.decoder = decoders.ByteLevel()
    if rule in ("qwen2", "llama-bpe"):
        regex = PRE_TOKENIZERS[rule][0]["pattern"]["Regex"]
        split = pre_tokenizers.Split(Regex(regex), "isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    else:
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if rule == "qwen2":
        made.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<eos>", "<bos>"],
    )
    made.train_from_iterator(["the words of a line\n\nand 2024 more"] * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", bos_token="<bos>")
    tokenizer.save_pretrained(folder)
    shape = {"vocab_size": 320, "intermediate_size": 96}
    more = {"max_position_embeddings": 256, "eos_token_id": 0}
    return tiny_base(folder, kind, shards="1GB", **shape, **more)


def inputs_of(folder, template="alpaca"):
    """The inputs of a merge of a byte-level base with an adapter that changes nothing."""
    from transformers import AutoTokenizer

    return MergeInputs(
        run=SimpleNamespace(path=Path("tiny"), made={"base": {"quantization": "none"}}),
        base=folder,
        adapter=Adapter({}, {}),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        template=templates.named(template),
        vocab_size=320,
        dtype=torch.float32,
    )
