"""Failures of the object store as the port knows them, in plain sentences.

The text of obstore is never shown: it has the URL of the request, which may hold a signature.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import BaseError

from proxy.ports import StorageFull, StorageRefused, StoreUnavailable

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9._-]{1,80})</Code>")
_FULL = re.compile("quota|storagefull|insufficientstorage|capacityexceeded", re.IGNORECASE)
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
_REFUSED = ("401", "403")
#: Refusals that end when an operator or time corrects their cause: credentials, a missing bucket,
#: conflicts, too many requests. The same with the code of a 400: expired or new credentials, and
#: bytes that were damaged or late on their way.
_TEMPORARY = frozenset({*_REFUSED, "404", "407", "408", "409", "412", "421", "423", "425", "429"})
_TEMPORARY_CODE = re.compile(
    "token|credential|authoriz|authent|kms|timeout|timedout|time-?skew|incompletebody|digest"
    "|md5mismatch|sha256mismatch|throttl|slowdown|busy",
    re.IGNORECASE,
)
#: obstore reports a missing object as FileNotFoundError, failures to read or send as OSError.
FAILURES = (BaseError, OSError, ValueError, MemoryError)


class Missing(Exception):
    """There is no object with this key."""


@contextmanager
def store_errors(location: str, *, storing: bool = False) -> Iterator[None]:
    """Raise `Missing` or `StoreUnavailable` for what obstore raises, and if `storing`,
    `StorageFull`, and `StorageRefused` for a refusal that a repetition gets again.
    """
    try:
        yield
    except FAILURES as why:
        raise _translated(why, location, storing=storing) from None


def _translated(why: Exception, location: str, *, storing: bool) -> Exception:
    if isinstance(why, MemoryError):
        return StoreUnavailable(f"{location} cannot be used: there is no memory")
    text = str(why)
    status, code = _first(_STATUS, text), _first(_CODE, text)
    if isinstance(why, FileNotFoundError) and code not in _NO_BUCKET:
        return Missing()
    answer = " ".join(each for each in (status, code) if each)
    if storing and (status == "507" or (status != "429" and code and _FULL.search(code))):
        return StorageFull(f"{location} is full ({answer})")
    if storing and _is_permanent(status, code):
        return StorageRefused(
            f"{location} refused an object of at most 8 MiB ({answer}): check what the store, and "
            "each proxy in front of it, accepts"
        )
    return StoreUnavailable(f"{location} {_reason(text, status, code, answer)}")


def _is_permanent(status: str | None, code: str | None) -> bool:
    """Whether the same request gets the same refusal, whenever it is repeated."""
    if status is None or status in _TEMPORARY:
        return False
    if status == "400":
        return not (code and _TEMPORARY_CODE.search(code))
    return status.startswith("4") or status == "501"


def _reason(text: str, status: str | None, code: str | None, answer: str) -> str:
    if code in _NO_BUCKET:
        return f"does not exist ({answer}): create the bucket, or correct storage.artifacts"
    if status in _REFUSED:
        return f"refused the request ({answer}): check the credentials and their permissions"
    if status is not None:
        return f"answered {answer}"
    if "kind: Timeout" in text or "timed out" in text:
        return "did not answer in time"
    if "certificate" in text.lower():
        return "has a certificate that is not trusted: set ca_file in storage.artifacts"
    if "builder error" in text:  # the client refuses the URL: `location` checks the options, but
        # the environment may name the endpoint
        return "has an endpoint without TLS: use https, or add allow_http=true to storage.artifacts"
    if "kind: Connect" in text or "error sending request" in text:
        return "cannot be reached"
    if "redential" in text or "metadata" in text:
        return "cannot be used: no credentials were found, or they could not be refreshed"
    return "failed"


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return None if found is None else found[1]
