"""The course's own files, and the model that comes with it."""

import json
import re
from importlib import metadata
from pathlib import Path

from instruct_course.doctor.check import Check, fault, in_one_line, ok
from instruct_course.doctor.remedy import PACKAGE, pip_install, restore_course

__all__ = ["check_course", "check_nano"]


def check_course() -> Check:
    """Whether the course is installed, and its files have the hashes that pip recorded."""
    try:
        installed = metadata.distribution("instruct_course")
    except metadata.PackageNotFoundError:
        found = "it is not installed, so what it needs is not known"
        return fault("instruct_course", found, f"{pip_install('.')}  # in the folder of the course")
    bad = []
    for file in installed.files or ():
        path = Path(installed.locate_file(file))
        if file.hash and PACKAGE in path.parents and not _is_whole(path, file.hash):
            bad.append(file.name)
    if bad:
        said = ", ".join(bad[:5])
        found = f"{len(bad)} of its files are not those that were installed: {said}"
        return fault("instruct_course", found, restore_course())
    return ok("instruct_course", installed.version)


def _is_whole(path: Path, recorded) -> bool:
    """Whether a file has the hash that pip recorded, in URL-safe base64 without padding."""
    import base64
    import hashlib

    if not path.is_file():
        return False
    digest = hashlib.new(recorded.mode, path.read_bytes()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=") == recorded.value


def check_nano() -> Check:
    """The built-in model: its weights have the recorded hash, its tokenizer fits its config."""
    try:
        found = _nano_fault(PACKAGE / "assets" / "nano")
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = f"its files cannot be read: {in_one_line(error)}"
    return (
        fault("nano", found, restore_course())
        if found
        else ok("nano", "the built-in model is whole")
    )


def _nano_fault(folder: Path) -> str:
    """What is wrong with the files of the built-in model; "" where nothing is."""
    import hashlib

    card = (folder / "README.md").read_text(encoding="utf-8")
    recorded = re.search(r"weights, sha256 \| `(\w{64})`", card)[1]
    weights = (folder / "model.safetensors").read_bytes()
    if hashlib.sha256(weights).hexdigest() != recorded:
        return "its model.safetensors is damaged: the hash is not that of its README.md"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokens = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokens["model"]["vocab"]
    added = sum(t["content"] not in vocabulary for t in tokens["added_tokens"])
    if len(vocabulary) + added != config["vocab_size"]:
        return "its tokenizer.json and config.json do not fit each other"
    return ""
