"""A request to the proxy's own resources, read from its raw head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from aiohttp import web

from proxy.core.exports import split_target
from proxy.core.http.fields import values_of
from proxy.core.http.heads import Head
from proxy.core.request_id import sent_id
from proxy.core.routing import Decision, Own
from proxy.upstream.credentials import Credentials
from proxy.upstream.problems import unauthorized

#: Returns what the transport of the client's connection knows under a name, otherwise the second
#: argument: see `Bridge.get_extra_info`.
Info = Callable[[str, Any], Any]


class OwnRequest:
    """A request as its raw head says it. `info` is of its connection, `decision` the router's, and
    `id` the request's X-Request-Id, or a new one (CONTRACT §15).
    """

    def __init__(self, head: Head, decision: Decision, info: Info) -> None:
        self.info = info
        self.head = head
        self.decision = decision
        self.fields = head.fields
        path, query = split_target(head.target)
        self.path = path.decode("latin-1")
        self.query = None if query is None else query.decode("latin-1")
        self.method = head.method.decode("latin-1")
        self.id = head.id or sent_id(self.raw(b"x-request-id")) or uuid4().hex
        #: The base of the URLs in its response, once it is known (`api.links`).
        self.base: str | None = None

    @property
    def api(self) -> str | None:
        """The API version of a path below the proxy's segment ("v8"), None without one."""
        return self.decision.api if isinstance(self.decision, Own) else None

    def credentials(self) -> Credentials:
        """Return the request's credentials. Raises `Problem` 401 without any.

        The router relays a kick-off without credentials, unless its body is too large.
        """
        found = Credentials.of(self.fields)
        if found is None:
            raise unauthorized()
        return found

    def lines(self, name: str) -> Sequence[str]:
        """Return the values of a field, one for each of its lines, in order."""
        return [value.decode("latin-1") for value in self.raw(name.lower().encode())]

    def raw(self, name: bytes) -> list[bytes]:
        """Return the same values as bytes. `name` is in lower case."""
        return values_of(self.fields, name)

    def first(self, name: str) -> str | None:
        """Return the value of a field's first line, None without one."""
        return next(iter(self.lines(name)), None)


class ApiRequest(OwnRequest):
    """A request whose handler may wait. `inner` is aiohttp's request, for the body and the
    transport; it would normalize the head.
    """

    def __init__(self, inner: web.BaseRequest, head: Head, decision: Decision) -> None:
        transport = inner.transport
        super().__init__(head, decision, transport.get_extra_info if transport else _unknown)
        self.inner = inner


def _unknown(_: str, default: Any) -> Any:
    return default
