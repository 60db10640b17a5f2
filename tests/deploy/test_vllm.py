"""The scripts stand alone and ask as training did."""

import http.server
import json
import os
import runpy
import subprocess
import sys
import threading
from types import ModuleType

import pytest

from instruct_course.data import template as templates
from instruct_course.data.example import Example
from instruct_course.deploy import vllm
from instruct_course.deploy.merged import write_tokenizer
from instruct_course.deploy.ollama import EDGES, GOLDEN, engine_ids
from instruct_course.deploy.vllm import ask_script, copied_source, serve_script


class _Engine(http.server.BaseHTTPRequestHandler):
    """Answers as vLLM and Ollama do, and remembers what it was asked."""

    asked = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        answer = {"response": " four "}
        if self.path == "/v1/completions":
            answer = {"choices": [{"text": " four "}]}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def engine():
    _Engine.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Engine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def scripts(inputs, tmp_path_factory):
    """{engine: its ask.py}."""
    out = {}
    for name in ("vllm", "ollama"):
        folder = tmp_path_factory.mktemp(name)
        write_tokenizer(inputs.tokenizer, inputs.template, folder / "tokenizer")
        out[name] = folder / "ask.py"
        out[name].write_text(ask_script(name, "nano", "tokenizer"), encoding="utf-8")
    return out


def test_vllm_is_sent_the_ids_of_training(scripts, inputs, engine):
    ask = runpy.run_path(str(scripts["vllm"]))
    for row in GOLDEN + EDGES:
        assert ask["ask"](ask["Example"](*row), engine, "m", 5) == "four"
        path, body = _Engine.asked[-1]
        assert path == "/v1/completions"
        assert body == {
            "model": "m",
            "prompt": templates.prompt(inputs.template, inputs.tokenizer, Example(*row)),
            "max_tokens": 5,
            "temperature": 0,
            "stop_token_ids": [1],
        }


def test_ollama_is_sent_raw_text(scripts, inputs, engine):
    ask = runpy.run_path(str(scripts["ollama"]))
    for row in GOLDEN + EDGES[1:]:
        assert ask["ask"](ask["Example"](*row), engine, "m", 5) == "four"
        path, body = _Engine.asked[-1]
        wanted = templates.prompt(inputs.template, inputs.tokenizer, Example(*row))
        assert path == "/api/generate"
        assert engine_ids(inputs.tokenizer, body["prompt"]) == wanted
        assert body["model"] == "m"
        assert body["raw"] is True
        assert body["options"] == {"temperature": 0, "num_predict": 5, "stop": ["<eos>"]}
    with pytest.raises(SystemExit, match="<out>"):
        ask["ask"](ask["Example"]("Say <out>."), engine, "m", 5)


def test_a_script_stands_alone(scripts, engine, tmp_path):
    """In a process of its own, from another folder, without this package."""
    blocked = tmp_path / "instruct_course.py"
    blocked.write_text("raise ImportError('not here')\n", encoding="utf-8")
    question = ["Count the words.", "cat, dog", "--url", engine]
    done = subprocess.run(
        [sys.executable, str(scripts["vllm"]), *question],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.strip() == "four"
    assert all(isinstance(i, int) for i in _Engine.asked[-1][1]["prompt"])


MODULE = '''
import json
from dataclasses import dataclass
from .elsewhere import given
from . import other

LIMIT = 3
UNUSED = json


@dataclass
class Box:
    """It uses LIMIT."""

    size: int = LIMIT


def make() -> Box:
    return Box(given)


def unused():
    return make()
'''


def test_only_what_is_needed_is_copied(monkeypatch):
    monkeypatch.setattr(vllm.inspect, "getsource", lambda module: MODULE)
    source = copied_source([ModuleType("m")], ["make"], ["LIMIT"])
    names = {"given": 2, "LIMIT": 4}
    exec(source, names)
    assert names["make"]() == names["Box"](2)
    assert names["Box"]().size == 4
    assert not {"json", "unused", "UNUSED", "other"} & set(names)


def test_the_start_script(inputs, tmp_path):
    text = serve_script(inputs, 1024)
    assert "was not run" in text.splitlines()[1]
    assert "--host 127.0.0.1" in text
    (tmp_path / "serve.sh").write_text(text, encoding="utf-8")
    assert subprocess.run(["bash", "-n", str(tmp_path / "serve.sh")]).returncode == 0
