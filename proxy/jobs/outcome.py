"""What U answered to an export: the file's facts, or an error worth keeping (CONTRACT §3.7, §5)."""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from collections.abc import Sequence

from proxy.core.http.disposition import file_name
from proxy.core.http.fields import has_conflict, value_of, values_of
from proxy.core.job import ErrorCode, FileFacts, JobError
from proxy.core.outcome import JSON_LIMIT, codings, judge, masked, one_line, said
from proxy.ports import (
    Fields,
    Response,
    UpstreamBroken,
    UpstreamFailure,
    UpstreamTimedOut,
    WholeResponse,
)

_RECORDED_LIMIT = 64 * 1024
_UTF_8 = getincrementaldecoder("utf-8")
_JSON = re.compile(r"(?i)application/(?:[^;]*\+)?json\s*(?:;.*)?")


def error(code: ErrorCode, message: str) -> JobError:
    """An error without an answer of VB365 to blame: another try may succeed."""
    return JobError(code=code, message=message, retryable=True)


def code_of(why: UpstreamFailure) -> ErrorCode:
    """The code of a POST without a response. A response that is not HTTP counts as one (CONTRACT
    §5).
    """
    if isinstance(why, UpstreamTimedOut):
        return ErrorCode.TIMEOUT
    return ErrorCode.ERROR if isinstance(why, UpstreamBroken) else ErrorCode.UNREACHABLE


def refusal(answer: WholeResponse, hidden: Sequence[bytes]) -> JobError:
    """What an answer other than 200 makes of the job, in VB365's own words where it has any
    (CONTRACT §5).

    `hidden` is what `core.outcome.secrets` names: an error page may repeat the request, and records
    are kept on disk.
    """
    body = masked(answer.body[:JSON_LIMIT], hidden)
    content_type = text(value_of(answer.fields, b"content-type"))
    # a 2xx may hold part of the file, which is nothing to quote, unless it is declared as JSON: no
    # export is
    quoted = answer.status >= 300 or _JSON.fullmatch(content_type or "") is not None
    sentence = said(content_type, body) if quoted and len(answer.body) <= JSON_LIMIT else None
    row = judge(answer.status, sentence)
    message = f"Veeam Backup for Microsoft 365 answered {answer.status}"
    if sentence is not None:
        message += ": " + masked(sentence.encode(), hidden).decode(errors="replace")
    cut = len(body) > _RECORDED_LIMIT or len(answer.body) > JSON_LIMIT
    return JobError(
        code=row.code,
        message=message,
        retryable=row.retryable,
        status=answer.status,
        content_type=content_type,
        # a character that the limit divides is left out
        body=_UTF_8("replace").decode(body[:_RECORDED_LIMIT], final=not cut)
        if quoted or answer.status != 206
        else None,
        truncated=cut or not answer.complete,
    )


def encoding(fields: Fields) -> str | None:
    """The content codings of the answer's body, to be shown; None without one (`identity` is
    none).
    """
    named = codings(values_of(fields, b"content-encoding"))
    return one_line(b", ".join(named).decode("latin-1")) or "unreadable" if named else None


def facts(response: Response, size: int | None) -> FileFacts:
    """What a 200 head says of the file; `size` in bytes if it is known. Two different ETags
    count as none.
    """
    etag = None if has_conflict(response.fields, b"etag") else value_of(response.fields, b"etag")
    return FileFacts(
        media_type=text(value_of(response.fields, b"content-type")) or "application/octet-stream",
        file_name=file_name(value_of(response.fields, b"content-disposition")),
        size=size,
        etag=text(etag),
        last_modified=text(value_of(response.fields, b"last-modified")),
    )


def text(value: bytes | None) -> str | None:
    """Field bytes as text; None stays None."""
    return None if value is None else value.decode("latin-1")
