"""What pyproject.toml cannot say: the notebooks travel in the wheel.

settings.ini names them (`course_files`); they go to instruct_course/assets/course, from where
`instruct-course notebooks DEST` copies them.
"""

import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithCourse(build_py):
    """Copies the notebooks beside the modules; an editable installation reads them in place."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        parser = ConfigParser()
        parser.read(ROOT / "settings.ini", encoding="utf-8")
        course = Path(self.build_lib) / "instruct_course" / "assets" / "course"
        shutil.rmtree(course, ignore_errors=True)  # of an earlier build
        for part in parser["DEFAULT"]["course_files"].split():
            source = ROOT / part
            target = course / part
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                ignored = shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__")
                shutil.copytree(source, target, ignore=ignored)
            else:
                shutil.copyfile(source, target)


setup(cmdclass={"build_py": BuildWithCourse})
