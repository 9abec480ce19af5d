"""Host names, and absolute-form targets: their authority and their origin-form (RFC 9112 §3.2;
CONTRACT §12).
"""

from __future__ import annotations

import re

_ABSOLUTE = re.compile(rb"([A-Za-z][A-Za-z0-9+\-.]*+)://([^/?#]*+)")
_HOST_AND_PORT = re.compile(
    rb"(\[[0-9A-Za-z:.%_~\-]++\]|[A-Za-z0-9\-._~%!$&'()*+,;=]++)(?::([0-9]{0,5}))?"
)
_DEFAULT_PORTS = {b"http": 80, b"https": 443}


def can_be_looked_up(host: str) -> bool:
    """Whether a lookup takes the name: no label of it is empty or too long.

    `getaddrinfo` raises `UnicodeError` for any other, and not the `OSError` of a failed lookup.
    """
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def names_host(target: bytes, host: bytes | None) -> bool:
    """Whether an absolute-form target names the same authority as the Host field. True for other
    forms, and without a Host field (HTTP/1.0).

    Case is ignored, and so is the default port of the target's scheme.
    """
    absolute = _ABSOLUTE.match(target)
    if absolute is None or host is None:
        return True
    default = _DEFAULT_PORTS.get(absolute[1].lower())
    named = _split(absolute[2], default)
    return named is not None and named == _split(host, default)


def origin_form(method: bytes, target: bytes) -> bytes:
    """The target without scheme and authority (RFC 9112 §3.2.1, §3.2.4)."""
    absolute = _ABSOLUTE.match(target)
    if absolute is None:
        return target
    rest = target[absolute.end() :]
    if rest.startswith(b"/"):
        return rest
    return b"*" if method == b"OPTIONS" and not rest else b"/" + rest


def _split(authority: bytes, default: int | None) -> tuple[bytes, int | None] | None:
    """The host in lower case and the port. None for anything else, such as user information."""
    found = _HOST_AND_PORT.fullmatch(authority)
    if found is None:
        return None
    return found[1].lower(), int(found[2]) if found[2] else default
