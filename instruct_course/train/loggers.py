"""Trackers that draw a run's numbers elsewhere: tensorboard, wandb and trackio, through accelerate."""

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

__all__ = ["Tracker", "open_tracker"]
TRACKERS = ("tensorboard", "wandb", "trackio")


class Tracker:
    """A tracker of accelerate's that cannot stop a training: when it fails, that is said once, and no more is sent to it."""

    def __init__(
        self,
        name: str,
        tracker,
        say: Callable[[str], None],
        undo: Callable[[], None] = lambda: None,
        works: bool = True,
    ):
        self.name, self.tracker, self.say, self.undo, self.works = name, tracker, say, undo, works

    def log(self, h: dict):
        """The numbers of `h`, at step `h["step"]`."""
        numbers = {
            k: float(v)
            for k, v in h.items()
            if isinstance(v, Real)
            and not isinstance(v, bool)
            and k not in ("step", "steps", "version")
        }
        self._try(lambda: self.tracker.log(numbers, step=int(h["step"])))

    def close(self):
        """Write what is left; call it before the folder moves."""
        self._try(lambda: self.tracker.finish())
        self.works = False
        with contextlib.redirect_stdout(io.StringIO()):
            self.undo()

    def _try(self, do: Callable[[], None]):
        if self.works:
            try:
                with contextlib.redirect_stdout(
                    io.StringIO()
                ):  # trackio prints addresses with a token that may write
                    do()
            except Exception as error:
                self.works = False
                self.say(
                    f"--report-to {self.name} failed and gets no more of this run: {type(error).__name__}: {_safe(error)}"
                )


def _safe(error: BaseException) -> str:
    """The first line of a message, without words that could be an address, a path or a key."""
    return re.sub(r"\S{20,}", "…", next(iter(str(error).splitlines()), ""))[:200]


def _logged_in() -> bool:
    """Whether a key for wandb lies where its login puts it."""
    places = [Path(os.environ.get("NETRC", "")), Path.home() / ".netrc", Path.home() / "_netrc"]
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
        return bool(os.environ.get("WANDB_API_KEY")) or any(
            p.is_file() and netrc.netrc(p).hosts.get(host) for p in places
        )
    return False


def _trackio_home(path: Path) -> Callable[[], None]:
    """Let trackio write below `path`; returns what undoes it. It reads TRACKIO_DIR only when it is imported, so its own names are set."""
    import trackio

    modules = [
        m
        for n, m in list(sys.modules.items())
        if n.split(".")[0] == "trackio" and "TRACKIO_DIR" in vars(m)
    ]
    was = [m.TRACKIO_DIR for m in modules]

    def put(values):
        for m, value in zip(modules, values):
            m.TRACKIO_DIR = value

    if not os.environ.get("TRACKIO_DIR"):
        put([path] * len(modules))

    def undo():
        with contextlib.suppress(Exception):  # a tracker stops nothing
            trackio.finish()  # or it would say at exit that it finishes
        put(was)

    return undo


def open_tracker(
    name: str,
    folder: Path,
    config: dict,
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> Tracker:
    """A started tracker (tensorboard, wandb or trackio) that writes below `folder`/track.

    wandb is offline unless WANDB_MODE is set or somebody is logged in to it; trackio follows its own variables TRACKIO_*.
    Of several processes each may call this, and only the first one's tracker tracks.
    Errors: InputError when `name` is unknown, its package is missing, or it does not start.
    """
    if name not in TRACKERS:
        raise InputError(f"--report-to {name}: choose one of {', '.join(TRACKERS)}")
    from accelerate import PartialState, tracking

    PartialState()  # the trackers need it; under torchrun without a GPU it takes every process for the first,
    if int(os.environ.get("RANK", 0)) > 0:  # so the rank is asked here
        return Tracker(name, None, say, works=False)
    home, run, undo = Path(folder) / "track", Path(folder).name.strip(".") or "run", lambda: None
    config = {k: v for k, v in config.items() if isinstance(v, (bool, int, float, str))}
    kind = {
        "tensorboard": tracking.TensorBoardTracker,
        "wandb": tracking.WandBTracker,
        "trackio": tracking.TrackioTracker,
    }[name]
    home.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            if name == "tensorboard":
                tracker = kind("tensorboard", home)
            elif name == "wandb":
                import wandb

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
                settings = wandb.Settings(
                    **{
                        k: v
                        for k, v in wanted.items()
                        if k in getattr(wandb.Settings, "model_fields", wanted)
                    }
                )
                mode = None if os.environ.get("WANDB_MODE") or _logged_in() else "offline"
                tracker = kind(
                    "instruct_course",
                    dir=str(home),
                    name=run,
                    config=config,
                    mode=mode,
                    settings=settings,
                )
            else:
                undo = _trackio_home(home)
                import trackio

                wanted = {
                    "name": run,
                    "config": config,
                    "embed": False,
                    "auto_log_gpu": False,
                    "auto_log_cpu": False,
                }
                tracker = kind(
                    "instruct_course",
                    **{
                        k: v
                        for k, v in wanted.items()
                        if k in inspect.signature(trackio.init).parameters
                    },
                )
            tracker.start()
            if name == "tensorboard":
                tracker.log(
                    {"config": "\n".join(f"    {k}: {v}" for k, v in config.items())}, step=0
                )
    except ImportError:
        raise InputError(
            f"--report-to {name}: the package {name} is missing or cannot be imported; run pip install -U {name}"
        ) from None
    except Exception as error:
        undo()
        raise InputError(
            f"--report-to {name}: it did not start ({type(error).__name__}: {_safe(error)}); mend that, or leave --report-to out"
        ) from None
    return Tracker(name, tracker, say, undo)
