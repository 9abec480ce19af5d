"""What is done with a request, decided by its head: relay it, with or without its `async`
parameter, or serve it (CONTRACT §1, §2, §3, §14).
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.core.exports import Export, match, split_target
from proxy.core.http.heads import Head
from proxy.core.paths import OwnPaths
from proxy.core.preferences import InvalidAsync, Mode, Preferences, mode, parse_prefer, strip_async


@dataclass(slots=True)  # made for almost every request: a frozen one takes twice as long
class PassThrough:
    """Forward the request with this raw target; nothing else changes."""

    target: bytes


@dataclass(frozen=True, slots=True)
class Kickoff:
    """Start an asynchronous export. `target` is the raw target without `async`; `preferences` is
    the parsed Prefer field.
    """

    export: Export
    target: bytes
    preferences: Preferences


@dataclass(frozen=True, slots=True)
class Rescue:
    """Run an export that nobody asked to be asynchronous as a job, and send its file as it arrives
    (CONTRACT §14). `target` is the raw target.
    """

    export: Export
    target: bytes


@dataclass(frozen=True, slots=True)
class BadSwitch:
    """Reject an export with an invalid `async` parameter: 400, because a synchronous export would
    block the caller for minutes without an explanation.
    """

    detail: str


@dataclass(frozen=True, slots=True)
class Own:
    """Serve a resource below the proxy's own segment. `api` is the version segment in lower case
    ("v8"), None without one.

    `prefix` is the raw path up to and with the segment; `rest` is what follows, without the query.
    """

    prefix: str
    api: str | None
    rest: str
    query: str | None


Decision = PassThrough | Kickoff | Rescue | BadSwitch | Own


class Router:
    """Decides on request heads. `segment` begins with `_`; `prefix` is the path of `public.url` (""
    or "/x", CONTRACT §13); `max_body` is in bytes; `rescue` is `exports.rescue_sync`.
    """

    def __init__(
        self, *, segment: str, prefix: str, max_body: int, reports: bool, rescue: bool = False
    ) -> None:
        self._own = OwnPaths(segment, prefix)
        self._segment = segment.lower().encode()
        self._max_body = max_body
        self._reports = reports
        self._rescue = rescue

    def decide(self, head: Head) -> Decision:
        """What to do with the request that has this head."""
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
        found = self._own.split(path.decode("latin-1"))
        if found is None:
            return None
        return Own(*found, None if query is None else query.decode("latin-1"))

    def _export(self, head: Head, export: Export) -> Decision:
        preferences = parse_prefer(head.get_all(b"prefer"))
        try:
            chosen = mode(split_target(head.target)[1], preferences)
        except InvalidAsync as why:
            return BadSwitch(str(why))
        target = strip_async(head.target)
        if chosen is Mode.ASYNC:
            may_start = self._may_start_job(head)
            return Kickoff(export, target, preferences) if may_start else PassThrough(target)
        if self._rescue and target == head.target and self._may_rescue(head, preferences):
            return Rescue(export, target)
        return PassThrough(target)

    def _may_rescue(self, head: Head, preferences: Preferences) -> bool:
        """CONTRACT §14. Not with credentials that belong to the connection (NTLM, Negotiate): the
        job's request is sent on another one.
        """
        if (
            preferences.wait is not None
            or head.binds
            or (head.content_length or 0) > self._max_body
        ):
            return False
        return bool(head.get_all(b"authorization") or head.get_all(b"cookie"))

    def _may_start_job(self, head: Head) -> bool:
        """CONTRACT §3: a kick-off without credentials goes to VB365, which answers 401, unless its
        announced body is too large.
        """
        if head.get_all(b"authorization") or head.get_all(b"cookie"):
            return True
        length = head.content_length
        return length is not None and length > self._max_body
