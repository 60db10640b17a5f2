"""The decode loop: the cache by both of its names, no warning, and rows that leave the batch."""

import logging
import warnings
from types import SimpleNamespace

import pytest
import torch

from instruct_course.decoding import decode_batch, forward_with_cache, pad_left
from instruct_course.generate import complete
from instruct_course.model import lora
from instruct_course.sampling import Sampling


class Before:
    """A model as it was before transformers 5.24."""

    def forward(self, input_ids, past_key_values=None, use_cache=None):
        kept = (past_key_values or []) + input_ids.tolist()
        return SimpleNamespace(logits=input_ids, past_key_values=kept)

    __call__ = forward


class Since:
    """A model as it is since."""

    def forward(self, input_ids, cache=None, use_cache=None):
        return SimpleNamespace(logits=input_ids, cache=(cache or []) + input_ids.tolist())

    __call__ = forward


class Wrapper:
    """PEFT's wrapper, which says nothing of its arguments."""

    def __init__(self, model):
        self.model = model

    def get_base_model(self):
        return self.model

    def __call__(self, **inputs):
        return self.model(**inputs)


@pytest.mark.parametrize("model", [Before(), Since(), Wrapper(Before()), Wrapper(Since())])
def test_the_cache_goes_by_the_name_that_the_model_knows(model):
    _, cache = forward_with_cache(model, torch.tensor([1, 2]))
    _, cache = forward_with_cache(model, torch.tensor([3]), cache)
    assert cache == [1, 2, 3]


def test_an_answer_brings_no_warning(fresh):
    """The newest transformers warns about `past_key_values`, in two ways."""
    from transformers.utils import logging as library

    said = []
    handler = logging.Handler()
    handler.emit = said.append
    logger = library.get_logger("transformers")
    logger.addHandler(handler)
    prompt = fresh.tokenizer("The capital of France is").input_ids
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for model in (fresh.model, lora.attach(fresh.model, lora_r=2)):
                complete(model, fresh.tokenizer, [prompt], stop_ids=[1], max_new_tokens=3)
    finally:
        logger.removeHandler(handler)
    assert not [record.getMessage() for record in said]


def test_prompts_are_padded_on_the_left():
    ids, mask = pad_left([[5, 6, 7], [8]], fill=9)
    assert ids.tolist() == [[5, 6, 7], [9, 9, 8]] and mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_a_finished_row_leaves_and_changes_nothing_for_the_others(nano):
    prompts = [nano.tokenizer(t).input_ids for t in ("The", "The capital of", "小明喜欢")]
    finished, seen = set(), []
    steps = decode_batch(
        nano.model,
        prompts,
        fill=0,
        sampling=Sampling(),
        draws=torch.zeros(3, 6),
        max_new_tokens=6,
        finished=finished,
    )
    for tokens in steps:
        seen.append(tokens)
        finished.add(len(seen) - 1)
    assert [set(tokens) for tokens in seen] == [{0, 1, 2}, {1, 2}, {2}]
    whole = complete(nano.model, nano.tokenizer, prompts, stop_ids=[], max_new_tokens=3)
    assert [tokens[2] for tokens in seen] == whole[2].ids
