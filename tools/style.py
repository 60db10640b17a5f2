"""Measure notebooks and modules by the project's limits: `python -m tools.style`.

It prints a table of the notebooks and one of the package. `python -m tools.style --exceptions`
prints what breaks a limit today, as tests/style_exceptions.py holds it:

    python -m tools.style --exceptions > tests/style_exceptions.py

The limits of lessons hold for nbs/*.ipynb, those of modules for instruct_course/ and, but for
docstrings, for tools/.
"""

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tools.export import notebooks
from tools.opening import SET_UP_ID

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "instruct_course"
COLUMNS = 100
LONG_CELL = 8
LONGEST_CELL = 25
LONG_CELLS_SHARE = 0.15
EXPORTED_SHARE = 0.25
MODULE_LINES = 400
FUNCTION_LINES = 60
NO_NAME = re.compile(r"(?=.*\d)[0-9a-f]{6,}(-[0-9a-f-]+)?|(cell|id)?[-_]?\d+|untitled.*", re.I)


# ---- notebooks


@dataclass(frozen=True)
class Notebook:
    """What is measured of a notebook.

    Args:
        path: below the project's root.
        ids: of all cells, in order.
        cells: lines of each code cell, without blank lines and nbdev's directives; of a cell that
            installs the course, which tools/opening.py writes, 8 at most.
        exported: the same of the exported cells.
        wide: code lines over 100 columns.
        drawings: pictures in Markdown cells, and calls of `drawing`.
        plots: pictures in outputs.
        words: in Markdown cells; a Chinese character is a word.
    """

    path: Path
    ids: list[str]
    cells: list[int]
    exported: list[int]
    wide: int
    drawings: int
    plots: int
    words: int

    @property
    def name(self) -> str:
        """The path below the project's root."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def is_lesson(self) -> bool:
        """Whether it lies in nbs/ itself, and not in the workshop."""
        return self.path.parent.name == "nbs"

    @property
    def long_share(self) -> float:
        """The share of code cells over 8 lines."""
        return sum(n > LONG_CELL for n in self.cells) / max(len(self.cells), 1)

    @property
    def exported_share(self) -> float:
        """The share of code lines that are exported."""
        return sum(self.exported) / max(sum(self.cells), 1)


def code_lines(source: str) -> list[str]:
    """The lines of a cell that count: not blank, and no directive of nbdev."""
    lines = source.splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#|")]


def measure(path: Path) -> Notebook:
    """Read and measure a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = {kind: [] for kind in ("code", "markdown", "raw")}
    plots = 0
    lengths = []
    for cell in cells:
        source = "".join(cell["source"])
        sources[cell["cell_type"]].append(source)
        if cell["cell_type"] == "code":
            length = len(code_lines(source))
            lengths.append(min(length, LONG_CELL) if SET_UP_ID.fullmatch(cell["id"]) else length)
        for output in cell.get("outputs", []):
            plots += "image/png" in output.get("data", {})
    prose = "\n".join(sources["markdown"])
    code = sources["code"]
    exported = [s for s in code if re.match(r"#\|\s*export", s)]
    lines = [line for source in code for line in source.splitlines()]
    return Notebook(
        path=path,
        ids=[cell["id"] for cell in cells],
        cells=[n for n in lengths if n],
        exported=[len(code_lines(s)) for s in exported],
        wide=sum(len(line) > COLUMNS for line in lines),
        drawings=len(re.findall(r"(?<!\[)!\[[^\]]*\]\(|<svg|<img", prose))
        + sum(source.count("drawing(") for source in code),
        plots=plots,
        words=len(re.findall(r"[\u4e00-\u9fff]|[A-Za-z0-9_'’]+", prose)),
    )


@cache
def measured() -> list[Notebook]:
    """All notebooks, lessons first."""
    return [measure(path) for path in notebooks()]


def lessons_with(broken: Callable[[Notebook], bool]) -> set[str]:
    """Names of the lessons that break a limit."""
    return {n.name for n in measured() if n.is_lesson and broken(n)}


def wide_lessons() -> set[str]:
    """Lessons with a code line over 100 columns."""
    return lessons_with(lambda n: n.wide > 0)


def lessons_with_a_longest_cell() -> set[str]:
    """Lessons with a code cell over 25 lines."""
    return lessons_with(lambda n: max(n.cells, default=0) > LONGEST_CELL)


def lessons_with_long_cells() -> set[str]:
    """Lessons with more than 15 % of their code cells over 8 lines."""
    return lessons_with(lambda n: n.long_share > LONG_CELLS_SHARE)


def lessons_with_a_large_share() -> set[str]:
    """Lessons of which more than 25 % of the code lines are exported; none need be."""
    return lessons_with(lambda n: n.exported_share > EXPORTED_SHARE)


def repeated_ids() -> set[str]:
    """Cell ids that stand in more than one place, over all notebooks."""
    counts = Counter(i for n in measured() for i in n.ids)
    return {i for i, n in counts.items() if n > 1}


def meaningless_ids() -> set[str]:
    """Cells whose id is random or a number, as "NOTEBOOK: ID"."""
    return {f"{n.name}: {i}" for n in measured() for i in n.ids if NO_NAME.fullmatch(i)}


# ---- modules


@cache
def modules() -> dict[str, Path]:
    """{dotted name without the package's own: file}; a folder counts if its __init__ has code."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
            if not parts or len(tree(path).body) < 2:
                continue
        if "assets" not in parts and parts[-1] != "_modidx":
            found[".".join(parts)] = path
    return found


@cache
def python_files() -> dict[str, Path]:
    """{name: file} of the package's modules and the tools."""
    tools = sorted((ROOT / "tools").rglob("*.py"))
    named = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in tools}
    return {f"instruct_course.{name}": path for name, path in modules().items()} | named


@cache
def tree(path: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_modules(node: ast.AST, name: str) -> dict[str, str]:
    """What one import statement of module `name` binds to modules or names of the package.

    Returns:
        {local name: dotted name without the package's own}, such as {"lora": "model.lora"} or
        {"attach": "model.lora.attach"}; empty for any other statement.
    """
    if isinstance(node, ast.Import):
        found = {a.asname or a.name: a.name for a in node.names}
    elif isinstance(node, ast.ImportFrom):
        root = ["instruct_course", *name.split(".")][: -node.level] if node.level else []
        source = ".".join([*root, *([node.module] if node.module else [])])
        found = {a.asname or a.name: f"{source}.{a.name}" for a in node.names}
    else:
        found = {}
    prefix = "instruct_course."
    return {k: v.removeprefix(prefix) for k, v in found.items() if v.startswith(prefix)}


def module_of(dotted: str) -> str | None:
    """The module that a dotted name is, or lies in."""
    if dotted in modules():
        return dotted
    parent = dotted.rpartition(".")[0]
    return parent if parent in modules() else None


@cache
def import_graph() -> dict[str, set[str]]:
    """{module: the modules of the package that it imports}, also inside functions."""
    graph = {}
    for name, path in modules().items():
        used = set()
        for node in ast.walk(tree(path)):
            for dotted in imported_modules(node, name).values():
                used |= {module_of(dotted)} - {None}
        graph[name] = used
    return graph


def long_modules() -> set[str]:
    """Modules of the package over 400 lines."""
    return {
        name
        for name, path in modules().items()
        if len(path.read_text(encoding="utf-8").splitlines()) > MODULE_LINES
    }


def functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    """(qualified name, definition) of all functions, also those in classes and functions."""
    for child in ast.iter_child_nodes(node):
        named = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        name = f"{prefix}.{child.name}" if named else prefix
        if named and not isinstance(child, ast.ClassDef):
            yield name, child
        yield from functions(child, name)


def function_lines(node: ast.FunctionDef) -> int:
    """Lines of a function from its `def` on, without those of its docstring."""
    lines = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node) is not None:
        docstring = node.body[0]
        lines -= docstring.end_lineno - docstring.lineno + 1
    return lines


def long_functions() -> set[str]:
    """Functions of the package and the tools over 60 lines, docstrings not counted."""
    return {
        name
        for file, path in python_files().items()
        for name, node in functions(tree(path), file)
        if function_lines(node) > FUNCTION_LINES
    }


def wide_files() -> set[str]:
    """Python files of the package and the tools with a line over 100 columns."""
    return {
        name
        for name, path in python_files().items()
        if any(len(line) > COLUMNS for line in path.read_text(encoding="utf-8").splitlines())
    }


def is_private(name: str) -> bool:
    """Whether a name begins with one underscore."""
    return name.startswith("_") and not name.startswith("__")


def borrowed_private_names() -> set[str]:
    """Private names of one module that another one uses, as "MODULE uses OTHER._name"."""
    found = set()
    for file, path in python_files().items():
        name = file.removeprefix("instruct_course.")
        bound = {}
        for node in ast.walk(tree(path)):
            bound |= imported_modules(node, name)
        used = [dotted for dotted in bound.values() if is_private(dotted.rpartition(".")[2])]
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and is_private(node.attr):
                owner = bound.get(ast.unparse(node.value))
                if owner in modules():
                    used.append(f"{owner}.{node.attr}")
        found |= {f"{name} uses {dotted}" for dotted in used if module_of(dotted) != name}
    return found


def public_definitions(path: Path) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Functions and classes at the top level of a file whose name is public."""
    for node in tree(path).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if not node.name.startswith("_"):
                yield node


def undocumented() -> set[str]:
    """Public functions and classes of the package without a docstring."""
    return {
        f"{name}.{node.name}"
        for name, path in modules().items()
        for node in public_definitions(path)
        if not ast.get_docstring(node)
    }


def errors_in_docstrings() -> set[str]:
    """Definitions whose docstring says "Errors:", where Python says "Raises:"."""
    found = set()
    for name, path in python_files().items():
        for node in ast.walk(tree(path)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
                if re.search(r"\bErrors:", ast.get_docstring(node) or ""):
                    found.add(f"{name}.{getattr(node, 'name', '')}".rstrip("."))
    return found


def findings_of_ruff() -> set[str]:
    """What ruff's linter finds in the whole project, as "FILE: RULE"."""
    command = [sys.executable, "-m", "ruff", "check", "--output-format", "json", "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    if not done.stdout.startswith("["):
        raise RuntimeError(f"ruff does not run: {done.stderr[-1000:]}")
    return {
        f"{Path(found['filename']).relative_to(ROOT).as_posix()}: {found['code']}"
        for found in json.loads(done.stdout)
    }


LIMITS = {
    "code lines of lessons over 100 columns": wide_lessons,
    "lessons with a cell over 25 lines": lessons_with_a_longest_cell,
    "lessons with over 15 % of cells over 8 lines": lessons_with_long_cells,
    "lessons that export over 25 %": lessons_with_a_large_share,
    "cell ids that stand twice": repeated_ids,
    "cell ids without a meaning": meaningless_ids,
    "modules over 400 lines": long_modules,
    "functions over 60 lines": long_functions,
    "files with lines over 100 columns": wide_files,
    "private names of other modules": borrowed_private_names,
    "public names without a docstring": undocumented,
    "docstrings that say Errors": errors_in_docstrings,
    "findings of ruff": findings_of_ruff,
}


# ---- what is printed


def exceptions() -> str:
    """The text of tests/style_exceptions.py, as ruff lays it out."""
    lines = [
        '"""What breaks a limit of tools/style.py today. These lists may only become shorter."""',
        "",
        "# Made by `python -m tools.style --exceptions`.",
        "EXCEPTIONS = {",
    ]
    for limit, find in LIMITS.items():
        names = [f"        {json.dumps(name, ensure_ascii=False)}," for name in sorted(find())]
        head = f"    {json.dumps(limit)}: "
        lines += [f"{head}[", *names, "    ],"] if names else [f"{head}[],"]
    return "\n".join([*lines, "}"]) + "\n"


def notebook_table() -> str:
    """A line per notebook."""
    head = (
        "notebook",
        "cells",
        "code",
        ">8",
        ">25",
        ">100 cols",
        "exported",
        "drawn",
        "plots",
        "words/line",
    )
    lines = ["{:32}{:>7}{:>6}{:>6}{:>6}{:>11}{:>10}{:>7}{:>7}{:>12}".format(*head)]
    for n in measured():
        over = [sum(c > limit for c in n.cells) for limit in (LONG_CELL, LONGEST_CELL)]
        words = n.words / max(sum(n.cells), 1)
        lines.append(
            f"{n.name.removeprefix('nbs/'):32}{len(n.ids):7}{len(n.cells):6}{over[0]:6}{over[1]:6}"
            f"{n.wide:11}{n.exported_share:10.0%}{n.drawings:7}{n.plots:7}{words:12.1f}"
        )
    return "\n".join(lines)


def depth(graph: dict[str, set[str]]) -> int:
    """Modules on the longest chain of imports."""

    @cache
    def below(name):
        return 1 + max((below(other) for other in graph[name] if other != name), default=0)

    return max(below(name) for name in graph)


def package_table() -> str:
    """The package in a few numbers."""
    graph = import_graph()
    sizes = {n: len(p.read_text(encoding="utf-8").splitlines()) for n, p in modules().items()}
    tests = sum(
        len(p.read_text(encoding="utf-8").splitlines()) for p in (ROOT / "tests").rglob("*.py")
    )
    largest = sorted(sizes, key=sizes.get, reverse=True)[:5]
    rows = {
        "rooms (modules)": len(graph),
        "folders": len({p.parent for p in modules().values()}),
        "levels (longest chain of imports)": depth(graph),
        "import arrows": sum(map(len, graph.values())),
        "lines": sum(sizes.values()),
        "lines of tests": tests,
        "largest modules": ", ".join(f"{name} {sizes[name]}" for name in largest),
    }
    rows |= {limit: len(find()) for limit, find in LIMITS.items()}
    return "\n".join(f"{name:46}{value}" for name, value in rows.items())


if __name__ == "__main__":
    if "--exceptions" in sys.argv:
        print(exceptions(), end="")
    else:
        print(f"{notebook_table()}\n\n{package_table()}")
