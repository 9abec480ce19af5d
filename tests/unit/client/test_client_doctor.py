"""`doctor --url`: what a client can see of a proxy, against the simulator (CONTRACT §15)."""

from __future__ import annotations

import json
from pathlib import Path

import trustme
from typer.testing import CliRunner, Result

from proxy.cli.main import app
from tests.support.tls_peers import server_side
from tests.unit.client.conftest import Stack, commanded, serving


def doctor(*line: str, **env: str) -> Result:
    return CliRunner().invoke(app, ("doctor", *line), env=env, catch_exceptions=False)


def failures(result: Result) -> list[str]:
    return [line for line in result.stdout.splitlines() if line.startswith("failed")]


def test_a_login_that_works(stack: Stack) -> None:
    """After `login` the command needs no options, and sees through the proxy to VB365."""
    login = ("login", stack.url, "--username", "alice")
    assert commanded(*login, VB365_PASSWORD="secret-a").exit_code == 0
    result = doctor()
    assert result.exit_code == 0, result.stdout
    for text in (
        "proxy: vb365-async-proxy 0.",
        "VB365: API v8, v7, v6\n",
        "clock: within 30 s of the server's\n",
        "login: accepted by VB365 8.0.0.1\n",
    ):
        assert text in result.stdout


def test_a_token_that_is_not_valid(stack: Stack) -> None:
    result = doctor("--url", stack.url, "--json", VB365_TOKEN="stale")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    (bad,) = [each for each in document["checks"] if each["state"] != "ok"]
    assert document["ok"] is False
    assert (bad["check"], bad["subject"]) == ("login.token", "login")
    assert bad["fix"] == f"Log in again: vb365-async-proxy login {stack.url}"
    assert "stale" not in result.output


def test_no_credentials_are_needed(stack: Stack) -> None:
    result = doctor("--url", stack.url)
    assert result.exit_code == 0
    assert "login: none; to keep one: vb365-async-proxy login http" in result.stdout


def test_vb365_itself(stack: Stack) -> None:
    """VB365 responds, so only the address is wrong."""
    result = doctor("--url", stack.simulator.url)
    assert result.exit_code == 1
    (line,) = failures(result)
    assert "is not the proxy: it responded with 404 to /_async/openapi.json. Set --url to" in line


def test_vb365_away(stack: Stack) -> None:
    """The proxy says so, after it has tried again."""
    stack.simulator.fault(path="ServiceInstance", count=100, reset=True)
    result = doctor("--url", stack.url)
    stack.simulator.faults.clear()
    assert result.exit_code == 1
    (line,) = failures(result)
    assert "VB365: The server responded with 502" in line
    assert "Run `vb365-async-proxy doctor` on the machine of the proxy." in line


def test_a_server_that_cannot_be_reached() -> None:
    result = doctor("--url", "http://127.0.0.1:1")
    assert result.exit_code == 1
    assert "--url: no connection to 127.0.0.1:1: Connection refused." in failures(result)[0]


def test_the_machine_of_a_running_proxy(stack: Stack, tmp_path: Path) -> None:
    """Its ports are in use by itself; it is not VB365."""
    own = ("--listen", stack.url.removeprefix("http://"), "--admin", "127.0.0.1:0")
    line = (*own, "--data-dir", str(tmp_path), "--upstream")
    result = doctor(*line, stack.simulator.url, VB365_PROXY_STORAGE__MIN_FREE="1MiB")
    assert result.exit_code == 0, result.stdout
    assert "listen.address: a vb365-async-proxy listens on 127.0.0.1:" in result.stdout
    elsewhere = ("--listen", "127.0.0.1:0", *own[2:], "--data-dir", str(tmp_path), "--upstream")
    result = doctor(*elsewhere, stack.url, VB365_PROXY_STORAGE__MIN_FREE="1MiB")
    assert result.exit_code == 1
    assert f"{stack.url} is a vb365-async-proxy, not VB365" in failures(result)[0]


def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    """What it says is shown; with its authority it is trusted."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with serving(server_side(authority.issue_cert("127.0.0.1"))) as fake:
        result = doctor("--url", fake.url)
        trusted = doctor("--url", fake.url, "--ca-file", str(tmp_path / "ca.pem"))
    assert result.exit_code == 1
    assert "certificate: for 127.0.0.1; signed by " in result.stdout
    assert "The certificate of https" in failures(result)[0]
    assert "is not trusted" not in trusted.stdout


def test_what_is_no_address_is_an_error_of_the_command_line() -> None:
    result = doctor("--url", "ftp://x")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--url must be a URL such as" in result.stderr
