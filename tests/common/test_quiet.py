"""transformers' notices and bars: off where nobody watches, and afterwards as they were."""

import sys

import pytest
from transformers.utils import logging

from instruct_course.common.quiet import quiet_transformers


@pytest.fixture(autouse=True)
def as_before():
    level = logging.get_verbosity()
    had_bars = logging.is_progress_bar_enabled()
    yield
    logging.set_verbosity(level)
    if had_bars:
        logging.enable_progress_bar()


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("bars", [True, False])
def test_bars_are_drawn_on_a_terminal_only(monkeypatch, terminal, bars):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    logging.enable_progress_bar()
    logging.set_verbosity_info()
    with quiet_transformers(bars=bars):
        assert logging.is_progress_bar_enabled() == (bars and terminal)
        assert logging.get_verbosity() == logging.ERROR
    assert logging.is_progress_bar_enabled()
    assert logging.get_verbosity() == logging.INFO


def test_what_the_caller_had_switched_off_stays_off_also_after_an_error():
    logging.disable_progress_bar()
    with pytest.raises(KeyboardInterrupt), quiet_transformers(bars=True):
        raise KeyboardInterrupt
    assert not logging.is_progress_bar_enabled()
