"""What can go wrong, by whose fault it is.

The command line prints each of these as one sentence. An `InputError` ends it with exit code 2
(the user can mend it); the others, and every exception that is not named here, with 1.
"""

__all__ = ["InputError", "RowTooLong", "TrainingDiverged", "OutOfMemory"]


class InputError(ValueError):
    """What the user gave is wrong; the text is one sentence: what, where, and how to mend it."""


class RowTooLong(InputError):
    """A row has more tokens than fit, even without its input."""


class TrainingDiverged(RuntimeError):
    """The loss or a gradient became NaN or infinite, exploded, or vanished; one sentence."""


class OutOfMemory(MemoryError):
    """Memory is too small even for the smallest piece of the work; one sentence with what helps."""
