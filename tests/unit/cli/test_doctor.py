"""`doctor` on the machine of the proxy, and `config check --connect`, which finds the same
(CONTRACT §15).
"""

from __future__ import annotations

import json
import os
import resource
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import structlog
import trustme
from typer.testing import CliRunner, Result

from proxy.cli.diagnosis import listening
from proxy.cli.diagnosis.reach import Certificate, Server, resolved
from proxy.cli.main import app
from tests.support.commands import finished
from tests.support.http_peers import vb365_peer as peer
from tests.support.tls_peers import NOW, pin, write

_HERE = "127.0.0.1"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("VB365_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VB365_CONFIG_DIR", str(tmp_path / "profiles"))
    monkeypatch.setenv("VB365_PROXY_STORAGE__MIN_FREE", "1MiB")
    monkeypatch.setenv("VB365_PROXY_UPSTREAM__CHECK_TIMEOUT", "60s")
    monkeypatch.setenv("VB365_PROXY_UPSTREAM__CONNECT_TIMEOUT", "60s")
    yield
    structlog.reset_defaults()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir(mode=0o700)
    return directory


def invoke(
    *line: str, upstream: str, data: Path, listen: str = "127.0.0.1:0", **settings: str
) -> Result:
    flags = ("--upstream", upstream, "--data-dir", str(data), "--listen", listen)
    line = (*(line or ("doctor",)), *flags, "--admin", "127.0.0.1:0")
    environment = {f"VB365_PROXY_{name}": value for name, value in settings.items()}
    return CliRunner().invoke(app, line, env=environment, catch_exceptions=False)


def states(result: Result) -> dict[str, str]:
    """The state of each check of `doctor --json`."""
    return {each["check"]: each["state"] for each in json.loads(result.stdout)["checks"]}


def lines(result: Result, state: str) -> list[str]:
    """What the lines of `doctor` with this state say."""
    found = [line.partition("  ") for line in result.stdout.splitlines()]
    return [text.strip() for name, _, text in found if name == state]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def valid(authority: trustme.CA, name: str, begins: int, ends: float) -> trustme.LeafCert:
    """A certificate; the dates are days from now."""
    dates = (NOW + timedelta(begins), NOW + timedelta(ends))
    return authority.issue_cert(name, not_before=dates[0], not_after=dates[1])


def test_nothing_is_wrong(authority: trustme.CA, ca_file: str, data: Path) -> None:
    """Each check has a line; nothing stays in the data directory."""
    with peer(authority.issue_cert(_HERE)) as url:
        result = invoke(upstream=url, data=data, UPSTREAM__CA_FILE=ca_file)
        as_json = invoke("doctor", "--json", upstream=url, data=data, UPSTREAM__CA_FILE=ca_file)
    assert (result.exit_code, as_json.exit_code) == (0, 0), result.stdout
    assert lines(result, "failed") == lines(result, "warning") == []
    shown = "\n".join(lines(result, "ok"))
    for text in (
        "VB365's certificate: for 127.0.0.1; signed by ",
        "VB365: API v8, v7\n",
        "clock: within 30 s",
        f"storage.dir: {data} can be written and synced",
    ):
        assert text in shown
    assert json.loads(as_json.stdout)["ok"] is True
    assert set(states(as_json)) >= {"upstream.name", "upstream.connection", "upstream.response"}
    assert list(data.iterdir()) == []


def test_all_problems_are_reported_at_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the configuration too, which have another exit code; each has its fix."""
    monkeypatch.setattr(listening, "_TIMEOUT", 0.1)  # what listens there never says what it is
    data.chmod(0o777)
    with socket.create_server((_HERE, 0)) as taken:
        listen = f"{_HERE}:{taken.getsockname()[1]}"
        result = invoke(
            upstream="http://127.0.0.1:1",
            data=data,
            listen=listen,
            EXPORTS__GRACE="soon",
        )
    assert result.exit_code == 2
    grace, directory, upstream, port = lines(result, "failed")
    assert 'VB365_PROXY_EXPORTS__GRACE: exports.grace = "soon"' in grace
    assert f"can be written by others (mode 0777). Run: chmod 700 {data}" in directory
    refused = "upstream.url: no connection to 127.0.0.1:1: Connection refused. Start the server"
    assert upstream.startswith(refused)
    assert port == (
        f"listen.address: {listen} is in use. Stop the program that listens there, or choose "
        "another port, with --listen too."
    )
    assert result.stdout.splitlines()[-1].startswith("4 failed, ")


def test_sections_that_are_not_valid_are_not_checked(data: Path) -> None:
    """Their defaults would be checked."""
    with peer() as url:
        line = ("doctor", "--json")
        result = invoke(*line, upstream=url, data=data, LISTEN__WORKERS="x", STORAGE__JOBS="x")
    assert result.exit_code == 2
    found = states(result)
    assert found["upstream.response"] == "ok"
    assert not [check for check in found if check.startswith(("listen", "storage"))]


@pytest.mark.parametrize(
    ("names", "begins", "ends", "message"),
    [
        (_HERE, -9, -1, "The certificate of 127.0.0.1 has expired: renew it on the server"),
        (_HERE, 1, 9, "The certificate of 127.0.0.1 is not valid yet: check the clocks"),
        ("else.test", -1, 99, "is for another name; use that name in upstream.url"),
    ],
)
def test_a_certificate_of_vb365_that_is_not_trusted(
    authority: trustme.CA,
    ca_file: str,
    data: Path,
    names: str,
    begins: int,
    ends: int,
    message: str,
) -> None:
    """The line shows what the certificate says, too."""
    with peer(valid(authority, names, begins, ends)) as url:
        result = invoke(upstream=url, data=data, UPSTREAM__CA_FILE=ca_file)
    assert result.exit_code == 1
    (found,) = lines(result, "failed")
    assert found.startswith(f"VB365's certificate: for {names}; signed by ")
    assert f"valid until {NOW + timedelta(ends):%Y-%m-%d}: " in found
    assert message in found


def test_a_certificate_that_expires_soon_is_a_warning(
    authority: trustme.CA, ca_file: str, data: Path
) -> None:
    with peer(authority.issue_cert(_HERE, not_after=NOW + timedelta(3.5))) as url:
        result = invoke(upstream=url, data=data, UPSTREAM__CA_FILE=ca_file)
    assert result.exit_code == 0
    (found,) = lines(result, "warning")
    assert found.endswith(": expires in 3 d. Renew it on the VB365 server.")


def test_a_pinned_certificate_may_have_any_name_and_date(authority: trustme.CA, data: Path) -> None:
    leaf = authority.issue_cert("else.test", not_after=NOW)
    with peer(leaf) as url:
        result = invoke(
            "doctor", "--json", upstream=url, data=data, UPSTREAM__FINGERPRINT=pin(leaf)
        )
    assert (result.exit_code, states(result)["upstream.certificate"]) == (0, "ok")


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("CA_FILE", "", "trusted"),
        ("FINGERPRINT", "", "pinned by upstream.fingerprint"),
        ("VERIFY", "false", "not verified. Set upstream.fingerprint"),
    ],
)
def test_a_certificate_that_cannot_be_read(
    authority: trustme.CA,
    ca_file: str,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    value: str,
    message: str,
) -> None:
    """The line says whether the proxy trusts it, and nothing else."""

    async def unreadable(server: Server) -> Certificate:
        raise ValueError

    monkeypatch.setattr(Certificate, "at", unreadable)
    leaf = authority.issue_cert(_HERE)
    given = {"CA_FILE": ca_file, "FINGERPRINT": pin(leaf)}
    with peer(leaf) as url:
        found = invoke(
            upstream=url, data=data, **{f"UPSTREAM__{setting}": given.get(setting, value)}
        )
    assert found.exit_code == 0, found.stdout
    assert f"VB365's certificate: {message}" in found.stdout


@pytest.mark.parametrize(
    ("status", "fix"),
    [(404, "by default port 4443"), (200, "by default port 4443"), (503, "VB365's log")],
)
def test_a_server_that_is_no_vb365(data: Path, status: int, fix: str) -> None:
    with peer(status=status) as url:
        result = invoke(upstream=url, data=data)
    assert result.exit_code == 1
    (found,) = lines(result, "failed")
    assert f"{url} does not respond as VB365 does (/v8: {status}, " in found
    assert fix in found


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
async def test_a_name_that_cannot_be_resolved(host: str) -> None:
    """No name server is asked for these."""
    server = Server(check="upstream", setting="upstream.url", host=host, port=1, timeout=60)
    found, addresses = await resolved(server)
    assert addresses == []
    assert str(found).startswith(f"upstream.url: {host} cannot be resolved: ")
    assert str(found).endswith(". Correct upstream.url, or the name servers of this machine.")


def test_a_server_that_does_not_respond(data: Path) -> None:
    with socket.create_server((_HERE, 0)) as silent:
        url = f"http://{_HERE}:{silent.getsockname()[1]}"
        result = invoke(upstream=url, data=data, UPSTREAM__CHECK_TIMEOUT="100ms")
    assert result.exit_code == 1
    (found,) = lines(result, "failed")
    assert found.startswith("VB365: no response: no response within 0.1 s. Look at VB365's ")


@pytest.mark.parametrize(
    ("seconds", "state", "message"),
    [(-90, "warning", "s ahead of the server's"), (3600, "failed", "s behind the server's")],
)
def test_a_clock_that_differs(data: Path, seconds: int, state: str, message: str) -> None:
    with peer(ahead=timedelta(seconds=seconds)) as url:
        result = invoke(upstream=url, data=data)
    (found,) = lines(result, state)
    assert found.startswith("clock: ")
    assert message in found
    assert result.exit_code == (state == "failed")


@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_the_proxy_itself_as_upstream(data: Path, listen: str) -> None:
    """By its address, whether it runs or not."""
    with peer() as url:
        port = url.rpartition(":")[2]
        result = invoke(upstream=url, data=data, listen=f"{listen}:{port}")
    assert result.exit_code == 1
    assert f"127.0.0.1:{port} is the proxy itself, which listens on" in lines(result, "failed")[0]


@pytest.mark.parametrize(
    ("listen", "admin", "same"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "localhost", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("0.0.0.0", "[::1]", False),
    ],
)
def test_one_address_for_clients_and_operators(
    data: Path, listen: str, admin: str, same: bool
) -> None:
    """`serve` and `config check` reject it too."""
    flags = ("--listen", f"{listen}:4443", "--admin", f"{admin}:4443", "--data-dir", str(data))
    line = ("config", "check", "--upstream", "https://vb365.example.com", *flags)
    result = CliRunner().invoke(app, line)
    problem = f"admin.address = {admin}:4443 is taken by listen.address = {listen}:4443"
    assert (result.exit_code, problem in result.stderr) == ((2, True) if same else (0, False))


@pytest.mark.parametrize(
    ("name", "begins", "ends", "state", "message"),
    [
        (_HERE, -9, -1, "failed", ": expired. Renew it"),
        (_HERE, 1, 9, "failed", ": not valid before "),
        (_HERE, -1, 3.5, "warning", ": expires in 3 d. Renew it"),
        ("else.test", -1, 99, "warning", "is not for proxy.test, the name in public.url"),
    ],
)
def test_the_own_certificate(
    authority: trustme.CA,
    data: Path,
    tmp_path: Path,
    name: str,
    begins: int,
    ends: float,
    state: str,
    message: str,
) -> None:
    certificate, key = write(valid(authority, name, begins, ends), tmp_path)
    key.chmod(0o600)
    own = {"LISTEN__TLS_CERTIFICATE": str(certificate), "LISTEN__TLS_KEY": str(key)}
    public = "https://proxy.test" if name != _HERE else f"https://{_HERE}"
    with peer() as url:
        result = invoke(upstream=url, data=data, PUBLIC__URL=public, **own)
    (found,) = lines(result, state)
    assert found.startswith("listen.tls_certificate: ")
    assert message in found
    assert result.exit_code == (state == "failed")


def test_a_key_of_another_certificate_and_one_that_all_can_read(
    authority: trustme.CA, data: Path, tmp_path: Path
) -> None:
    """The first is a problem of the configuration; VB365 is checked all the same."""
    certificate, key = write(authority.issue_cert(_HERE), tmp_path)
    _, other = write(authority.issue_cert(_HERE), tmp_path, "other")
    own = {"LISTEN__TLS_CERTIFICATE": str(certificate)}
    key.chmod(0o644)
    with peer() as url:
        wrong = invoke(upstream=url, data=data, LISTEN__TLS_KEY=str(other), **own)
        open_to_all = invoke(upstream=url, data=data, LISTEN__TLS_KEY=str(key), **own)
    assert wrong.exit_code == 2
    (found,) = lines(wrong, "failed")
    assert f"{other} is not the key of the first certificate in {certificate}" in found
    assert "VB365: API v8, v7" in lines(wrong, "ok")
    assert open_to_all.exit_code == 0
    (found,) = lines(open_to_all, "warning")
    assert found == (f"listen.tls_key: all users can read {key} (mode 0644). Run: chmod o= {key}")


def test_plain_http_at_an_address_of_the_network(data: Path) -> None:
    with peer() as url:
        result = invoke(upstream=url, data=data, listen="0.0.0.0:0")
    assert result.exit_code == 0
    (found,) = lines(result, "warning")
    assert "clients connect to 0.0.0.0:0 over plain http" in found


def test_a_directory_that_cannot_be_written() -> None:
    """In /proc, nobody can; and there is no space. As another user than root, it is a problem of
    the configuration.
    """
    with peer() as url:
        result = invoke(upstream=url, data=Path("/proc"))
    assert result.exit_code in (1, 2)
    found = "\n".join(lines(result, "failed"))
    assert "storage.dir: /proc cannot be written: " in found
    assert "storage.min_free: 0 KiB free at /proc, 1 MiB needed: exports get 503" in found


def test_a_disk_that_takes_no_more_bytes(data: Path) -> None:
    """EFBIG of RLIMIT_FSIZE."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    with peer() as url:
        flags = ("--upstream", url, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
        done = finished(
            "doctor",
            *flags,
            *("--data-dir", str(data)),
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            preexec_fn=limit,
        )
    assert done.returncode == 1, done.stderr
    assert f"storage.dir: {data} cannot be written: File too large" in done.stdout
    assert list(data.iterdir()) == []


def test_config_check_connect_finds_the_same(data: Path) -> None:
    """Errors and warnings are on stderr, a line each, and stdout is as without --connect."""
    check = ("config", "check", "--connect")
    with peer() as url:
        good = invoke(*check, upstream=url, data=data, listen="0.0.0.0:0")
    assert (good.exit_code, good.stdout) == (0, f"Configuration OK: 0.0.0.0:0 -> {url}\n")
    (line,) = good.stderr.splitlines()
    assert line.startswith("Warning: listen.tls_certificate: clients connect to ")
    with peer(status=404) as url:
        bad = invoke(*check, upstream=url, data=data, EXPORTS__GRACE="soon")
    assert (bad.exit_code, bad.stdout) == (2, "")
    assert bad.stderr.startswith("1 problem in the configuration:\n")
    assert bad.stderr.splitlines()[-1].startswith(f"VB365: {url} does not respond as VB365 does")


@pytest.mark.parametrize("option", ["--url", "--profile"])
def test_options_of_both_views_are_rejected(data: Path, option: str) -> None:
    result = invoke("doctor", option, "x", upstream="http://127.0.0.1:1", data=data)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--url and --profile are of a client: use them alone" in result.stderr
