"""The drawings of the lessons: SVG files, in English and Chinese, made by `tools/drawings`."""

from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS

__all__ = ["drawing", "names"]

FOLDER = ASSETS / "drawings"


def names() -> list[str]:
    """The names of all drawings."""
    return sorted(path.stem for path in FOLDER.glob("*.svg"))


def drawing(name: str):
    """A drawing, which a notebook shows as the value of a cell.

    Args:
        name: one of `names()`, such as "six-steps".

    Returns:
        An `IPython.display.SVG`.

    Raises:
        InputError: there is no drawing of that name.
    """
    from IPython.display import SVG

    if name not in names():
        raise InputError(f"drawing {name!r}: there is none; take one of {', '.join(names())}")
    return SVG(filename=FOLDER / f"{name}.svg")
