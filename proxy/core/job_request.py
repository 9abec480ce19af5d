"""The request of a job to VB365: what is stored of it, and its header fields, from its kick-off or
from the call that resumes it (CONTRACT §1, §8, §9).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from proxy.core.exports import Export
from proxy.core.http.fields import end_to_end, value_of, values_of
from proxy.core.http.heads import Head
from proxy.core.job import ExportRequest
from proxy.core.preferences import other_preferences

_Field = tuple[bytes, bytes]

#: Not part of the job's request, which has no range and no condition (CONTRACT §1).
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
#: Fields that describe a resuming call itself, not the export.
_OF_THE_CALL = frozenset(
    {
        b"host",
        b"accept",
        b"accept-language",
        b"content-type",
        b"content-encoding",
        b"content-language",
    }
)
#: Fields with which a server may replace the host, the path or the method of a request. A resumed
#: job sends none of them: the resuming caller must not choose what is exported (CONTRACT §9).
_REPLACES_TARGET = {
    b"forwarded": "its host parameter (RFC 7239 §5.3)",
    b"x-forwarded-host": "host: most reverse proxies and ASP.NET Core",
    b"x-forwarded-server": "host: Apache httpd",
    b"x-host": "host: some gateways and frameworks",
    b"x-original-host": "host: Azure Application Gateway",
    b"x-http-host-override": "host: some gateways and frameworks",
    b"x-original-url": "path: IIS ARR and URL Rewrite, Symfony",
    b"x-rewrite-url": "path: ISAPI Rewrite, Symfony",
    b"x-original-uri": "path: ingress-nginx",
    b"x-forwarded-uri": "path: Traefik and Caddy",
    b"x-forwarded-path": "path: some gateways",
    b"x-forwarded-prefix": "path: Traefik, ASP.NET Core and Spring",
    b"x-original-method": "method: ingress-nginx",
    b"x-forwarded-method": "method: Traefik and Caddy",
    b"x-http-method-override": "method: ASP.NET Core and others",
    b"x-http-method": "method: Microsoft OData",
    b"x-method-override": "method: several frameworks",
}


def stored_request(
    head: Head, export: Export, target: bytes, body: bytes, *, key: str | None
) -> ExportRequest:
    """What is stored of an export's request. `target` is the raw target without `async`, `key` the
    Idempotency-Key.
    """
    digest = hashlib.sha256()
    for part in (head.method, target, hashlib.sha256(body).digest()):
        digest.update(b"%d:%b" % (len(part), part))
    fields = head.fields
    return ExportRequest(
        method=head.method.decode("latin-1"),
        target=target.decode("latin-1"),
        api=export.api,
        session=export.session,
        title=export.title,
        content_type=_first(fields, b"content-type"),
        accept=_first(fields, b"accept"),
        accept_language=_first(fields, b"accept-language"),
        idempotency_key=key,
        fingerprint=digest.hexdigest(),
        host=None if head.host is None else head.host.decode("latin-1"),
    )


def _first(fields: Iterable[_Field], name: bytes) -> str | None:
    value = value_of(fields, name)
    return None if value is None else value.decode("latin-1")


def kickoff_fields(fields: Iterable[_Field]) -> list[_Field]:
    """The fields of the kick-off that the job sends, in order (CONTRACT §1). Preferences other than
    the proxy's own are kept.
    """
    received = list(fields)
    sent = [field for field in end_to_end(received) if field[0].lower() not in _OURS]
    others = other_preferences(values_of(received, b"prefer"))
    if others is not None:
        sent.append((b"Prefer", others))
    sent.append((b"Accept-Encoding", b"identity"))
    return sent


def resumed_fields(fields: Iterable[_Field], request: ExportRequest) -> list[_Field]:
    """The fields that a resumed job sends: those of the resuming call, and those stored of the
    kick-off (CONTRACT §9). Without a Host the upstream adds VB365's own.
    """
    host = [] if request.host is None else [(b"Host", request.host.encode("latin-1"))]
    call = [(name, value) for name, value in fields if not _is_of_the_call(name)]
    stored = (
        (b"Content-Type", request.content_type),
        (b"Accept", request.accept),
        (b"Accept-Language", request.accept_language),
    )
    return [
        *host,  # whatever the Connection field of the call names
        *kickoff_fields(call),
        *((name, value.encode("latin-1")) for name, value in stored if value is not None),
    ]


def _is_of_the_call(name: bytes) -> bool:
    name = name.lower()
    # servers that pass fields in environment variables treat `_` as `-`
    return name in _OF_THE_CALL | {b"prefer"} or name.replace(b"_", b"-") in _REPLACES_TARGET
