"""The base of responses whose head the proxy writes itself, byte by byte."""

from __future__ import annotations

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter


class RawResponse(web.StreamResponse):
    """A response that its subclass writes to aiohttp's writer, in `prepare` and `write_eof`.

    aiohttp would add fields, and would write values as UTF-8, which changes those of VB365 that are
    not ASCII. Only the public interface of `web.StreamResponse` is overridden.
    """

    def __init__(self, *, status: int, reason: str | None = None) -> None:
        super().__init__(status=status, reason=reason)
        self._writer: AbstractStreamWriter | None = None
        self._closes = False

    @property
    def prepared(self) -> bool:
        """Whether the head is written."""
        return self._writer is not None

    @property
    def keep_alive(self) -> bool:
        """Whether the connection serves another request afterwards."""
        return not self._closes

    def force_close(self) -> None:
        """Close the connection after this response."""
        self._closes = True
