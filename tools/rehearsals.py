"""Make the table of rehearsals beside their plans again: `python -m tools.rehearsals`.

    python -m tools.rehearsals --only 3 7      # some rows
    python -m tools.rehearsals --missing       # those that are not in the table

Each runs in a process of its own, so that memory is counted apart. The rows go to
instruct_course/assets/rehearsals.json, which lesson 13 reads and plots; CI makes a small one
again. `development` marks the rows that were looked at while the formulas of `plan` were written;
the others were fixed before any of them was run. On a processor without 16-bit products most rows
leave the products out (`"products": false`), which takes the same memory: rows with and without
them are there for comparison, in float32.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from instruct_course.common.files import write_file

RESULTS = Path(__file__).parents[1] / "instruct_course" / "assets" / "rehearsals.json"


def _shape(kind, vocab, hidden, intermediate, layers, heads, kv_heads, tied=True, **more):
    return {
        "model_type": kind,
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "tie_word_embeddings": tied,
        **more,
    }


SHAPES = {
    "SmolLM2-135M": _shape("llama", 49152, 576, 1536, 30, 9, 3),
    "SmolLM2-360M": _shape("llama", 49152, 960, 2560, 32, 15, 5),
    "Qwen2.5-0.5B": _shape("qwen2", 151936, 896, 4864, 24, 14, 2),
    "Qwen3-0.6B": _shape("qwen3", 151936, 1024, 3072, 28, 16, 8, head_dim=128),
    "TinyLlama-1.1B": _shape("llama", 32000, 2048, 5632, 22, 32, 4, False),
    "Llama-3.2-1B": _shape("llama", 128256, 2048, 8192, 16, 32, 8, head_dim=64),
    "Qwen2.5-1.5B": _shape("qwen2", 151936, 1536, 8960, 28, 12, 2),
    "SmolLM2-1.7B": _shape("llama", 49152, 2048, 8192, 24, 32, 32),
    "Qwen3-1.7B": _shape("qwen3", 151936, 2048, 6144, 28, 16, 8, head_dim=128),
    "Qwen2.5-3B": _shape("qwen2", 151936, 2048, 11008, 36, 16, 2),
    "Llama-3.2-3B": _shape("llama", 128256, 3072, 8192, 28, 24, 8, head_dim=128),
}


def _row(
    name,
    length,
    rows,
    *,
    rank=16,
    gradient_checkpointing=False,
    micro_batches=1,
    dtype="bfloat16",
    products=False,
    development=False,
    mapped=False,
):
    more = {"mapped": True} if mapped else {}
    return {
        "name": name,
        "products": products,
        "development": development,
        "setting": {
            "max_length": length,
            "batch_tokens": length * rows,
            "lora_r": rank,
            "micro_batches": micro_batches,
            "gradient_checkpointing": gradient_checkpointing,
            "dtype": dtype,
            "device": "cpu",
            **more,
        },
    }


GRID = [
    _row("SmolLM2-135M", 512, 4, development=True),
    _row("SmolLM2-135M", 2048, 1, development=True),
    _row("SmolLM2-135M", 512, 3, rank=64, development=True),
    _row("7b", 512, 1, gradient_checkpointing=True, development=True),
    _row("SmolLM2-360M", 512, 2),
    _row("SmolLM2-360M", 256, 4, rank=8),
    _row("Qwen2.5-0.5B", 512, 2),
    _row("Qwen2.5-0.5B", 512, 6, gradient_checkpointing=True),
    _row("Qwen2.5-0.5B", 1024, 1, rank=32),
    _row("Qwen3-0.6B", 256, 3, development=True),
    _row("TinyLlama-1.1B", 256, 2),
    _row("TinyLlama-1.1B", 512, 2, rank=64, gradient_checkpointing=True),
    _row("TinyLlama-1.1B", 128, 8, micro_batches=2),
    _row("Llama-3.2-1B", 256, 2, gradient_checkpointing=True),
    _row("Llama-3.2-1B", 256, 1),
    _row("Llama-3.2-1B", 512, 4, rank=8, gradient_checkpointing=True, micro_batches=4),
    _row("Qwen2.5-1.5B", 256, 1),
    _row("Qwen2.5-1.5B", 512, 1, rank=32, gradient_checkpointing=True),
    _row("SmolLM2-1.7B", 256, 1),
    _row("SmolLM2-1.7B", 1024, 1, gradient_checkpointing=True),
    _row("Qwen3-1.7B", 256, 2, gradient_checkpointing=True),
    _row("Qwen2.5-3B", 128, 2, gradient_checkpointing=True),
    _row("Qwen2.5-3B", 128, 1),
    _row("Llama-3.2-3B", 256, 1, rank=64, gradient_checkpointing=True),
    _row("Llama-3.2-3B", 128, 1),
    _row("7b", 256, 2, rank=64, gradient_checkpointing=True),
    _row("llama-3-8b", 256, 1, gradient_checkpointing=True),
    _row("mistral-7b", 128, 1),
    _row("SmolLM2-135M", 512, 2, dtype="float32", products=True),
    _row("SmolLM2-135M", 512, 2, dtype="float32"),
    _row("Llama-3.2-1B", 128, 1, dtype="float32", gradient_checkpointing=True, products=True),
    _row("7b", 512, 1, gradient_checkpointing=True, mapped=True),
]


def one(row: dict) -> dict:
    """The rehearsal of a row of `GRID`, in this process."""
    from instruct_course.plan import rehearse
    from instruct_course.plan.memory import Setting

    made = rehearse.rehearse(
        row["name"],
        Setting(**row["setting"]),
        products=row["products"],
        values=SHAPES.get(row["name"]),
        say=lambda text: None,
    )
    return {"development": row["development"], **made}


def read() -> dict:
    return (
        json.loads(RESULTS.read_text(encoding="utf-8"))
        if RESULTS.exists()
        else {"version": 1, "rows": []}
    )


def write(table: dict):
    """The table, a row per line."""
    rows = ",\n".join(json.dumps(row) for row in table["rows"])
    text = f'{{"version": 1, "rows": [\n{rows}\n]}}\n'
    with write_file(RESULTS) as scratch:
        scratch.write_text(text, encoding="utf-8")


def plan_again():
    """Put today's plans beside what was measured; nothing is run."""
    from instruct_course.plan.memory import Setting, mapped_bytes, memory
    from instruct_course.plan.shapes import Shape

    table = read()
    for row in table["rows"]:
        shape, setting = Shape(**row["shape"]), Setting(**row["setting"])
        parts = memory(shape, setting)
        row["planned"]["file_bytes"] = mapped_bytes(shape, setting)
        row["planned"]["parts"] = parts
        row["planned"]["bytes"] = sum(parts.values())
        row["measured_over_planned"] = row["measured"]["bytes"] / row["planned"]["bytes"]
        print(f"{row['row']:2} {100 * row['measured_over_planned'] - 100:+5.1f} %", flush=True)
    write(table)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--only", type=int, nargs="*", help="numbers in the grid, from 0")
    p.add_argument("--missing", action="store_true", help="those that are not in the table")
    p.add_argument("--one", type=int, help=argparse.SUPPRESS)
    p.add_argument("--plans", action="store_true", help="make the plans again, and run nothing")
    o = p.parse_args()
    if o.plans:
        return plan_again()
    if o.one is not None:
        print(json.dumps(one(GRID[o.one])), flush=True)
        os._exit(0)
    done = {r["row"] for r in read()["rows"]} if o.missing else set()
    for i in o.only or range(len(GRID)):
        if i in done:
            continue
        result = subprocess.run(
            [sys.executable, "-m", "tools.rehearsals", "--one", str(i)],
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        if result.returncode:
            sys.exit(f"row {i}: {result.stderr[-2000:]}")
        made = json.loads(result.stdout.splitlines()[-1])
        print(
            f"{i:2} {GRID[i]['name']:14} {made['measured']['bytes'] / 1e9:6.2f} GB measured, "
            f"{made['planned']['bytes'] / 1e9:6.2f} planned, "
            f"{100 * made['measured_over_planned'] - 100:+5.1f} %",
            flush=True,
        )
        table = read()
        table["rows"] = sorted(
            [r for r in table["rows"] if r["row"] != i] + [{"row": i, **made}],
            key=lambda r: r["row"],
        )
        write(table)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
