"""The application, called without a socket: lengths that fit, and events as clients read them."""

import asyncio
import json
import time
from types import SimpleNamespace

import pytest

from instruct_course.data import template as templates
from instruct_course.deploy.serve.access import Limits
from instruct_course.deploy.serve.app import FullResponse, ServerState, StreamResponse
from instruct_course.deploy.serve.protocol import APIError, CompletionRequest
from instruct_course.deploy.serve.queue import Finished, Job, ServedModel


@pytest.fixture(scope="module")
def state(nano):
    served = ServedModel("nano", nano.model, nano.tokenizer, templates.named("article"))
    return ServerState(served, None, Limits(prompt_tokens=100, output_tokens=50))


def test_lengths_that_do_not_fit_are_refused(state):
    assert state.context_length == 1024
    assert state.check_lengths([1] * 100, None, "prompt") == 50
    for ids, asked, param in (([], None, "prompt"), ([1] * 101, 1, "prompt")):
        with pytest.raises(APIError, match="from 1 to 100") as error:
            state.check_lengths(ids, asked, param)
        assert error.value.body["error"]["param"] == param
    with pytest.raises(APIError, match="at most 50"):
        state.check_lengths([1], 51, "prompt")


def written(kind, events, **options) -> bytes:
    """The body that a response writes for these events."""

    async def write():
        job = Job([1, 2], 8, time.monotonic() + 60)
        for event in events:
            job.events.put_nowait(event)
        cancelled, body = [], b""
        worker = SimpleNamespace(queue=SimpleNamespace(cancel=cancelled.append))

        async def send(message):
            nonlocal body
            body += message.get("body", b"")

        request = CompletionRequest(model="nano", prompt="x", **options)
        await kind(worker, job, request, 60)({"type": "http"}, lambda: asyncio.sleep(60), send)
        assert cancelled == [job]
        return body

    return asyncio.run(write())


def test_a_stream_ends_with_its_reason_its_usage_and_done():
    options = {"stream": True, "stream_options": {"include_usage": True}}
    body = written(StreamResponse, [" a", "b", Finished("stop", 2)], **options)
    *chunks, done = [line.removeprefix("data: ") for line in body.decode().split("\n\n") if line]
    first, second, end, usage = map(json.loads, chunks)
    assert [first["choices"][0]["text"], second["choices"][0]["text"]] == [" a", "b"]
    assert end["choices"][0]["finish_reason"] == "stop" and usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 4 and done == "[DONE]"


def test_an_error_on_the_way_ends_a_stream_without_done():
    body = written(StreamResponse, ["a", APIError(503, "no", code="timeout")], stream=True)
    assert b'"timeout"' in body and b"[DONE]" not in body


def test_a_full_response_is_one_object():
    body = json.loads(written(FullResponse, [" a", "b", Finished("length", 2)]))
    assert body["choices"][0]["text"] == " ab"
    assert body["choices"][0]["finish_reason"] == "length"
