"""Whether the addresses of the stores are well-formed (CONTRACT §15: bad values exit with 2).

Nothing is opened. The library of a store that is not installed is reported by the start.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Final

from proxy.config.loading import Check

_BUCKETS: Final = (
    "Write s3://bucket/prefix, az://container/prefix or gs://bucket/prefix, with options as "
    "?name=value&name=value."
)


def _jobs(value: str) -> tuple[str, str] | None:
    if value == "disk":
        return None
    from proxy.stores.redis_jobs.url import BadUrl, parse_url

    try:
        parse_url(value)
    except BadUrl as why:
        return why.fault, f"{why.fix[:1].upper()}{why.fix[1:]}."
    return None


def _artifacts(value: str) -> tuple[str, str] | None:
    if value == "file":
        return None
    with contextlib.suppress(ImportError):
        from proxy.stores.object_artifacts.location import BadLocation, Location

        try:
            Location.parse(value)
        except BadLocation as why:
            return why.fault, _BUCKETS
    return None


#: The checks by the names of the settings.
CHECKS: Final[Mapping[str, Check]] = {"storage.jobs": _jobs, "storage.artifacts": _artifacts}
