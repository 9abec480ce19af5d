"""A response of the upstream read whole, up to a limit."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from proxy.ports import Fields, UpstreamBroken
from proxy.upstream.whole_response import read_whole


class Pieces:
    """A response of the given pieces; an exception among them is raised."""

    status, reason, lines, delimited = 500, b"No", b"X: 1\r\n", True

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.fields: Fields = [(b"X", b"1")]
        self.length: int | None = None
        self.left = [*pieces, b""]

    async def read(self) -> bytes:
        piece = self.left.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return piece

    def close(self) -> None:
        """Nothing to close."""


async def test_a_body_up_to_the_limit_is_complete() -> None:
    whole = await read_whole(Pieces(b"ab", b"cd"), 4)
    assert (whole.status, whole.reason, whole.fields) == (500, b"No", [(b"X", b"1")])
    assert (whole.body, whole.complete, whole.lines) == (b"abcd", True, b"X: 1\r\n")


@pytest.mark.parametrize("last", [b"e", UpstreamBroken("cut", delivered=True)], ids=["long", "cut"])
async def test_a_body_that_is_longer_or_breaks_is_not_complete(last: bytes | Exception) -> None:
    pieces = Pieces(b"ab", b"cd", last, b"f")
    with capture_logs() as logs:
        whole = await read_whole(pieces, 4)
    assert not whole.complete
    assert whole.body.startswith(b"abcd")
    assert pieces.left[0] == b"f"
    assert [entry["status"] for entry in logs] == [500]
