"""What can go wrong, by whose fault."""

__all__ = ["InputError"]


class InputError(ValueError):
    """What the user gave is wrong; `str(error)` is one sentence: what, where, and how to mend it."""
