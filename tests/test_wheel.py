"""The wheel: what it carries, and that a lesson needs nothing else to run.

The wheel is built from a copy of the sources by way of the sdist, without a network.
"""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
import venv
import zipfile
from pathlib import Path

import nbformat
import pytest

from instruct_course import notebooks

ROOT = Path(__file__).parents[1]
LESSON = "99_glossary.ipynb"
PREFIX = "instruct_course/assets/course/"
EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=120).execute()
nbformat.write(notebook, sys.argv[1])
"""


def run(command, folder, **environment):
    """The output of a command, which must succeed, without this process's own paths."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_", "MPL"))}
    done = subprocess.run(
        command, cwd=folder, env=inherited | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel made of an sdist of these sources."""
    copied = tmp_path_factory.mktemp("sources")
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copied / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copied / name)
    out = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), "."], copied)
    (made,) = out.glob("*.whl")
    return made


def test_it_carries_all_notebooks_and_stays_small(wheel):
    files = notebooks.course_files()
    with zipfile.ZipFile(wheel) as archive:
        packed = {
            name.removeprefix(PREFIX): archive.getinfo(name).CRC
            for name in archive.namelist()
            if name.startswith(PREFIX)
        }
    assert packed == {name: zipfile.crc32(path.read_bytes()) for name, path in files.items()}
    assert wheel.stat().st_size < 30e6


@pytest.fixture
def index(wheel, tmp_path):
    """The address of a package index that has this wheel and nothing else."""
    page = tmp_path / "index" / "simple" / "instruct-course" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<a href="{wheel.name}">{wheel.name}</a>', encoding="utf-8")
    shutil.copyfile(wheel, page.parent / wheel.name)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            """Print nothing."""

    handler = functools.partial(Quiet, directory=str(tmp_path / "index"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/simple"
    server.shutdown()
    server.server_close()


@pytest.fixture
def bare_python(tmp_path):
    """A python that has everything that the course needs, but not the course."""
    seen = tmp_path / "seen"
    seen.mkdir()
    for folder in filter(os.path.isdir, sys.path):
        if Path(folder).name not in ("site-packages", "dist-packages"):
            continue
        for path in Path(folder).iterdir():
            ours = "instruct_course" in path.name or path.suffix == ".pth"
            if not ours and not (seen / path.name).exists():
                (seen / path.name).symlink_to(path)
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run([python, "-c", where], tmp_path).strip())
    (site / "seen.pth").write_text(str(seen), encoding="utf-8")
    run([python, "-m", "ipykernel", "install", "--sys-prefix"], tmp_path)
    return python


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_lesson_alone_installs_the_course_and_runs(index, bare_python, tmp_path):
    """A lesson's file in an empty folder, and an index with the wheel, are enough.

    Its first cell fetches the wheel from the index and installs it, and all cells after it run on
    what was installed, with the outputs that are committed. What this does not prove is that the
    dependencies can be had: the environment has them already.
    """
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copyfile(ROOT / "nbs" / LESSON, alone / LESSON)
    find = "import importlib.util as util; print(util.find_spec('instruct_course'))"
    assert run([bare_python, "-c", find], alone) == "None\n"
    run(
        [bare_python, "-c", EXECUTE, LESSON],
        alone,
        PIP_INDEX_URL=index,
        PIP_CONFIG_FILE=os.devnull,
        JUPYTER_PREFER_ENV_PATH="1",
    )
    where = "import instruct_course; print(instruct_course.__file__)"
    installed = run([bare_python, "-c", where], alone).strip()
    assert installed.startswith(str(tmp_path / "venv"))
    cells = nbformat.read(alone / LESSON, as_version=4).cells
    install, *rest = (c for c in cells if c.cell_type == "code")
    assert install.outputs[0].text == "Installing instruct_course: some minutes, once\n"
    committed = nbformat.read(ROOT / "nbs" / LESSON, as_version=4).cells
    shown = [printed(c) for c in committed if c.cell_type == "code"]
    assert [printed(c) for c in rest] == shown[1:] and any(shown)
    command = Path(bare_python).parent / "instruct-course"
    assert "jupyter lab course" in run([command, "notebooks", "course"], alone)
    assert (alone / "course" / "nbs" / LESSON).read_bytes() == (ROOT / "nbs" / LESSON).read_bytes()


def printed(cell):
    """What a cell prints, or its value as text; of a widget nothing, since it is not kept."""
    texts = [o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in cell.outputs]
    return [text for text in texts if text and "interactive(" not in text]
