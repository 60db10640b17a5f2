"""QLoRA steps of a random 7B whose weights stay in their files beside one with its own copies.

python -m benchmarks.mapped FOLDER [--layers 28] [--steps 2] [--dtype float32]

The folder holds the 4-bit weights, several GB; it is written if it does not exist. Both models
take each step in turns, from the same adapters and the same rows, with the files in the page
cache. Printed: seconds of each, their ratio, and whether losses and adapters are the same bits.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median


def _steps(model, vocabulary: int, tokens: int, count: int, rank: int):
    """(trained parameters, a function that takes a step and gives its loss)."""
    import torch

    from instruct_course.model import lora
    from instruct_course.plan.memory import Setting
    from instruct_course.plan.rehearse import random_rows
    from instruct_course.train import engine
    from instruct_course.train.batch import pack

    torch.manual_seed(0)
    net = lora.attach(model, lora_r=rank, lora_alpha=2 * rank, seed=0).train()
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    body = engine.Engine(net, gradient_checkpointing=True)
    setting = Setting(max_length=tokens, batch_tokens=tokens, device="cpu")
    batches = [pack([row]) for row in random_rows(vocabulary, setting, count)]

    def step(number: int) -> float:
        optimizer.zero_grad(set_to_none=True)
        total, n = engine.batch_loss(net, batches[number], engine=body)
        (total / n).backward()
        optimizer.step()
        return total.item() / n

    return trained, step


def measure(o) -> dict:
    """Take `o.steps` steps with both models in turns."""
    import torch

    from instruct_course.common.memory import frugal_malloc
    from instruct_course.model import quantize
    from instruct_course.plan import random_model
    from instruct_course.plan.shapes import SHAPES

    frugal_malloc()
    values = SHAPES["Qwen/Qwen2.5-7B"] | {"num_hidden_layers": o.layers}
    if not o.folder.exists():
        random_model.write(values, o.folder, dtype=getattr(torch, o.dtype))
    both = {}
    for mapped in (True, False):
        model = quantize.read(o.folder, mapped=mapped, check=False)
        both[mapped] = _steps(model, values["vocab_size"], o.tokens, o.steps, o.rank)
    seconds = {True: [], False: []}
    losses = {True: [], False: []}
    for number in range(o.steps):
        for mapped in ((True, False), (False, True))[number % 2]:
            started = time.process_time() if o.cpu_time else time.perf_counter()
            losses[mapped].append(both[mapped][1](number))
            ended = time.process_time() if o.cpu_time else time.perf_counter()
            seconds[mapped].append(ended - started)
            print(f"mapped {mapped}: {seconds[mapped][-1]:.1f} s", flush=True)
    ratios = [a / b for a, b in zip(seconds[True], seconds[False])]
    pairs = zip(both[True][0], both[False][0])
    return {
        "layers": o.layers,
        "tokens": o.tokens,
        "dtype": o.dtype,
        "seconds_mapped": seconds[True],
        "seconds_copied": seconds[False],
        "ratio": median(ratios),
        "losses_equal": losses[True] == losses[False],
        "adapters_equal": all(torch.equal(a, b) for a, b in pairs),
        "losses": losses[True],
    }


def main():
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.mapped", description=__doc__.splitlines()[0]
    )
    p.add_argument("folder", type=Path)
    p.add_argument("--layers", type=int, default=28)
    p.add_argument("--tokens", type=int, default=512)
    p.add_argument("--steps", type=int, default=2)
    p.add_argument("--rank", type=int, default=16)
    p.add_argument("--dtype", default="float32")
    p.add_argument(
        "--cpu-time", action="store_true", help="seconds of the processor, not of a clock"
    )
    print(json.dumps(measure(p.parse_args()), indent=1))


if __name__ == "__main__":
    main()
