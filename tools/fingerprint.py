"""What a recorded result depends on, as one hash: code without docstrings, and pinned versions.

Comments, line breaks and docstrings change nothing. The hash is the same on every Python.
"""

import ast
import hashlib
import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tools.style import ROOT, import_graph, imported_modules, modules

# Names that the package itself hands out, by the module that they come from.
HANDED_OUT = {"tune": "recipe", "open_run": "run"}


def plain(node: ast.AST | list | object) -> object:
    """A syntax tree as lists and texts, without positions, docstrings and empty fields."""
    if isinstance(node, list):
        return [plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {}
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(value, list) and has_docstring(node):
            value = value[1:]
        if value not in (None, []):
            fields[name] = plain(value)
    return [type(node).__name__, fields]


def has_docstring(node: ast.AST) -> bool:
    """Whether a module, class or function begins with a docstring."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None


def hash_of(value: object) -> str:
    """16 hexadecimal digits that stand for a value of JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def code_hash(source: str) -> str:
    """The hash of a piece of code."""
    return hash_of(plain(ast.parse(source)))


@cache
def file_hash(path: Path) -> str:
    """The hash of a file's code."""
    return code_hash(path.read_text(encoding="utf-8"))


def modules_named(dotted: str) -> set[str]:
    """The modules of the package that a dotted name is, lies in, or holds."""
    dotted = HANDED_OUT.get(dotted, dotted)
    for name in (dotted, dotted.rpartition(".")[0]):
        if name in modules():
            return {name}
    return {name for name in modules() if name.startswith(f"{dotted}.")}


def dependencies(source: str) -> set[str]:
    """The modules of the package that a piece of code imports, and those that these import."""
    queue = []
    for node in ast.walk(ast.parse(source)):
        for dotted in imported_modules(node, "").values():
            queue += modules_named(dotted)
    found = set()
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            queue += import_graph()[name]
    return found


def pins(packages: Iterable[str]) -> dict[str, str]:
    """The versions of packages that CI installs, from constraints.txt."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)$", text))
    return {name: pinned[name] for name in packages}


def frozen() -> dict[str, str]:
    """The hashes of the built-in model and rows, as they were recorded when they were made."""
    log = json.loads((ROOT / "tools" / "nano" / "log.json").read_text(encoding="utf-8"))
    return {"weights": log["weights"], **log["instructions"]}


def depends_hash(sources: Iterable[str], packages: Iterable[str]) -> str:
    """The hash of pieces of code, all that they import of the package, and pinned versions."""
    sources = list(sources)
    names = set().union(*map(dependencies, sources))
    imported = {name: file_hash(modules()[name]) for name in sorted(names)}
    return hash_of([[code_hash(s) for s in sources], imported, pins(packages)])
