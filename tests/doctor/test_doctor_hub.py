"""A hub that does not answer, or not at that address."""

import socket

import pytest
from planted import fault, looked


@pytest.fixture
def closed():
    """A port of this machine that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        yield s.getsockname()[1]


def test_a_hub_that_does_not_answer(tmp_path, closed):
    _, checks = looked(
        "hub",
        cwd=tmp_path,
        HF_HUB_OFFLINE="0",
        HF_ENDPOINT=f"http://me:hunter2@127.0.0.1:{closed}",
        HF_TOKEN="hf_secretsecret",
    )
    check = fault(
        checks,
        "hub",
        found=f"http://127.0.0.1:{closed}, which HF_ENDPOINT names, does not answer",
        mend="unset HF_ENDPOINT",
    )
    assert "hunter2" not in str(check) and "secret" not in str(check)


def test_a_hub_that_answers_is_well(tmp_path):
    import http.server
    import threading

    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        code, checks = looked(
            "hub",
            cwd=tmp_path,
            HF_HUB_OFFLINE="0",
            HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}",
            HF_TOKEN="hf_secretsecret",
        )
    assert (
        code == 0
        and checks["hub"]["found"].endswith("answers; a token is set")
        and "secret" not in str(checks)
    )


@pytest.mark.parametrize(
    "address", ["hf-mirror.com", "htp://x", "http://", "https://a b", "https://x:99999999"]
)
def test_an_address_that_is_none(tmp_path, address):
    fault(
        looked("hub", cwd=tmp_path, HF_ENDPOINT=address)[1],
        "hub",
        found="HF_ENDPOINT is no address",
        mend="HF_ENDPOINT=https://",
    )


def test_a_proxy_that_is_off(tmp_path, closed):
    _, checks = looked(
        "hub",
        cwd=tmp_path,
        HF_HUB_OFFLINE="0",
        HF_ENDPOINT="http://hub.invalid",
        HTTP_PROXY=f"http://me:hunter2@127.0.0.1:{closed}",
        http_proxy=f"http://me:hunter2@127.0.0.1:{closed}",
    )
    check = fault(checks, "hub", found="through the proxy", mend="HTTP_PROXY")
    assert "hunter2" not in str(check)


def test_offline_with_an_empty_cache(tmp_path):
    fault(
        looked("hub", cwd=tmp_path)[1],
        "hub",
        status="warning",
        found="no model is in the cache",
        mend="unset HF_HUB_OFFLINE",
    )
    (tmp_path / "hub" / "models--a--b" / "snapshots" / "1").mkdir(parents=True)
    assert looked("hub", cwd=tmp_path)[1]["hub"]["status"] == "ok"
