"""transformers without its notices, and without progress bars where nobody watches them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_transformers"]


@contextmanager
def quiet_transformers(*, bars: bool = False) -> Iterator[None]:
    """Inside the block transformers prints errors only; afterwards its settings are as before.

    Args:
        bars: leave its progress bars on where standard error is a terminal. In a file or a
            notebook their hundreds of redraws would run through our own lines.
    """
    from transformers.utils import logging

    level = logging.get_verbosity()
    had_bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not (bars and sys.stderr.isatty()):
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bars:
            logging.enable_progress_bar()
        else:
            logging.disable_progress_bar()
