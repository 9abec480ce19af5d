"""URLs, secrets and event types of webhooks (CONTRACT §15, §17)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from proxy.config.addresses import LIST_SCHEMA, http_url, parse_list
from proxy.config.scalars import Duration
from proxy.config.section import Section
from proxy.config.syntax import MASK, Syntax, invalid, text
from proxy.core.outbox import Topic

#: Each URL is a message in the record of each job.
_MAX_URLS, _MAX_SECRETS = 6, 4
#: Bytes of a secret (Standard Webhooks 1.0.0, "Signature scheme").
_LEAST, _MOST = 24, 64
_PREFIX = "whsec_"
_EXAMPLE = "whsec_ and the output of `openssl rand -base64 32`"
_TYPES = [topic.type for topic in Topic]


def _url(value: Any) -> str:
    url = text(value).strip()
    http_url(_origin(url))
    if not re.fullmatch(r"[!-~]+", url) or "#" in url:
        raise invalid("contains a URL with a fragment or a space", "remove it, or write %20")
    return url


def _origin(url: str) -> str:
    """Return the scheme and the authority. The rest may be the receiver's only protection, and is
    not shown.
    """
    found = re.match(r"(?:[^/?#]*//)?[^/?#]*", url)
    return "" if found is None else found[0]


def _secret(value: Any) -> SecretStr:
    secret = text(value).strip()
    try:
        length = len(base64.b64decode(secret.removeprefix(_PREFIX), validate=True))
    except (binascii.Error, ValueError):
        length = 0
    if not secret.startswith(_PREFIX) or not _LEAST <= length <= _MOST:
        problem = f"contains a value that is not {_PREFIX} and {_LEAST} to {_MOST} bytes in base64"
        raise invalid(problem, f"write {_EXAMPLE}")
    return SecretStr(secret)


def _event(value: Any) -> str:
    event = text(value).strip()
    if event not in _TYPES:
        raise invalid(f"contains {event!r}, which is no event type", f"write {', '.join(_TYPES)}")
    return event


def _bounded(value: Any, *, of: Callable[[Any], Any], most: int) -> tuple[Any, ...]:
    found = tuple(dict.fromkeys(parse_list(value, of=of)))
    if len(found) > most:
        raise invalid(f"has {len(found)} values", f"use at most {most}")
    return found


def _show_urls(urls: tuple[str, ...]) -> list[str]:
    return [
        origin if url.removeprefix(origin) in ("", "/") else f"{origin}/{MASK}"
        for url, origin in ((each, _origin(each)) for each in urls)
    ]


def _mask_all(secrets: tuple[SecretStr, ...]) -> list[str]:
    return [MASK] * len(secrets)


_SECRETS_SCHEMA = {
    "type": "array",
    "items": {"type": "string", "format": "password", "writeOnly": True},
}
_EVENTS_SCHEMA = {"type": "array", "items": {"type": "string", "enum": _TYPES}}

WebhookUrls = Annotated[
    tuple[str, ...], Syntax(partial(_bounded, of=_url, most=_MAX_URLS), _show_urls, LIST_SCHEMA)
]
WebhookSecrets = Annotated[
    tuple[SecretStr, ...],
    Syntax(partial(_bounded, of=_secret, most=_MAX_SECRETS), _mask_all, _SECRETS_SCHEMA),
]
WebhookEvents = Annotated[
    tuple[str, ...],
    Syntax(partial(_bounded, of=_event, most=len(_TYPES)), list, _EVENTS_SCHEMA),
]


class Webhooks(Section):
    """Notifications when exports are accepted, end or expire (Standard Webhooks)."""

    urls: WebhookUrls = Field(default=(), repr=False)
    """URLs to post to, at most 6. Keep them secret if they identify the sender."""
    secrets: WebhookSecrets = Field(default=(), validate_default=True)
    """Secrets that sign the notifications (whsec_ and base64), at most 4; a receiver needs one of
    them. To change a secret, add the new one, change the receivers, then remove the old one.
    """
    events: WebhookEvents = ()
    """Event types to send, for example export.succeeded and export.failed. Default: all."""
    expiring_before: Duration = 3600.0
    """How long before the expiry of a file export.expiring is sent."""

    @field_validator("secrets")
    @classmethod
    def _signed(cls, secrets: tuple[SecretStr, ...], info: ValidationInfo) -> object:
        if not secrets and info.data.get("urls"):
            problem = "is required because webhooks.urls is set"
            raise invalid(problem, f"write for example {_EXAMPLE}")
        return secrets
