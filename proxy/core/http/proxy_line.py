"""The line with which one process of the proxy introduces a client's connection to another: version
1 of the PROXY protocol.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address

#: Bytes of the longest line, its end included (PROXY protocol §2.1).
MAX_LINE = 107

_LINE = re.compile(
    rb"PROXY (?:UNKNOWN|TCP[46] ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) (\d{1,5}) (\d{1,5}))\r\n"
)
_UNKNOWN = b"PROXY UNKNOWN\r\n"

#: IP address and port.
Endpoint = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Introduced:
    """The ends of a client's connection, None if they are not known, and the length of the line."""

    client: Endpoint | None
    local: Endpoint | None
    length: int


def proxy_line(client: object, local: object) -> bytes:
    """The line for a connection with these socket names, as `getpeername` and `getsockname` return
    them; that of an unknown connection if they are not of one IP version.
    """
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
    return f"PROXY TCP{source.version} {source} {destination} {client[1]} {local[1]}\r\n".encode()


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
    if match[1] is None:
        return Introduced(None, None, end)
    source, destination = (str(ip_address(address.decode())) for address in match.group(1, 2))
    return Introduced((source, int(match[3])), (destination, int(match[4])), end)
