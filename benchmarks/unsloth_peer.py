"""One turn of Unsloth, for `benchmarks.gpu`, in a process of its own.

Its import changes transformers for all that comes after, so it cannot take turns with the others
in one process. It reads a task (JSON) as its argument and prints its numbers (JSON) as its last
line. It has never been run: there was no GPU.
"""

import json
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

from instruct_course.common.files import write_json
from instruct_course.model import quantize
from instruct_course.train.micro_batches import OUT_OF_MEMORY

from .trainers import Clock, Job, plain_steps, set_adapters

SECONDS = 300  # after which its process is stopped


def turn(folder: Path, job: Job, lora_r: int) -> dict:
    """A turn on what `write_base` wrote into the folder: its numbers, or why it failed."""
    task = {
        "folder": str(folder),
        "adapters": str(folder / "adapters.safetensors"),
        "rows": [[list(row.ids), list(row.labels)] for row in job.rows],
        "steps": job.steps,
        "gradient_checkpointing": job.gradient_checkpointing,
        "lora_r": lora_r,
    }
    command = [sys.executable, "-m", "benchmarks.unsloth_peer", json.dumps(task)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"failed": f"{type(error).__name__}: it did not end in {SECONDS} s"}
    lines = done.stdout.splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    if OUT_OF_MEMORY.search(done.stderr):
        return {"failed": "out of memory"}
    return {"failed": (done.stderr.splitlines() or ["no answer"])[-1][:200]}


def write_base(base, folder: Path) -> None:
    """Write a model of `rehearse.build` with a tokenizer, as transformers reads a 4-bit model."""
    from instruct_course.model.load import load_base

    config = base.config.to_dict()
    dtype = base.get_input_embeddings().weight.dtype
    config["quantization_config"] = quantize.nf4_config(dtype).to_dict()
    config["architectures"] = [type(base).__name__]
    # layers share their lookup tables, which the format does not allow
    tensors = {name: t.cpu().clone() for name, t in base.state_dict().items()}
    if base.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    load_base("nano").tokenizer.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    write_json(folder / "config.json", config)


def train(task: dict) -> dict:
    """The turn that `turn` describes: {seconds, losses, peak_bytes}."""
    from unsloth import FastLanguageModel  # isort: skip
    from instruct_course.data.template import Encoded
    from instruct_course.plan.memory import PROJECTIONS

    rows = [Encoded(ids, labels) for ids, labels in task["rows"]]
    checkpointing = task["gradient_checkpointing"]
    job = Job(rows, steps=task["steps"], gradient_checkpointing=checkpointing)
    longest = max(len(row.ids) for row in rows)
    model, _ = FastLanguageModel.from_pretrained(
        task["folder"], max_seq_length=longest, load_in_4bit=True, local_files_only=True
    )
    net = FastLanguageModel.get_peft_model(
        model,
        r=task["lora_r"],
        lora_alpha=2 * task["lora_r"],
        lora_dropout=0,
        target_modules=list(PROJECTIONS),
        use_gradient_checkpointing="unsloth" if checkpointing else False,
    )
    set_adapters(net, load_file(task["adapters"]))
    clock = Clock(job.steps, "cuda")
    with clock:
        plain_steps(net, job, clock, lambda padded: net(**padded).loss)
    return {"seconds": clock.seconds, "losses": clock.losses, "peak_bytes": clock.peak_bytes}


if __name__ == "__main__":
    print(json.dumps(train(json.loads(sys.argv[1]))))
