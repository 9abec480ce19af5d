"""The authority in an absolute-form target, and the origin-form of it (RFC 9112 §3.2; CONTRACT
§12).
"""

from __future__ import annotations

import re

_ABSOLUTE = re.compile(rb"([A-Za-z][A-Za-z0-9+\-.]*+)://([^/?#]*+)")
_HOST_AND_PORT = re.compile(
    rb"(\[[0-9A-Za-z:.%_~\-]++\]|[A-Za-z0-9\-._~%!$&'()*+,;=]++)(?::([0-9]{0,5}))?"
)
_DEFAULT_PORTS = {b"http": 80, b"https": 443}


def names_host(target: bytes, host: bytes | None) -> bool:
    """Whether an absolute-form target names the authority that the Host field names; other forms
    name none.

    Case does not matter, nor whether the default port of the target's scheme is written. A request
    without a Host field (HTTP/1.0) says it only once.
    """
    absolute = _ABSOLUTE.match(target)
    if absolute is None or host is None:
        return True
    default = _DEFAULT_PORTS.get(absolute[1].lower())
    named = _split(absolute[2], default)
    return named is not None and named == _split(host, default)


def origin_form(method: bytes, target: bytes) -> bytes:
    """The target without scheme and authority: what is asked of the origin itself (RFC 9112 §3.2.1,
    §3.2.4).
    """
    absolute = _ABSOLUTE.match(target)
    if absolute is None:
        return target
    rest = target[absolute.end() :]
    if rest.startswith(b"/"):
        return rest
    return b"*" if method == b"OPTIONS" and not rest else b"/" + rest


def _split(authority: bytes, default: int | None) -> tuple[bytes, int | None] | None:
    """Host in lower case and port; None for what is no host with a port, user information among
    it.
    """
    found = _HOST_AND_PORT.fullmatch(authority)
    if found is None:
        return None
    return found[1].lower(), int(found[2]) if found[2] else default
