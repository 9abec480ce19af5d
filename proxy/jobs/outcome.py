"""What a response of VB365 means for an export: the facts of a file, or an error (CONTRACT §3.7,
§5).
"""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from collections.abc import Sequence
from dataclasses import replace

from proxy.core.errors import Problem
from proxy.core.http.disposition import file_name
from proxy.core.http.fields import has_conflict, value_of, values_of, without
from proxy.core.job import ErrorCode, FileFacts, JobError
from proxy.core.outcome import JSON_LIMIT, codings, masked, message_of, one_line, row_of
from proxy.jobs.reservations import SpaceShortage
from proxy.jobs.run import Run
from proxy.ports import (
    Fields,
    LengthMismatch,
    PartialLost,
    Response,
    StorageFull,
    StorageRefused,
    UpstreamBroken,
    UpstreamFailure,
    UpstreamTimedOut,
    WholeResponse,
)
from proxy.upstream.credentials import Credentials

_RECORDED_LIMIT = 64 * 1024
#: Bytes of the head of a response to a rescued export that a record keeps. VB365 sends 500.
_LONGEST_HEAD = 8 * 1024
#: Fields for the client whose request VB365 answered, and for no other.
NOT_REPEATED = frozenset({b"set-cookie"})
_DENIED = (401, 403)
_UTF_8 = getincrementaldecoder("utf-8")
_JSON = re.compile(r"(?i)application/(?:[^;]*\+)?json\s*(?:;.*)?")


def error(code: ErrorCode, message: str) -> JobError:
    """An error that is not a response of VB365: another try may succeed."""
    return JobError(code=code, message=message, retryable=True)


def not_stored(why: StorageFull | PartialLost | LengthMismatch) -> JobError:
    """The error of a file that could not be stored. Of the text of `why`, which may name paths and
    hosts, only the numbers of a `SpaceShortage` are shown.
    """
    if isinstance(why, LengthMismatch):
        message = (
            "The stored file does not have the length that VB365 sent. Start the export again."
        )
        return error(ErrorCode.TRUNCATED, message)
    if isinstance(why, StorageRefused):
        message = "The file cannot be stored: the store of the proxy refuses it. Its log says why."
        return error(ErrorCode.INTERNAL, message)
    if isinstance(why, PartialLost):
        message = "The stored part of the file is lost. Start the export again."
        return error(ErrorCode.INTERRUPTED, message)
    numbers = f": {why}" if isinstance(why, SpaceShortage) else ""
    return error(ErrorCode.STORAGE_FULL, f"Not enough space to store the file{numbers}")


def code_of(why: UpstreamFailure) -> ErrorCode:
    """The code of a POST without a response. A response that is not HTTP counts as one (CONTRACT
    §5).
    """
    if isinstance(why, UpstreamTimedOut):
        return ErrorCode.TIMEOUT
    return ErrorCode.ERROR if isinstance(why, UpstreamBroken) else ErrorCode.UNREACHABLE


def refusal(response: WholeResponse, hidden: Sequence[bytes]) -> JobError:
    """The error of a response other than 200, with VB365's message if it has one (CONTRACT §5).

    `hidden` is what `core.outcome.secrets` names: an error page may repeat the request, and records
    are kept on disk.
    """
    body = masked(response.body[:JSON_LIMIT], hidden)
    content_type = text(value_of(response.fields, b"content-type"))
    # a 2xx may hold part of the file, which must not be quoted, unless it is declared as JSON: no
    # export is JSON
    quoted = response.status >= 300 or _JSON.fullmatch(content_type or "") is not None
    reason = message_of(content_type, body) if quoted and len(response.body) <= JSON_LIMIT else None
    row = row_of(response.status, reason)
    message = f"Veeam Backup for Microsoft 365 answered {response.status}"
    if reason is not None:
        message += ": " + masked(reason.encode(), hidden).decode(errors="replace")
    cut = len(body) > _RECORDED_LIMIT or len(response.body) > JSON_LIMIT
    return JobError(
        code=row.code,
        message=message,
        retryable=row.retryable,
        status=response.status,
        content_type=content_type,
        # a character that the limit splits is left out
        body=_UTF_8("replace").decode(body[:_RECORDED_LIMIT], final=not cut)
        if quoted or response.status != 206
        else None,
        truncated=cut or not response.complete,
    )


def encoding(fields: Fields) -> str | None:
    """The content codings of a body, as text for a message. None if there are none; `identity` does
    not count.
    """
    named = codings(values_of(fields, b"content-encoding"))
    return one_line(b", ".join(named).decode("latin-1")) or "unreadable" if named else None


def facts(response: Response, size: int | None, *, repeatable: bool = False) -> FileFacts:
    """The facts of the file that the head of a 200 announces; `size` in bytes, None if unknown. Two
    different ETags count as none. With `repeatable` the head itself is one of them, unless it is
    too long.
    """
    lines = without(response.lines, NOT_REPEATED) if repeatable else b""
    kept = repeatable and len(lines) + len(response.reason) <= _LONGEST_HEAD
    etag = None if has_conflict(response.fields, b"etag") else value_of(response.fields, b"etag")
    return FileFacts(
        media_type=text(value_of(response.fields, b"content-type")) or "application/octet-stream",
        file_name=file_name(value_of(response.fields, b"content-disposition")),
        size=size,
        etag=text(etag),
        last_modified=text(value_of(response.fields, b"last-modified")),
        reason=text(response.reason) if kept else None,
        lines=text(lines) if kept else None,
    )


def repeated(response: WholeResponse) -> WholeResponse:
    """The response as a client gets it whose request shared the one that VB365 answered."""
    fields = [field for field in response.fields if field[0].lower() not in NOT_REPEATED]
    return replace(response, fields=fields, lines=without(response.lines, NOT_REPEATED))


def concerns(response: Response | WholeResponse | Problem, run: Run, other: Credentials) -> bool:
    """Whether VB365 would give the response to the run's request to one with the `other`
    credentials, too. If it rejects those of the run, it may accept refreshed ones, or those of
    another user.
    """
    return response.status not in _DENIED or Credentials.of(run.fields) == other


def text(value: bytes | None) -> str | None:
    """Field bytes as text; None stays None."""
    return None if value is None else value.decode("latin-1")
