"""Validation while a model trains: the loss on held-out rows, and the best adapter so far."""

import math
from collections.abc import Sequence
from pathlib import Path

from instruct_course import generate
from instruct_course.common.progress import samples
from instruct_course.data import template as templates
from instruct_course.data.example import Example
from instruct_course.data.template import Template
from instruct_course.evaluate.answers import subsample
from instruct_course.train import checkpoint
from instruct_course.train.heldout import heldout_loss

__all__ = ["Validation"]
ROWS = 128  # held-out rows that a validation takes the loss of, at most
ANSWERS = 2  # of which so many are answered, to be looked at


class Validation:
    """Called with the record of each step; validates every so many steps and at the end.

    Args:
        model, tokenizer, template: what is trained.
        examples: held-out rows, of which at most `ROWS` are taken at even distances.
        every: steps between two validations.
        patience: validations without a better one after which training ends (None: never).
        max_length: tokens per row.
        batch_tokens: tokens per batch.
        folder: where the best adapter is kept.
        progress: what is told.
        is_first: of several processes; only the first one writes and answers.

    Attributes:
        best_loss: the lowest held-out loss so far, in nats per token.
        best_step: its step; 0 before the first validation.
    """

    def __init__(
        self,
        model,
        tokenizer,
        template: Template,
        examples: Sequence[Example],
        *,
        every: int,
        patience: int | None,
        max_length: int,
        batch_tokens: int,
        folder: Path,
        progress,
        is_first: bool,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.template = template
        self.examples = subsample(examples, ROWS)
        self.every = every
        self.patience = patience
        self.batch_tokens = batch_tokens
        self.folder = folder
        self.progress = progress
        self.is_first = is_first
        self.rows = [
            templates.encode(
                template, tokenizer, example, max_length=max_length, truncate_response=True
            )
            for example in self.examples
        ]
        kept = checkpoint.newest(folder, say=progress.say) if folder.exists() else None
        self.best_step = kept[0] if kept else 0
        self.best_loss = kept[2]["heldout_loss"] if kept else math.inf

    def __call__(self, record: dict) -> bool:
        """Validate if it is time, and add `heldout_loss` to the record; True ends the training."""
        step = record["step"]
        if step % self.every and step != record["steps"]:
            return False
        record["heldout_loss"] = self.loss()
        if self.is_first:
            self.progress.say(f"step {step}: held-out loss {record['heldout_loss']:.3f}")
            self.show_answers()
        if record["heldout_loss"] < self.best_loss:
            self.best_loss = record["heldout_loss"]
            self.best_step = step
            self.keep_adapter()
        if not self.patience:
            return False
        return step - self.best_step >= self.patience * self.every

    def loss(self) -> float:
        """The mean loss of the held-out rows, in nats per supervised token."""
        pad_id = templates.pad_id(self.tokenizer)
        loss, _ = heldout_loss(self.model, self.rows, pad_id=pad_id, batch_tokens=self.batch_tokens)
        return loss

    def show_answers(self) -> None:
        """Tell what the model answers to a few of the rows."""
        asked = subsample(self.examples, ANSWERS)
        texts = generate.answer(self.model, self.tokenizer, self.template, asked, max_new_tokens=32)
        pairs = [(example.instruction, text) for example, text in zip(asked, texts)]
        samples(pairs, self.progress.say)

    def keep_adapter(self) -> None:
        """Write the trained parameters; they replace those of the best step before."""
        if self.is_first:
            facts = {"heldout_loss": self.best_loss}
            checkpoint.save(self.folder, self.best_step, self._trained(), facts, keep=1)

    def take_best(self) -> int:
        """Put the best adapter into the model; returns its step."""
        step, tensors, _ = checkpoint.newest(self.folder, say=self.progress.say)
        for name, parameter in self._trained().items():
            parameter.copy_(tensors[name])
        return step

    def _trained(self) -> dict:
        """The trained parameters by name, without their history."""
        named = self.model.named_parameters()
        return {name: p.detach() for name, p in named if p.requires_grad}
