"""Environments with a planted fault, and what the doctor says of them."""

import json
import os
import re
import subprocess
import sys
from importlib import util
from pathlib import Path

import jsonschema
import pytest

from instruct_course import doctor
from instruct_course.common.files import ASSETS

PACKAGE = Path(doctor.__file__).parents[1]
SITE = Path(util.find_spec("torch").origin).parents[1]
SCHEMA = json.loads((ASSETS / "schemas" / "doctor.schema.json").read_text(encoding="utf-8"))
linux = pytest.mark.skipif(sys.platform != "linux", reason="limits and folders of Linux")


def looked(*only, python=sys.executable, cwd, module="doctor", before="", **env):
    """(exit code, {name: check}) of the doctor in `cwd`.

    It runs in the environment that `env` changes, behind the shell commands `before`.
    """
    gone = re.compile(r"(HF|HUGGING|PYTHON|XDG|INSTRUCT|TRANSFORMERS)|.*_proxy$", re.I)
    kept = {k: v for k, v in os.environ.items() if not gone.match(k)} | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(cwd),
        "XDG_CACHE_HOME": str(cwd),
    }
    call = [
        str(python),
        "-m",
        f"instruct_course.{module}",
        *(["doctor"] if module == "cli" else []),
        "--json",
        *(w for name in only for w in ("--only", name)),
    ]
    if before:
        call = ["bash", "-c", before + '\nexec "$@"', "bash", *call]
    done = subprocess.run(
        call, cwd=cwd, capture_output=True, text=True, encoding="utf-8", env={**kept, **env}
    )
    assert done.stdout, done.stderr
    facts = json.loads(done.stdout)
    jsonschema.validate(facts, SCHEMA)
    assert done.returncode == int(any(c["status"] == "fault" for c in facts["checks"])), done.stderr
    return done.returncode, {c["name"]: c for c in facts["checks"]}


def unfold(link: Path):
    """In place of a link to a folder, a folder of links to what is in it."""
    target = link.resolve()
    link.unlink()
    link.mkdir()
    for entry in target.iterdir():
        (link / entry.name).symlink_to(entry)
    return link


def fault(checks, name, *, status="fault", found="", mend=""):
    check = checks[name]
    assert check["status"] == status and found in check["found"] and mend in check["mend"], check
    return check
