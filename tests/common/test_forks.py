"""Work in forked processes: the same results in order, exceptions, and processes that are killed."""

import multiprocessing
import os
import signal
import sys

import pytest

from instruct_course.common.errors import InputError
from instruct_course.common.forks import MANY, in_forks, processes_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")


def shared(work, parts):
    with in_forks(work, parts) as results:
        return results()


def test_results_come_in_the_order_of_the_parts_and_from_other_processes():
    made = shared(lambda part: (part * part, os.getpid()), [3, 1, 2])
    assert [square for square, _ in made] == [9, 1, 4]
    assert len({pid for _, pid in made} - {os.getpid()}) == 3
    assert shared(abs, []) == []


def test_an_exception_is_raised_here_and_no_process_stays():
    def work(part):
        raise InputError(f"row {part}: bad")

    with pytest.raises(InputError, match="row 7: bad"):
        shared(work, [7])
    assert multiprocessing.active_children() == []


def test_what_a_killed_process_left_is_done_here():
    here = os.getpid()

    def work(part):
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return part + 1

    assert shared(work, [1, 2]) == [2, 3]


def test_tokenizers_keep_their_threads_afterwards(monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    assert shared(lambda _: os.environ["TOKENIZERS_PARALLELISM"], [0]) == ["false"]
    assert "TOKENIZERS_PARALLELISM" not in os.environ
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    shared(abs, [1])
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


def test_few_rows_are_not_shared(monkeypatch):
    monkeypatch.setattr("instruct_course.common.forks.cores", lambda: 4)
    assert [processes_for(n) for n in (1, MANY, 2 * MANY, 100 * MANY)] == [1, 1, 2, 4]
