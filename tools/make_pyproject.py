"""Write pyproject.toml and the package's version from settings.ini; `--check` only compares."""

import configparser
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEMPLATE = """# Generated from settings.ini by tools/make_pyproject.py; edit that file instead.
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = {lib_name}
version = {version}
description = {description}
readme = "README.md"
license = {license}
license-files = ["LICENSE", "instruct_course/assets/fonts/LICENSE"]
authors = [{{name = {author}}}]
keywords = {keywords}
requires-python = {python}
classifiers = ["Programming Language :: Python :: 3", "Intended Audience :: Education", "Natural Language :: English", "Natural Language :: Chinese (Simplified)"]
dependencies = {requirements}

[project.optional-dependencies]
eval = {eval_requirements}
serve = {serve_requirements}
dev = {dev_requirements}

[project.scripts]
{script_name} = {script_target}

[tool.setuptools.packages.find]
include = ["instruct_course*"]

[tool.setuptools.package-data]
instruct_course = ["assets/**/*"]

[tool.nbdev]
nbs_path = {nbs_path}
lib_path = {lib_name}
readme_nb = "none.ipynb"
branch = "main"
allowed_cell_metadata_keys = ["tags", "nbgrader", "editable", "deletable"]
allowed_metadata_keys = ["accelerator", "colab"]
allowed_out_metadata_keys = ["image/png"]

[tool.ruff]
line-length = 100
extend-exclude = ["instruct_course/assets"]

[tool.ruff.lint]
select = ["E4", "E7", "E9", "F", "I", "B", "UP"]
ignore = ["E402", "E741", "B008", "B905"]

[tool.ruff.lint.per-file-ignores]
"*.ipynb" = ["F811", "B018", "F401"]

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = [".", "tests"]
addopts = "-q --durations=15"
filterwarnings = ["ignore::DeprecationWarning"]
"""


def generate():
    """{path: text} of the generated files."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    s = dict(parser["DEFAULT"])
    name, target = (part.strip() for part in s["console_script"].split("=", 1))
    values = {k: json.dumps(v) for k, v in s.items()}
    lists = {
        k: json.dumps(s[k].split(), indent=4).replace("\n]", ",\n]")
        for k in ("requirements", "eval_requirements", "serve_requirements", "dev_requirements")
    }
    values |= lists | {
        "keywords": json.dumps(s["keywords"].split()),
        "python": json.dumps(">=" + s["min_python"]),
        "script_name": name,
        "script_target": json.dumps(target),
    }
    init = ROOT / "instruct_course" / "__init__.py"
    source = re.sub(
        r"(?m)^__version__ = .*$",
        f'__version__ = "{s["version"]}"',
        init.read_text(encoding="utf-8"),
    )
    return {ROOT / "pyproject.toml": TEMPLATE.format(**values), init: source}


if __name__ == "__main__":
    stale = [
        p
        for p, text in generate().items()
        if not p.exists() or p.read_text(encoding="utf-8") != text
    ]
    if "--check" in sys.argv:
        sys.exit(
            f"out of step with settings.ini: {', '.join(p.name for p in stale)}; run python tools/make_pyproject.py"
            if stale
            else 0
        )
    for path in stale:
        path.write_text(generate()[path], encoding="utf-8", newline="\n")
