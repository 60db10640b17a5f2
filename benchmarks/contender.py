"""One contender in a process of its own: it trains in slices, and between them waits for its parent, which lets the others have the machine.

A worker reads its task (JSON) as its argument, answers on its standard output with one JSON object a line, and waits for a line before each slice.
"""

import json
import math
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field

ROWS, HELD, LR, WARMUP, TOKENS, RANK, ALPHA = 935, 110, 8e-4, 0.03, 2048, 16, 32


@dataclass(frozen=True)
class Setting:
    """A way to run TRL's SFTTrainer. config: fields of SFTConfig; attention: transformers' name; adapters: their dtype, '' as the trainer leaves them;
    own_loss: False for the `compute_loss` of transformers' Trainer, which makes all logits at once."""

    config: dict = field(default_factory=dict)
    attention: str = "sdpa"
    adapters: str = ""
    own_loss: bool = True


FAST = {
    "gradient_checkpointing": False,
    "train_sampling_strategy": "group_by_length",
    "bf16": False,
    "per_device_train_batch_size": 8,
}  # bf16=False: no autocast
TRL = {
    "defaults": Setting(),
    "no checkpointing": Setting({"gradient_checkpointing": False}),
    "by length": Setting(FAST | {"bf16": True}),
    "no autocast": Setting(FAST),
    "batch 4": Setting(FAST | {"per_device_train_batch_size": 4}),
    "batch 16": Setting(FAST | {"per_device_train_batch_size": 16}),
    "batch 32": Setting(FAST | {"per_device_train_batch_size": 32}),
    "batch 32, autocast": Setting(FAST | {"per_device_train_batch_size": 32, "bf16": True}),
    "4 x 8 accumulated": Setting(FAST | {"gradient_accumulation_steps": 4}),
    "float32 adapters": Setting(FAST, adapters="float32"),
    "float32 adapters, autocast": Setting(FAST | {"bf16": True}, adapters="float32"),
    "eager attention": Setting(FAST, attention="eager"),
    "AdamW, not fused": Setting(FAST | {"optim": "adamw_torch"}),
    "two loaders": Setting(FAST | {"dataloader_num_workers": 2}),
    "transformers' loss": Setting(FAST, own_loss=False),
    "padding-free": Setting(FAST | {"padding_free": True, "max_length": None}),
    "padding-free, transformers' loss": Setting(
        FAST | {"padding_free": True, "max_length": None}, own_loss=False
    ),
    "padding-free, transformers' loss, batch 16": Setting(
        FAST | {"padding_free": True, "max_length": None, "per_device_train_batch_size": 16},
        own_loss=False,
    ),
    "packing 512": Setting(
        FAST
        | {
            "train_sampling_strategy": "random",
            "packing": True,
            "max_length": 512,
            "per_device_train_batch_size": 1,
        }
    ),
    "packing 2048": Setting(
        FAST
        | {
            "train_sampling_strategy": "random",
            "packing": True,
            "max_length": 2048,
            "per_device_train_batch_size": 1,
        }
    ),
    "compiled": Setting(FAST | {"torch_compile": True}),
}
STRONGEST = "padding-free, transformers' loss"


# -- the parts that all share


def rows_of(task: dict, tokenizer):
    """(training rows, held-out rows), encoded: the first `ROWS` of the file and the `HELD` behind them; every `every`-th of the former."""
    from instruct_course.data import dataset as dataset_
    from instruct_course.data import template

    form, rows = template.named("alpaca"), dataset_.load(task["data"], limit=ROWS + HELD)
    encoded = [template.encode(form, tokenizer, dataset_.example(r)) for r in rows]
    first = min(ROWS, round(0.9 * len(encoded)))
    return encoded[: first : task["every"]], encoded[first:]


def config_of(task: dict):
    """How all of them train."""
    from instruct_course.train import loop

    return loop.TrainConfig(
        epochs=task["epochs"],
        lr=LR,
        batch_tokens=TOKENS,
        warmup=WARMUP,
        weight_decay=0.0,
        max_grad_norm=1.0,
    )


class Slices:
    """Stops a training loop between slices. `begin` before it, `step` after each of its optimizer steps."""

    def __init__(self, task: dict, steps: int, *, say, listen, peak, held_out):
        if steps < task["warm"] + task["slices"]:
            raise SystemExit(
                f"{steps} optimizer steps are too few for {task['slices']} slices and a warm-up of {task['warm']}; take more rows (--every) or fewer slices"
            )
        self.task, self.say, self.listen, self.peak, self.held_out = (
            task,
            say,
            listen,
            peak,
            held_out,
        )
        ends = [
            task["warm"] + round((steps - task["warm"]) * (r + 1) / task["slices"])
            for r in range(task["slices"])
        ]
        self.ends, self.done, self.tokens, self.asked = (
            ([task["warm"]] if task["warm"] else []) + ends,
            0,
            0,
            0,
        )

    def begin(self):
        """Wait for the first slice."""
        self._wait()

    def _wait(self):
        self.peak.on = False
        if self.listen() == "":
            os._exit(0)  # the parent has gone
        self.busy, self.peak.on, self.started, self.tokens, self.asked, self.first = (
            time.process_time(),
            True,
            time.perf_counter(),
            0,
            0,
            self.done,
        )

    def step(self, tokens: int, asked: int, loss: float | None = None) -> bool:
        """Count a step; at the end of a slice report, and wait for the next. True when that was the last."""
        self.done, self.tokens, self.asked = self.done + 1, self.tokens + tokens, self.asked + asked
        if self.done in self.ends:
            seconds = time.perf_counter() - self.started
            self.peak.on = False
            self.say(
                {
                    "slice": self.ends.index(self.done),
                    "steps": self.done - self.first,
                    "tokens": self.tokens,
                    "supervised": self.asked,
                    "seconds": seconds,
                    "cpu_seconds": time.process_time() - self.busy,
                    "peak": self.peak.bytes,
                    "loss": loss,
                    "held_out": self.held_out() if self.task["evaluate"] else None,
                }
            )
            if self.done < self.ends[-1]:
                self._wait()
        return self.done >= self.ends[-1]


def supervised(row) -> int:
    return sum(label != -100 for label in row.labels[1:])


# -- ours


def ours(net, rows, task, pad_id, slices_of):
    """`loop.fit` as it ships."""
    from instruct_course.train import loop
    from instruct_course.train.batch import prefix_groups

    config = config_of(task)
    todo = loop.schedule_batches([len(r.ids) for r in rows], config, prefix_groups(rows))
    slices = slices_of(len(todo))
    slices.begin()
    loop.fit(
        net,
        rows,
        config,
        pad_id=pad_id,
        on_step=lambda h: slices.step(
            h["tokens"], sum(supervised(rows[i]) for i in todo[h["step"] - 1]), h["loss"]
        ),
    )


def plain(net, rows, task, pad_id, slices_of):
    """The reference: the same batches by length, as padded batches through transformers' and PEFT's own modules; head and loss as ours."""
    import torch

    from instruct_course.train import batch, engine, loop

    config = config_of(task)
    todo = loop.schedule_batches([len(r.ids) for r in rows], config)
    slices = slices_of(len(todo))
    slices.begin()
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.lr, weight_decay=0.0, fused=True)
    net.train()
    for step, chosen in enumerate(todo):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * loop.lr_factor(
                step, len(todo), config.warmup, config.schedule
            )
        optimizer.zero_grad(set_to_none=True)
        total, n = engine.batch_loss(net, batch.collate([rows[i] for i in chosen], pad_id))
        (total / n).backward()
        torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
        optimizer.step()
        if slices.step(sum(len(rows[i].ids) for i in chosen), n, total.item() / n):
            break


# -- TRL


def dataset(rows):
    """The same ids and labels for SFTTrainer, which takes rows that are tokenised."""
    from datasets import Dataset

    return Dataset.from_dict(
        {"input_ids": [list(r.ids) for r in rows], "labels": [list(r.labels) for r in rows]}
    )


def trainer(net, rows, tokenizer, setting: Setting, *, epochs: float, folder: str, on_step=None):
    """An SFTTrainer; on_step(tokens, supervised) -> whether to stop is called after each optimizer step."""
    import torch
    import transformers
    from trl import SFTConfig, SFTTrainer

    transformers.utils.logging.set_verbosity_error()
    counted = [0, 0]

    class Counting(SFTTrainer):
        """Counts real and supervised tokens of what it trains on."""

        def training_step(self, model, inputs, *args, **options):
            counted[0] += (
                int(inputs["attention_mask"].sum())
                if "attention_mask" in inputs
                else inputs["input_ids"].numel()
            )
            counted[1] += int((inputs["labels"][:, 1:] != -100).sum())
            return super().training_step(model, inputs, *args, **options)

        def compute_loss(self, model, inputs, *args, **options):
            if setting.own_loss:
                return super().compute_loss(model, inputs, *args, **options)
            return transformers.Trainer.compute_loss(
                self, model, inputs | {"use_cache": False}, *args, **options
            )

    class Pause(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **options):
            if on_step and on_step(*counted):
                control.should_training_stop = True
            counted[:] = 0, 0

    config = SFTConfig(
        **{
            "output_dir": folder,
            "use_cpu": not torch.cuda.is_available(),
            "num_train_epochs": epochs,
            "learning_rate": LR,
            "lr_scheduler_type": "linear",
            "warmup_steps": WARMUP,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "seed": 0,
        }
        | setting.config
    )
    net.config._attn_implementation = setting.attention
    out = Counting(
        net, config, train_dataset=dataset(rows), processing_class=tokenizer, callbacks=[Pause()]
    )
    if setting.adapters:  # SFTTrainer rounds the adapters of a 4-bit model to bf16
        for p in net.parameters():
            if p.requires_grad:
                p.data = p.data.to(getattr(torch, setting.adapters))
    return out


def trl(net, rows, task, tokenizer, slices_of):
    """TRL's SFTTrainer under one of the settings of `TRL`."""
    with tempfile.TemporaryDirectory() as folder:
        slices = None
        made = trainer(
            net,
            rows,
            tokenizer,
            TRL[task["setting"]],
            epochs=task["epochs"],
            folder=folder,
            on_step=lambda *counts: slices.step(*counts),
        )
        per_epoch = len(made.get_train_dataloader()) // made.args.gradient_accumulation_steps
        slices = slices_of(math.ceil(per_epoch * task["epochs"]))
        slices.begin()
        made.train()


# -- the lower bound


def lower_bound(config, rows, task, slices_of):
    """The matrix products of the steps of `ours`, and nothing else."""
    from benchmarks.products import Clock, shape_of, step
    from instruct_course.model.load import compute_dtype
    from instruct_course.train import loop
    from instruct_course.train.batch import pack, prefix_groups

    todo = loop.schedule_batches([len(r.ids) for r in rows], config_of(task), prefix_groups(rows))
    shapes = [shape_of(pack([rows[i] for i in chosen])) for chosen in todo]
    clock, slices = Clock(compute_dtype("smollm2")), slices_of(len(todo))
    clock.seconds(step(config, shapes[0], rank=RANK))
    at = 0
    for end in slices.ends:
        slices.begin()
        total, operations = {}, {}
        for s in shapes[at:end]:
            products = step(config, s, rank=RANK)
            for part, seconds in clock.seconds(products).items():
                total[part] = total.get(part, 0) + seconds
                operations[part] = operations.get(part, 0) + sum(
                    p.operations for p in products if p.part == part
                )
        slices.say(
            {
                "slice": slices.ends.index(end),
                "seconds": total,
                "operations": operations,
                "steps": end - at,
                "peak": slices.peak.bytes,
                "line": sum(s.tokens for s in shapes[at:end]),
                "supervised": sum(s.asked for s in shapes[at:end]),
            }
        )
        at = end


# -- a worker


def main(task: dict, out):
    """Do the task and answer on `out`."""
    import torch

    from instruct_course.common.memory import Peak
    from instruct_course.data import template
    from instruct_course.model import lora
    from instruct_course.model.load import load_base
    from instruct_course.train import loop

    if task["threads"]:
        torch.set_num_threads(task["threads"])

    def say(message):
        print(json.dumps(message), file=out, flush=True)

    base = load_base(task["model"], say=lambda text: print(text, file=sys.stderr))
    rows, held = rows_of(task, base.tokenizer)
    pad_id = template.pad_id(base.tokenizer)
    config = base.model.config
    if task["who"] == "lower_bound":
        base = None
        net = None
    else:
        net = lora.attach(base.model, lora_r=RANK, lora_alpha=ALPHA, seed=0)
    peak = Peak(on=False, every=0.02)

    def held_out():
        return loop.heldout_loss(net, held, pad_id=pad_id)[0]

    def slices_of(steps: int) -> Slices:
        made = Slices(task, steps, say=say, listen=sys.stdin.readline, peak=peak, held_out=held_out)
        say(
            {
                "ready": True,
                "steps": steps,
                "slices": len(made.ends),
                "before": peak.before,
                "rows": len(rows),
                "tokens": sum(len(r.ids) for r in rows),
                "supervised": sum(map(supervised, rows)),
                "held_out": held_out() if task["evaluate"] else None,
                "threads": torch.get_num_threads(),
            }
        )
        return made

    if task["who"] == "lower_bound":
        lower_bound(config, rows, task, slices_of)
    elif task["who"] == "trl":
        trl(net, rows, task, base.tokenizer, slices_of)
    else:
        {"ours": ours, "plain": plain}[task["who"]](net, rows, task, pad_id, slices_of)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    main(json.loads(sys.argv[1]), answers)
