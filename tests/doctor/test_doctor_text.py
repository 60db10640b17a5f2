"""An output and files without Chinese."""

import os
import subprocess
import sys

from planted import fault, looked


def test_an_output_without_chinese(tmp_path):
    env = {
        "LANG": "C",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    _, checks = looked("output", "encoding", cwd=tmp_path, **env)
    fault(checks, "output", status="warning", found="ascii", mend="unset PYTHONIOENCODING")
    fault(checks, "encoding", status="warning", mend="export PYTHONUTF8=1")
    call = [sys.executable, "-m", "instruct_course.cli", "doctor", "--only", "output"]
    done = subprocess.run(call, env={**os.environ, **env}, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0 and done.stdout.decode("ascii").startswith("! output")
    del env["PYTHONIOENCODING"]
    assert {
        c["status"]
        for c in looked("output", "encoding", cwd=tmp_path, **{**env, "PYTHONUTF8": "1"})[
            1
        ].values()
    } == {"ok"}
