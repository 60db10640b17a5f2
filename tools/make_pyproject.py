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
classifiers = [
    "Programming Language :: Python :: 3",
    "Intended Audience :: Education",
    "Natural Language :: English",
    "Natural Language :: Chinese (Simplified)",
]
dependencies = {requirements}

[project.optional-dependencies]
eval = {eval_requirements}
serve = {serve_requirements}
xlsx = {xlsx_requirements}
modelscope = {modelscope_requirements}
lessons = {lessons_requirements}
course = {course_requirements}
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
pythonpath = [".", "tests", "tests/doctor"]
addopts = "-q --durations=15"
filterwarnings = ["ignore::DeprecationWarning"]
"""


EXTRAS = ("eval", "serve", "xlsx", "modelscope", "lessons", "course", "dev")


def values(settings: dict[str, str]) -> dict[str, str]:
    """What stands for each name of the template, as TOML."""
    name, target = (part.strip() for part in settings["console_script"].split("=", 1))
    out = {key: json.dumps(value) for key, value in settings.items()}
    for key in ("requirements", *(f"{extra}_requirements" for extra in EXTRAS)):
        out[key] = json.dumps(settings[key].split(), indent=4).replace("\n]", ",\n]")
    out["keywords"] = json.dumps(settings["keywords"].split())
    out["python"] = json.dumps(">=" + settings["min_python"])
    out["script_name"] = name
    out["script_target"] = json.dumps(target)
    return out


def generate() -> dict[Path, str]:
    """{path: text} of the generated files."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    settings = dict(parser["DEFAULT"])
    init = ROOT / "instruct_course" / "__init__.py"
    version = f'__version__ = "{settings["version"]}"'
    source = re.sub(r"(?m)^__version__ = .*$", version, init.read_text(encoding="utf-8"))
    return {ROOT / "pyproject.toml": TEMPLATE.format(**values(settings)), init: source}


def main() -> int:
    """Write the files that are out of step, or only name them; gives the exit code."""
    stale = {
        path: text
        for path, text in generate().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    if "--check" not in sys.argv:
        for path, text in stale.items():
            path.write_text(text, encoding="utf-8", newline="\n")
    elif stale:
        behind = ", ".join(path.name for path in stale)
        print(f"out of step with settings.ini: {behind}; run python tools/make_pyproject.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
