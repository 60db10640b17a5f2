"""Loggers that draw a run's numbers elsewhere, through accelerate: tensorboard, wandb, trackio and
swanlab.
"""

import contextlib
import inspect
import io
import netrc
import os
import re
import sys
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from urllib.parse import urlsplit

from instruct_course.common.errors import InputError

__all__ = ["LOGGERS", "Logger", "open_logger"]
LOGGERS = ("tensorboard", "wandb", "trackio", "swanlab")
PROJECT = "instruct_course"
NOT_DRAWN = ("step", "steps", "version")  # entries of a step's dict that are no curve


def _nothing() -> None:
    """What there is to undo where nothing was done."""


def _to_stderr(text: str) -> None:
    """Print a sentence where it is in nobody's way."""
    print(text, file=sys.stderr)


class Logger:
    """A tracker of accelerate's that cannot stop a training.

    When it fails, that is said once, and no more is sent to it.

    Args:
        name: one of `LOGGERS`.
        tracker: accelerate's, started; None where `works` is False.
        say: gets the sentence about a failure.
        undo: puts back what was changed for it.
        works: whether numbers are sent at all.
    """

    def __init__(
        self,
        name: str,
        tracker,
        say: Callable[[str], None],
        undo: Callable[[], None] = _nothing,
        works: bool = True,
    ):
        self.name = name
        self.tracker = tracker
        self.say = say
        self.undo = undo
        self.works = works

    def log(self, numbers: dict) -> None:
        """Send the numbers of a step, at step `numbers["step"]`."""
        drawn = {
            key: float(value)
            for key, value in numbers.items()
            if isinstance(value, Real) and not isinstance(value, bool) and key not in NOT_DRAWN
        }
        self._try(lambda: self.tracker.log(drawn, step=int(numbers["step"])))

    def close(self) -> None:
        """Write what is left; call it before the folder moves."""
        self._try(lambda: self.tracker.finish())
        self.works = False
        with contextlib.redirect_stdout(io.StringIO()):
            self.undo()

    def _try(self, do: Callable[[], None]) -> None:
        """Run `do` while the logger works; its first failure is said, and the last."""
        if not self.works:
            return
        try:
            # trackio prints addresses with a token that may write
            with contextlib.redirect_stdout(io.StringIO()):
                do()
        except Exception as error:
            self.works = False
            self.say(
                f"--report-to {self.name} failed and gets no more of this run: "
                f"{type(error).__name__}: {_safe(error)}"
            )


def _safe(error: BaseException) -> str:
    """The first line of a message, without words that could be an address, a path or a key."""
    return re.sub(r"\S{20,}", "…", next(iter(str(error).splitlines()), ""))[:200]


def _logged_in_to_wandb() -> bool:
    """Whether a key for wandb lies where its login puts it."""
    places = [Path(os.environ.get("NETRC", "")), Path.home() / ".netrc", Path.home() / "_netrc"]
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
        return bool(os.environ.get("WANDB_API_KEY")) or any(
            path.is_file() and netrc.netrc(path).hosts.get(host) for path in places
        )
    return False


def _move_trackio(path: Path) -> Callable[[], None]:
    """Let trackio write below `path`; returns what undoes it.

    It reads TRACKIO_DIR only when it is imported, so its own names are set.
    """
    import trackio

    modules = [
        module
        for name, module in list(sys.modules.items())
        if name.split(".")[0] == "trackio" and "TRACKIO_DIR" in vars(module)
    ]
    before = [module.TRACKIO_DIR for module in modules]

    def put(values) -> None:
        for module, value in zip(modules, values):
            module.TRACKIO_DIR = value

    if not os.environ.get("TRACKIO_DIR"):
        put([path] * len(modules))

    def undo() -> None:
        with contextlib.suppress(Exception):  # a logger stops nothing
            trackio.finish()  # or it would say at exit that it finishes
        put(before)

    return undo


def _tensorboard(folder: Path, config: dict):
    """A started tracker for tensorboard, with the configuration as its first entry."""
    from accelerate.tracking import TensorBoardTracker

    tracker = TensorBoardTracker("tensorboard", folder)
    tracker.start()
    tracker.log({"config": "\n".join(f"    {k}: {v}" for k, v in config.items())}, step=0)
    return tracker


def _wandb(folder: Path, run: str, config: dict):
    """A started tracker for wandb that sends numbers and nothing else."""
    import wandb
    from accelerate.tracking import WandBTracker

    wanted = {
        "silent": True,
        "console": "off",
        "save_code": False,
        "disable_git": True,
        "disable_code": True,
        "x_disable_meta": True,
        "x_disable_machine_info": True,
        "x_disable_stats": True,
    }
    known = getattr(wandb.Settings, "model_fields", wanted)
    settings = wandb.Settings(**{key: value for key, value in wanted.items() if key in known})
    online = os.environ.get("WANDB_MODE") or _logged_in_to_wandb()
    tracker = WandBTracker(
        PROJECT,
        dir=str(folder),
        name=run,
        config=config,
        mode=None if online else "offline",
        settings=settings,
    )
    tracker.start()
    return tracker


def _trackio(run: str, config: dict):
    """A started tracker for trackio."""
    import trackio
    from accelerate.tracking import TrackioTracker

    wanted = {
        "name": run,
        "config": config,
        "embed": False,
        "auto_log_gpu": False,
        "auto_log_cpu": False,
    }
    known = inspect.signature(trackio.init).parameters
    options = {key: value for key, value in wanted.items() if key in known}
    tracker = TrackioTracker(PROJECT, **options)
    tracker.start()
    return tracker


def _swanlab(folder: Path, run: str, config: dict):
    """A started tracker for swanlab that keeps numbers and nothing else, on this machine."""
    import swanlab
    from accelerate.tracking import SwanLabTracker

    wanted = {
        "interactive": False,
        "terminal": {"proxy_type": "none"},
        "probe": dict.fromkeys(("hardware", "runtime", "requirements", "git", "monitor"), False),
        # names of versions before 0.8
        "metadata_collect": False,
        "requirements_collect": False,
        "hardware_monitor": False,
        "log_proxy_type": "none",
    }
    known = getattr(swanlab.Settings, "model_fields", wanted)
    settings = swanlab.Settings(**{key: value for key, value in wanted.items() if key in known})
    tracker = SwanLabTracker(
        PROJECT,
        experiment_name=run,
        logdir=str(folder),
        config=config,
        mode=os.environ.get("SWANLAB_MODE") or "offline",
        settings=settings,
    )
    tracker.start()
    return tracker


def open_logger(
    name: str,
    folder: Path,
    config: dict,
    say: Callable[[str], None] = _to_stderr,
) -> Logger:
    """A started logger that writes below `folder`/track.

    wandb is offline unless WANDB_MODE is set or somebody is logged in to it, swanlab unless
    SWANLAB_MODE is set; trackio follows its own variables TRACKIO_*. Of several processes each may
    call this, and only the first one's logger sends anything.

    Args:
        name: one of `LOGGERS`.
        folder: the run's; its name is the run's name.
        config: the run's settings; numbers and texts are shown.
        say: gets a sentence when the logger fails later.

    Raises:
        InputError: `name` is unknown, its package is missing, or it does not start.
    """
    if name not in LOGGERS:
        raise InputError(f"--report-to {name}: choose one of {', '.join(LOGGERS)}")
    from accelerate import PartialState

    # accelerate's trackers need it; under torchrun without a GPU it takes every process for the
    # first, so the rank is asked here
    PartialState()
    if int(os.environ.get("RANK", 0)) > 0:
        return Logger(name, None, say, works=False)
    home = Path(folder) / "track"
    run = Path(folder).name.strip(".") or "run"
    shown = {k: v for k, v in config.items() if isinstance(v, (bool, int, float, str))}
    undo = _nothing
    home.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            if name == "tensorboard":
                tracker = _tensorboard(home, shown)
            elif name == "wandb":
                tracker = _wandb(home, run, shown)
            elif name == "swanlab":
                tracker = _swanlab(home, run, shown)
            else:
                undo = _move_trackio(home)
                tracker = _trackio(run, shown)
    except ImportError:
        raise InputError(
            f"--report-to {name}: the package {name} is missing or cannot be imported; run "
            f"pip install -U {name}"
        ) from None
    except Exception as error:
        undo()
        raise InputError(
            f"--report-to {name}: it did not start ({type(error).__name__}: {_safe(error)}); mend "
            "that, or leave --report-to out"
        ) from None
    return Logger(name, tracker, say, undo)
