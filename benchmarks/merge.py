"""The memory of a merge at 7B's layer shapes.

The base has layers of Qwen2.5-7B's real width and its whole embedding and head, with random bf16
weights; the adapter has rank 16.

    python -m benchmarks.merge [--layers 2] [--shard 1.0]

Prints JSON: the peak of anonymous memory of the process that merges, and how much of it was there
before the merge began.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPE = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}


def build(folder: Path, layers: int) -> None:
    """A base and an adapter on all its linear layers, as transformers and PEFT write them."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Qwen2Config

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        Qwen2Config(num_hidden_layers=layers, **SHAPE), dtype=torch.bfloat16
    )
    model.save_pretrained(folder / "base", max_shard_size="2GB")
    model = get_peft_model(
        model,
        LoraConfig(
            r=16,
            lora_alpha=32,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            init_lora_weights=False,
        ),
    )
    model.save_pretrained(folder / "adapter", save_embedding_layers=False)


def merge(folder: Path, shard: float) -> dict:
    """Merge them, and say what it took."""
    import torch

    from instruct_course.common.memory import Peak
    from instruct_course.deploy.adapter import read_adapter
    from instruct_course.deploy.tensors import merged_tensors
    from instruct_course.model.tensors import write_shards

    started = time.perf_counter()
    adapter = read_adapter(folder / "adapter")
    with Peak() as peak:
        (folder / "out").mkdir()
        tensors = merged_tensors(
            folder / "base",
            adapter,
            "dequantized",
            vocab_size=SHAPE["vocab_size"],
            dtype=torch.bfloat16,
        )
        written = write_shards(tensors, folder / "out", shard_bytes=int(shard * 2**30))
    return {
        "written_bytes": written,
        "before_bytes": peak.before,
        "peak_bytes": peak.bytes,
        "seconds": time.perf_counter() - started,
        "shards": len(list((folder / "out").glob("*.safetensors"))),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--shard", type=float, default=1.0, help="GiB of a shard")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder:
        print(json.dumps(merge(Path(args.folder), args.shard)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        build(Path(scratch), args.layers)
        # in a process that built nothing
        command = [sys.executable, "-m", "benchmarks.merge", "--folder", scratch]
        subprocess.run([*command, "--shard", str(args.shard)], check=True)


if __name__ == "__main__":
    main()
