"""Downloads from a hub on this machine that keeps a real repository: what is fetched, what goes on after a break, and what is refused before anything large moves."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from instruct_course.common.files import ASSETS
from instruct_course.model import hub as hub_
from instruct_course.plan import memory as planner

COMMIT = "0" * 40
NANO = ASSETS / "nano"


class Hub(BaseHTTPRequestHandler):
    """The parts of the hub's protocol that a download needs, for the repository own/nano; `breaks`: bytes after which a large file's line goes dead, once."""

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
        start = int(m[1]) if (m := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
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
    """(the server, a call that runs code against it in a process of its own with an empty cache, its stdout)."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.fetched, server.sizes, server.breaks = [], {}, 0
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
        code = (
            "from instruct_course.model import hub\nfrom instruct_course.common.errors import InputError\ntry:\n    print("
            + code
            + ")\nexcept InputError as error:\n    print('error:', error)"
        )
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
        "__import__('instruct_course.plan.memory', fromlist=['shape']).shape('own/nano').parameters"
    )
    assert int(out) == planner.shape("nano").parameters
    assert [name for name, _ in server.fetched] == ["config.json"]


def test_a_download_is_whole_said_and_kept(hub):
    server, run = hub
    out = run("hub.fingerprint(hub.resolve('own/nano'))")
    assert "downloading own/nano, 0.0 GB, from http://127.0.0.1" in out and out.split()[
        -1
    ] == hub_.fingerprint(NANO)
    before = len(server.fetched)
    assert (
        run("hub.fingerprint(hub.resolve('own/nano'))").strip() == hub_.fingerprint(NANO)
        and len(server.fetched) == before
    )


def test_a_broken_download_goes_on(hub):
    """With the files that are not whole yet, and with no other. (Within a run the hub's library asks for the bytes that are missing.)"""
    server, run = hub
    server.breaks = 1 << 20
    first = run("hub.resolve('own/nano')")
    assert "error: --model own/nano: the hub did not give own/nano" in first
    server.breaks = 0
    server.fetched.clear()
    assert run("hub.fingerprint(hub.resolve('own/nano'))").split()[-1] == hub_.fingerprint(
        NANO
    ) and [name for name, _ in server.fetched] == ["model.safetensors"]


def test_what_was_only_begun_is_not_there(hub, tmp_path):
    """A whole file counts as downloaded; one that broke off does not, for the hub's library begins it anew."""
    blobs = tmp_path / "home" / "hub" / "models--own--nano" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "whole").write_bytes(bytes(1000))
    (blobs / "begun.12345678.incomplete").write_bytes(bytes(1 << 20))
    wanted = {p for pattern in hub_.WANTED for p in NANO.glob(pattern)}
    assert (
        int(hub[1]("hub._has_disk('own/nano', 'own/nano')"))
        == sum(p.stat().st_size for p in wanted) - 1000
    )


def test_a_folder_with_holes_is_filled(hub, tmp_path):
    server, run = hub
    run("hub.resolve('own/nano')")
    (hole,) = (tmp_path / "home").rglob("snapshots/*/model.safetensors")
    hole.resolve().unlink()
    hole.unlink()
    server.fetched.clear()
    assert run("hub.fingerprint(hub.resolve('own/nano'))").split()[-1] == hub_.fingerprint(
        NANO
    ) and [n for n, _ in server.fetched] == ["model.safetensors"]


def test_too_little_disk_is_said_before_anything_large_moves(hub):
    server, run = hub
    server.sizes["model.safetensors"] = 10**15
    out = run("hub.resolve('own/nano')")
    assert re.fullmatch(
        r"error: --model own/nano: own/nano needs 1000000\.\d GB more on the disk of the hub's cache, and [\d.]+ GB are free; make room, or set HF_HOME to another disk\n",
        out,
    )
    assert server.fetched == []
