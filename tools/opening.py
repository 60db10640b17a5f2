"""Write how each lesson opens: `python -m tools.opening`; `--check` only compares.

The opening of a lesson (nbs/*.ipynb) is a line of badges below its heading, which open the notebook
on a hosted Jupyter, and a set-up cell, which installs the course where it is missing. Both follow
from `git_url` and `git_branch` of settings.ini. While `git_url` is empty, the badge of Colab leads
to its page for uploads, and there are no others.
"""

import configparser
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
SET_UP_ID = re.compile(r".+-install|seven-b-setup")
BADGES = re.compile(r"\[!\[Open in [^\n]*\n\n")
NOTE = (
    "The first cell installs the course where it is missing, such as on a hosted Jupyter; "
    "where it is installed, the cell does nothing."
)
UPLOAD = " The badge opens Colab's upload page: give it this notebook."

# A folder of that name without code of its own, such as a clone beside the notebook, has no origin.
SET_UP = """\
import importlib.util
import subprocess
import sys
from pathlib import Path

if getattr(importlib.util.find_spec("instruct_course"), "origin", None) is None:
    here = Path.cwd()
    settings = [*here.glob("*/settings.ini"), *(d / "settings.ini" for d in (here, *here.parents))]
    ours = [f for f in settings if f.is_file() and b"lib_name = instruct_course" in f.read_bytes()]
    near = [*(f.parent for f in ours), *sorted(here.glob("instruct_course*.whl"))[-1:]]
    source = f" @ {near[0].as_uri()}" if near else "REMOTE"
    print(f"Installing instruct_course{source}: some minutes, once")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", f"instruct_course[lessons]{source}"]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            "The course is not installed and pip cannot fetch it: put its checkout, or its wheel "
            "(instruct_course-….whl), beside this notebook and run this cell again; pip says: "
            + (done.stderr.strip() or "nothing").splitlines()[-1]
        )
    importlib.invalidate_caches()"""


@dataclass(frozen=True)
class Origin:
    """Where the course is published.

    Attributes:
        url: of the git repository, without a slash or .git at its end; empty while there is none.
        branch: of the repository.
    """

    url: str = ""
    branch: str = "main"

    @property
    def on_github(self) -> str:
        """OWNER/NAME of a repository on GitHub, else an empty text."""
        found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+)", self.url)
        return found[1] if found else ""


def read_origin(root: Path = ROOT) -> Origin:
    """The origin that settings.ini names."""
    parser = configparser.ConfigParser()
    parser.read(root / "settings.ini", encoding="utf-8")
    settings = parser["DEFAULT"]
    url = settings.get("git_url", "").strip().rstrip("/").removesuffix(".git")
    return Origin(url, settings.get("git_branch", "main"))


def badges(name: str, origin: Origin) -> str:
    """The line of badges of a lesson, in Markdown.

    Args:
        name: of the notebook's file.
        origin: hosted Jupyters open notebooks from GitHub alone; of any other repository, as of
            none, only the upload page is left.
    """
    path = f"{origin.on_github}/blob/{origin.branch}/nbs/{name}"
    colab = "https://colab.research.google.com/"
    image = f"{colab}assets/colab-badge.svg"
    if not origin.on_github:
        return f"[![Open in Colab]({image})]({colab}#upload=true)"
    kaggle = f"https://kaggle.com/kernels/welcome?src=https://github.com/{path}"
    modelscope = f"https://modelscope.cn/notebook/share/github/{path}"
    shield = "https://img.shields.io/badge/Open_in-ModelScope-624aff"
    return " ".join(
        (
            f"[![Open in Colab]({image})]({colab}github/{path})",
            f"[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]({kaggle})",
            f"[![Open in ModelScope]({shield})]({modelscope})",
        )
    )


def set_up(origin: Origin) -> str:
    """The code of the set-up cell, the same in all lessons."""
    remote = f" @ git+{origin.url}" if origin.url else ""
    return SET_UP.replace("REMOTE", remote)


def _with_badges(title: str, line: str) -> str:
    """A title cell whose badges are `line`."""
    heading, _, rest = title.partition("\n\n")
    return f"{heading}\n\n{line}\n\n{BADGES.sub('', rest + chr(10) * 2, count=1).strip()}"


def _with_note(title: str, note: str) -> str:
    """A title cell that ends with `note`."""
    return f"{title.replace(NOTE + UPLOAD, '').replace(NOTE, '').strip()}\n\n{note}"


def _insert_set_up(notebook: nbformat.NotebookNode, note: str) -> nbformat.NotebookNode:
    """Add a set-up cell below the title; what the title says after its summary moves below it."""
    title = notebook.cells[0]
    prefix = title.id.removesuffix("-title")
    parts = title.source.split("\n\n")
    end = 1 + next(i for i, part in enumerate(parts) if "**Time**" in part)
    title.source = "\n\n".join(parts[:end])
    more = parts[end:]
    cell = nbformat.v4.new_code_cell(id=f"{prefix}-install")
    below = [nbformat.v4.new_markdown_cell("\n\n".join(more), id=f"{prefix}-overview")]
    notebook.cells[1:1] = [cell, *below] if more else [cell]
    return cell


def open_lesson(notebook: nbformat.NotebookNode, name: str, origin: Origin) -> None:
    """Give a lesson its badges and its set-up cell, in place.

    Args:
        notebook: a title stands first, whose summary ends with the paragraph of **Time**. A set-up
            cell that is there already stays in its place.
        name: of its file.
        origin: where the course is published.
    """
    title = notebook.cells[0]
    title.source = _with_badges(title.source, badges(name, origin))
    note = NOTE + ("" if origin.on_github else UPLOAD)
    found = [c for c in notebook.cells if c.cell_type == "code" and SET_UP_ID.fullmatch(c.id)]
    cell = found[0] if found else _insert_set_up(notebook, note)
    if notebook.cells[1] is cell:  # elsewhere the cell above it says what it does
        title.source = _with_note(title.source, note)
    cell.source = set_up(origin)


def opened(path: Path, origin: Origin) -> str:
    """The text of a lesson's file with its opening."""
    notebook = nbformat.read(path, as_version=4)
    open_lesson(notebook, path.name, origin)
    return nbformat.writes(notebook) + "\n"


def stale(root: Path = ROOT) -> dict[Path, str]:
    """{file: text with its opening} of the lessons that do not open as they should."""
    origin = read_origin(root)
    texts = {path: opened(path, origin) for path in sorted((root / "nbs").glob("*.ipynb"))}
    return {p: text for p, text in texts.items() if p.read_text(encoding="utf-8") != text}


if __name__ == "__main__":
    behind = stale()
    if "--check" in sys.argv:
        names = ", ".join(path.name for path in behind)
        sys.exit(f"run python -m tools.opening: {names} open otherwise" if behind else 0)
    for path, text in behind.items():
        path.write_text(text, encoding="utf-8", newline="\n")
