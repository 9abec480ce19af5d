"""The command line: commands, exit codes, stdout and stderr (CONTRACT §15)."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import takewhile
from pathlib import Path
from subprocess import DEVNULL, PIPE
from threading import Thread
from typing import Any

import pytest
import trustme
import typer.main
from typer.testing import CliRunner, Result

import proxy
from proxy.cli.client import COMMANDS as CLIENT_COMMANDS
from proxy.cli.doctor import doctor_app
from proxy.cli.main import app
from proxy.cli.options import Sources
from proxy.client import client_app
from proxy.config import FLAGS, text
from tests.support.commands import ANY_PORTS, PYTHON, ROOT, finished, listening, started
from tests.support.tls_peers import der, server_side

URL = "https://vb365.example.com:4443"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("VB365_PROXY_", "FORCE_COLOR")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, prog_name="vb365-async-proxy")


# The whole


def test_the_commands_are_those_of_the_contract() -> None:
    """§15: `serve`, `demo`, `simulate`, `export`, `jobs`, `config check|print|init|schema`,
    `healthcheck`.
    """
    shown = invoke("--help").output
    for command in ("serve", "demo", "simulate", "export", "jobs", "config", "healthcheck"):
        assert re.search(rf"^\W*{command}\s", shown, re.MULTILINE), command
    shown = invoke("config", "--help").output
    for command in ("check", "print", "init", "schema"):
        assert re.search(rf"^\W*{command}\s", shown, re.MULTILINE), command


def test_serve_has_the_flags_of_the_contract() -> None:
    """§15: `--config FILE --upstream URL --listen HOST:PORT --admin HOST:PORT --data-dir DIR
    --workers N`.
    """
    shown = invoke("serve", "--help").output
    for flag in ("--config", "--upstream", "--listen", "--admin", "--data-dir", "--workers"):
        assert flag in shown


def test_each_flag_of_the_configuration_is_one_option() -> None:
    """The options that set a setting are those of the configuration's table, by the same name."""
    assert set(Sources().flags) == set(FLAGS)
    serve = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    options = {option for parameter in serve.params for option in parameter.opts}
    assert options == {*FLAGS.values(), "--config"}
    given = dict.fromkeys(("upstream", "listen", "admin", "data_dir", "workers"), "x")
    assert Sources(**given).flags == dict.fromkeys(FLAGS, "x")  # type: ignore[arg-type]


def test_python_m_proxy_is_the_same_command() -> None:
    """§15: also `python -m proxy`."""
    done = finished("--version", check=True)
    assert done.stdout == f"vb365-async-proxy {proxy.__version__}\n"


def test_help_loads_nothing_heavy() -> None:
    """--help imports neither aiohttp nor pydantic, which take long to load."""
    code = (
        "import sys; from typer.testing import CliRunner; from proxy.cli.main import app;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0;"
        "print(*{'aiohttp', 'pydantic', 'cryptography', 'uvloop'} & set(sys.modules))"
    )
    done = finished("-c", code, program=PYTHON, check=True)
    assert done.stdout.strip() == ""


def test_serve_loads_no_library_that_its_settings_do_not_need(tmp_path: Path) -> None:
    """With the default settings: none for shared stores, traces, keys or terminals, and nothing of
    webhooks, rescued exports, workers or the other commands.
    """
    arguments = ["serve", "--upstream", URL, "--data-dir", str(tmp_path), *ANY_PORTS]
    program = (*PYTHON, "-X", "importtime", "-m", "proxy")
    with started(*arguments, program=program, stdout=DEVNULL) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        before = takewhile(lambda line: not line.startswith("listening on "), lines)
        loaded = {line.rpartition("|")[2].strip() for line in before}
    assert "aiohttp.web" in loaded
    libraries = ("cryptography.", "redis.", "obstore.", "opentelemetry.", "rich.", "pygments.")
    own = ("client", "simulator", "workers", "webhooks", "rescue", "relay.handover")
    needless = (*libraries, *(f"proxy.{name}" for name in own))
    assert [name for name in loaded if name.startswith(needless)] == []


def test_a_client_loads_nothing_of_the_server() -> None:
    """Its commands need aiohttp's client, and neither settings nor stores."""
    code = "import sys, proxy.client; print(*sys.modules)"
    loaded = finished("-c", code, program=PYTHON, check=True).stdout.split()
    assert "aiohttp.client" in loaded
    own = {name.split(".")[1] for name in loaded if name.startswith("proxy.")}
    assert own == {"client", "core"}
    assert not {"aiohttp.web", "pydantic", "diskcache", "uvloop"} & set(loaded)


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["serve", "--nonsense"], ["simulate", "--size", "3"]]
)
def test_a_wrong_command_line_exits_2(arguments: list[str]) -> None:
    assert invoke(*arguments).exit_code == 2


@pytest.mark.parametrize("arguments", [["export", "--help"], ["jobs", "fetch", "--help"]])
def test_the_client_s_commands_are_part_of_it(arguments: list[str]) -> None:
    """They are passed on with all their options."""
    result = invoke(*arguments)
    assert result.exit_code == 0
    assert f"vb365-async-proxy {' '.join(arguments[:-1])} [OPTIONS]" in result.output
    assert "--output" in result.output


def test_the_help_of_the_whole_shows_the_client_s_commands() -> None:
    """With the first line of their own help, without loading them."""
    client: Any = typer.main.get_command(client_app)
    own = {
        name: (command.help or command.callback.__doc__).splitlines()[0]
        for name, command in client.commands.items()
    }
    assert own == {name: text for name, _, text in CLIENT_COMMANDS}


@pytest.mark.parametrize("arguments", [["-h"], ["export", "-h"], ["export", "mailbox", "-h"]])
def test_help_has_a_short_option(arguments: list[str]) -> None:
    result = invoke(*arguments)
    assert (result.exit_code, "Usage: vb365-async-proxy" in result.output) == (0, True)


def test_version_has_a_short_option() -> None:
    assert invoke("-V").output == f"vb365-async-proxy {proxy.__version__}\n"


def test_exit_codes_are_in_the_help_of_exports() -> None:
    shown = " ".join(invoke("export", "mailbox", "--help").output.split())
    assert "3 success with a warning, 4 cancelled, 5 some of a list failed, 130 Ctrl-C" in shown


def test_the_help_of_each_command_has_its_exit_codes() -> None:
    """Of groups and of the whole, too."""
    whole: Any = typer.main.get_command(app)
    client: Any = typer.main.get_command(client_app)
    doctor: Any = typer.main.get_command(doctor_app)
    commands = {None: whole} | whole.commands | client.commands | {"doctor": doctor}
    groups = [name for name, each in commands.items() if name and hasattr(each, "commands")]
    commands |= {
        (name, own): each for name in groups for own, each in commands[name].commands.items()
    }
    assert {("jobs", "list"), ("config", "check"), "serve"} < commands.keys()
    assert [
        name for name, each in commands.items() if "Exit codes: 0" not in (each.epilog or "")
    ] == []


def test_the_client_s_usage_errors_exit_2() -> None:
    assert invoke("export", "--nonsense").exit_code == 2


# Configuration


@pytest.mark.parametrize("command", [["serve"], ["config", "check"], ["config", "print"]])
def test_all_problems_are_reported_and_nothing_starts(command: list[str], tmp_path: Path) -> None:
    """§15: unknown keys and bad values: all problems at once, exit 2, nothing started."""
    file, data = tmp_path / "proxy.toml", tmp_path / "data"
    file.write_text(f'[storage]\ndir = "{data}"\n[exports]\ngrase = "1s"\nmax_wait = 5')
    result = invoke(*command, "--config", str(file), "--listen", "nowhere")
    assert result.exit_code == 2
    assert result.stdout == ""
    for name in (
        "exports.grase",
        "exports.max_wait",
        "flag --listen: listen.address",
        "upstream.url is required",
    ):
        assert name in result.stderr
    assert not data.exists()


@pytest.mark.parametrize("command", [["serve"], ["config", "check"]])
@pytest.mark.parametrize(
    ("jobs", "artifacts", "words"),
    [
        ("redis://host/0?timeout=5", "s3://bucket?regio=x", ("'timeout'", "'regio'")),
        ("redis://host:99999/0", "s3://bucket?endpoint=http://h:1", ("'host:99999'", "encrypted")),
        ("redis://host/0?db=1", "az://container?allow_http=maybe", ("twice", "true or false")),
        ("unix:///run/r.sock?db=x", "gs://bucket?endpoint=https://h:0", ("'x'", "be a URL")),
        ("redis+sentinel://host/a/b/c", "s3://bucket/../x", ("path", "'../x'")),
        (
            "redis://host?ca_file=/x",
            "s3://bucket?server_side_encryption=AES",
            ("without TLS", "AES256"),
        ),
    ],
)
def test_a_malformed_address_of_a_store_is_a_problem_like_any_other(
    command: list[str],
    jobs: str,
    artifacts: str,
    words: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """§15: exit 2, with all other problems."""
    monkeypatch.setenv("VB365_PROXY_STORAGE__JOBS", jobs)
    monkeypatch.setenv("VB365_PROXY_STORAGE__ARTIFACTS", artifacts)
    monkeypatch.setenv("VB365_PROXY_EXPORTS__GRACE", "soon")
    result = invoke(*command, "--upstream", URL, "--data-dir", str(tmp_path / "data"))
    assert result.exit_code == 2
    for name, word in zip(
        ("JOBS: storage.jobs", "ARTIFACTS: storage.artifacts"), words, strict=True
    ):
        assert f"environment variable VB365_PROXY_STORAGE__{name}" in result.stderr
        assert word in result.stderr
    assert "exports.grace" in result.stderr
    assert not (tmp_path / "data").exists()


def test_17_serve_refuses_webhooks_without_a_valid_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 2, and nothing is started: unsigned notifications could be anybody's."""
    data = tmp_path / "data"
    monkeypatch.setenv("VB365_PROXY_WEBHOOKS__URLS", "https://x")
    for secret, problem in (("", "is required"), ("whsec_c4nary", "is not whsec_ and 24 to 64")):
        monkeypatch.setenv("VB365_PROXY_WEBHOOKS__SECRETS", secret)
        result = invoke("serve", "--upstream", URL, "--data-dir", str(data))
        assert result.exit_code == 2
        assert "webhooks.secrets" in result.stderr
        assert problem in result.stderr
        assert "c4nary" not in result.stderr
        assert not data.exists()


def test_config_check_needs_no_file(tmp_path: Path) -> None:
    result = invoke("config", "check", "--upstream", URL, "--data-dir", str(tmp_path))
    assert result.exit_code == 0
    assert URL in result.stdout


def test_the_environment_may_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text(f'[upstream]\nurl = "{URL}"\n[storage]\ndir = "{tmp_path}"')
    monkeypatch.setenv("VB365_PROXY_CONFIG", str(file))
    assert invoke("config", "check").exit_code == 0


def test_config_print_shows_what_is_in_force_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VB365_PROXY_ADMIN__TOKEN", "c4nary")
    monkeypatch.setenv("VB365_PROXY_EXPORTS__GRACE", "1500ms")
    result = invoke("config", "print", "--upstream", URL)
    settings = tomllib.loads(result.stdout)
    assert settings["exports"]["grace"] == "1500ms"
    assert settings["upstream"]["url"] == URL
    assert settings["admin"]["token"] == "********"
    assert "c4nary" not in result.output


def test_config_init_writes_the_shipped_file_and_replaces_none(tmp_path: Path) -> None:
    shipped = (Path(__file__).parents[3] / "config" / "proxy.toml").read_text(encoding="utf-8")
    assert invoke("config", "init").stdout == shipped
    file = tmp_path / "proxy.toml"
    assert invoke("config", "init", str(file)).exit_code == 0
    assert file.read_text(encoding="utf-8") == shipped
    file.write_text("mine")
    result = invoke("config", "init", str(file))
    assert result.exit_code == 2
    assert "Cannot write " in result.stderr
    assert "File exists" in result.stderr
    assert file.read_text() == "mine"


def test_config_schema_is_json() -> None:
    assert json.loads(invoke("config", "schema").stdout) == text.json_schema()


# serve


def test_serve_reports_its_address_is_healthy_and_ends_on_sigterm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§15: port 0 takes any free one; the ready line; `healthcheck` against the real admin
    listener; SIGTERM.
    """
    monkeypatch.setenv("VB365_PROXY_LOG__FORMAT", "json")
    places = (
        "--upstream",
        "http://127.0.0.1:1",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    )
    with listening("serve", *places, "--data-dir", str(tmp_path)) as (program, url):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
        assert program.stderr is not None
        admin = json.loads(program.stderr.readline())["admin"].removeprefix("http://")
        assert invoke("healthcheck", "--admin", admin).exit_code == 0
        assert invoke("healthcheck", "--admin", admin, "--ready").exit_code == 1, (
            "its upstream is not there"
        )
        program.send_signal(signal.SIGTERM)
        assert program.wait(40) == 0


@pytest.mark.skipif(
    sys.platform == "win32",
    reason="Windows has no file modes: the checks of them are not tested there",
)
def test_a_shared_data_directory_is_refused_by_serve_and_by_config_check(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    for command in (["serve"], ["config", "check"]):
        result = invoke(*command, "--upstream", URL, "--data-dir", str(tmp_path))
        assert result.exit_code == 2
        assert (
            f"can be written by others (mode 0770)\n    Run: chmod 700 {tmp_path}" in result.stderr
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    sys.platform == "win32",
    reason="Windows has no file modes: the checks of them are not tested there",
)
@pytest.mark.parametrize(
    "line", [("serve",), ("config", "check"), ("config", "check", "--connect"), ("doctor",)]
)
def test_a_data_directory_of_a_newer_version_is_refused(
    line: tuple[str, ...], tmp_path: Path
) -> None:
    """By all that say whether the proxy can start, with the fix."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "layout").write_text("3\n", encoding="ascii")
    options = ("--upstream", "http://127.0.0.1:9", "--data-dir", str(data), *ANY_PORTS)
    result = invoke(*line, *options)
    assert result.exit_code == 2
    text = " ".join(result.output.split())
    assert f"storage.dir = {data}: a newer version has written it" in text
    assert "Install the newer version again, or set storage.dir to an empty directory" in text
    assert [path.name for path in data.iterdir()] == ["layout"]


def test_what_serve_creates_is_for_its_user_alone(tmp_path: Path) -> None:
    """Whatever umask it is started with, and whichever library creates the file."""
    line = ("serve", *ANY_PORTS, "--upstream", "http://127.0.0.1:1")
    data = str(tmp_path / "data")
    with listening(*line, "--data-dir", data, umask=0) as (program, _):
        assert program.stderr is not None
        modes = {
            path: path.stat().st_mode & 0o077
            for path in [tmp_path / "data", *(tmp_path / "data").rglob("*")]
        }
        program.send_signal(signal.SIGTERM)
        program.stderr.read()
        assert program.wait(40) == 0
    assert len(modes) > 3
    assert set(modes.values()) == {0}


def test_serve_reports_a_port_in_use(tmp_path: Path) -> None:
    with listening("simulate", "--port", "0") as (_, url):
        taken = url.removeprefix("http://")
        line = ("serve", *ANY_PORTS, "--upstream", url, "--listen", taken)
        second = finished(*line, "--data-dir", str(tmp_path))
    assert second.returncode == 1
    assert f"listen.address {taken}" in second.stderr
    assert "Traceback" not in second.stderr


# healthcheck


@contextmanager
def admin(status: int, body: bytes = b"a word") -> Iterator[tuple[str, list[str]]]:
    """Run a server that responds with `status`; yield its address and a list of its requests."""
    requests: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(f"{self.headers['Host']} {self.path}")
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}", requests
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
@pytest.mark.parametrize(("options", "path"), [([], "/healthz"), (["--ready"], "/readyz")])
def test_healthcheck_asks_the_admin_listener(
    status: int, code: int, options: list[str], path: str
) -> None:
    """§15: `healthcheck` needs no upstream, which may be a flag of `serve`."""
    with admin(status) as (address, requests):
        result = invoke("healthcheck", "--admin", address, *options)
    # The listener accepts this name whatever admin.address is.
    assert (result.exit_code, requests) == (code, [f"localhost {path}"])
    assert result.stdout == f"{status} a word\n"


@pytest.mark.parametrize(
    ("status", "checks", "shown"),
    [
        (200, {"upstream": {"ok": True}, "jobs": {"ok": True}}, "200 ready\n"),
        (
            503,
            {"upstream": {"ok": False, "reason": "refused\x1b"}, "jobs": {"ok": True}},
            "503 not ready\nupstream: refused\\x1b\n",
        ),
        (
            200,
            {"jobs": {"ok": True, "reason": "no persistence"}},
            "200 ready\njobs: no persistence\n",
        ),
    ],
)
def test_healthcheck_shows_the_reasons(status: int, checks: dict[str, object], shown: str) -> None:
    """Also that of a check that succeeds, which an operator should correct."""
    body = json.dumps({"ready": status == 200, "checks": checks}).encode()
    with admin(status, body) as (address, _):
        result = invoke("healthcheck", "--admin", address, "--ready")
    assert (result.exit_code, result.stdout) == (int(status != 200), shown)


def test_healthcheck_exits_1_without_a_response() -> None:
    with admin(200) as (address, _):
        pass
    result = invoke("healthcheck", "--admin", address, "--timeout", "2")
    assert result.exit_code == 1
    assert "No response from 127.0.0.1" in result.stderr


# simulate


def test_simulate_runs_until_sigterm() -> None:
    """It serves the VB365 API on a free port."""
    with listening(
        "simulate", "--port", "0", "--size", "2MiB", "--generate", "10ms", "--rate", "1GiB"
    ) as (program, url):
        form = b"grant_type=password&username=alice&password=secret-a"
        with urllib.request.urlopen(f"{url}/v8/token", form, timeout=10) as response:
            assert json.load(response)["access_token"]
        program.send_signal(signal.SIGTERM)
        assert program.wait(10) == 0


def test_simulate_signs_its_own_certificate() -> None:
    """As VB365 does by default."""
    with listening("simulate", "--port", "0", "--tls") as (program, url):
        assert url.startswith("https://127.0.0.1:")
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            urllib.request.urlopen(f"{url}/v8/token", timeout=10)
        program.send_signal(signal.SIGINT)
        assert program.wait(10) == 0


def test_simulate_reports_a_port_in_use() -> None:
    with listening("simulate", "--port", "0") as (_, url):
        second = finished("simulate", "--port", url.rpartition(":")[2])
    assert second.returncode == 1
    assert "Cannot listen on 127.0.0.1 port" in second.stderr
    assert "Traceback" not in second.stderr


# demo


def test_demo_shows_an_export_from_login_to_the_verified_file() -> None:
    """202, polls, download, digest, exit code 0."""
    done = finished("demo", "--port", "0", timeout=110)  # four processes start in turn
    assert done.returncode == 0, done.stdout + done.stderr
    for line in (
        "POST /v8/token  ->  200",
        "> Prefer: respond-async",
        "< HTTP/1.1 202 Accepted",
        "< Location: http://",
    ):
        assert line in done.stdout
    assert "Transferring" in done.stderr
    assert "The file holds, byte for byte, what VB365 sent: SHA-256 " in done.stdout


def test_demo_serve_keeps_everything_running_until_ctrl_c() -> None:
    """What it prints works in a shell unchanged: variables and curl commands."""
    with started("demo", "--serve", "--port", "0", stdout=PIPE, stderr=DEVNULL) as demo:
        assert demo.stdout is not None
        lines = list(takewhile(lambda line: "Ctrl-C stops it" not in line, demo.stdout))
        pasted = [line for line in lines if re.match(r"URL=|AUTH=|export |curl ", line)]
        assert [line.split("=")[0].split(" ")[0] for line in pasted] == (
            ["URL", "AUTH", "export", "curl", "curl", "curl"]
        )
        variables, (kick_off, status, _) = "".join(pasted[:3]), pasted[3:]
        checked = '[ "$AUTH" = "Authorization: Bearer $VB365_TOKEN" ] && [ "$URL" = "$VB365_URL" ]'

        def pasting(command: str) -> str:
            script = f"set -eu\n{variables}{checked}\n{command}"
            return finished("-c", script, program=("bash",), check=True).stdout

        assert "HTTP/1.1 202 Accepted" in pasting(kick_off)
        assert '"status":"Success"' in pasting(status).replace(" ", "")
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 0


# Certificates


def test_a_fingerprint_is_that_of_the_certificate() -> None:
    """On stdout alone, as openssl writes it; the rest is on stderr. A URL names a server too."""
    certificate = trustme.CA(organization_name="a\x1b[2J").issue_cert("127.0.0.1")
    context = server_side(certificate)
    digest = sha256(der(certificate.cert_chain_pems[0].bytes())).hexdigest()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with context.wrap_socket(connection, server_side=True) as secure:
                    secure.recv(1)

        thread = Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"https://127.0.0.1:{port}/v8"):
            result = invoke("fingerprint", address)
            assert result.stdout.replace(":", "").strip().lower() == digest
            assert "Valid until: " in result.stderr
            assert "\x1b" not in result.stderr
        thread.join(10)


@pytest.mark.parametrize(
    ("address", "code", "message"),
    [
        ("a b", 2, "is not HOST:PORT"),
        ("host:port", 2, "is not HOST:PORT"),
        ("a..b", 2, "is not HOST:PORT"),
        ("", 2, "is not HOST:PORT"),
        ("user:password@host:1", 2, "is not HOST:PORT"),
        ("127.0.0.1:1", 1, "127.0.0.1 port 1: Connection refused"),
    ],
)
def test_a_server_without_a_certificate_is_reported(address: str, code: int, message: str) -> None:
    result = invoke("fingerprint", address)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr


# README's first deployment


def test_the_readme_s_first_commands_work_with_a_self_signed_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands as written, with the real address and with url and fingerprint filled in."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.findall(r"^   ```sh\n(.*?)^   ```", readme, re.DOTALL | re.MULTILINE)[0]
    show, init, check, serve = (line.strip().partition("  ")[0] for line in block.splitlines())
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name in ("LISTEN__ADDRESS", "ADMIN__ADDRESS"):
        monkeypatch.setenv(f"VB365_PROXY_{name}", "127.0.0.1:0")
    monkeypatch.setenv("VB365_PROXY_STORAGE__DIR", str(tmp_path / "data"))

    def shell(line: str) -> str:
        done = finished("-c", line, program=("/bin/sh",), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with listening("simulate", "--port", "0", "--tls") as (_, url):
        shown = shell(show.replace("vb365.example.com:4443", url.removeprefix("https://"))).strip()
        shell(init)
        toml = (tmp_path / "proxy.toml").read_text(encoding="utf-8")
        toml = toml.replace('\nurl = ""', f'\nurl = "{url}"', 1)
        toml = toml.replace('\nfingerprint = ""', f'\nfingerprint = "{shown}"', 1)
        (tmp_path / "proxy.toml").write_text(toml, encoding="utf-8")
        assert "Configuration OK" in shell(check)
        monkeypatch.chdir(tmp_path)
        with listening(*shlex.split(serve)[1:]) as (_, proxied):
            form = b"grant_type=password&username=alice&password=secret-a"
            with urllib.request.urlopen(f"{proxied}/v8/token", form, timeout=10) as response:
                assert json.load(response)["access_token"]
