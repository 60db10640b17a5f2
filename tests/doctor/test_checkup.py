"""All checks together, and what is printed of them."""

import json
import re
import subprocess
import sys
from importlib import metadata

import jsonschema
from planted import SCHEMA

from instruct_course import doctor


def test_this_environment_has_no_fault(command, monkeypatch, tmp_path):
    """The control, through the real command in this process.

    How much memory is free now is no part of the environment.
    """
    monkeypatch.chdir(tmp_path)
    code, out, _ = command("doctor", "--json")
    facts = json.loads(out)
    jsonschema.validate(facts, SCHEMA)
    faults = [c for c in facts["checks"] if c["status"] == "fault"]
    assert code == bool(faults)
    assert [c for c in faults if c["name"] != "memory"] == []
    checks = {c["name"]: c for c in facts["checks"]}
    import torch

    assert list(checks) == doctor.names() and len(checks) >= 25
    assert checks["torch"]["found"] == torch.__version__ and checks["bitsandbytes"][
        "found"
    ].endswith("is right")
    required = [
        re.match(r"[\w.-]+", r)[0] for r in metadata.requires("instruct_course") if "extra" not in r
    ]
    assert len(required) >= 14 and set(required) <= set(checks)
    from instruct_course.model.hub import cache_folder

    assert str(cache_folder().absolute()) in checks["cache"]["found"]
    text = doctor.describe(facts)
    assert f"{len(faults)} fault" in text and "✓" in text and len(text.splitlines()) < 40


def test_each_required_package_is_imported_by_its_module():
    from instruct_course.doctor import installed

    modules = metadata.packages_distributions()
    for package in installed.required():
        assert package in map(str.lower, modules[installed.module_name(package)])


def test_cached_files_of_a_container_count_as_free(tmp_path):
    from instruct_course.doctor.memory import _free_in_container

    (tmp_path / "memory.max").write_text("8000\n")
    (tmp_path / "memory.current").write_text("7500\n")
    stat = "anon 4000\nactive_file 2000\ninactive_file 1000\nslab 77\n"
    (tmp_path / "memory.stat").write_text(stat)
    assert _free_in_container(tmp_path) == 8000 - 7500 + 2000 + 1000


def test_the_doctor_is_told_what_to_look_at(command):
    code, _, err = command("doctor", "--only", "nothing")
    assert (
        code == 2
        and "no such check; take one of python" in err
        and "exit code 1" in command("doctor", "--help")[1].lower()
    )


def check(name, status, found, mend=""):
    return {"name": name, "status": status, "found": found, "mend": mend}


def test_the_text_ends_with_the_faults_and_what_mends_them():
    gone = "gone " * 40
    alike = ("fault", "no torch", "mend torch first")
    checks = [
        check("python", "ok", "3.12.1"),
        check("torch", "fault", gone, "pip install torch"),
        check("peft", "ok", "0.20"),
        check("gguf", "ok", "0.19"),
        check("cuda", *alike),
        check("font", *alike),
        check("hub", "warning", "off", "unset X"),
    ]
    lines = doctor.describe({"checks": checks}).splitlines()
    assert lines[0].split() == ["✓", "python", "3.12.1"]
    assert lines[1].split(maxsplit=2) == ["✓", "packages", "peft 0.20; gguf 0.19"]
    assert lines[2].endswith("…")
    assert lines[7:10] == ["3 faults, 1 warning.", "! hub: off", "    unset X"]
    assert lines[10:] == [
        "✗ torch: " + gone,
        "    pip install torch",
        "✗ cuda, font: no torch",
        "    mend torch first",
    ]
    ascii_only = check("output", "warning", "ascii …", "unset Y")
    assert doctor.describe({"checks": [ascii_only]}).isascii()


def test_importing_it_loads_nothing_but_the_standard_library():
    code = (
        "import sys; before = set(sys.modules); import instruct_course.doctor.__main__; "
        "new = {n.partition('.')[0] for n in set(sys.modules) - before}; "
        # multiprocessing gives __main__ this second name
        "print(sorted(new - set(sys.stdlib_module_names) - {'__mp_main__'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "['instruct_course']", done.stderr


def test_it_starts_without_typer_and_rich(elsewhere, tmp_path):
    python, site = elsewhere
    for entry in (*site.glob("typer*"), *site.glob("rich*")):
        entry.unlink()
    call = [
        python,
        "-m",
        "instruct_course.doctor",
        "--only",
        "typer",
        "--only",
        "rich",
        "--only",
        "nano",
    ]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert (
        done.returncode == 1
        and "2 faults, 0 warnings." in done.stdout
        and done.stdout.splitlines()[-1].endswith('-m pip install "rich>=13"')
    )
