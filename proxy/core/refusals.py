"""An error as the bytes of a whole answer, for where no server framework stands between (CONTRACT
§11).
"""

from __future__ import annotations

import re
from http import HTTPStatus

from proxy.core.errors import Problem, render
from proxy.core.http.heads import Head
from proxy.core.http.outbound import CLOSE

_PLAIN_TARGET = re.compile(rb"\S+ (/[!-~]*) HTTP")


def problem_bytes(problem: Problem, head: Head | None, *, keep: bool, begun: bytes = b"") -> bytes:
    """The answer to the request of `head`, or to what has only `begun` like one. Without `keep` it
    says so.
    """
    accept = head.get_all(b"accept") if head else []
    fields, content = render(
        problem, _path(head, begun), accept[0].decode("latin-1") if accept else None
    )
    lines = b"".join([f"{name}: {value}\r\n".encode("latin-1") for name, value in fields])
    status = b"HTTP/1.1 %d %b\r\n" % (problem.status, HTTPStatus(problem.status).phrase.encode())
    length = b"Content-Length: %d\r\n%b\r\n" % (len(content), b"" if keep else CLOSE)
    return status + lines + length + (b"" if head and head.method == b"HEAD" else content)


def _path(head: Head | None, begun: bytes) -> str:
    """Of a request that is no valid one only a plain path is repeated."""
    if head is not None:
        target = head.target
    else:
        match = _PLAIN_TARGET.match(begun)
        target = match[1] if match else b"/"
    return target.partition(b"?")[0].decode("latin-1")
