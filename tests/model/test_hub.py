"""From a name to a folder: a hub on this machine, downloads and conversions that broke off."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jsonschema
import pytest

from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS, sha256
from instruct_course.model import hub as hub_
from instruct_course.model.load import load_base
from instruct_course.plan import shapes

COMMIT = "0" * 40
NANO = ASSETS / "nano"
CODE = """
from instruct_course.common.errors import InputError
from instruct_course.model import hub
try:
    print(EXPRESSION)
except InputError as error:
    print("error:", error)
"""


class Hub(BaseHTTPRequestHandler):
    """The parts of the hub's protocol that a download needs, for the repository own/nano.

    `server.breaks`: bytes after which the line of a large file goes dead, if not 0.
    """

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, code, body=b"", **headers):
        self.send_response(code)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        files = {p.name: p for p in NANO.iterdir() if p.is_file()}
        if self.path.startswith("/api/models/own/nano"):
            tree = [
                {
                    "type": "file",
                    "rfilename": n,
                    "path": n,
                    "size": self.server.sizes.get(n, p.stat().st_size),
                    "oid": "1" * 40,
                    "blobId": "1" * 40,
                }
                for n, p in files.items()
            ]
            body = (
                tree
                if "/tree/" in self.path
                else {
                    "id": "own/nano",
                    "modelId": "own/nano",
                    "sha": COMMIT,
                    "private": False,
                    "siblings": tree,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                }
            )
            return self.answer(200, json.dumps(body).encode(), Content_Type="application/json")
        found = re.fullmatch(r"/own/nano/resolve/[^/]+/([\w.]+)", self.path.split("?")[0])
        if not found or found[1] not in files:
            return self.answer(404, X_Error_Code="EntryNotFound" if found else "RepoNotFound")
        data = files[found[1]].read_bytes()
        etag = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        if self.command == "HEAD":
            self.send_response(200)
            for name, value in (etag | {"Content-Length": len(data)}).items():
                self.send_header(name, str(value))
            return self.end_headers()
        asked = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        self.server.fetched.append((found[1], start))
        self.send_response(206 if start else 200)
        for name, value in (
            etag
            | {"Content-Length": len(data) - start}
            | ({"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {})
        ).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.server.breaks and found[1] == "model.safetensors":
            self.wfile.write(data[start : start + self.server.breaks])
            self.wfile.flush()
            self.close_connection = True
            return self.connection.shutdown(2)
        self.wfile.write(data[start:])

    do_HEAD = do_GET


@pytest.fixture
def hub(tmp_path):
    """(the server, a call that runs code against it and returns its stdout).

    The code runs in a process of its own, with an empty cache.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.fetched = []
    server.sizes = {}
    server.breaks = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def run(code):
        gone = ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN")
        env = {
            k: v
            for k, v in os.environ.items()
            if k not in gone and not k.lower().endswith("_proxy")
        }
        env |= {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }
        code = CODE.replace("EXPRESSION", code)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=env, encoding="utf-8"
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield server, run
    server.shutdown()


def test_a_plan_fetches_the_configuration_and_nothing_else(hub):
    server, run = hub
    out = run(
        "__import__('instruct_course.plan.shapes', fromlist=['shape']).shape('own/nano').parameters"
    )
    assert int(out) == shapes.shape("nano").parameters
    assert [name for name, _ in server.fetched] == ["config.json"]


def test_a_download_is_whole_said_and_kept(hub):
    server, run = hub
    out = run("hub.fingerprint(hub.resolve('own/nano'))")
    assert "downloading own/nano, 0.0 GB, from http://127.0.0.1" in out
    assert out.split()[-1] == hub_.fingerprint(NANO)
    before = len(server.fetched)
    assert run("hub.fingerprint(hub.resolve('own/nano'))").strip() == hub_.fingerprint(NANO)
    assert len(server.fetched) == before


def test_a_broken_download_goes_on(hub):
    """With the files that are not whole yet, and with no other.

    Within a run the hub's library asks for the bytes that are missing.
    """
    server, run = hub
    server.breaks = 1 << 20
    first = run("hub.resolve('own/nano')")
    assert "error: --model own/nano: the hub did not give own/nano" in first
    server.breaks = 0
    server.fetched.clear()
    out = run("hub.fingerprint(hub.resolve('own/nano'))")
    assert out.split()[-1] == hub_.fingerprint(NANO)
    assert [name for name, _ in server.fetched] == ["model.safetensors"]


def test_what_was_only_begun_is_not_there(hub, tmp_path):
    """A whole file counts as downloaded; one that broke off is begun anew."""
    blobs = tmp_path / "home" / "hub" / "models--own--nano" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "whole").write_bytes(bytes(1000))
    (blobs / "begun.12345678.incomplete").write_bytes(bytes(1 << 20))
    wanted = {p for pattern in hub_.WANTED for p in NANO.glob(pattern)}
    assert (
        int(hub[1]("hub.check_disk('own/nano', 'own/nano')"))
        == sum(p.stat().st_size for p in wanted) - 1000
    )


def test_a_folder_with_holes_is_filled(hub, tmp_path):
    server, run = hub
    run("hub.resolve('own/nano')")
    (hole,) = (tmp_path / "home").rglob("snapshots/*/model.safetensors")
    hole.resolve().unlink()
    hole.unlink()
    server.fetched.clear()
    out = run("hub.fingerprint(hub.resolve('own/nano'))")
    assert out.split()[-1] == hub_.fingerprint(NANO)
    assert [name for name, _ in server.fetched] == ["model.safetensors"]


def test_too_little_disk_is_said_before_anything_large_moves(hub):
    server, run = hub
    server.sizes["model.safetensors"] = 10**15
    out = run("hub.resolve('own/nano')")
    assert re.fullmatch(
        r"error: --model own/nano: own/nano needs 1000000\.\d GB more on the disk of the hub's "
        r"cache, and [\d.]+ GB are free; make room, or set HF_HOME to another disk\n",
        out,
    )
    assert server.fetched == []


# -- what the hub refuses


class Refusals(BaseHTTPRequestHandler):
    """A hub that answers as the real one does to a name that is gated, missing or unlucky."""

    def do_GET(self):
        if "/down/" in self.path:
            return self.close_connection  # not a word
        gated = "/gated/" in self.path
        code, why = (403, "GatedRepo") if gated else (404, "RepoNotFound")
        self.send_response(code)
        self.send_header("X-Error-Code", why)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


def test_each_no_of_the_hub_has_its_own_way_on():
    code = """
import sys
from instruct_course.common.errors import InputError
from instruct_course.model.hub import resolve
for name in sys.argv[1:]:
    try:
        resolve(name)
    except InputError as error:
        print(error)
"""
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusals) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"
        }
        done = subprocess.run(
            [sys.executable, "-c", code, "gated/model", "missing/model", "down/model"],
            capture_output=True,
            text=True,
            env=env,
        )
        server.shutdown()
    lines = [line for line in done.stdout.splitlines() if line.startswith("--model")]
    wanted = (
        "gated/model only to those who agreed to its terms",
        "has no model missing/model, or it is private",
        "set HF_ENDPOINT to a mirror",
    )
    assert len(lines) == 3, done.stdout + done.stderr
    assert all(what in line for what, line in zip(wanted, lines)), done.stdout
    assert "downloading" not in done.stdout  # it is known before anything is fetched


def test_a_full_disk_is_said(monkeypatch):
    import huggingface_hub

    def snapshot_download(hub_id, local_files_only=False, **options):
        raise FileNotFoundError() if local_files_only else OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(hub_, "check_disk", lambda name, hub_id: 1000)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(InputError, match="the disk is full.*files that are whole stay"):
        load_base("owner/thing", say=lambda text: None)


def test_no_network_is_said_when_it_was_forbidden():
    with pytest.raises(InputError, match="HF_HUB_OFFLINE forbids the network"):
        load_base("owner/thing", say=lambda text: None)


def test_the_fingerprint_sees_one_changed_byte(tmp_path):
    source = (ASSETS / "nano" / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(
        source[:-9] + bytes([source[-9] ^ 1]) + source[-8:]
    )
    assert hub_.fingerprint(tmp_path) != hub_.fingerprint(ASSETS / "nano")


def test_downloads_are_said_and_the_mirror_is_named(monkeypatch):
    said = []
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")
    monkeypatch.setattr(hub_, "check_disk", lambda name, hub_id: 15.2e9)
    with pytest.raises(InputError):
        hub_.resolve("7b", say=said.append)
    assert said == ["downloading Qwen/Qwen2.5-7B, 15.2 GB, from mirror.example"]


def test_a_gguf_with_a_wrong_hash_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("INSTRUCT_COURSE_CACHE", str(tmp_path))
    (tmp_path / hub_.GGUF).write_bytes(b"not it")
    with pytest.raises(InputError, match="sha256"):
        hub_.resolve("smollm2", say=lambda text: None)
    assert not (tmp_path / "smollm2").exists()


# -- conversions


@pytest.fixture
def conversions(tmp_path, monkeypatch):
    """The folders that were converted so far; a stand-in for the GGUF becomes a copy of nano."""
    made = []

    def convert(gguf, folder):
        made.append(folder)
        shutil.copytree(NANO, folder, dirs_exist_ok=True)

    monkeypatch.setenv("INSTRUCT_COURSE_CACHE", str(tmp_path))
    (tmp_path / hub_.GGUF).write_bytes(b"stand-in")
    monkeypatch.setattr(hub_, "GGUF_SHA256", sha256(tmp_path / hub_.GGUF))
    monkeypatch.setattr(hub_, "convert_gguf", convert)
    return made


def quietly(text):
    pass


def test_half_a_conversion_is_not_taken_for_a_model(tmp_path, monkeypatch):
    """What an interrupted copy left: half a model.safetensors, and nothing else."""
    monkeypatch.setenv("INSTRUCT_COURSE_CACHE", str(tmp_path))
    (tmp_path / "smollm2").mkdir()
    raw = (NANO / "model.safetensors").read_bytes()
    (tmp_path / "smollm2" / "model.safetensors").write_bytes(raw[: len(raw) // 2])
    (tmp_path / hub_.GGUF).write_bytes(b"not it")
    with pytest.raises(InputError, match="sha256"):  # so it is not accepted, but made again
        hub_.resolve("smollm2", say=quietly)


def test_a_conversion_is_made_once(conversions, tmp_path):
    said = []
    folder = hub_.resolve("smollm2", say=said.append)
    assert hub_.resolve("smollm2", say=said.append) == folder == tmp_path / "smollm2"
    assert len(conversions) == 1 and len(said) == 1
    assert hub_.fingerprint(folder) == hub_.fingerprint(NANO)
    record = json.loads((folder / "converted.json").read_text(encoding="utf-8"))
    schema = (ASSETS / "schemas" / "converted.schema.json").read_text(encoding="utf-8")
    jsonschema.validate(record, json.loads(schema))
    assert set(record["bytes"]) == {path.name for path in NANO.iterdir()}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_conversion_leaves_nothing(conversions, tmp_path, monkeypatch, error):
    def interrupted(gguf, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(hub_, "convert_gguf", interrupted)
        with pytest.raises(type(error)):
            hub_.resolve("smollm2", say=quietly)
    assert [path.name for path in tmp_path.iterdir()] == [hub_.GGUF]
    hub_.resolve("smollm2", say=quietly)
    assert len(conversions) == 1


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "converted.json"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_conversion_that_is_not_whole_is_made_again(conversions, name, how):
    folder = hub_.resolve("smollm2", say=quietly)
    path = folder / name
    raw = path.read_bytes()
    path.unlink()
    if how == "cut":
        path.write_bytes(raw[: len(raw) // 2])
    said = []
    hub_.resolve("smollm2", say=said.append)
    assert len(conversions) == 2 and "is not whole" in said[0]
    assert hub_.fingerprint(folder) == hub_.fingerprint(NANO)


def test_another_process_may_be_faster(conversions, tmp_path, monkeypatch):
    mine = hub_.convert_gguf

    def slow(gguf, folder):
        with monkeypatch.context() as patch:
            patch.setattr(hub_, "convert_gguf", mine)
            hub_.resolve("smollm2", say=quietly)
        mine(gguf, folder)

    monkeypatch.setattr(hub_, "convert_gguf", slow)
    assert hub_.resolve("smollm2", say=quietly) == tmp_path / "smollm2"
    assert len(conversions) == 2
    assert hub_.fingerprint(tmp_path / "smollm2") == hub_.fingerprint(NANO)
