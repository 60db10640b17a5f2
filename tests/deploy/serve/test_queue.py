"""The queue: first in, first out, bounded; and a job's pieces are what `complete` gives."""

import asyncio
import time

import pytest

from instruct_course.data import template as templates
from instruct_course.deploy.serve.protocol import APIError
from instruct_course.deploy.serve.queue import Finished, Job, JobQueue, ServedModel, run_job
from instruct_course.generate import complete
from instruct_course.sampling import Sampling


@pytest.fixture(scope="module")
def served(nano):
    return ServedModel("nano", nano.model, nano.tokenizer, templates.named("article"))


def job(ids, n=1, seconds=60.0, **options):
    return Job(ids, n, time.monotonic() + seconds, loop=None, events=None, **options)


def events(served, ids, n, seconds=60.0, cancel=False, **options):
    """All that a job sends."""

    async def work():
        made = Job(ids, n, time.monotonic() + seconds, **options)
        if cancel:
            made.cancelled.set()
        run_job(served, made)
        await asyncio.sleep(0)
        return [made.events.get_nowait() for _ in range(made.events.qsize())]

    return asyncio.run(work())


def test_first_in_first_out_and_no_more_than_the_bound():
    queue, (a, b, c) = JobQueue(2), [job([i]) for i in range(3)]
    queue.submit(a)
    queue.submit(b)
    with pytest.raises(APIError, match="queue is full") as error:
        queue.submit(c)
    assert error.value.status == 429
    queue.cancel(a)
    queue.submit(c)
    assert a.cancelled.is_set() and [queue.get(), queue.get()] == [b, c] and queue.current is c


def test_closing_hands_back_what_runs_and_what_waits():
    queue, (a, b) = JobQueue(2), [job([i]) for i in range(2)]
    queue.submit(a)
    queue.submit(b)
    queue.get()
    assert queue.close() == [a, b] and a.cancelled.is_set() and queue.get() is None
    with pytest.raises(APIError, match="closing"):
        queue.submit(b)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, seed=3)])
def test_pieces_are_those_of_complete(served, sampling):
    ids = served.tokenizer("The capital of France is").input_ids
    stop_ids = templates.stop_ids(served.template, served.tokenizer)
    (wanted,) = complete(
        served.model,
        served.tokenizer,
        [ids],
        stop_ids=stop_ids,
        max_new_tokens=9,
        sampling=sampling,
    )
    *pieces, last = events(served, ids, 9, sampling=sampling)
    assert "".join(pieces) == wanted.text and all(pieces)
    reason = "length" if wanted.reason == "length" else "stop"
    assert last == Finished(reason, len(wanted.ids))


def test_nothing_is_made_for_who_has_left_or_waited_too_long(served):
    ids = served.tokenizer("The capital").input_ids
    assert events(served, ids, 9, cancel=True) == []
    (error,) = events(served, ids, 9, seconds=-1.0)
    assert error.body["error"]["code"] == "timeout"
