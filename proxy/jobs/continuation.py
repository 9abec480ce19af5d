"""The proof that two parts are one file (CONTRACT §10, RFC 9110 §15.3.7.3): a strong ETag, or an
overlap.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxy.core.http.fields import has_conflict, value_of
from proxy.core.job import FileFacts
from proxy.jobs.outcome import encoding, facts
from proxy.ports import Field, Response, UpstreamBroken

#: Bytes that are asked for once more where no strong ETag proves the rest.
_OVERLAP = 64 * 1024
_CONTENT_RANGE = re.compile(rb"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
#: RFC 9110 §8.8.3: a weak one begins with `W/`.
_STRONG = re.compile(rb'"[\x21\x23-\x7e\x80-\xff]*"')
#: Fields that prove nothing if they occur with different values: which of them counts is a guess.
_PROOF = (b"etag", b"content-range", b"last-modified", b"content-disposition", b"content-type")


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes [`start`, `stop`) of a file of `total` bytes, as the head of a 206 announces
    them.
    """

    start: int
    stop: int
    total: int


@dataclass(frozen=True, slots=True)
class Continuation:
    """A POST for the rest of the file that `answer` began and of which `stored` bytes (at least
    one) are there.

    It asks for the bytes from `start` on: from `stored`, if `validator` (the strong ETag of the
    answer) is there to prove that the file is the same; else from some bytes before, which are
    compared.
    """

    answer: FileFacts
    stored: int
    start: int
    validator: bytes | None

    @classmethod
    def of(cls, answer: FileFacts, stored: int) -> Continuation:
        """How to ask for the rest."""
        validator = _strong(None if answer.etag is None else answer.etag.encode("latin-1"))
        overlap = _OVERLAP if stored >= _OVERLAP else stored - stored // 2
        return cls(answer, stored, stored if validator else stored - overlap, validator)

    @property
    def fields(self) -> list[Field]:
        """What the request has more than the first one had."""
        conditions = [] if self.validator is None else [(b"If-Range", self.validator)]
        return [*conditions, (b"Range", b"bytes=%d-" % self.start)]

    def part(self, response: Response) -> Part | None:
        """What the answer carries; None unless its head fits the first answer's (CONTRACT §10).
        Where the two share no strong ETag that is half of the proof: `rest` is the other one.
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

    def _fits(self, part: Part) -> bool:
        """It begins where it should, and brings a byte that is not there yet, or the end of the
        file.
        """
        if (
            part.start != self.start
            or part.stop > part.total
            or self.answer.size not in (None, part.total)
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
        told, first = facts(response, None), self.answer
        if told.etag is not None and first.etag is not None and told.etag != first.etag:
            return False
        return (told.media_type, told.file_name, told.last_modified) == (
            first.media_type,
            first.file_name,
            first.last_modified,
        )

    async def rest(self, response: Response, overlap: bytes) -> bytes | None:
        """Compare the answer's first bytes with the `overlap`, those stored from `start` on.
        Returns what of the body was read behind them, None if they differ. Raises `UpstreamFailure`
        if they do not come.
        """
        body = bytearray()
        while len(body) < len(overlap):
            piece = await response.read()
            if not piece:
                raise UpstreamBroken("the answer ended before its first new byte", delivered=True)
            body += piece
        return bytes(body[len(overlap) :]) if body.startswith(overlap) else None


def _strong(etag: bytes | None) -> bytes | None:
    return etag if etag is not None and _STRONG.fullmatch(etag) else None
