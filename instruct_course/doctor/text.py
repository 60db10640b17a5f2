"""Text: can Chinese be printed, and do files read as UTF-8 where nobody says so?"""

import os
import sys

from instruct_course.doctor.check import Check, ok, warning
from instruct_course.doctor.remedy import set_variable, unset_variable

__all__ = ["check_output", "check_encoding", "has_chinese"]


def has_chinese(encoding: str | None) -> bool:
    """Whether an encoding has Chinese characters and a check mark; UTF-8 where None."""
    try:
        return bool("指令 ✓".encode(encoding or "utf-8"))
    except (UnicodeError, LookupError):
        return False


def check_output() -> Check:
    """What Python writes in to where this command writes; the course itself writes UTF-8."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if has_chinese(encoding):
        return ok("output", encoding)
    found = (
        f"print() writes {encoding}, in which there is no Chinese, "
        "and fails with UnicodeEncodeError in your own scripts"
    )
    if os.environ.get("PYTHONIOENCODING"):
        return warning("output", found, unset_variable("PYTHONIOENCODING"))
    return warning("output", found, set_variable("PYTHONUTF8", "1"))


def check_encoding() -> Check:
    """What files' names and texts are in where nobody says; the course itself says UTF-8."""
    import locale

    found = {
        "names of files": sys.getfilesystemencoding(),
        "open() without encoding=": locale.getpreferredencoding(False),
    }
    bad = [
        f"{what} use {encoding}" for what, encoding in found.items() if not has_chinese(encoding)
    ]
    if bad:
        said = f"{'; '.join(bad)}, in which there is no Chinese"
        return warning("encoding", said, set_variable("PYTHONUTF8", "1"))
    return ok("encoding", ", ".join(dict.fromkeys(e.lower() for e in found.values())))
