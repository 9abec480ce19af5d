"""The file name of a job's result (CONTRACT §5 `fileName`, §6)."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from proxy.core.exports import split_target
from proxy.core.http.disposition import safe_name
from proxy.core.job import Job

_EXTENSIONS = {"Pst": "pst", "Zip": "zip", "Msg": "msg"}
#: The only operation of VB365 that exports a web page: posts/export, of a team or of one post.
_POSTS_EXPORT = re.compile(r".*/posts/(?:[^/]+/)?export/?", re.IGNORECASE | re.DOTALL)


def result_name(job: Job) -> str | None:
    """The name that VB365 gave the file, otherwise one made of the operation, the time of the
    kick-off and the format.

    None until VB365 has responded and, if the name depends on the format, until that is known: a
    name that was shown does not change.
    """
    if job.file is None:
        return None
    if job.file.file_name is not None:
        return job.file.file_name
    if job.format is None:
        return None
    accepted = datetime.fromtimestamp(job.created, UTC).strftime("%Y%m%dT%H%M%SZ")
    return (
        safe_name(f"{job.request.title}-{accepted}.{_extension(job)}")
        or f"export-{accepted}.{_extension(job)}"
    )


def _extension(job: Job) -> str:
    known = _EXTENSIONS.get(job.format or "")
    if known is not None:
        return known
    path, _ = split_target(job.request.target.encode("latin-1"))
    return "html" if _POSTS_EXPORT.fullmatch(path.decode("latin-1")) else "bin"
