"""Whether field lines authenticate the connection that carries them (NTLM and Negotiate)."""

from __future__ import annotations

import re

#: Fields that name an authentication scheme, and Persistent-Auth, which says that it applies to the
#: connection (RFC 4559 §6). Each line must follow an LF: with `^` and `[^\r\n]` it takes four times
#: as long to find.
_AUTHENTICATION = re.compile(
    rb"(?i)\n(?:(persistent-auth)|(?:proxy-)?authorization|(?:www|proxy)-authenticate):([^\r]*+)"
)
#: Behind the comma before an element of a list. Nego2 is the other name of Negotiate (MS-N2HT).
_SCHEME = re.compile(rb",[ \t]*+(?:ntlm|nego(?:tiate|2))(?=[ \t,]|\Z)")


def binds(block: bytes) -> bool:
    """Whether a field line of the block, of a request or a response, authenticates its connection.

    A comma in a quoted string yields one element too many. At worst a connection is reserved for a
    client without need.
    """
    return any(
        persistent or _names_scheme(value.lower())
        for persistent, value in _AUTHENTICATION.findall(b"\n" + block)
    )


def _names_scheme(value: bytes) -> bool:
    # most values have neither name, and to find that takes a tenth of the time
    return (b"ntlm" in value or b"nego" in value) and _SCHEME.search(b"," + value) is not None
