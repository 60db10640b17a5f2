"""What is broken in this environment, and what mends it: each check tries the thing itself.

One module per kind of fault; `checkup` runs them all. It starts with Python alone (at import time
nothing but the standard library is loaded): python -m instruct_course.doctor
"""

from instruct_course.doctor.check import Check
from instruct_course.doctor.checkup import examine, exit_code, names
from instruct_course.doctor.report import describe

__all__ = ["Check", "describe", "examine", "exit_code", "names"]
