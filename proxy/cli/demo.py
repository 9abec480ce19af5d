"""The `demo` command: an asynchronous export with the real commands.

It starts `simulate` and `serve` and runs `jobs fetch` as subprocesses, and talks to them over HTTP
only, as a user would.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

import typer

from proxy.core.paths import Links
from proxy.simulator.content import Kind, expected_sha256

#: A user of the simulator.
_USER, _PASSWORD = "alice", "secret-a"
_SIZE = 64 * 1024 * 1024
#: How long a subprocess may take to start or stop, and a response to arrive, in seconds.
_TIMEOUT = 40.0
#: Settings that work on any machine: little disk space, and an immediate 202.
_SETTINGS = {
    "VB365_PROXY_EXPORTS__GRACE": "250ms",
    "VB365_PROXY_STORAGE__MIN_FREE": "256MiB",
    "VB365_PROXY_LOG__LEVEL": "warning",
}
#: The exit code of a process that SIGTERM ends: 128 + 15.
_EXIT_SIGTERM = 143


class _DemoError(Exception):
    """The demo cannot continue; the message is for the user."""


def run(port: int, *, keep: bool) -> int:
    """Run the demo with the proxy on this port, its dashboard on the next one, and return the exit
    code.

    Port 0 selects free ones. With `keep`, simulator and proxy keep running until Ctrl-C.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_EXIT_SIGTERM))
    with tempfile.TemporaryDirectory(prefix="vb365-demo-") as name, ExitStack() as running:
        directory = Path(name)
        try:
            proxy = _start(running, directory, port)
            commands = _show_export(proxy, directory)
            if keep:
                _keep_running(commands, port)
            else:
                _print_step("Done. To keep it running for tests by hand: make demo ARGS=--serve")
        except _DemoError as error:
            typer.echo(f"The demo failed: {error}", err=True)
            return 1
        except KeyboardInterrupt:
            typer.echo("\nStopping.")
    return 0


def _start(running: ExitStack, directory: Path, port: int) -> str:
    """Start the simulator and the proxy; return the proxy's URL."""
    _print_step(
        "1. Start a VB365 simulator: an export is silent for 3 s, then sends 64 MiB at 16 MiB/s."
    )
    options = ("--port", "0", "--size", "64MiB", "--generate", "3s", "--rate", "16MiB", "--quiet")
    upstream = running.enter_context(_subcommand("simulate", *options))
    _print_step("2. Start the proxy in front of it.")
    data = str(directory / "data")
    listen = ("--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{port and port + 1}")
    serve = ("--upstream", upstream, *listen, "--data-dir", data)
    return running.enter_context(_subcommand("serve", *serve, environment=_SETTINGS))


def _show_export(proxy: str, directory: Path) -> str:
    """Run one export and return curl commands that repeat its steps."""
    _print_step("3. Log in and start a restore session, as clients of VB365 do today.")
    path, token = _open_mailbox(proxy)
    _print_step("4. Export a mailbox with one additional header field. The response is immediate.")
    location = _kick_off(proxy, path, token)
    _print_step("5. Follow the job and download the file, here with the proxy's own client.")
    file = _fetch(location, token, directory)
    _verify(file)
    return _curl_commands(proxy, path, token, location)


def _open_mailbox(proxy: str) -> tuple[str, str]:
    """Log in and start a restore session; return the path of a mailbox export and the token."""
    form = "&".join(
        (
            "grant_type=password",
            f"username={_USER}",
            f"password={_PASSWORD}",
            "disable_antiforgery_token=true",
        )
    )
    form_type = {"Content-Type": "application/x-www-form-urlencoded"}
    token = str(_request_json(proxy, "POST", "/v8/token", form, form_type)["access_token"])
    fields = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    page = _request_json(proxy, "GET", "/v8/Organizations", None, fields)
    explore = f"/v8/Organizations/{_first_id(page)}/explore"
    options = json.dumps({"dateTime": "2026-11-23T00:00:00Z", "type": "vex"})
    session = _request_json(proxy, "POST", explore, options, fields)["id"]
    mailboxes = f"/v8/RestoreSessions/{session}/organization/mailboxes"
    page = _request_json(proxy, "GET", mailboxes, None, fields)
    return f"{mailboxes}/{_first_id(page)}/exportToPst", token


def _first_id(page: dict[str, Any]) -> str:
    return str(page["results"][0]["id"])


def _kick_off(proxy: str, path: str, token: str) -> str:
    """Start the export, print the heads of request and response, and return the job's URL."""
    fields = {"Content-Type": "application/json", "Prefer": "respond-async"}
    lines = [f"POST {path} HTTP/1.1", "Authorization: Bearer …"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    typer.echo("\n".join(f"  > {line}" for line in lines))
    authorization = {"Authorization": f"Bearer {token}"}
    response = _request(proxy, "POST", path, "{}", authorization | fields)
    typer.echo("\n".join(f"  < {line}" for line in response.head))
    if response.status != 202:
        raise _DemoError(f"the response to the export was {response.status}, expected 202")
    return str(response.fields["Location"])


def _fetch(location: str, token: str, directory: Path) -> Path:
    file = directory / "mailbox.pst"
    arguments = ("jobs", "fetch", location, "--output", str(file))
    typer.echo(f"  $ VB365_TOKEN=… {shlex.join(('vb365-async-proxy', *arguments))}")
    environment = os.environ | {"VB365_TOKEN": token}
    done = subprocess.run(_command(*arguments), env=environment, check=False)  # noqa: S603  # our own command
    if done.returncode:
        raise _DemoError(f"`jobs fetch` exited with code {done.returncode}")
    return file


def _verify(file: Path) -> None:
    """Compare the file's digest with that of the simulator's file of this size and kind."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != expected_sha256(_SIZE, Kind.PST):
        raise _DemoError(f"the SHA-256 of the file, {digest}, is not that of what VB365 sent")
    typer.echo(f"  The file holds, byte for byte, what VB365 sent: SHA-256 {digest}.")


def _keep_running(commands: str, port: int) -> None:
    _print_step(f"The user is {_USER}, the password {_PASSWORD}. Paste into another terminal:")
    _print_step(commands)
    if port:
        _print_step(f"The dashboard: http://127.0.0.1:{port + 1}/")
    _print_step("Ctrl-C stops it.")
    Event().wait()


def _curl_commands(proxy: str, path: str, token: str, location: str) -> str:
    """Return variables of a shell, with the names that README.md and docs/clients.md use, and curl
    commands for another export, the status of this one, and its file.
    """
    return (
        f"URL={proxy}\n"
        f"AUTH='Authorization: Bearer {token}'\n"
        f"export VB365_URL={proxy} VB365_TOKEN={token} EXPORT={path}\n"
        f"curl -i -H \"$AUTH\" -H 'Prefer: respond-async' --json '{{}}' \"$URL$EXPORT\"\n"
        f'curl -i -H "$AUTH" {location}\n'
        f'curl -f --retry 30 -H "$AUTH" -o mailbox.pst {Links(location).result}'
    )


@dataclass(frozen=True, slots=True)
class _Response:
    """A complete response. `head` has the lines of its head as text."""

    status: int
    head: list[str]
    fields: Message
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        """The JSON object of the body. Raises `_DemoError` if the status is not a success."""
        if self.status >= 300:
            raise _DemoError(f"{self.head[0]}: {self.body[:500].decode(errors='replace')}")
        return dict(json.loads(self.body))


def _request(
    proxy: str, method: str, path: str, body: str | None, fields: Mapping[str, str]
) -> _Response:
    """Send a request and return the response. Raises `_DemoError`."""
    connection = HTTPConnection(urlsplit(proxy).netloc, timeout=_TIMEOUT)
    try:
        connection.request(method, path, body, dict(fields))
        response = connection.getresponse()
        lines = [f"HTTP/1.1 {response.status} {response.reason}"]
        lines += [f"{name}: {value}" for name, value in response.getheaders()]
        return _Response(response.status, lines, response.headers, response.read())
    except (OSError, HTTPException) as error:
        raise _DemoError(f"{method} {proxy}{path}: {error!r}") from error
    finally:
        connection.close()


def _request_json(
    proxy: str, method: str, path: str, body: str | None, fields: Mapping[str, str]
) -> dict[str, Any]:
    """Send a request, print a line about it, and return the JSON object of the response."""
    response = _request(proxy, method, path, body, fields)
    typer.echo(f"  {method} {path}  ->  {response.status}")
    return response.document


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "proxy", *arguments]


@contextmanager
def _subcommand(*arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run `simulate` or `serve` in a subprocess; yield the URL that it listens on.

    The subprocess is terminated on exit. Raises `_DemoError` if it does not start.
    """
    variables = [f"{name}={value}" for name, value in (environment or {}).items()]
    typer.echo(f"  $ {shlex.join((*variables, 'vb365-async-proxy', *arguments))}")
    process = subprocess.Popen(  # noqa: S603  # our own command
        _command(*arguments),
        env=os.environ | (environment or {}),
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    urls: Queue[str] = Queue()
    reader = Thread(target=_read_stderr, args=(process, urls))
    reader.start()
    try:
        yield _wait_for_url(urls, arguments[0])
    finally:
        process.terminate()
        try:
            process.wait(_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()


def _read_stderr(process: subprocess.Popen[bytes], urls: Queue[str]) -> None:
    """Print the subprocess's stderr and put each URL it listens on into `urls`, then "".

    It reads to the end, because a full pipe would block the subprocess.
    """
    for raw in process.stderr or ():
        line = raw.decode(errors="replace").rstrip()
        typer.echo(f"  {line}", err=True)
        if found := re.search(r"listening on (https?://\S+)", line):
            urls.put(found[1])
    urls.put("")


def _wait_for_url(urls: Queue[str], name: str) -> str:
    try:
        url = urls.get(timeout=_TIMEOUT)
    except Empty:
        url = ""
    if not url:
        raise _DemoError(
            f"`{name}` did not start; see its output above. --port selects another port, 0 any "
            "free one"
        )
    return url


def _print_step(text: str) -> None:
    typer.echo(f"\n{text}")
