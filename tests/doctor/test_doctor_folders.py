"""Folders that take no files, and too little memory."""

import subprocess

from planted import fault, linux, looked


def test_a_file_where_the_cache_should_be(tmp_path):
    (tmp_path / "taken").write_text("", encoding="utf-8")
    _, checks = looked(
        "cache",
        "hub-cache",
        cwd=tmp_path,
        INSTRUCT_COURSE_CACHE=str(tmp_path / "taken" / "deeper"),
        HF_HOME=str(tmp_path / "taken"),
    )
    check = fault(
        checks,
        "cache",
        found="a file stands where a folder should be",
        mend=f"rename {tmp_path / 'taken'}, or",
    )
    assert "INSTRUCT_COURSE_CACHE=FOLDER" in check["mend"]
    fault(checks, "hub-cache", mend="HF_HOME=FOLDER")
    (tmp_path / "taken").rename(tmp_path / "renamed")
    assert (
        looked("cache", cwd=tmp_path, INSTRUCT_COURSE_CACHE=str(tmp_path / "taken" / "deeper"))[1][
            "cache"
        ]["status"]
        != "fault"
    )


@linux
def test_a_cache_that_nobody_may_write_to(tmp_path):
    fault(
        looked("cache", cwd=tmp_path, INSTRUCT_COURSE_CACHE="/proc/course")[1],
        "cache",
        found="takes no files",
        mend="export INSTRUCT_COURSE_CACHE=FOLDER",
    )
    fault(
        looked("folder", cwd="/proc", HF_HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))[1],
        "folder",
        found="takes no files",
        mend="cd to a folder",
    )


@linux
def test_a_cache_that_is_full(tmp_path):
    """On a disk of 64 KiB of its own where that may be mounted; and where files may not grow."""
    (tmp_path / "small").mkdir()
    mount = f"mount -t tmpfs -o size=64k tmpfs {tmp_path / 'small'}"
    if not subprocess.run(["unshare", "-rm", "bash", "-c", mount], capture_output=True).returncode:
        before = f'exec unshare -rm bash -c \'{mount}; exec "$@"\' bash "$@"'
        _, checks = looked(
            "cache", cwd=tmp_path, before=before, INSTRUCT_COURSE_CACHE=str(tmp_path / "small")
        )
        fault(
            checks,
            "cache",
            found="No space left",
            mend="make room on the disk, or export INSTRUCT_COURSE_CACHE",
        )
    fault(
        looked("cache", cwd=tmp_path, before="ulimit -f 0")[1],
        "cache",
        found="File too large",
        mend="ulimit -f unlimited",
    )


@linux
def test_too_little_memory(tmp_path):
    fault(
        looked("memory", cwd=tmp_path, before="ulimit -v 800000")[1],
        "memory",
        found="limited by ulimit -v",
        mend="ulimit -v unlimited",
    )
    fault(
        looked("memory", cwd=tmp_path, before="ulimit -v 1800000")[1],
        "memory",
        status="warning",
        found="limited by ulimit -v",
    )


def test_a_file_named_like_a_package(tmp_path):
    (tmp_path / "datasets.py").write_text("", encoding="utf-8")
    (tmp_path / "random.py").write_text("", encoding="utf-8")
    _, checks = looked("folder", cwd=tmp_path, PYTHONSAFEPATH="1")
    fault(checks, "folder", found="datasets.py, random.py", mend="rename datasets.py, random.py")
    (tmp_path / "random.py").unlink()
    fault(
        looked("datasets", cwd=tmp_path)[1],
        "datasets",
        found="imported in its place",
        mend=f"rename {tmp_path / 'datasets.py'}",
    )
