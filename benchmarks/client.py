"""Small clients: the job of an export driven to its end, and latencies one by one."""

from __future__ import annotations

import http.client
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.machine import Program, trusting

ALLOWED = {"Authorization": "Bearer benchmark"}


def export(verb: str = "exportToPst") -> str:
    """The target of an export of a session of its own."""
    return f"/v8/RestoreSessions/{uuid.uuid4()}/organization/mailboxes/m/{verb}"


@contextmanager
def connected(server: Program, *, tls: bool = False) -> Iterator[http.client.HTTPConnection]:
    """A kept connection."""
    where = ("127.0.0.1", server.port)
    made = http.client.HTTPSConnection(*where, context=trusting()) if tls else http.client.HTTPConnection(*where)
    made.timeout = 300
    try:
        yield made
    finally:
        made.close()


def ask(
    connection: http.client.HTTPConnection, method: str, target: str, expected: int, **fields: str
) -> http.client.HTTPMessage:
    """One exchange; the fields of its answer. Raises RuntimeError on another status."""
    connection.request(method, target, headers={**ALLOWED, **fields})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != expected:
        raise RuntimeError(f"{method} {target}: {answer.status} {content[:500]!r}")
    return answer.headers


def kick_off(connection: http.client.HTTPConnection, verb: str = "exportToPst") -> str:
    """Begin an export; the path of its job."""
    location = ask(connection, "POST", export(verb), 202, Prefer="respond-async, wait=0")["Location"]
    return "/" + location.split("/", 3)[3]


def follow(connection: http.client.HTTPConnection, job: str) -> None:
    """Wait for the end of the job; it must have succeeded."""
    while True:
        connection.request("GET", job, headers={**ALLOWED, "Prefer": "wait=30"})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 202:
            break
    if answer.status != 200 or b'"Success"' not in content:
        raise RuntimeError(f"{job}: {answer.status} {content[:500]!r}")


def stored(server: Program, *, tls: bool = False) -> str:
    """Export once; the path of the finished job."""
    with connected(server, tls=tls) as connection:
        job = kick_off(connection)
        follow(connection, job)
    return job


def timed(connection: http.client.HTTPConnection, method: str, target: str, expected: int, **fields: str) -> float:
    """Milliseconds of one exchange."""
    began = time.perf_counter()
    ask(connection, method, target, expected, **fields)
    return (time.perf_counter() - began) * 1000
