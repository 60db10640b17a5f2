"""Threads: what is set before torch loads, how many compute, and denormal numbers."""

import os
import subprocess
import sys

import pytest
import torch

from instruct_course.common import threads

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libgomp's variable")


def spins(code="import instruct_course", **env):
    """GOMP_SPINCOUNT at the end of a process that imports the package."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("GOMP_", "OMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import os; print(os.environ.get('GOMP_SPINCOUNT'))"],
        env=clean | env,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@LINUX
def test_the_import_has_threads_sleep_and_loads_no_torch():
    code = "import instruct_course, sys; assert 'torch' not in sys.modules"
    assert spins(code) == threads.SPINS
    assert int(threads.SPINS) < 10_000


@LINUX
def test_who_has_chosen_is_not_overruled():
    assert spins(GOMP_SPINCOUNT="12345") == "12345"
    assert spins(OMP_WAIT_POLICY="ACTIVE") == "None"


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    for system in ("darwin", "win32"):
        monkeypatch.setattr(sys, "platform", system)
        threads.sleep_at_barriers()
        assert "GOMP_SPINCOUNT" not in os.environ


@pytest.mark.parametrize(
    "rates, expected",
    [
        ({8: 100, 4: 90, 2: 60, 1: 30}, 8),  # more are faster
        ({8: 100, 4: 120, 2: 60, 1: 30}, 8),  # not clearly slower
        ({8: 10, 4: 40, 2: 80, 1: 41}, 2),  # two of the eight cores may be used
        ({8: 1, 4: 2, 2: 3, 1: 40}, 1),
        ({6: 1, 3: 40, 1: 30}, 3),
        ({1: 5}, 1),
    ],
)
def test_fewer_threads_only_where_they_are_clearly_faster(monkeypatch, rates, expected):
    monkeypatch.setattr(threads, "product_rate", rates.__getitem__)
    assert threads.fastest_threads(max(rates)) == expected


@pytest.fixture
def fresh(monkeypatch):
    """Nothing is settled yet in this process; afterwards all is as before."""
    count = torch.get_num_threads()
    monkeypatch.setattr(threads, "_settled", [])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    yield monkeypatch
    torch.set_num_threads(count)


def test_threads_are_chosen_once(fresh):
    fresh.delenv("OMP_NUM_THREADS", raising=False)
    asked = []
    fresh.setattr(threads, "fastest_threads", lambda most: asked.append(most) or 1)
    torch.set_num_threads(2)
    assert threads.settle_threads() == 1
    torch.set_num_threads(2)  # by a user, in a notebook
    assert threads.settle_threads() == 2
    assert asked == [2]


def test_a_number_that_was_given_counts(fresh):
    fresh.setattr(threads, "fastest_threads", lambda most: pytest.fail("measured"))
    fresh.setattr(os, "cpu_count", lambda: 2)
    assert threads.settle_threads(2) == 2
    assert threads.settle_threads(64) == 2  # one per core at most
    assert threads.settle_threads(1) == 1
    assert threads.settle_threads() == 1
    threads._settled.clear()
    fresh.setenv("OMP_NUM_THREADS", "1")
    assert threads.settle_threads() == 1


def test_denormal_numbers_are_zero_inside_the_block_only():
    tiny = torch.tensor([1e-39])
    smallest = torch.tensor([1.2e-38])  # of the normal numbers
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor keeps them")
    torch.set_flush_denormal(False)
    assert (tiny * 1.0).item() > 0
    with threads.flush_denormals():
        with threads.flush_denormals():
            assert (tiny * 1.0).item() == 0
        assert (tiny * 1.0).item() == 0 and (smallest * 1.0).item() > 0
    assert (tiny * 1.0).item() > 0


def test_settling_leaves_this_thread_as_it_was(fresh):
    threads.settle_threads(1)
    assert (torch.tensor([1e-39]) * 1.0).item() > 0


def test_the_rate_of_a_product(fresh):
    before = torch.get_num_threads()
    assert threads.product_rate(2, rounds=1, seconds=0.001) > 0.01
    assert torch.get_num_threads() == before
