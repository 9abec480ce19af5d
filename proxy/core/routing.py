"""The decision on a request's head: relay it, its switch stripped or as it is, or answer it
(CONTRACT §1, §2, §3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxy.core.exports import Export, match, split_target
from proxy.core.http.heads import Head
from proxy.core.preferences import InvalidAsync, Mode, Preferences, mode, parse_prefer, strip_async


@dataclass(frozen=True, slots=True)
class PassThrough:
    """Forward the request with this raw target; nothing else about it changes."""

    target: bytes


@dataclass(frozen=True, slots=True)
class Kickoff:
    """An asynchronous export for the gateway. `target` is without `async`; `preferences` as parsed
    from Prefer.
    """

    export: Export
    target: bytes
    preferences: Preferences


@dataclass(frozen=True, slots=True)
class BadSwitch:
    """An export whose `async` parameter cannot be understood: 400, since a silent sync export would
    hang the caller.
    """

    detail: str


@dataclass(frozen=True, slots=True)
class Own:
    """A request below the proxy's own segment. `api` is the version segment as sent ("v8"), None
    without one.

    `prefix` is the raw path up to and with the segment; `rest` what follows it, without query.
    """

    prefix: str
    api: str | None
    rest: str
    query: str | None


Decision = PassThrough | Kickoff | BadSwitch | Own


class Router:
    """Decides on heads. `segment` begins with `_`; `prefix` is the path of `public.url` ("" or
    "/x", CONTRACT §13).
    """

    def __init__(self, *, segment: str, prefix: str, max_body: int, reports: bool) -> None:
        base = rf"(?:{re.escape(prefix)})?/+(?:(?P<api>v\d+)/+)?{re.escape(segment)}"
        own = rf"(?P<base>{base})(?P<rest>/.*)?"
        self._own = re.compile(own, re.IGNORECASE | re.DOTALL)
        self._segment = segment.lower().encode()
        self._max_body = max_body
        self._reports = reports

    def decide(self, head: Head) -> Decision:
        """What becomes of the request with this head."""
        target = head.target
        if self._segment in target.lower():
            own = self._own_path(target)
            if own is not None:
                return own
        if head.method != b"POST":
            return PassThrough(target)
        export = match(head.method, target, reports=self._reports)
        return PassThrough(target) if export is None else self._export(head, export)

    def _own_path(self, target: bytes) -> Own | None:
        path, query = split_target(target)
        found = self._own.fullmatch(path.decode("latin-1"))
        if found is None:
            return None
        text = None if query is None else query.decode("latin-1")
        api = found["api"]
        return Own(found["base"], None if api is None else api.lower(), found["rest"] or "", text)

    def _export(self, head: Head, export: Export) -> Decision:
        preferences = parse_prefer(head.get_all(b"prefer"))
        try:
            chosen = mode(split_target(head.target)[1], preferences)
        except InvalidAsync as why:
            return BadSwitch(str(why))
        target = strip_async(head.target)
        if chosen is Mode.SYNC or not self._for_gateway(head):
            return PassThrough(target)
        return Kickoff(export, target, preferences)

    def _for_gateway(self, head: Head) -> bool:
        """CONTRACT §3: a kick-off without credentials gets U's own 401, unless its announced body
        is too large.
        """
        if head.get_all(b"authorization") or head.get_all(b"cookie"):
            return True
        length = head.content_length
        return length is not None and length > self._max_body
