"""The server: OpenAI's client gets what the run answers, nobody else gets in, and no request
brings it down."""

import http.client
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import psutil
import pytest
from hypothesis import given, settings

import instruct_course
from instruct_course import generate
from instruct_course import run as runs
from instruct_course.common.errors import InputError
from instruct_course.data import template as templates
from instruct_course.data.dataset import builtin
from instruct_course.data.example import Example
from instruct_course.deploy.serve.access import Limits
from instruct_course.deploy.serve.queue import open_model
from instruct_course.deploy.serve.server import Server

QUESTIONS = [
    ("Translate the word to French.", "cat"),
    ("What is the capital of France?", ""),
    ("Count the words.", "one two three"),
    ("把这个词翻译成英文。", "猫"),
    ("法国的首都是哪里？", ""),
    ("数一数字数。", "春天来了"),
]


@pytest.fixture(scope="module")
def folder(named_run, tmp_path_factory):
    """A run: the one that INSTRUCT_COURSE_RUN names, else a tiny one."""
    if named_run:
        return named_run
    home = tmp_path_factory.mktemp("served")
    with (home / "rows.jsonl").open("w", encoding="utf-8") as f:
        for r in builtin("train").select(range(24)):
            f.write(
                json.dumps(
                    {k: r[k] for k in ("instruction", "input", "output")}, ensure_ascii=False
                )
                + "\n"
            )
    return instruct_course.tune(
        data=str(home / "rows.jsonl"),
        holdout="0.1",
        epochs=1,
        out=str(home / "tiny run"),
        quiet=True,
    ).path


@pytest.fixture(scope="module")
def run(folder):
    return runs.open_run(folder)


@pytest.fixture(scope="module")
def served(folder):
    return open_model(folder)


@pytest.fixture(scope="module")
def server(served):
    with Server(served, limits=Limits(request_seconds=60, upload_seconds=2)) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=60)


def ask(client, served, text, input="", **options):
    return client.chat.completions.create(
        model=served.name,
        messages=[{"role": "user", "content": text}],
        extra_body={"input": input},
        **options,
    )


def raw(server, method="POST", path="/v1/chat/completions", body=b"", headers=None, **more):
    """(status, headers, bytes) of a request written by hand, without headers that are None."""
    connection = http.client.HTTPConnection(
        server.address[0], int(server.url.rpartition(":")[2]), timeout=30
    )
    given = {
        "Host": server.url[7:],
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
    } | (headers or {})
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in given.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    got = connection.getresponse()
    out = got.status, dict(got.getheaders()), got.read()
    connection.close()
    return out


def shaped(data: bytes) -> dict:
    """The error of a reply, which must be in OpenAI's shape."""
    body = json.loads(data)
    assert (
        set(body) == {"error"}
        and set(body["error"]) == {"message", "type", "param", "code"}
        and body["error"]["message"]
    ), body
    return body["error"]


def message(served, text="Hi", **more):
    return json.dumps(
        {"model": served.name, "messages": [{"role": "user", "content": text}], "max_tokens": 2}
        | more
    ).encode()


# -- the official client


def test_greedy_answers_are_those_of_the_run(client, served, run):
    """The end of the whole way: what the server says is what the run says, streamed or not."""
    for text, input in QUESTIONS:
        wanted = run.answer(text, input, max_new_tokens=8)
        got = ask(client, served, text, input, temperature=0, max_tokens=8)
        assert (
            got.choices[0].message.content == wanted and got.choices[0].message.role == "assistant"
        )
        pieces = [
            c.choices[0].delta.content or ""
            for c in ask(client, served, text, input, temperature=0, max_tokens=8, stream=True)
        ]
        assert "".join(pieces) == wanted


def test_usage_and_reason_are_right(client, served):
    text, input = QUESTIONS[3]
    prompt = templates.prompt(served.template, served.prompt_tokenizer, Example(text, input))
    (wanted,) = generate.complete(
        served.model,
        served.tokenizer,
        [prompt],
        stop_ids=templates.stop_ids(served.template, served.tokenizer),
        max_new_tokens=3,
    )
    got = ask(client, served, text, input, max_tokens=3)
    assert (got.usage.prompt_tokens, got.usage.completion_tokens, got.usage.total_tokens) == (
        len(prompt),
        len(wanted.ids),
        len(prompt) + len(wanted.ids),
    )
    assert got.choices[0].finish_reason == ("length" if wanted.reason == "length" else "stop")
    chunks = list(
        ask(
            client,
            served,
            text,
            input,
            max_tokens=3,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert (
        chunks[-1].usage == got.usage
        and not chunks[-1].choices
        and all(c.usage is None for c in chunks[:-1])
    )
    assert (
        chunks[-2].choices[0].finish_reason == got.choices[0].finish_reason
        and len({c.id for c in chunks}) == 1
    )


def test_a_seed_gives_the_same_text_again(client, served):
    def say(seed):
        return (
            ask(
                client,
                served,
                "Tell me a story.",
                temperature=1.5,
                top_p=0.95,
                seed=seed,
                max_tokens=8,
            )
            .choices[0]
            .message.content
        )

    assert say(1) == say(1) and say(-7) == say(-7) and len({say(k) for k in range(4)}) > 1

    def free():
        return (
            ask(client, served, "Tell me a story.", temperature=1.5, max_tokens=8)
            .choices[0]
            .message.content
        )

    assert len({free() for _ in range(4)}) > 1


def test_completions_take_a_raw_prompt(client, served):
    ids = served.prompt_tokenizer("The capital of France is").input_ids
    (wanted,) = generate.complete(
        served.model,
        served.tokenizer,
        [ids],
        stop_ids=templates.stop_ids(served.template, served.tokenizer),
        max_new_tokens=5,
    )
    for prompt in ("The capital of France is", ids):
        got = client.completions.create(model=served.name, prompt=prompt, max_tokens=5)
        assert (
            got.choices[0].text == wanted.text
            and got.usage.prompt_tokens == len(ids)
            and got.object == "text_completion"
        )
    assert (
        "".join(
            c.choices[0].text
            for c in client.completions.create(
                model=served.name, prompt=ids, max_tokens=5, stream=True
            )
        )
        == wanted.text
    )
    with served.model.disable_adapter():
        (base,) = generate.complete(
            served.model,
            served.tokenizer,
            [ids],
            stop_ids=templates.stop_ids(served.template, served.tokenizer),
            max_new_tokens=5,
        )
    assert (
        client.completions.create(model=served.name + ":base", prompt=ids, max_tokens=5)
        .choices[0]
        .text
        == base.text
    )


def test_stop_strings_end_an_answer(client, served):
    whole = (
        client.completions.create(
            model=served.name, prompt="The capital of France is", max_tokens=12
        )
        .choices[0]
        .text
    )
    middle = whole[len(whole) // 2 :][:3]
    assert len(middle) == 3
    for stop in (middle, ["\u0000never", middle]):
        got = client.completions.create(
            model=served.name, prompt="The capital of France is", max_tokens=12, stop=stop
        )
        assert (
            got.choices[0].text == whole[: whole.index(middle)]
            and got.choices[0].finish_reason == "stop"
        )
        streamed = client.completions.create(
            model=served.name,
            prompt="The capital of France is",
            max_tokens=12,
            stop=stop,
            stream=True,
        )
        assert "".join(c.choices[0].text for c in streamed) == got.choices[0].text


def test_models_are_listed_and_others_are_not_found(client, served):
    assert [m.id for m in client.models.list()] == [served.name, served.name + ":base"]
    assert client.models.retrieve(served.name).owned_by == "instruct_course"
    for call in (
        lambda: client.models.retrieve("gpt-4"),
        lambda: client.completions.create(model="gpt-4", prompt="x"),
    ):
        with pytest.raises(openai.NotFoundError) as error:
            call()
        assert (
            error.value.body["code"] == "model_not_found" and error.value.body["param"] == "model"
        )


def test_a_merged_folder_is_served(folder, tmp_path):
    """Its own greedy answers and name, and no base, for there is no adapter to turn off."""
    from instruct_course.deploy import merge

    merge.merge(folder, tmp_path / "merged", limit=0, quiet=True)
    served = open_model(tmp_path / "merged")
    with Server(served) as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
        assert [m.id for m in client.models.list()] == ["merged"]
        for text, input in QUESTIONS[:4:3]:
            wanted = generate.answer(
                served.model,
                served.tokenizer,
                served.template,
                [Example(text, input)],
                max_new_tokens=8,
            )
            assert [
                ask(client, served, text, input, max_tokens=8).choices[0].message.content
            ] == wanted
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="merged:base", prompt="x")


def test_what_cannot_be_done_is_a_clear_400(client, served):
    for options, param in (
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"presence_penalty": 1.0}, "presence_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"temperature": 3}, "temperature"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"max_tokens": 10**6}, "max_tokens"),
    ):
        with pytest.raises(openai.BadRequestError) as error:
            ask(client, served, "Hi", **options)
        assert error.value.body["param"].startswith(param), options
    ask(
        client,
        served,
        "Hi",
        n=1,
        logprobs=False,
        user="me",
        metadata={"a": "b"},
        max_tokens=1,
        frequency_penalty=0,
    )
    picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]
    for turns, says in (
        (
            [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
            "a system text",
        ),
        ([{"role": "user", "content": c} for c in "ab"], "several turns"),
        ([{"role": "assistant", "content": "Hi"}], "from the user"),
        ([{"role": "user", "content": picture}], "text only"),
        ([{"role": "user", "content": " "}], "have a text"),
        ([{"role": "tool", "content": "x", "tool_call_id": "1"}], "'system', 'developer', 'user'"),
        ([{"role": "user", "content": "long " * 3000}], "tokens"),
    ):
        with pytest.raises(openai.BadRequestError, match=says):
            client.chat.completions.create(model=served.name, messages=turns)
    parts = client.chat.completions.create(
        model=served.name,
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Count the "},
                    {"type": "text", "text": "words."},
                ],
            }
        ],
        max_tokens=8,
    )
    assert (
        parts.choices[0].message.content
        == ask(client, served, "Count the words.", max_tokens=8).choices[0].message.content
    )


# -- who may ask


@pytest.mark.parametrize(
    "headers, status, code",
    [
        ({"Host": "evil.example"}, 403, "host_not_allowed"),
        ({"Host": None}, 400, None),
        ({"Host": "evil.example:80"}, 403, "host_not_allowed"),
        ({"Host": "10.0.0.7"}, 403, "host_not_allowed"),
        ({"Host": "localhost"}, 200, None),
        ({"Host": "[::1]:9"}, 200, None),
        ({"Host": "LOCALHOST:1"}, 200, None),
        ({"Host": "localhost.evil.example"}, 403, "host_not_allowed"),
        ({"Origin": "https://evil.example"}, 403, "origin_not_allowed"),
        ({"Origin": "null"}, 403, "origin_not_allowed"),
        ({"Origin": "http://localhost:1"}, 403, "origin_not_allowed"),
        ({"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        ({"Content-Type": None}, 415, "unsupported_media_type"),
        ({"Content-Type": "application/json; charset=utf-8"}, 200, None),
        ({"Content-Type": "application/json, text/plain"}, 415, "unsupported_media_type"),
        ({"Content-Encoding": "gzip"}, 415, "unsupported_media_type"),
    ],
)
def test_no_web_page_can_drive_it(server, served, headers, status, code):
    """DNS rebinding has a foreign Host, a script an Origin, and a form cannot send JSON."""
    got, head, data = raw(server, body=message(served), headers=headers)
    assert got == status
    if code:
        assert (
            shaped(data)["code"] == code
            and "access-control-allow-origin" not in head
            and head["x-content-type-options"] == "nosniff"
        )


def test_a_key_is_asked_for(served):
    with Server(
        served, key="s3cret-key", hosts=["Box.local"], origins=["https://app.example"]
    ) as server:
        for key in ("", "s3cret-kez", "s3cret-key-and-more", "s3cret-ke"):
            with pytest.raises((openai.AuthenticationError, openai.OpenAIError)):
                openai.OpenAI(
                    base_url=server.url + "/v1", api_key=key or " ", max_retries=0
                ).models.list()
        assert (
            len(openai.OpenAI(base_url=server.url + "/v1", api_key="s3cret-key").models.list().data)
            == 2
        )
        for authorization in (None, "s3cret-key", "Basic s3cret-key", "Bearer", "Bearer \xff\xfe"):
            status, head, data = raw(
                server, "GET", "/v1/models", headers={"Authorization": authorization}
            )
            assert (
                status == 401
                and shaped(data)["code"] == "invalid_api_key"
                and head["www-authenticate"] == "Bearer"
            )
        assert (
            raw(server, "GET", "/health")[0]
            == raw(server, "GET", "/", headers={"Host": "box.local:80"})[0]
            == 200
        )
        origin, good = {"Origin": "https://app.example"}, {"Authorization": "Bearer s3cret-key"}
        status, head, _ = raw(
            server,
            "OPTIONS",
            headers=origin
            | {
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type",
                "Content-Type": None,
            },
        )
        assert (
            status == 200
            and head["access-control-allow-origin"] == "https://app.example"
            and "authorization" in head["access-control-allow-headers"]
        )
        assert (
            raw(server, "GET", "/v1/models", headers=origin | good)[1][
                "access-control-allow-origin"
            ]
            == "https://app.example"
        )
        assert (
            raw(server, "GET", "/v1/models", headers=good | {"Origin": "https://app.example.evil"})[
                0
            ]
            == 403
        )


def test_it_is_safe_by_default(served, command, folder, monkeypatch):
    for options, says in (
        ({"host": "0.0.0.0"}, "so it needs a key"),
        ({"host": "no such host"}, "no such address"),
        ({"port": 70000}, "no such address"),
        ({"key": "ä"}, "no header can carry"),
        ({"origins": ["*"]}, "name one origin in full"),
        ({"origins": ["https://a.example/path"]}, "name one origin"),
    ):
        with pytest.raises(InputError, match=says):
            Server(served, **options)
    monkeypatch.delenv("NO_KEY", raising=False)
    for args, says in (
        (("--host", "0.0.0.0"), "--api-key-env"),
        (("--api-key-env", "NO_KEY"), "NO_KEY"),
        (("--queue", "0"), "queue"),
    ):
        code, out, err = command("serve", "--run", folder, *args)
        assert code == 2 and says in err and err.count("\n") == 1
    with Server(served) as one, pytest.raises(InputError, match="cannot be used"):
        Server(served, port=int(one.url.rpartition(":")[2])).__enter__()


def test_without_the_extra_one_sentence_says_what_to_install(folder):
    code = (
        "import sys; sys.modules['fastapi'] = None; sys.argv[1:] = ['serve', '--run', 'x']; "
        "from instruct_course.cli import main; main()"
    )
    got = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8"
    )
    assert (
        got.returncode == 2
        and 'pip install "instruct_course[serve]"' in got.stderr
        and got.stderr.count("\n") == 1
    )


# -- what is sent

WRONG = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"\xff\xfe\x00",
    b"{" * 50_000,
    b"[" * 100_000,
    b'{"a":' * 20_000,
    b'{"model": 1e999}',
    b"9" * 10_000,
    b'{"model": NaN, "messages": []}',
    b'{"model": "x", "messages": {}}',
    b'{"model": "x", "messages": [1]}',
    b'{"model": "x", "messages": [{"role": "user", "content": 5}]}',
    b'{"model": null, "messages": null}',
]


@pytest.mark.parametrize("body", WRONG, ids=range(len(WRONG)))
def test_malformed_bodies_are_a_400(server, body):
    status, _, data = raw(server, body=body)
    assert status in (400, 404) and shaped(data)["type"] == "invalid_request_error"


def test_wrong_types_are_a_400(server, served):
    for field, values in {
        "temperature": ["0", True, -1, [], {}, 1e400],
        "max_tokens": [0, -1, 1.5, "1", 2**70, True],
        "top_p": [0, 1.1, "x"],
        "seed": [1.5, 2**64, "1"],
        "stream": [1, "true"],
        "stop": [5, [5], "", [""], ["x" * 300]],
        "model": [None, 1, [], "x" * 300],
        "input": [1, ["x"]],
        "stream_options": [1, []],
        "top_k": [-1],
    }.items():
        for value in values:
            status, _, data = raw(server, body=message(served, **{field: value}))
            assert status == 400 and shaped(data)["param"].startswith(field), (field, value)


def test_extreme_settings_are_answered(client, served):
    """The smallest numbers that there are must not overflow: a temperature near 0 is greedy."""

    def say(**more):
        return (
            client.completions.create(
                model=served.name, prompt="The capital of", max_tokens=4, extra_body=more
            )
            .choices[0]
            .text
        )

    assert (
        say(temperature=5e-324)
        == say(temperature=1e-9, top_p=5e-324)
        == say(temperature=1e-4, seed=1)
        == say(temperature=2, top_k=1)
        == say()
    )
    for penalty in (0.1, 10):
        assert isinstance(
            say(
                repetition_penalty=penalty, temperature=1e-4, min_p=1.0, top_p=5e-324, top_k=1 << 31
            ),
            str,
        )


@pytest.mark.parametrize(
    "text",
    [
        "a\u0000b",
        "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\u202eabc\u202c \u0645\u0631\u062d\u0628\u0627",
        "\ufeff",
        "\ue0000\ue001",
        "e\u0301" * 20,
        "\U0010ffff",
        "<inst> x<out>",
        "<inst>" * 40,
        "\r\n\t\x1b[31m",
        "{instruction}{input}",
        "\u2028\u2029",
        "{{ 1 }}{% x %}",
    ],
)
def test_odd_characters_are_answered_right(client, served, run, text):
    assert ask(client, served, "Say it. " + text, text, max_tokens=4).choices[
        0
    ].message.content == run.answer("Say it. " + text, text, max_new_tokens=4)


def test_half_a_surrogate_is_refused(server, served):
    for body in (
        rb'{"model": "%s", "messages": [{"role": "user", "content": "\ud800"}]}',
        rb'{"model": "%s", "messages": [{"role": "user", "content": "a"}], "input": "\udfff"}',
        rb'{"model": "%s\udc00", "messages": [], "\ud800": 1}',
    ):
        status, _, data = raw(server, body=body % served.name.encode())
        assert status == 400 and shaped(data)
    for path, body in (
        ("/v1/completions", rb'{"model": "%s", "prompt": "\ud800"}'),
        ("/v1/completions", b'{"model": "%s", "prompt": [999999999]}'),
        ("/v1/completions", b'{"model": "%s", "prompt": []}'),
        ("/v1/completions", b'{"model": "%s", "prompt": [-1]}'),
        (
            "/v1/xray",
            rb'{"model": "%s", "messages": [{"role": "user", "content": "a"}], "answer": "\ud800"}',
        ),
    ):
        status, _, data = raw(server, path=path, body=body % served.name.encode())
        assert status == 400 and shaped(data), body


def test_long_and_slow_bodies(server, served):
    status, _, data = raw(server, body=message(served, "x" * (2 << 20)))
    assert status == 413 and shaped(data)["code"] == "body_too_long"
    status, _, data = raw(server, body=b"", headers={"Content-Length": str(1 << 40)})
    assert status == 413
    status, _, data = raw(
        server, body=b"{", headers={"Content-Length": "100"}
    )  # the rest never comes
    assert status == 408 and shaped(data)["code"] == "body_too_slow"


@pytest.mark.parametrize("headers", [{}, {"Content-Length": None, "Transfer-Encoding": "chunked"}])
def test_a_body_over_the_limit_is_answered_however_long(server, headers):
    """A client that sends all of its body before it reads finds the answer, not a reset."""
    body = b"x" * (24 << 20)
    if headers:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    status, head, data = raw(server, body=body, headers=headers)
    assert status == 413 and shaped(data)["code"] == "body_too_long"
    assert head["connection"] == "close"


def test_other_refusals_reach_a_client_that_is_still_sending(server):
    status, _, data = raw(server, body=b"x" * (24 << 20), headers={"Content-Type": "text/plain"})
    assert status == 415 and shaped(data)["code"] == "unsupported_media_type"


def test_who_reads_first_need_not_send(server):
    """The refusal of an announced length comes before the body."""
    with socket.create_connection(server.socket.getsockname()[:2], timeout=30) as s:
        s.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 999999999\r\n\r\n"
        )
        assert b" 413 " in s.recv(1000)


def test_other_paths_and_methods(server):
    for method, path, wanted in (
        ("GET", "/nothing", 404),
        ("GET", "/docs", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/health", 405),
        ("GET", "/v1/models/", 404),
        ("GET", "//", 404),
    ):
        status, _, data = raw(server, method, path)
        assert status == wanted and shaped(data), path
    status, _, data = raw(server, "GET", "/health")
    assert status == 200 and json.loads(data) == {"status": "ok"}


def test_xray_names_every_token(server, served):
    text, input = QUESTIONS[3]
    status, _, data = raw(
        server, path="/v1/xray", body=message(served, text, input=input, answer="cat")
    )
    row = templates.encode(served.template, served.prompt_tokenizer, Example(text, input, "cat"))
    tokens = json.loads(data)["tokens"]
    assert [t["id"] for t in tokens] == row.ids and [t["learnt"] for t in tokens] == [
        label != templates.IGNORE_INDEX for label in row.labels
    ]
    texts = {
        who: served.prompt_tokenizer.decode(
            [t["id"] for t in tokens if t["who"] == who], skip_special_tokens=True
        ).strip()
        for who in ("instruction", "input", "response")
    }
    assert status == 200 and texts == {"instruction": text, "input": input, "response": "cat"}
    status, _, data = raw(server, path="/v1/xray", body=message(served, "word " * 2000))
    assert status == 400 and "can be shown" in shaped(data)["message"]


# -- many at once


class Gated:
    """The served model with a gate: its worker waits at each token while the gate is shut."""

    def __init__(self, served):
        self.open, self.steps = threading.Event(), 0
        self.handle = served.model.register_forward_pre_hook(self.step)

    def step(self, *_):
        self.steps += 1
        assert self.open.wait(20)


@pytest.fixture
def gate(served):
    gate = Gated(served)
    yield gate
    gate.open.set()
    gate.handle.remove()


def until(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def post(server, body):
    """A socket on which a request was sent."""
    s = socket.create_connection(
        (server.address[0], int(server.url.rpartition(":")[2])), timeout=30
    )
    s.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    return s


def rest(s, size=4000, pause=0.0):
    """All that still comes on a socket, read `size` bytes at a time."""
    data = b""
    with s:
        while part := s.recv(size):
            data += part
            time.sleep(pause)
    return data


def test_a_full_queue_is_a_429_and_who_leaves_makes_room(served, gate):
    with Server(served, limits=Limits(queue_size=2)) as server:
        first = post(server, message(served))
        until(lambda: server.worker.queue.current)
        waiting = [post(server, message(served)) for _ in range(2)]
        until(lambda: len(server.worker.queue.jobs) == 2)
        status, head, data = raw(server, body=message(served))
        assert (
            status == 429
            and head["retry-after"] == "1"
            and shaped(data)["type"] == "rate_limit_error"
        )
        waiting[0].close()  # the client goes away while it waits
        until(lambda: len(server.worker.queue.jobs) == 1)
        first.close()  # and another one while its answer is made
        until(lambda: server.worker.queue.current.cancelled.is_set())
        gate.open.set()
        assert b"200 OK" in waiting[1].recv(1000)
        until(lambda: server.worker.queue.current is None)
        assert gate.steps <= 4  # one token of the first, two of the last, and no more
        waiting[1].close()


def test_time_is_limited_waiting_included(served, gate):
    with Server(served, limits=Limits(request_seconds=0.5)) as server:
        running, waiting = post(server, message(served)), post(server, message(served))
        for s in (running, waiting):
            answer = rest(s)
            assert (
                b"503" in answer.split(b"\r\n")[0]
                and shaped(answer.partition(b"\r\n\r\n")[2])["code"] == "timeout"
            )
        gate.open.set()


def test_closing_ends_what_runs(served, gate):
    with Server(served) as server:
        s = post(server, message(served, stream=True, max_tokens=100))
        until(lambda: server.worker.queue.current)
        threading.Timer(0.1, gate.open.set).start()
    data = rest(s)
    assert gate.steps < 100
    assert b'"closing"' in data and b"[DONE]" not in data
    with pytest.raises(OSError):
        socket.create_connection((server.address[0], int(server.url.rpartition(":")[2])), timeout=1)


def test_a_failing_model_is_a_500_and_the_next_request_works(server, served, client, caplog):
    def broken(*_):
        raise RuntimeError("secret words")

    handle = served.model.register_forward_pre_hook(broken)
    caplog.set_level(logging.INFO)
    try:
        status, _, data = raw(server, body=message(served, "private question"))
    finally:
        handle.remove()
    assert status == 500 and shaped(data)["type"] == "server_error" and b"secret" not in data
    assert ask(client, served, "private question", max_tokens=1).usage.completion_tokens <= 1
    raw(server, "GET", "/private?question")
    until(lambda: "another path: 404" in caplog.text)
    assert (
        "RuntimeError in" in caplog.text
        and "private" not in caplog.text
        and "secret" not in caplog.text
    )


def test_sixty_four_clients(server, served, run):
    """Slow readers, clients that leave, huge and broken bodies, all at once.

    What is accepted is answered right, and the memory stays.
    """
    wanted = {q: run.answer(*q, max_new_tokens=3) for q in QUESTIONS}
    me = psutil.Process()

    def one(k):
        text, input = QUESTIONS[k % len(QUESTIONS)]
        body = message(served, text, input=input, max_tokens=3, temperature=0, stream=k % 2 == 0)
        kind = k % 8
        if kind == 6:  # goes away
            post(server, body).close()
            return "left"
        if kind == 7:
            return raw(
                server,
                body=[b"{" * 9, message(served, "x" * (1 << 21)), message(served, temperature="x")][
                    k // 8 % 3
                ],
            )[0]
        if kind in (4, 5):  # reads slowly
            data = rest(post(server, body), size=60, pause=0.02).partition(b"\r\n\r\n")[2]
        else:
            status, _, data = raw(server, body=body)
            assert status == 200
        if k % 2:
            said = json.loads(data)["choices"][0]["message"]["content"]
        else:
            assert b"data: [DONE]" in data
            said = "".join(
                json.loads(e)["choices"][0]["delta"].get("content", "")
                for e in re.findall(r"data: (\{.*\})", data.decode())
            )
        return said == wanted[text, input]

    with ThreadPoolExecutor(64) as pool:
        before = None
        for _ in range(2):
            got = list(pool.map(one, range(64)))
            assert set(got) == {True, "left", 400, 413}
            until(lambda: not server.worker.queue.jobs and server.worker.queue.current is None)
            before = before or me.memory_info().rss
    assert me.memory_info().rss - before < 60 << 20
    assert raw(server, "GET", "/health")[0] == 200


def fuzz(operation, url) -> set[tuple[str, int]]:
    """(path, status) of 25 requests to one address, none of which may bring a 5xx."""
    from schemathesis.checks import not_a_server_error

    seen = set()

    @given(case=operation.as_strategy())
    @settings(max_examples=25, deadline=None, derandomize=True, database=None)
    def send(case):
        response = case.call(base_url=url, timeout=30)
        seen.add((operation.path, response.status_code))
        case.validate_response(response, checks=[not_a_server_error])
        if response.status_code >= 400:
            shaped(response.content)

    send()
    return seen


def test_fuzzed_requests_bring_no_500(served):
    """schemathesis makes requests, right and wrong ones, from the server's own description."""
    import schemathesis

    seen = set()
    with Server(served, limits=Limits(output_tokens=4)) as server:
        description = schemathesis.openapi.from_url(server.url + "/openapi.json")
        for operation in description.get_all_operations():
            seen |= fuzz(operation.ok(), server.url)
    assert ("/v1/completions", 200) in seen and {p for p, _ in seen} == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/xray",
        "/v1/models",
        "/v1/models/{name}",
        "/health",
    }


# -- from outside


def test_the_command_curl_and_a_signal(folder, tmp_path):
    """`instruct-course serve` in a process of its own.

    curl gets an answer, no text gets into the log, and Ctrl-C ends it in seconds, an idle client
    or not.
    """
    with (tmp_path / "log").open("w") as errors:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "instruct_course.cli",
                "serve",
                "--run",
                str(folder),
                "--port",
                "0",
            ],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
        )
    try:
        url = process.stdout.readline().split(" on ")[1].split(": the chat page")[0]
        body = json.dumps(
            {
                "model": folder.name,
                "messages": [{"role": "user", "content": "a private question"}],
                "max_tokens": 4,
                "stream": True,
            }
        )
        got = subprocess.run(
            [
                "curl",
                "-sS",
                "-N",
                url + "/v1/chat/completions",
                "-H",
                "Content-Type: application/json",
                "-d",
                body,
            ],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=60,
        )
        assert got.stdout.rstrip().endswith("data: [DONE]"), got
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))):
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
    finally:
        process.kill()
    said = (tmp_path / "log").read_text(encoding="utf-8")
    assert (
        "POST /v1/chat/completions: 200" in said
        and "private" not in said
        and "Traceback" not in said
    )


def test_sigterm_ends_the_waiting(server):
    before = signal.getsignal(signal.SIGTERM)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    server.wait()
    assert signal.getsignal(signal.SIGTERM) is before and raw(server, "GET", "/health")[0] == 200
