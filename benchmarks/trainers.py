"""The training loops that `benchmarks.gpu` compares: the same rows, the same weights, one turn.

A turn is a function of (net, job, clock): it trains the adapters of `net` for `job.steps` + 1
steps on the rows of the job and calls `clock.tick(loss)` behind each step.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from instruct_course.common.memory import Peak
from instruct_course.data.template import Encoded
from instruct_course.train import batch, engine, loop

PAD_ID = 0
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class Job:
    """What a turn trains.

    Attributes:
        rows: of each step, the same in all.
        steps: that are timed; one more comes before them, as a warm-up.
        lr: the learning rate, constant.
        gradient_checkpointing: activations are computed again in the backward pass.
    """

    rows: list[Encoded]
    steps: int = 3
    lr: float = 1e-4
    gradient_checkpointing: bool = True

    @property
    def tokens(self) -> int:
        """Real tokens of a step, without padding."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def padded_tokens(self) -> int:
        """Tokens of a step as a padded batch."""
        return len(self.rows) * max(len(row.ids) for row in self.rows)


class Clock:
    """The seconds of a turn behind its warm-up, its losses and its peak memory.

    A GPU is waited for at the first and the last tick only. On a GPU the peak is what the
    allocator gave out at most; on a CPU the anonymous memory, looked at from a thread.
    """

    def __init__(self, steps: int, device: str):
        self.steps = steps
        self.cuda = device == "cuda"
        self.losses = []
        self.seconds = None
        self.peak_bytes = None

    def __enter__(self):
        self._peak = None if self.cuda else Peak()
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        return self

    def __exit__(self, *exception):
        if self.cuda:
            self.peak_bytes = torch.cuda.max_memory_allocated()
        else:
            self._peak.__exit__(*exception)
            self.peak_bytes = self._peak.bytes

    def tick(self, loss: torch.Tensor | float) -> bool:
        """Note the end of a step and its loss (nats per supervised token); True at the last."""
        self.losses.append(loss.detach() if isinstance(loss, torch.Tensor) else loss)
        done = len(self.losses)
        if self.cuda and done in (1, self.steps + 1):
            torch.cuda.synchronize()
        if done == 1:
            self._started = time.perf_counter()
        if done == self.steps + 1:
            self.seconds = time.perf_counter() - self._started
            self.losses = [float(x) for x in self.losses]
        return done > self.steps


def ours(net, job: Job, clock: Clock) -> None:
    """`loop.fit` as it ships."""
    config = loop.TrainConfig(
        epochs=job.steps + 1,
        lr=job.lr,
        batch_tokens=job.padded_tokens,
        warmup=0.0,
        schedule="constant",
        max_grad_norm=MAX_GRAD_NORM,
        gradient_checkpointing=job.gradient_checkpointing,
        cache=False,
    )
    loop.fit(net, job.rows, config, pad_id=PAD_ID, on_step=lambda n: clock.tick(n["loss"]))


def plain_steps(net, job: Job, clock: Clock, loss_of: Callable) -> None:
    """A plain loop around `loss_of(padded batch)`, a loss per supervised token."""
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=job.lr, weight_decay=0.0, fused=True)
    net.train()
    done = False
    while not done:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(batch.collate(job.rows, PAD_ID, net.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM)
        optimizer.step()
        done = clock.tick(loss)


@contextmanager
def checkpointed(net, on: bool) -> Iterator[None]:
    """Inside, transformers' layers are computed again in the backward pass, where `on`."""
    if not on:
        yield
        return
    options = {"use_reentrant": False}
    net.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    try:
        yield
    finally:
        net.gradient_checkpointing_disable()


def ours_plain(net, job: Job, clock: Clock) -> None:
    """The reference: transformers' and PEFT's own layers, with our head and loss."""

    def loss(padded):
        total, count = engine.batch_loss(net, padded)
        return total / count

    with checkpointed(net, job.gradient_checkpointing):
        plain_steps(net, job, clock, loss)


def transformers_peft(net, job: Job, clock: Clock) -> None:
    """What anybody would write: the model's own loss, all logits included."""
    with checkpointed(net, job.gradient_checkpointing):
        plain_steps(net, job, clock, lambda padded: net(**padded, use_cache=False).loss)


def trl(net, job: Job, clock: Clock) -> None:
    """TRL's SFTTrainer in its strongest setting, with this checkpointing."""
    from instruct_course.model.load import load_base

    from .contender import STRONGEST, TRL, Setting, trainer

    strongest = TRL[STRONGEST]
    wanted = {
        "gradient_checkpointing": job.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "per_device_train_batch_size": len(job.rows),
        "learning_rate": job.lr,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "logging_strategy": "steps",
        "logging_steps": 1,
    }
    setting = Setting(strongest.config | wanted, strongest.attention, "float32", strongest.own_loss)
    # rows are tokenised already; it pads with this one's id
    tokenizer = load_base("nano").tokenizer
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(
            net,
            job.rows,
            tokenizer,
            setting,
            epochs=job.steps + 1,
            folder=folder,
            # the losses are read from its log below
            on_step=lambda tokens, supervised: clock.tick(0.0),
        )
        made.train()
        clock.losses = [entry["loss"] for entry in made.state.log_history if "loss" in entry]
    net.gradient_checkpointing_disable()


def get_adapters(net) -> dict[str, torch.Tensor]:
    """The weights of the adapters, by name, as copies in the machine's memory."""
    return {n: p.detach().cpu().clone() for n, p in net.named_parameters() if p.requires_grad}


def set_adapters(net, weights: dict[str, torch.Tensor]) -> None:
    """Give the adapters these weights, in their dtype, without gradients."""
    for name, p in net.named_parameters():
        if p.requires_grad:
            p.data = weights[name].to(p.device, copy=True)
            p.grad = None


TRAINERS = {
    "ours": ours,
    "ours, plain": ours_plain,
    "transformers + PEFT": transformers_peft,
    "TRL": trl,
}
