"""What one check says."""

import os
import re
from dataclasses import dataclass

__all__ = ["Check", "ok", "warning", "fault", "in_one_line", "without_secrets"]


@dataclass(frozen=True)
class Check:
    """One thing that was tried.

    Args:
        name: what was tried, such as "torch" or "hub".
        status: "ok", "warning" (slower, or a part cannot be used) or "fault" (the course fails).
        found: what was seen.
        mend: the command or sentence that mends it; empty where all is well.
    """

    name: str
    status: str
    found: str
    mend: str = ""


def ok(name: str, found: str) -> Check:
    """A check that found nothing wrong."""
    return Check(name, "ok", found)


def warning(name: str, found: str, mend: str) -> Check:
    """A check that found something slower, or a part that cannot be used."""
    return Check(name, "warning", found, mend)


def fault(name: str, found: str, mend: str) -> Check:
    """A check that found something with which the course fails."""
    return Check(name, "fault", found, mend)


def in_one_line(error: BaseException) -> str:
    """An error as "Type: message", on one line of at most 200 characters of message."""
    message = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {message}".rstrip(": ")


def without_secrets(text: str) -> str:
    """`text` on one line, without tokens and without what stands before the @ of an address."""
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if secret := os.environ.get(variable):
            text = text.replace(secret, "…")
    text = re.sub(r"\s*\n\s*", " ", text.strip())
    text = re.sub(r"\bhf_\w+", "hf_…", text)
    text = re.sub(r"//[^/\s]*@", "//", text)
    return text if len(text) <= 400 else text[:399] + "…"
