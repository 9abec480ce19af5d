"""The fields of a job's own request to U: of the kick-off, or of the call that resumes it (CONTRACT
§1, §9).
"""

from __future__ import annotations

from collections.abc import Iterable

from proxy.core.http.fields import end_to_end, values_of
from proxy.core.job import ExportRequest
from proxy.core.preferences import other_preferences

_Field = tuple[bytes, bytes]

#: Never part of the job's request: it is not ranged or conditional, and its switch is for us
#: (CONTRACT §1).
_OURS = frozenset(
    {
        b"range",
        b"if-match",
        b"if-none-match",
        b"if-modified-since",
        b"if-unmodified-since",
        b"if-range",
        b"idempotency-key",
        b"prefer",
        b"accept-encoding",
        b"content-length",
        b"expect",
    }
)
#: Of a resuming call nothing is taken that describes that call instead of the export.
_OF_THE_CALL = frozenset(
    {b"accept", b"accept-language", b"content-type", b"content-encoding", b"content-language"}
)


def kickoff_fields(fields: Iterable[_Field], *, preserve_host: bool) -> list[_Field]:
    """What the job sends of its kick-off's fields, in order; other preferences than ours stay
    (CONTRACT §1).
    """
    received = list(fields)
    sent = [field for field in end_to_end(received) if field[0].lower() not in _OURS]
    if not preserve_host:
        sent = [field for field in sent if field[0].lower() != b"host"]
    others = other_preferences(values_of(received, b"prefer"))
    if others is not None:
        sent.append((b"Prefer", others))
    sent.append((b"Accept-Encoding", b"identity"))
    return sent


def resumed_fields(
    fields: Iterable[_Field], request: ExportRequest, *, preserve_host: bool
) -> list[_Field]:
    """What a resumed job sends: the resuming call's fields, and what was stored of the kick-off
    (CONTRACT §9).
    """
    call = [field for field in fields if field[0].lower() not in _OF_THE_CALL | {b"prefer"}]
    stored = (
        (b"Content-Type", request.content_type),
        (b"Accept", request.accept),
        (b"Accept-Language", request.accept_language),
    )
    return [
        *kickoff_fields(call, preserve_host=preserve_host),
        *((name, value.encode("latin-1")) for name, value in stored if value is not None),
    ]
