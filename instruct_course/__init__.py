"""A course that you can run: derive, verify and use instruction tuning."""

from .common.threads import sleep_at_barriers

__version__ = "0.1.0"
__all__ = ["tune", "open_run"]
sleep_at_barriers()  # torch reads the setting once, when it is imported


def __getattr__(name):
    # `import instruct_course` stays instant: torch and its company load on the first use
    if name in __all__:
        from . import recipe, run

        return recipe.tune if name == "tune" else run.open_run
    raise AttributeError(f"module 'instruct_course' has no attribute {name!r}")
