"""`demo`: an asynchronous export, end to end, with the real commands: `simulate`, `serve` and `jobs fetch`.

It knows the product as a user does, by its command line and its HTTP alone.
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

from proxy.simulator.content import Kind, expected_sha256

_USER, _PASSWORD = "alice", "secret-a"  # the stand-in's own
_SIZE = 64 * 1024 * 1024
_PATIENCE = 20.0
#: The proxy on any machine: little space needed, no fixed port, and the 202 at once.
_SETTINGS = {
    "VB365_PROXY_EXPORTS__GRACE": "250ms",
    "VB365_PROXY_STORAGE__MIN_FREE": "256MiB",
    "VB365_PROXY_ADMIN__ADDRESS": "127.0.0.1:0",
    "VB365_PROXY_LOG__LEVEL": "warning",
}


class _Failed(Exception):
    """The demo cannot go on; the text says why."""


def run(*, keep: bool) -> int:
    """Show the flow and return the exit code; with `keep` everything runs on until Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="vb365-demo-") as place, ExitStack() as running:
        try:
            proxy = _start(running, Path(place))
            by_hand = _tell(proxy, Path(place))
            if keep:
                _stay(proxy, by_hand)
            else:
                _say("That was all. `make demo ARGS=--serve` keeps it running, to try it by hand.")
        except _Failed as why:
            typer.echo(f"The demo failed: {why}", err=True)
            return 1
        except KeyboardInterrupt:
            typer.echo("\nStopping.")
    return 0


def _start(running: ExitStack, place: Path) -> str:
    """Start the stand-in and the proxy in front of it; the proxy's URL."""
    _say("1. A stand-in for VB365: its exports take 3 silent seconds, then 64 MiB at 16 MiB a second.")
    standing = running.enter_context(
        _program("simulate", "--port", "0", "--size", "64MiB", "--generate", "3s", "--rate", "16MiB")
    )
    _say("2. The proxy in front of it.")
    arguments = ("--upstream", standing, "--listen", "127.0.0.1:0", "--data-dir", str(place / "data"))
    return running.enter_context(_program("serve", *arguments, environment=_SETTINGS))


def _tell(proxy: str, place: Path) -> str:
    """The story of one export; the lines that tell it again by hand."""
    _say("3. A client logs in and opens a restore session, as it always did.")
    path, token = _mailbox(proxy)
    _say("4. It exports a mailbox, with one more header, and need not wait.")
    location = _kick_off(proxy, path, token)
    _say("5. It follows the job to its end and fetches the file. Any HTTP client can; this one is on board.")
    file = _fetch(location, token, place)
    _verify(file)
    return _curl(proxy, path, token, location)


def _mailbox(proxy: str) -> tuple[str, str]:
    """The path of an export, and a token."""
    form = f"grant_type=password&username={_USER}&password={_PASSWORD}&disable_antiforgery_token=true"
    as_form = {"Content-Type": "application/x-www-form-urlencoded"}
    token = str(_told(proxy, "POST", "/v8/token", form, as_form)["access_token"])
    mine = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    organization = _first(_told(proxy, "GET", "/v8/Organizations", None, mine))
    explore = json.dumps({"dateTime": "2026-11-23T00:00:00Z", "type": "vex"})
    session = _told(proxy, "POST", f"/v8/Organizations/{organization}/explore", explore, mine)["id"]
    mailboxes = f"/v8/RestoreSessions/{session}/organization/mailboxes"
    return f"{mailboxes}/{_first(_told(proxy, 'GET', mailboxes, None, mine))}/exportToPst", token


def _first(page: dict[str, Any]) -> str:
    return str(page["results"][0]["id"])


def _kick_off(proxy: str, path: str, token: str) -> str:
    """Ask for the export and show both heads; the job's URL."""
    asked = {"Content-Type": "application/json", "Prefer": "respond-async"}
    fields = ["Authorization: Bearer …", *(f"{name}: {value}" for name, value in asked.items())]
    typer.echo("\n".join(f"  > {line}" for line in (f"POST {path} HTTP/1.1", *fields)))
    answer = _call(proxy, "POST", path, "{}", {"Authorization": f"Bearer {token}"} | asked)
    typer.echo("\n".join(f"  < {line}" for line in answer.head))
    if answer.status != 202:
        raise _Failed(f"the kick-off was answered {answer.status}, not 202")
    return str(answer.fields["Location"])


def _fetch(location: str, token: str, place: Path) -> Path:
    command = ("jobs", "fetch", location, "--output", str(place / "mailbox.pst"))
    typer.echo(f"  $ VB365_TOKEN=… {shlex.join(('vb365-async-proxy', *command))}")
    done = subprocess.run(_command(*command), env=os.environ | {"VB365_TOKEN": token}, check=False)  # noqa: S603
    if done.returncode:
        raise _Failed(f"the client left with exit code {done.returncode}")
    return place / "mailbox.pst"


def _verify(file: Path) -> None:
    """The stand-in's content is known by its size: what arrived must be that, byte for byte."""
    with file.open("rb") as whole:
        digest = hashlib.file_digest(whole, "sha256").hexdigest()
    if digest != expected_sha256(_SIZE, Kind.PST):
        raise _Failed(f"the file has the digest {digest}, which is not that of what VB365 sent")
    typer.echo(f"  The file holds, byte for byte, what VB365 sent: SHA-256 {digest}.")


def _stay(proxy: str, by_hand: str) -> None:
    _say(f"Everything keeps running: {proxy}, user {_USER}, password {_PASSWORD}. By hand:\n{by_hand}")
    _say("Ctrl-C stops it.")
    Event().wait()


def _curl(proxy: str, path: str, token: str, location: str) -> str:
    """Lines to paste: another export, the status of the one that was shown, and its file."""
    bearer = f"-H 'Authorization: Bearer {token}'"
    return (
        f"curl -i {bearer} -H 'Prefer: respond-async' -H 'Content-Type: application/json' -d '{{}}' '{proxy}{path}'\n"
        f"curl -i {bearer} '{location}'\n"
        f"curl -f --retry 30 --retry-all-errors {bearer} -o mailbox.pst '{location}/result'"
    )


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer, read whole."""

    status: int
    head: list[str]
    fields: Message
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        """The JSON object of a success."""
        if self.status >= 300:
            raise _Failed(f"{self.head[0]}: {self.body[:500].decode(errors='replace')}")
        return dict(json.loads(self.body))


def _call(proxy: str, method: str, path: str, body: str | None, fields: Mapping[str, str]) -> _Answer:
    """One request and its answer."""
    connection = HTTPConnection(urlsplit(proxy).netloc, timeout=_PATIENCE)
    try:
        connection.request(method, path, body, dict(fields))
        answer = connection.getresponse()
        lines = [f"HTTP/1.1 {answer.status} {answer.reason}", *(f"{k}: {v}" for k, v in answer.getheaders())]
        return _Answer(answer.status, lines, answer.headers, answer.read())
    except (OSError, HTTPException) as why:
        raise _Failed(f"{method} {proxy}{path}: {why!r}") from why
    finally:
        connection.close()


def _told(proxy: str, method: str, path: str, body: str | None, fields: Mapping[str, str]) -> dict[str, Any]:
    """One request, told in a line; the JSON of its answer."""
    answer = _call(proxy, method, path, body, fields)
    typer.echo(f"  {method} {path}  ->  {answer.status}")
    return answer.document


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "proxy", *arguments]


@contextmanager
def _program(*arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run one of the long-lived commands; yields the URL that it tells once it listens, and stops it at the end."""
    shown = [f"{name}={value}" for name, value in (environment or {}).items()]
    typer.echo(f"  $ {shlex.join((*shown, 'vb365-async-proxy', *arguments))}")
    program = subprocess.Popen(  # noqa: S603  # our own command line
        _command(*arguments), env=os.environ | (environment or {}), stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    url: Queue[str] = Queue()
    listener = Thread(target=_listen, args=(program, url))
    listener.start()
    try:
        yield _ready(url, arguments[0])
    finally:
        program.terminate()
        try:
            program.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()
        listener.join()


def _listen(program: subprocess.Popen[bytes], url: Queue[str]) -> None:
    """Read the program's stderr to its end, so that it never waits for us; "" in `url` is the end."""
    for raw in program.stderr or ():
        line = raw.decode(errors="replace").rstrip()
        typer.echo(f"  {line}", err=True)
        if ready := re.search(r"listening on (https?://\S+)", line):
            url.put(ready[1])
    url.put("")


def _ready(url: Queue[str], name: str) -> str:
    try:
        address = url.get(timeout=_PATIENCE)
    except Empty:
        address = ""
    if not address:
        raise _Failed(f"`{name}` does not listen; what it said stands above")
    return address


def _say(sentence: str) -> None:
    typer.echo(f"\n{sentence}")
