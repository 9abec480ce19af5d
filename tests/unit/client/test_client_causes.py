"""What the commands print and do if the server is another one, is unreachable, or asks to retry
later (CONTRACT §15).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp import web
from yarl import URL

from proxy.client.diagnosis import diagnose
from proxy.client.errors import CommandError, Unreachable
from proxy.client.wire import Http
from tests.unit.client.conftest import serving
from tests.unit.client.fake_proxy import EXPORT, ID, STATUS, FakeProxy

EXPORT_COMMAND = ("export", "--path", EXPORT)
COMMANDS = [EXPORT_COMMAND, ("jobs", "show", ID)]
DOUBT = "is not known"


@pytest.fixture
def tls() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def closed() -> str:
    """A loopback port that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


async def vb365(request: web.Request) -> web.StreamResponse:
    return web.json_response({"message": f"The resource {request.path} was not found"}, status=404)


@pytest.mark.parametrize(
    "line", [*COMMANDS, ("jobs", "list"), ("jobs", "delete", ID), ("jobs", "fetch", ID)]
)
def test_vb365_itself_is_recognized_with_one_request(
    run: Any, fake: FakeProxy, line: tuple[str, ...]
) -> None:
    """A kick-off there would be a synchronous export."""
    fake.job = vb365  # type: ignore[method-assign]
    fake.odd = [("GET /_async/openapi.json", 404, {})]
    result = run(*line)
    assert result.exit_code == 2
    assert f"{fake.url} is VB365 itself, not the proxy" in result.stderr
    assert len(fake.seen) == 1
    assert DOUBT not in result.stderr


def test_an_error_of_the_proxy_is_not_taken_for_one_of_vb365(run: Any, fake: FakeProxy) -> None:
    """§11: X-VB365-Async."""
    fake.odd = [(f"GET {STATUS}", 404, {"X-VB365-Async": "proxy"})]
    result = run("jobs", "show", ID)
    assert (result.exit_code, result.stderr) == (1, "The server responded with 404: not now\n")


def test_a_404_after_the_first_poll_does_not_question_the_proxy(run: Any, fake: FakeProxy) -> None:
    """A 404 of a balancer during the polls."""
    fake.before = lambda called: (
        fake.odd.append((STATUS, 404, {})) if called == f"GET {STATUS}" else None
    )
    result = run(*EXPORT_COMMAND)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (
        1,
        "The server responded with 404: not now",
    )


@pytest.mark.parametrize("line", COMMANDS)
def test_https_to_a_port_without_tls_is_reported(
    run: Any, fake: FakeProxy, line: tuple[str, ...]
) -> None:
    result = run(*line, VB365_URL=fake.url.replace("http:", "https:"))
    assert result.exit_code == 2
    assert "does not use TLS: write http:// in --url" in result.stderr
    assert DOUBT not in result.stderr


@pytest.mark.parametrize("line", COMMANDS)
def test_http_to_a_port_with_tls_is_reported(
    run: Any, tls: ssl.SSLContext, line: tuple[str, ...]
) -> None:
    with serving(tls) as fake:
        result = run(*line, VB365_URL=fake.url.replace("https:", "http:"))
    assert result.exit_code == 2
    assert "uses TLS: write https:// in --url" in result.stderr
    assert DOUBT not in result.stderr


@pytest.mark.parametrize("line", COMMANDS)
def test_an_untrusted_certificate_is_reported(
    run: Any, tls: ssl.SSLContext, line: tuple[str, ...]
) -> None:
    with serving(tls) as fake:
        result = run(*line, VB365_URL=fake.url)
        assert fake.seen == []
    assert result.exit_code == 2
    assert f"The certificate of {fake.url} is not trusted" in result.stderr
    assert DOUBT not in result.stderr


@pytest.mark.parametrize("line", [*COMMANDS, ("login", "--username", "bob")])
@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:99999",
        "127.0.0.1:-1",
        "127.0.0.1:abc",
        "127.0.0.1:0",
        "[::1",
        "a..b",
        f"{'x' * 64}.example",
        "xn--a",
        "a\\b",
    ],
)
def test_an_address_that_no_server_can_have_is_reported(
    run: Any, fake: FakeProxy, line: tuple[str, ...], host: str
) -> None:
    result = run(*line, VB365_URL=f"http://{host}", VB365_PASSWORD="secret")
    expected = f"--url must be a URL such as https://vb365.example.com:4443, not 'http://{host}'\n"
    assert (result.exit_code, result.stderr) == (2, expected.replace("\\", "\\\\"))
    assert fake.seen == []


async def test_a_name_with_other_letters_is_looked_up_in_ascii(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And shown as written."""
    names: list[str] = []

    def unknown(host: str, *_: object, **__: object) -> None:
        names.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr("aiohttp.connector.DefaultResolver", aiohttp.ThreadedResolver)
    base = "http://bücher.example/vb365"
    async with Http(f"{base}/") as http:
        with pytest.raises(CommandError, match=f"^{base}: host bücher.example does not exist"):
            await http.call("GET", "/v8/x", {})
    assert names == ["xn--bcher-kva.example"]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_refused_connection_is_reported(run: Any, closed: str, line: tuple[str, ...]) -> None:
    result = run(*line, VB365_URL=f"http://{closed}")
    assert result.exit_code == 2
    assert f"http://{closed}: Cannot connect: Connection refused" in result.stderr
    assert DOUBT not in result.stderr


@pytest.mark.parametrize("line", COMMANDS)
def test_an_unknown_host_is_reported(
    run: Any, slept: list[float], monkeypatch: pytest.MonkeyPatch, line: tuple[str, ...]
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr("aiohttp.connector.DefaultResolver", aiohttp.ThreadedResolver)
    result = run(*line, VB365_URL="http://nowhere.example:4443")
    assert result.exit_code == 2
    assert "host nowhere.example does not exist; check --url" in result.stderr
    assert slept == []
    assert DOUBT not in result.stderr


async def test_a_name_that_cannot_be_resolved_for_now_is_retried() -> None:
    """EAI_AGAIN, and any failure once the server has responded."""
    key: Any = type("Key", (), {"host": "h", "port": 1, "ssl": True, "is_ssl": False})
    for number, connected, code in ((socket.EAI_AGAIN, False, 2), (socket.EAI_NONAME, True, 1)):
        why = aiohttp.ClientConnectorDNSError(key, OSError(number, "no"))
        found = await diagnose(why, URL("http://h:1"), "http://h:1", connected=connected)
        assert isinstance(found, Unreachable)
        assert found.code == code


def test_a_sent_kick_off_stays_in_doubt_if_the_retry_is_refused(
    run: Any, fake: FakeProxy, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.odd = [(EXPORT, "abort", {})] * 9
    result = run(*EXPORT_COMMAND)
    assert (result.exit_code, DOUBT in result.stderr) == (1, True)


# Retry later


@pytest.mark.parametrize("status", [429, 503])
def test_wait_waits_as_often_and_as_long_as_the_server_asks(
    run: Any, fake: FakeProxy, slept: list[float], status: int
) -> None:
    """An export of another caller may take hours."""
    fake.odd = [(EXPORT, status, {"Retry-After": "7200"})] * 12
    assert run(*EXPORT_COMMAND, "--wait").exit_code == 0
    assert slept[:12] == [7200] * 12
    assert len({fields["Idempotency-Key"] for fields, _ in fake.calls(EXPORT)}) == 1


def test_without_wait_the_retry_time_is_reported(
    run: Any, fake: FakeProxy, slept: list[float]
) -> None:
    fake.odd = [(EXPORT, 429, {"Retry-After": "7200"})]
    result = run(*EXPORT_COMMAND)
    assert (result.exit_code, slept) == (1, [])
    message = "The server responded with 429: not now; try again in 2:00:00, or use --wait"
    assert result.stderr.splitlines()[-1] == message
    assert DOUBT not in result.stderr


def test_without_a_key_only_a_429_is_retried(run: Any, fake: FakeProxy, slept: list[float]) -> None:
    """A 503 may come from an intermediary while the export runs."""
    fake.odd = [(EXPORT, 429, {"Retry-After": "9"}), (EXPORT, 503, {"Retry-After": "9"})]
    result = run(*EXPORT_COMMAND, "--wait", "--idempotency-key", "none")
    assert (result.exit_code, slept) == (1, [9])


@pytest.fixture
async def http(closed: str) -> AsyncIterator[Http]:
    async with Http(f"http://{closed}") as http:
        yield http


async def test_a_request_counts_as_sent_once_its_head_is_written(
    http: Http, fake: FakeProxy
) -> None:
    with pytest.raises(Unreachable):
        await http.call("POST", EXPORT, {})
    assert not http.sent("POST", EXPORT)
    async with Http(fake.url) as reached:
        await reached.call("POST", EXPORT, {})
        assert reached.sent("POST", EXPORT)
        assert not reached.sent("GET", EXPORT)
