"""Proof that two parts belong to one file (CONTRACT §10, RFC 9110 §15.3.7.3): a strong ETag, or an
overlap.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxy.core.http.fields import has_conflict, value_of
from proxy.core.http.validators import strong
from proxy.core.job import FileFacts
from proxy.jobs.outcome import encoding, facts
from proxy.jobs.overlap import Read, overlap_of
from proxy.ports import Field, Response, UpstreamBroken

_CONTENT_RANGE = re.compile(rb"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
#: Fields that prove nothing if they occur with different values, because any of them could count.
_PROOF = (b"etag", b"content-range", b"last-modified", b"content-disposition", b"content-type")


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes [`start`, `stop`) of a file of `total` bytes, as announced by the head of a 206."""

    start: int
    stop: int
    total: int


@dataclass(frozen=True, slots=True)
class Continuation:
    """A POST for the rest of a file of which `file` are the facts and `stored` bytes (at least
    one) are stored.

    It requests the bytes from `start` on. That is `stored` if `validator`, the strong ETag of the
    first response, proves that the file is the same; otherwise less, and the overlap is compared.
    """

    file: FileFacts
    stored: int
    start: int
    validator: bytes | None

    @classmethod
    async def of(cls, file: FileFacts, stored: int, read: Read) -> Continuation | None:
        """The continuation of a file of which `stored` bytes are stored, which `read` returns. None
        if nothing can prove that a response continues it.
        """
        validator = strong(None if file.etag is None else file.etag.encode("latin-1"))
        overlap = 0 if validator else await overlap_of(read, stored)
        return None if overlap is None else cls(file, stored, stored - overlap, validator)

    @property
    def fields(self) -> list[Field]:
        """The fields that the request has in addition to those of the first one."""
        conditions = [] if self.validator is None else [(b"If-Range", self.validator)]
        return [*conditions, (b"Range", b"bytes=%d-" % self.start)]

    def part(self, response: Response) -> Part | None:
        """Return the part that the response carries, None unless its head matches that of the first
        response (CONTRACT §10). Without a common strong ETag that is half of the proof; `rest` is
        the other half.
        """
        match = _CONTENT_RANGE.fullmatch(value_of(response.fields, b"content-range") or b"")
        if response.status != 206 or match is None:
            return None
        part = Part(int(match[1]), int(match[2]) + 1, int(match[3]))
        fits = (
            self._fits(part)
            and response.length in (None, part.stop - part.start)
            and self._is_same_file(response)
        )
        return part if fits else None

    def is_whole(self, response: Response) -> bool:
        """Whether the response, a 416 with the ETag of the first one, says that all bytes of the
        file are stored: its size was not known, and nothing is left.
        """
        fields = response.fields
        return (
            response.status == 416
            and self.validator is not None
            and not (has_conflict(fields, b"etag") or has_conflict(fields, b"content-range"))
            and value_of(fields, b"etag") == self.validator
            and value_of(fields, b"content-range") == b"bytes */%d" % self.stored
            and self.file.size in (None, self.stored)
        )

    def _fits(self, part: Part) -> bool:
        """Whether the part begins at `start` and brings a new byte, or the end of the file."""
        if (
            part.start != self.start
            or part.stop > part.total
            or self.file.size not in (None, part.total)
        ):
            return False
        return part.stop > self.stored or part.stop == part.total == self.stored

    def _is_same_file(self, response: Response) -> bool:
        if encoding(response.fields) is not None:
            return False
        if any(has_conflict(response.fields, name) for name in _PROOF):
            return False
        etag = value_of(response.fields, b"etag")
        if self.validator is not None and etag != self.validator:
            return False
        now, first = facts(response, None), self.file
        if now.etag is not None and first.etag is not None and now.etag != first.etag:
            return False
        return (now.media_type, now.file_name, now.last_modified) == (
            first.media_type,
            first.file_name,
            first.last_modified,
        )

    async def rest(self, response: Response, overlap: bytes) -> bytes | None:
        """Compare the first bytes of the body with `overlap`, the stored bytes from `start` on.

        Returns the bytes that were read after them, None if they differ. Raises `UpstreamFailure`
        if the body breaks or ends before that.
        """
        compared, piece = 0, b""
        while compared < len(overlap):
            piece = await response.read()
            if not piece:
                raise UpstreamBroken("the response ended before its first new byte", delivered=True)
            if not piece.startswith(overlap[compared : compared + len(piece)]):
                return None
            compared += len(piece)
        return piece[len(piece) - (compared - len(overlap)) :]
