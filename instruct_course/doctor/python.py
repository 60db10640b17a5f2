"""The Python that runs this."""

import platform
import sys
from importlib import metadata

from instruct_course.doctor.check import Check, fault, ok

__all__ = ["check_python"]


def check_python() -> Check:
    """Whether it is new enough, and one for 64 bits."""
    from packaging.specifiers import SpecifierSet

    here = platform.python_version()
    need = metadata.metadata("instruct_course")["Requires-Python"] or ""
    if not SpecifierSet(need).contains(here, prereleases=True):
        mend = (
            "install a newer Python from python.org, and make the environment with it: "
            "python3 -m venv .venv"
        )
        return fault("python", f"{here}, and {need} is needed", mend)
    if sys.maxsize < 2**32:
        found = f"{here} for 32 bits, for which there is no torch"
        return fault("python", found, "install the 64-bit Python from python.org")
    return ok("python", f"{here} on {platform.system()} {platform.machine()}")
