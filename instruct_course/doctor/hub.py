"""The hub that models come from: does its address answer?"""

import os
import re
from pathlib import Path

from instruct_course.doctor.check import Check, fault, ok, warning
from instruct_course.doctor.remedy import set_variable, unset_variable

__all__ = ["check_hub"]

# Seconds that the hub has to answer.
WAIT = 3.0


def check_hub() -> Check:
    """Whether the hub answers.

    The address is shown without what may be secret in it, and of a token only whether there is
    one.
    """
    from huggingface_hub import constants

    given = os.environ.get("HF_ENDPOINT", "")
    mirror = set_variable("HF_ENDPOINT", "https://ADDRESS-OF-A-MIRROR")
    default = f"{mirror}, or {unset_variable('HF_ENDPOINT')}"
    address = _without_user(given or "https://huggingface.co")
    if address is None:
        found = "HF_ENDPOINT is no address of the form https://name"
        return fault("hub", found, default)
    if constants.HF_HUB_OFFLINE:
        return _check_offline()
    error = _ask(address)
    if error is None:
        return ok("hub", f"{address} answers; {_token()}")
    said = f"does not answer ({type(error).__name__})"
    if proxy := _proxy(address):
        found = f"{address} {said} through the proxy of {proxy}"
        mend = f"start the proxy, correct {proxy}, or {unset_variable(proxy)}"
        return fault("hub", found, mend)
    if given:
        return fault("hub", f"{address}, which HF_ENDPOINT names, {said}", default)
    offline = set_variable("HF_HUB_OFFLINE", "1")
    return warning("hub", f"{address} {said}; nano needs no network", f"{mirror}, or {offline}")


def _without_user(address: str) -> str | None:
    """SCHEME://HOST:PORT of an address; None where it is none."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(address)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return None
    host = parts.hostname or ""
    if parts.scheme in ("http", "https") and re.fullmatch(r"[\w.-]+|[0-9a-f:.]+", host):
        return f"{parts.scheme}://{host}{port}"
    return None


def _token() -> str:
    """Whether there is a token."""
    from huggingface_hub import constants

    in_environment = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    has = in_environment or Path(constants.HF_TOKEN_PATH).is_file()
    return "a token is set" if has else "no token is set"


def _check_offline() -> Check:
    """The check where the hub's library is told not to ask."""
    from huggingface_hub import constants

    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    variable = names[0] if os.environ.get(names[0]) else names[1]
    if any(Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*")):
        return ok("hub", f"offline ({variable}); models of the cache can be used; {_token()}")
    found = (
        f"offline ({variable}), and no model is in the cache: "
        "only nano, smollm2 and local folders can be used"
    )
    return warning("hub", found, f"{unset_variable(variable)}  # to download another model")


def _ask(address: str) -> Exception | None:
    """What goes wrong when `address` is asked for its headers; None where it answers."""
    import threading
    import urllib.error
    import urllib.request

    outcome = [TimeoutError("no answer")]
    request = urllib.request.Request(address, method="HEAD")

    def ask():
        try:
            urllib.request.urlopen(request, timeout=WAIT).close()
            outcome[0] = None
        except urllib.error.HTTPError as error:
            # these are words of a proxy, or of a hub that is down; any other is an answer
            outcome[0] = error if error.code in (407, 502, 503, 504) else None
        except Exception as error:  # the system's, those of HTTP and of TLS
            outcome[0] = getattr(error, "reason", error)

    # in a thread, since looking up a name has no time limit of its own
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(WAIT + 1)
    return outcome[0]


def _proxy(address: str) -> str:
    """The variables that send `address` through a proxy; "" where none does."""
    import urllib.request
    from urllib.parse import urlsplit

    parts = urlsplit(address)
    if not urllib.request.getproxies().get(parts.scheme):
        return ""
    if urllib.request.proxy_bypass(parts.hostname):
        return ""
    variables = [v for v in os.environ if v.lower() == f"{parts.scheme}_proxy"]
    return " ".join(variables) or "the system's settings"
