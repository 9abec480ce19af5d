"""A small HTTP client: runs export jobs and measures latencies."""

from __future__ import annotations

import http.client
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.processes import Program, unverified_context

AUTHORIZATION = {"Authorization": "Bearer benchmark"}
#: The Prefer field of a kick-off that gets its 202 at once.
NO_WAIT = "respond-async, wait=0"
_TIMEOUT = 300


def export_path(verb: str = "exportToPst") -> str:
    """Return the path of an export in a new restore session."""
    return f"/v8/RestoreSessions/{uuid.uuid4()}/organization/mailboxes/m/{verb}"


@contextmanager
def connect(server: Program, *, tls: bool = False) -> Iterator[http.client.HTTPConnection]:
    """Open a persistent connection to the server."""
    address = ("127.0.0.1", server.port)
    connection = (
        http.client.HTTPSConnection(*address, context=unverified_context())
        if tls
        else http.client.HTTPConnection(*address)
    )
    connection.timeout = _TIMEOUT
    try:
        yield connection
    finally:
        connection.close()


def request(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    expected: int,
    **fields: str,
) -> http.client.HTTPMessage:
    """Send a request and return the header fields of the response.

    Raises RuntimeError if its status is not `expected`.
    """
    connection.request(method, target, headers={**AUTHORIZATION, **fields})
    response = connection.getresponse()
    content = response.read()
    if response.status != expected:
        raise RuntimeError(f"{method} {target}: {response.status} {content[:500]!r}")
    return response.headers


def kick_off(connection: http.client.HTTPConnection, verb: str = "exportToPst") -> str:
    """Start an export and return the path of its job."""
    fields = request(connection, "POST", export_path(verb), 202, Prefer=NO_WAIT)
    return "/" + fields["Location"].split("/", 3)[3]


def wait_for_success(connection: http.client.HTTPConnection, job: str) -> None:
    """Wait for the job to end. Raises RuntimeError unless it succeeds."""
    status, content = wait_for_end(connection, job)
    if status != 200 or b'"Success"' not in content:
        raise RuntimeError(f"{job}: {status} {content[:500]!r}")


def wait_for_end(connection: http.client.HTTPConnection, job: str) -> tuple[int, bytes]:
    """Wait for the job to end; return the status and content of its last response."""
    while True:
        connection.request("GET", job, headers={**AUTHORIZATION, "Prefer": "wait=30"})
        response = connection.getresponse()
        content = response.read()
        if response.status != 202:
            return response.status, content


def finished_export(server: Program, *, tls: bool = False) -> str:
    """Run an export and return the path of its job."""
    with connect(server, tls=tls) as connection:
        job = kick_off(connection)
        wait_for_success(connection, job)
    return job


def timed_request(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    expected: int,
    **fields: str,
) -> float:
    """Send a request and return the time until the end of the response, in milliseconds."""
    start = time.perf_counter()
    request(connection, method, target, expected, **fields)
    return (time.perf_counter() - start) * 1000
