"""The line with which one process of the proxy introduces a client's connection to another: version
1 of the PROXY protocol, with the id of the request as a last word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address

from proxy.core.request_id import PATTERN

#: Bytes of the longest line, its end included: 107 (PROXY protocol §2.1), and those of the id.
MAX_LINE = 107 + 1 + 128

_LINE = re.compile(
    rb"PROXY (?:UNKNOWN|TCP[46] ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) (\d{1,5}) (\d{1,5}))"
    rb"(?: (" + PATTERN + rb"))?\r\n"
)

_UNKNOWN = "UNKNOWN"

#: IP address and port.
Endpoint = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Introduced:
    """The ends of a client's connection and the id of its request, None if they are not known, and
    the length of the line.
    """

    client: Endpoint | None
    local: Endpoint | None
    length: int
    request_id: str | None = None


def proxy_line(client: object, local: object, request_id: str) -> bytes:
    """The line for a connection with these socket names, as `getpeername` and `getsockname` return
    them; that of an unknown connection if they are not of one IP version.
    """
    return f"PROXY {_ends(client, local)} {request_id}\r\n".encode()


def _ends(client: object, local: object) -> str:
    if not isinstance(client, tuple) or not isinstance(local, tuple):
        return _UNKNOWN
    try:
        source, destination = (
            ip_address(str(each[0]).partition("%")[0]) for each in (client, local)
        )
    except ValueError:
        return _UNKNOWN
    if source.version != destination.version:
        return _UNKNOWN
    return f"TCP{source.version} {source} {destination} {client[1]} {local[1]}"


def parse_proxy_line(data: bytes) -> Introduced | None:
    """The line that `data` begins with; None if more is needed. Raises ValueError if it is no such
    line.
    """
    end = data.find(b"\n", 0, MAX_LINE) + 1
    if not end:
        if len(data) >= MAX_LINE or not b"PROXY ".startswith(data[:6]):
            raise ValueError("not a PROXY protocol line")
        return None
    match = _LINE.fullmatch(data, 0, end)
    if match is None:
        raise ValueError("not a PROXY protocol line")
    named = None if match[5] is None else match[5].decode()
    if match[1] is None:
        return Introduced(None, None, end, named)
    source, destination = (str(ip_address(address.decode())) for address in match.group(1, 2))
    return Introduced((source, int(match[3])), (destination, int(match[4])), end, named)
