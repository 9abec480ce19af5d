"""The description of the proxy's own resources, for programs and for people (CONTRACT §2)."""

from __future__ import annotations

import json

from aiohttp import web

from proxy.api.request import ApiRequest
from proxy.api.responses import respond
from proxy.core.openapi.document import describe
from proxy.core.openapi.page import POLICY, page
from proxy.core.routing import Own

_UNCACHED = ("Cache-Control", "no-store")


class Description:
    """Handles GET of the OpenAPI document and of the page that shows it.

    `version` is that of the product, `segment` is `public.segment`, and `url` is `public.url`.
    """

    def __init__(self, version: str, segment: str, url: str | None) -> None:
        document = describe(version, segment, url or "/")
        self._document = json.dumps(document).encode()
        self._page = page(document)

    async def document(self, request: ApiRequest, own: Own) -> web.StreamResponse:
        """Return the OpenAPI document."""
        return respond(200, [_UNCACHED], self._document)

    async def page(self, request: ApiRequest, own: Own) -> web.StreamResponse:
        """Return the page."""
        fields = [
            _UNCACHED,
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Security-Policy", POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
        ]
        return respond(200, fields, self._page)
