"""The files of the dashboard: scripts, styles and pictures, and the fields that go with them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from aiohttp import web

#: Nothing comes from anywhere else, and no script can make HTML of text (CONTRACT §16).
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
FIELDS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    # with no-referrer the Origin of a form is null (Fetch Standard, "append a request `Origin`
    # header"), and the login page would refuse its own
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_DIRECTORY = Path(__file__).parents[1] / "static"
_TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".md": "text/plain",
}


class Assets:
    """Serves the files below /static, which are read once."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[bytes, str, str]] = {}
        for path in sorted(_DIRECTORY.rglob("*")):
            if path.suffix in _TYPES:
                data = path.read_bytes()
                tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
                name = path.relative_to(_DIRECTORY).as_posix()
                self._files[name] = data, _TYPES[path.suffix], tag

    async def serve(self, request: web.Request) -> web.Response:
        """Return the file that the path names."""
        found = self._files.get(request.match_info["name"])
        if found is None:
            raise web.HTTPNotFound(headers=FIELDS)
        data, content_type, tag = found
        # a new version of the proxy has new files: ask each time, and send nothing if none changed
        fields = FIELDS | {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers=fields)
        return web.Response(body=data, content_type=content_type, charset="utf-8", headers=fields)


def page(text: str, status: int = 200, fields: dict[str, str] | None = None) -> web.Response:
    """Return a page of HTML."""
    return web.Response(
        text=text,
        status=status,
        content_type="text/html",
        headers=FIELDS | {"Cache-Control": "no-store"} | (fields or {}),
    )
