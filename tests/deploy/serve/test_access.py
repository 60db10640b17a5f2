"""Access: which names are ours, and that a refusal reaches whoever is still sending."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_course.deploy.serve.access import Access, AccessMiddleware, Limits, parse_address


@given(
    st.from_regex(r"[a-z0-9]{1,8}([.-][a-z0-9]{1,8}){0,3}", fullmatch=True),
    st.sampled_from(["", ":80", ":8000"]),
)
@settings(max_examples=200, deadline=None)
def test_a_name_that_is_not_ours_is_never_a_host(name, port):
    if parse_address(name) is None and name not in ("localhost", "box.local"):
        assert not Access(hosts=("box.local",)).allows_host(name + port) and not Access(
            hosts=("box.local",), loopback=False
        ).allows_host(name + port)
        assert (
            not Access().allows_host(f"localhost.{name}{port}")
            and not Access().allows_host(f"{name}.localhost{port}")
            and not Access().allows_host(f"127.0.0.1.{name}{port}")
        )
    assert all(
        Access(hosts=("box.local",)).allows_host(ours + port)
        for ours in ("localhost", "127.0.0.1", "127.9.9.9", "[::1]", "box.local")
    )
    assert (
        Access(loopback=False).allows_host("192.168.1.2" + port)
        and not Access().allows_host("192.168.1.2" + port)
        and not Access().allows_host("0.0.0.0" + port)
    )


def test_a_refusal_comes_first_and_its_end_after_the_body():
    """Who reads early sees it at once; who sends all of the body first is let do so."""
    log = []
    parts = [b"x" * 100] * 5

    async def receive():
        part = parts.pop()
        log.append(len(part))
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message):
        log.append(message.get("status", message.get("more_body")))

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers}
    app = AccessMiddleware(None, Access(), Limits(body_bytes=150))
    asyncio.run(app(scope, receive, send))
    assert log == [100, 100, 413, True, 100, 100, 100, False]
