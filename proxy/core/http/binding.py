"""Whether field lines authenticate the connection that carries them (NTLM and Negotiate)."""

from __future__ import annotations

import re

#: Fields that name an authentication scheme, and Persistent-Auth, which says that it applies to the
#: connection (RFC 4559 §6).
_AUTHENTICATION = re.compile(
    rb"(?im)^(?:(persistent-auth)|(?:proxy-)?authorization|(?:www|proxy)-authenticate):([^\r\n]*+)"
)
#: Nego2 is the other name of Negotiate (MS-N2HT).
_SCHEMES = ([b"ntlm"], [b"negotiate"], [b"nego2"])


def binds(block: bytes) -> bool:
    """Whether a field line of the block, of a request or a response, authenticates its connection.

    A comma in a quoted string yields one element too many. At worst a connection is reserved for a
    client without need.
    """
    return any(
        persistent or any(each.lower().split(None, 1)[:1] in _SCHEMES for each in value.split(b","))
        for persistent, value in _AUTHENTICATION.findall(block)
    )
