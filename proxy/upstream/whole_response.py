"""A response of the upstream read whole, up to a limit."""

from __future__ import annotations

import structlog

from proxy.ports import Response, UpstreamFailure, WholeResponse

log = structlog.get_logger(__name__)


async def read_whole(response: Response, limit: int) -> WholeResponse:
    """Read the body of at most `limit` bytes. `complete` is False, and the body what was read, if
    it is longer or breaks.
    """
    pieces: list[bytes] = []
    size = 0
    reason = f"the body has more than {limit} bytes"
    try:
        while size <= limit and (piece := await response.read()):
            pieces.append(piece)
            size += len(piece)
        complete = size <= limit
    except UpstreamFailure as why:
        complete, reason = False, str(why)
    if not complete:
        log.warning("response of the upstream not complete", status=response.status, reason=reason)
    return WholeResponse(
        response.status,
        response.reason,
        response.fields,
        b"".join(pieces),
        complete,
        response.lines,
    )
