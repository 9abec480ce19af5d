"""Responses of the admin listener: JSON, and problems as on the clients' side (CONTRACT §11)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from uuid import uuid4

from aiohttp import web

from proxy.core.errors import KINDS, MARK, PROBLEM_TYPE
from proxy.core.http.fields import values_of
from proxy.core.request_id import FIELD as REQUEST_ID
from proxy.core.request_id import sent_id

#: Fields of every response. None is cached, and no other site can embed one.
FIELDS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
#: Of responses that are no page: were one shown as a page, it could do nothing.
SEALED = FIELDS | {"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'"}


class Refusal(Exception):
    """A problem to respond with. `name` is a key of `core.errors.KINDS`, None for a status without
    a problem type of its own.
    """

    def __init__(
        self,
        detail: str,
        *,
        name: str | None = None,
        status: int = 400,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.name = name
        self.status = status if name is None else KINDS[name].status
        self.fields = fields or {}


def bad_request(detail: str) -> Refusal:
    """Return a problem for a request that the client must correct. The detail names what."""
    return Refusal(detail, name="bad-request")


def json_response(
    document: object, status: int = 200, fields: Mapping[str, str] | None = None
) -> web.Response:
    """Return a JSON response."""
    return encoded(json.dumps(document).encode(), status, fields)


def encoded(
    body: bytes, status: int = 200, fields: Mapping[str, str] | None = None
) -> web.Response:
    """Return a response with JSON that is bytes already."""
    return web.Response(
        body=body,
        status=status,
        content_type="application/json",
        charset="utf-8",
        headers=SEALED | dict(fields or {}),
    )


def request_id(request: web.Request) -> str:
    """Return the id of the request: its X-Request-Id, or a new one (CONTRACT §15)."""
    return sent_id(values_of(request.raw_headers, b"x-request-id")) or uuid4().hex


def problem(request: web.Request, refusal: Refusal, id: str) -> web.Response:
    """Return the response for a problem (RFC 9457)."""
    title = HTTPStatus(refusal.status).phrase
    kind = "about:blank"
    if refusal.name is not None:
        kind, title = f"{PROBLEM_TYPE}{refusal.name}", KINDS[refusal.name].title
    document = {
        "type": kind,
        "title": title,
        "status": refusal.status,
        "detail": refusal.detail,
        "instance": request.path,
        "message": refusal.detail,
        "requestId": id,
    }
    return web.Response(
        body=json.dumps(document).encode(),
        status=refusal.status,
        content_type="application/problem+json",
        headers=SEALED | {MARK: "proxy", REQUEST_ID: id} | dict(refusal.fields),
    )
