"""The house is in order: notebooks and modules in step, outputs that a re-run confirms, a package that builds."""

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import nbformat
import pytest

from tools.execute import differences, execute, is_stale, same, texts
from tools.style import import_graph

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(
    p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
)


def test_same_bites():
    assert (
        same("loss 1.000 cat", "loss  1.005 cat")
        and not same("loss 1.0", "loss 1.1")
        and not same("cat 1", "dog 1")
        and not same("1 2", "1")
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_chapter_runs_and_gives_its_committed_outputs(path):
    """Lessons always; a notebook of the workshop where something that it depends on has changed."""
    if not is_stale(path) and os.environ.get("EXECUTE") != "all":
        pytest.skip("executed with this code already (tests/executed.json)")
    committed = nbformat.read(path, as_version=4)
    shown = [cell.outputs for cell in committed.cells if cell.cell_type == "code"]
    assert any(shown), "outputs are committed"
    found = differences(committed, execute(path))
    assert not found, f"{found}: python -m tools.execute --update {path.relative_to(ROOT)}"


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """The notebooks and modules in a folder of their own, where nbdev's commands may write."""
    folder = tmp_path_factory.mktemp("house")
    for name in ("nbs", "instruct_course"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "assets")
        )
    for name in ("pyproject.toml", "settings.ini", "README.md"):
        shutil.copy(ROOT / name, folder)
    return folder


def nbdev(command, folder):
    subprocess.run([Path(sys.executable).parent / command], cwd=folder, check=True)


def test_chapters_are_clean(copied):
    nbdev("nbdev-clean", copied)
    for path in NOTEBOOKS:
        text = path.read_text(encoding="utf-8")
        assert (copied / path.relative_to(ROOT)).read_text(encoding="utf-8") == text, (
            f"{path.name}: run nbdev-clean"
        )
        assert "widgets" not in nbformat.read(path, as_version=4).metadata, (
            f"{path.name}: the state of widgets is not kept"
        )
        code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        assert not re.search(r"/(root|home|tmp|Users)/\w", text), (
            f"{path.name}: a path of a machine"
        )
        assert not [c.id for c in code if any(o.output_type == "error" for o in c.outputs)]
        assert not [c.id for c in code if re.search("Warning|Failed to", texts(c))], path.name


def test_modules_are_what_the_notebooks_export():
    done = subprocess.run(
        [sys.executable, "-m", "tools.export", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_settings_are_the_single_source():
    assert (
        subprocess.run([sys.executable, "tools/make_pyproject.py", "--check"], cwd=ROOT).returncode
        == 0
    )


def test_the_course_extra_brings_what_notebooks_import():
    """Each package that a notebook imports is required, or stands in the extra [course]."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    extras = ("course", "eval", "lessons", "serve", "xlsx", "modelscope")
    lists = ("requirements", *(f"{extra}_requirements" for extra in extras))
    asked = {
        re.match(r"[\w-]+", line)[0].replace("-", "_").lower()
        for name in lists
        for line in settings["DEFAULT"][name].split()
    }
    imported = set()
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                source = re.sub(r"(?m)^\s*[%!]\w.*$", "", cell.source)
                imported |= top_level_imports(source)
    # what comes with transformers, datasets, matplotlib, fastapi and ipykernel; google.colab is
    # there on Colab
    brought = {
        "pil",
        "numpy",
        "huggingface_hub",
        "tokenizers",
        "pyarrow",
        "pydantic",
        "starlette",
        "ipython",
    }
    here = {"instruct_course", "google", *sys.stdlib_module_names}
    imported = {name.lower() for name in imported} - {name.lower() for name in here}
    assert len(imported) > 10
    assert sorted(imported - brought - asked) == []


def top_level_imports(source: str) -> set[str]:
    """The first words of what a cell imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.partition(".")[0])
    return found


LEVELS = (
    "verify",
    "common",
    "row_options",
    "objective_options",
    "run_config",
    "config",
    "reward_config",
    "data",
    "model",
    "sampling",
    "detokenizer",
    "decoding",
    "generate",
    "train",
    "run",
    "evaluate",
    "objectives",
    "plan",
    "deploy",
    "defaults",
    "preflight",
    "job",
    "pair_rows",
    "verifiable_rows",
    "judging",
    "objective",
    "record",
    "upload",
    "recipe",
    "reward",
    "doctor",
    "notebooks",
    "commands",
    "reward_cli",
    "cli",
)  # from the ground up
PACKAGE = ROOT / "instruct_course"


def test_imports_point_one_way():
    """Between levels only downwards; on one level without circles."""
    graph = import_graph()

    def level(name):
        return LEVELS.index(name.split(".")[0])

    upwards = [
        f"{name} imports {other}"
        for name, used in graph.items()
        for other in used
        if level(other) > level(name)
    ]
    assert not upwards
    assert sum(map(len, graph.values())) > 60  # the arrows are seen
    TopologicalSorter(graph).prepare()  # raises CycleError, with the circle in it


def markdown_texts():
    """(file, text) of each page of the docs and each Markdown cell."""
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("benchmarks/*.md")):
        yield path, path.read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                yield path, cell.source


def test_links_between_pages_lead_somewhere():
    broken = [
        f"{path.relative_to(ROOT)}: {link}"
        for path, text in markdown_texts()
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
        if not re.match(r"[a-z]+:", link) and not (path.parent / link).exists()
    ]
    assert broken == []


def test_ids_of_cells_are_unique_and_made_by_hand():
    ids = Counter(cell.id for path in NOTEBOOKS for cell in nbformat.read(path, as_version=4).cells)
    assert [name for name, n in ids.items() if n > 1] == []
    assert [name for name in ids if re.fullmatch(r"[0-9a-f]{8}|[0-9a-f-]{36}", name)] == []


def test_equation_tags_are_unique():
    tags = Counter(
        tag
        for path in NOTEBOOKS
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "markdown"
        for tag in re.findall(r"\\tag\{([^}]+)\}", cell.source)
    )
    assert len(tags) > 100 and not [tag for tag, n in tags.items() if n > 1]


def test_the_project_stands_alone():
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    texts_ = {
        f: (ROOT / f).read_text(encoding="utf-8", errors="ignore")
        for f in files
        if f.endswith((".py", ".md", ".ipynb", ".ini", ".toml", ".txt"))
    }
    assert not [
        f
        for f, t in texts_.items()
        if f != "tests/test_house.py"
        and (
            "../shared" in t
            or "trust_remote_code=True" in t
            or re.search(r"\bpickle\.load|torch\.load\(", t)
        )
    ]


def test_opened_files_name_their_encoding():
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "tools").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr in ("read_text", "write_text"):
                    named = any(k.arg == "encoding" for k in node.keywords)
                    assert named, f"{path.name}, line {node.lineno}: {ast.unparse(node)[:80]}"
