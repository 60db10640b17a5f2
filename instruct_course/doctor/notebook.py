"""Notebooks: Jupyter's kernel, and the sliders' part in the browser."""

import os
import sys
from pathlib import Path

from instruct_course.doctor.check import Check, fault, in_one_line, ok, warning
from instruct_course.doctor.installed import version
from instruct_course.doctor.packages import check_package
from instruct_course.doctor.remedy import cure, pip_install

__all__ = ["check_kernel", "check_widgets"]

# The files that a browser reads, by the package that brings them, below Jupyter's data folders.
BROWSER_PARTS = {
    "jupyterlab_widgets": "labextensions/@jupyter-widgets/jupyterlab-manager/package.json",
    "widgetsnbextension": "nbextensions/jupyter-js-widgets/extension.js",
}


def check_kernel() -> Check:
    """Whether Jupyter can run the lessons with this Python; the commands need no Jupyter."""
    if version("ipykernel") is None:
        found = "Jupyter is not installed, so no notebook runs here; the commands need none"
        return warning("kernel", found, pip_install('"instruct_course[course]"'))
    try:
        import ipykernel.kernelapp  # noqa: F401
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

        argv = KernelSpecManager().get_kernel_spec("python3").argv
    except NoSuchKernel:
        argv = [sys.executable]
    except Exception as error:
        found = f"ipykernel does not start: {in_one_line(error)}"
        return fault("kernel", found, cure(error, "ipykernel"))
    if os.path.isabs(argv[0]) and _folder(argv[0]) != _folder(sys.executable):
        return warning(
            "kernel",
            f"the kernel named Python 3 is {argv[0]}, and not this Python",
            f"{sys.executable} -m ipykernel install --user --name instruct-course, "
            "then choose that kernel",
        )
    return ok("kernel", f"ipykernel {version('ipykernel')}")


def _folder(path: str) -> str:
    """The folder of a file, as an absolute path."""
    return os.path.dirname(os.path.abspath(path))


def check_widgets() -> Check:
    """ipywidgets, and the part of it that runs in the browser where there is a Jupyter here."""
    check = check_package("ipywidgets")
    if check.status != "ok" or version("jupyter_core") is None:
        return check
    from jupyter_core.paths import jupyter_path

    gone = [
        name
        for name, file in BROWSER_PARTS.items()
        if not any(Path(folder, file).exists() for folder in jupyter_path())
    ]
    if not gone:
        return check
    found = (
        f"{check.found}, without the files of {' and '.join(gone)} for the browser: "
        "sliders stay text where Jupyter runs from here"
    )
    return warning("ipywidgets", found, pip_install("--force-reinstall", "--no-deps", *gone))
