"""QLoRA steps of a model of Qwen2.5-7B's shape with random weights in NF4, with checkpointing, beside the lower bound of its matrix products and dequantisations.

python -m benchmarks.seven_b [--layers 28] [--steps 3]
"""

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from instruct_course.common.memory import Peak, anonymous

from .machine import cpu, environment, versions

RESULTS = Path(__file__).parent / "results"


def build(layers: int, *, mapped: bool = True, say=print):
    """The model of `rehearse.build`. mapped: embedding and head lie in a safetensors file that is mapped into memory, as transformers leaves them when it
    loads a folder, so that they are no anonymous memory.
    """
    import torch
    from safetensors.torch import load_file, save_file

    from instruct_course.plan import rehearse
    from instruct_course.plan.shapes import SHAPES

    model, _ = rehearse.build(SHAPES["Qwen/Qwen2.5-7B"] | {"num_hidden_layers": layers}, say=say)
    for module in (model.get_input_embeddings(), model.get_output_embeddings()) if mapped else ():
        with tempfile.TemporaryDirectory(
            ignore_cleanup_errors=True
        ) as folder:  # the mapping outlives the name
            save_file({"weight": module.weight.data}, Path(folder) / "weight.safetensors")
            module.weight = torch.nn.Parameter(
                load_file(Path(folder) / "weight.safetensors")["weight"], requires_grad=False
            )
    return model


def lower_bound(model, shape, clock, rank: int) -> dict[str, float]:
    """{part: seconds}: the products of a step whose layers are computed twice forwards, and each layer's weights made from 4 bits twice."""
    from instruct_course.model.quantize import bitsandbytes

    from .products import step

    out = clock.seconds(step(model.config, shape, rank=rank, forward=2))
    bnb = bitsandbytes()
    started = time.perf_counter()
    for _ in range(2):
        for module in model.modules():
            if isinstance(module, bnb.nn.Linear4bit):
                bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
    return out | {"dequantising": time.perf_counter() - started}


def measure(o) -> dict:
    """Build, train `o.steps` steps and time them and their lower bound in turns."""
    import numpy as np
    import torch

    from instruct_course.data.template import Encoded
    from instruct_course.model import lora
    from instruct_course.train import engine
    from instruct_course.train.batch import pack

    from .products import Clock, shape_of

    if o.threads:
        torch.set_num_threads(o.threads)
    peak = Peak(every=0.02)
    started = time.perf_counter()
    model = build(o.layers, mapped=not o.unmapped)
    built = {"seconds": time.perf_counter() - started, "peak_bytes": peak.bytes}
    net = lora.attach(model, lora_r=o.rank, lora_alpha=2 * o.rank, seed=0).train()
    gc.collect()
    trained = [p for p in net.parameters() if p.requires_grad]
    ids = np.random.default_rng(0).integers(0, 150000, o.tokens).tolist()
    packed = pack([Encoded(ids, [-100] * (o.tokens // 2) + ids[o.tokens // 2 :])])
    eng = engine.Engine(net, gradient_checkpointing=True)
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=True)
    peak.bytes, peak.resident = (before := anonymous()), 0
    print(
        f"built in {built['seconds']:.0f} s, {before / 1e9:.2f} GB with adapters ({peak.before / 1e9:.2f} GB before anything was built); load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    shape, steps = shape_of(packed), []
    for i in range(o.steps + 1):  # the first warms up, and makes the optimizer's state
        peak.on, started, busy = True, time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        total, n = engine.batch_loss(net, packed, engine=eng)
        (total / n).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        took, busy, peak.on = time.perf_counter() - started, time.process_time() - busy, False
        loss = total.item() / n
        del total
        parts = lower_bound(model, shape, Clock(layers=1), o.rank)
        lowest = parts["body"] + parts["head"] + parts["dequantising"]
        if i:
            steps.append(
                {
                    "seconds": took,
                    "cpu_seconds": busy,
                    "loss": loss,
                    "lower_bound": parts,
                    "times_lower_bound": took / lowest,
                }
            )
        print(
            f"{'warm-up' if not i else f'step {i}'}: {took:.2f} s, loss {loss:.3f}; lower bound {lowest:.2f} s ("
            + ", ".join(f"{k} {v:.2f}" for k, v in parts.items())
            + f"): {took / lowest:.2f} times; "
            f"peak {peak.bytes / 1e9:.2f} GB anonymous, {peak.resident / 1e9:.2f} GB resident",
            flush=True,
        )

    def add(*keys):
        return sum(s["lower_bound"][k] for s in steps for k in keys)

    seconds = sum(s["seconds"] for s in steps)
    out = {
        "layers": o.layers,
        "tokens": o.tokens,
        "supervised": shape.asked,
        "rank": o.rank,
        "seconds_per_step": seconds / len(steps),
        "built": built,
        "before_bytes": before,
        "peak_bytes": peak.bytes,
        "peak_resident_bytes": peak.resident,
        "mapped": not o.unmapped,
        "nothing_bytes": peak.before,
        "times_lower_bound": seconds / add("body", "head", "dequantising"),
        "times_lower_bound_with_adapters_and_attention": seconds
        / add("body", "head", "dequantising", "adapters", "attention"),
        "steps": steps,
    }
    print(
        f"\n{out['seconds_per_step']:.2f} s per step of {o.tokens} tokens, {out['times_lower_bound']:.2f} times the lower bound (products of body and head with the recompute, two dequantisations); "
        f"{out['times_lower_bound_with_adapters_and_attention']:.2f} times with the products of adapters and attention in the lower bound; peak {peak.bytes / 1e9:.2f} GB of anonymous memory, "
        f"{peak.resident / 1e9:.2f} GB with what is mapped from files"
    )
    return out


def main():
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.seven_b", description=__doc__.splitlines()[0]
    )
    p.add_argument("--layers", type=int, default=28)
    p.add_argument(
        "--tokens",
        type=int,
        default=512,
        help="in the one row of a step; half of them are supervised",
    )
    p.add_argument("--steps", type=int, default=3)
    p.add_argument("--rank", type=int, default=16)
    p.add_argument(
        "--unmapped",
        action="store_true",
        help="embedding and head in anonymous memory too, 2.2 GB, instead of mapped from a file as a load leaves them",
    )
    p.add_argument("--threads", type=int, default=0, help="0: one a core")
    p.add_argument("--name", help="of the result in benchmarks/results; today's date if not given")
    o = p.parse_args()
    if (
        "MEASURES" not in os.environ
    ):  # again, in the environment that a measurement wants: it is read when torch starts
        os.execve(
            sys.executable,
            [sys.executable, "-m", "benchmarks.seven_b", *sys.argv[1:]],
            environment(o.threads) | {"MEASURES": "1"},
        )
    made = {
        "version": 1,
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": cpu(),
        "versions": versions(),
        "seven_b": measure(o),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{o.name or f'seven_b-{datetime.now():%Y%m%d-%H%M}'}.json"
    path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    main()
