"""Answers on a GPU: greedy ones are transformers', and a server gives the same.

In 16 bits two ways of the same sum differ by a few roundings, and where the two best tokens are
that close either may be chosen; what follows is then another text. So each token is judged behind
the tokens that were chosen before it: its score, from transformers' own forward pass, is the best
one or at most `ROUNDINGS` eps of the largest score below it. In float32 the whole answer is the
one of `generate`.
"""

import json
import urllib.request

import pytest
import torch

from instruct_course.data import template as templates
from instruct_course.deploy.serve.queue import ServedModel
from instruct_course.generate import complete

ROUNDINGS = 4
NEW = 12
TEXTS = ["The capital of France is", "猫的英文是", "The"]


def library_answer(model, prompt: list[int]) -> list[int]:
    """The greedy ids of transformers."""
    rows = torch.tensor([prompt], device=model.device)
    options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    mask = torch.ones_like(rows)
    out = model.generate(rows, attention_mask=mask, max_new_tokens=NEW, **options)
    return out[0, len(prompt) :].tolist()


def below_the_best(model, prompt: list[int], ids: list[int]) -> torch.Tensor:
    """How far the score of each chosen token is below the best, per largest score."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + ids], device=model.device)).logits[0].float().cpu()
    scores = logits[len(prompt) - 1 : -1]
    chosen = scores.gather(1, torch.tensor(ids)[:, None])[:, 0]
    return (scores.amax(1) - chosen) / scores.abs().amax(1)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_greedy_answers_are_transformers(usual_place, nano_at, batch_size):
    base = nano_at(usual_place)
    prompts = [base.tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS]
    options = {"stop_ids": [], "max_new_tokens": NEW, "batch_size": batch_size}
    made = complete(base.model, base.tokenizer, prompts, **options)
    for prompt, completion in zip(prompts, made):
        assert len(completion.ids) == NEW
        below = below_the_best(base.model, prompt, completion.ids)
        assert below.max() <= ROUNDINGS * usual_place.eps
        if usual_place.dtype == torch.float32:
            assert completion.ids == library_answer(base.model, prompt)


def test_a_server_gives_the_answer(usual_place, nano_at):
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    from instruct_course.deploy.serve.server import Server

    base = nano_at(usual_place)
    served = ServedModel("nano", base.model, base.tokenizer, templates.named("article"))
    body = {"model": "nano", "prompt": TEXTS[0], "max_tokens": 8, "temperature": 0}
    with Server(served) as server:
        request = urllib.request.Request(
            server.url + "/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as reply:
            got = json.loads(reply.read())
    prompt = base.tokenizer(TEXTS[0]).input_ids
    wanted = complete(
        base.model,
        base.tokenizer,
        [prompt],
        stop_ids=[base.tokenizer.eos_token_id],
        max_new_tokens=8,
    )
    assert got["choices"][0]["text"] == wanted[0].text
    assert got["usage"]["completion_tokens"] == len(wanted[0].ids)
    assert len(wanted[0].ids) > 0
