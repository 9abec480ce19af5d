"""The base of the absolute URLs in responses of the proxy (CONTRACT §13; RFC 7239)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

#: Returns the values of a field as text, in order.
Lookup = Callable[[str], Sequence[str]]
Networks = Sequence[IPv4Network | IPv6Network]

_DEFAULT_PORTS = {"http": 80, "https": 443}
#: What is read of a balancer's fields, which pass on what a client wrote: characters of Forwarded
#: and of a prefix, which is part of each URL in a list, and addresses of X-Forwarded-For.
_LONGEST_FORWARDED, _LONGEST_PREFIX, _MOST_HOPS = 4096, 1024, 32
_AUTHORITY = re.compile(
    r"(?P<host>[A-Za-z0-9._~-]{1,255}|\[(?P<v6>[0-9A-Fa-f:.]{2,45})\])(?::(?P<port>[0-9]{0,5}))?"
)
_PORT = re.compile(r"[0-9]{1,5}")
#: An entry of X-Forwarded-For with a port, as Azure Application Gateway and IIS write it.
_WITH_PORT = re.compile(r"([0-9.]{7,15}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}")
_PREFIX = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+;=:@-]|%[0-9A-Fa-f]{2})+)*/?")
_DOT_SEGMENT = re.compile(r"/(?:\.|%2e){1,2}(?:/|\Z)", re.IGNORECASE)
# Unquoted values may be more than the tokens of RFC 7239 (`host=a:8443` is common): they are
# validated afterwards.
_PAIR = re.compile(
    r'[ \t]*+(?:([!#$%&\'*+.^_`|~0-9A-Za-z-]++)=(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*+)))?'
    r"[ \t]*+(?:(;)|(?=,)|\Z)"
)


@dataclass(frozen=True, slots=True)
class _Reported:
    """What a balancer reports about the request that it received. None where it reports nothing
    valid.
    """

    scheme: str | None = None
    authority: tuple[str, int | None] | None = None
    port: int | None = None


def base_url(
    *,
    public_url: str | None,
    trusted: Networks,
    peer: str | None,
    scheme: str,
    local: str,
    fields: Lookup,
) -> str:
    """The URL before the proxy's own paths, without a trailing slash (CONTRACT §13).

    In order of precedence: `public_url`; what a trusted direct `peer` reports (its IP address, None
    if it has none); `scheme` and Host of the request; `local`, the `host:port` of this end of the
    connection.
    """
    if public_url is not None:
        return public_url.rstrip("/")
    reported, prefix = _Reported(), ""
    if _is_trusted(peer, trusted):
        reported, prefix = _forwarded(fields) or _x_forwarded(fields), _prefix(fields)
    host, port = (
        reported.authority
        or _authority(_first(fields, "Host"))
        or _authority(local)
        or ("localhost", None)
    )
    return _url(reported.scheme or scheme, host, reported.port or port) + prefix


def client_address(peer: str | None, trusted: Networks, fields: Lookup) -> str | None:
    """The client's IP address: the last one of X-Forwarded-For that is not trusted, if the direct
    peer is trusted, otherwise the peer's. An entry that is no address ends the search, as does the
    32nd one.
    """
    found = peer
    if not _is_trusted(found, trusted):
        return found
    hops = ",".join(fields("X-Forwarded-For")).rsplit(",", _MOST_HOPS)[-_MOST_HOPS:]
    while hops and _is_trusted(found, trusted):
        try:
            found = _address(hops.pop().strip(" \t"))
        except ValueError:
            break
    return found


def _address(hop: str) -> str:
    """The IP address of an entry of X-Forwarded-For. Raises ValueError."""
    ported = _WITH_PORT.fullmatch(hop)
    return str(ip_address((hop if ported is None else ported[1]).strip("[]")))


def _url(scheme: str, host: str, port: int | None) -> str:
    return (
        f"{scheme}://{host}"
        if port in (None, _DEFAULT_PORTS[scheme])
        else f"{scheme}://{host}:{port}"
    )


def _is_trusted(peer: str | None, trusted: Networks) -> bool:
    """Whether the peer is in one of the networks. An IPv4-mapped IPv6 address also counts as the
    IPv4 address.
    """
    if peer is None or not trusted:
        return False
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return any(
        address in network or (mapped is not None and mapped in network) for network in trusted
    )


def _first(fields: Lookup, name: str) -> str:
    """The first element of a field whose value is a list, or ""."""
    lines = fields(name)
    return lines[0].partition(",")[0].strip(" \t") if lines else ""


def _scheme(text: str) -> str | None:
    return text.lower() if text.lower() in _DEFAULT_PORTS else None


def _port(text: str) -> int | None:
    port = int(text) if _PORT.fullmatch(text) else 0
    return port if 0 < port < 65536 else None


def _authority(text: str) -> tuple[str, int | None] | None:
    """Host (an IPv6 address in brackets) and port of `host[:port]`. None unless both are valid."""
    found = _AUTHORITY.fullmatch(text)
    if found is None or (found["v6"] and not _is_v6(found["v6"])):
        return None
    port = _port(found["port"]) if found["port"] else None
    return None if found["port"] and port is None else (found["host"], port)


def _is_v6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _forwarded(fields: Lookup) -> _Reported | None:
    """The first element of Forwarded. None without a valid scheme or host. It is not combined with
    X-Forwarded fields.
    """
    pairs = _pairs(next(iter(fields("Forwarded")), ""))
    reported = _Reported(_scheme(pairs.get("proto", "")), _authority(pairs.get("host", "")))
    return reported if reported.scheme or reported.authority else None


def _pairs(line: str) -> dict[str, str]:
    """The parameters of the first element of the line (RFC 7239 §4), with names in lower case.
    Empty if it is malformed, or the line very long.
    """
    if len(line) > _LONGEST_FORWARDED:
        return {}
    pairs: dict[str, str] = {}
    position, more = 0, True
    while more:
        found = _PAIR.match(line, position)
        if found is None:
            return {}
        name, quoted, plain, semicolon = found.groups()
        if name:
            pairs.setdefault(
                name.lower(), plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            )
        position, more = found.end(), semicolon is not None
    return pairs


def _x_forwarded(fields: Lookup) -> _Reported:
    return _Reported(
        _scheme(_first(fields, "X-Forwarded-Proto")),
        _authority(_first(fields, "X-Forwarded-Host")),
        _port(_first(fields, "X-Forwarded-Port")),
    )


def _prefix(fields: Lookup) -> str:
    """X-Forwarded-Prefix without its trailing slash. "" unless it is an absolute path without empty
    and dot segments, of bounded length.
    """
    text = _first(fields, "X-Forwarded-Prefix")
    if len(text) > _LONGEST_PREFIX:
        return ""
    return text.rstrip("/") if _PREFIX.fullmatch(text) and not _DOT_SEGMENT.search(text) else ""
