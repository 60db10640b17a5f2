"""Which drawings there are."""

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path

from tools.drawings.canvas import Canvas

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "instruct_course" / "assets" / "drawings"
_FUNCTIONS: dict[str, Callable[[], Canvas]] = {}


def register(name: str) -> Callable:
    """Decorator of a function that draws `name`.svg.

    Args:
        name: lower case, words joined by "-".
    """

    def keep(function: Callable[[], Canvas]) -> Callable[[], Canvas]:
        if name in _FUNCTIONS:
            raise ValueError(f"two drawings are called {name}")
        _FUNCTIONS[name] = function
        return function

    return keep


def functions() -> dict[str, Callable[[], Canvas]]:
    """{name: function} of all drawings in the modules of this folder."""
    import tools.drawings

    for module in pkgutil.iter_modules(tools.drawings.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"tools.drawings.{module.name}")
    return dict(_FUNCTIONS)
