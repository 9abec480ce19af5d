"""Whether field lines authenticate the connection that carries them (NTLM and Negotiate)."""

from __future__ import annotations

import re

#: Fields that name an authentication scheme, and Persistent-Auth, which tells that it holds for the
#: connection (RFC 4559 §6).
_AUTHENTICATION = re.compile(
    rb"(?im)^(?:(persistent-auth)|(?:proxy-)?authorization|(?:www|proxy)-authenticate):([^\r\n]*+)"
)
_SCHEMES = ([b"ntlm"], [b"negotiate"])


def binds(block: bytes) -> bool:
    """Whether a line of the block, of a request or a response, authenticates its connection.

    A comma in a quoted string makes one element too many: at worst a connection is kept for one
    client without need.
    """
    return any(
        persistent or any(each.lower().split(None, 1)[:1] in _SCHEMES for each in value.split(b","))
        for persistent, value in _AUTHENTICATION.findall(block)
    )
