"""The objects of a job and their keys.

A file is a sequence of segments: objects of at most 8 MiB, each stored by one request, so that no
multipart upload can be left behind. Under the prefix of the store there are

- `artifacts/<id>/<fence>/<index>-<token>`: a segment. Each writer has a token of its own, so that a
  key never gets other bytes, even by a request that arrives late.
- `artifacts/<id>/<fence>.partial`: the partial file: the segments that its writer has found, and
  the writer's token. Segments with this token that follow them without a gap belong to it too.
- `artifacts/<id>/<fence>.json`: the artifact: its facts, its segments and its record copy. Storing
  this object is the commit.
- `artifacts/<id>/reading/…`: see `sharing`.

A fence owns its objects: a take-over copies the bytes (CONTRACT §18). What a writer with a lower
fence stores or removes late is under its own fence.
"""

from __future__ import annotations

import base64
import json
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, chain, count

from proxy.ports import Artifact

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_FENCE = r"(0|[1-9][0-9]{0,18})"
_SEGMENT = re.compile(rf"{_FENCE}/([0-9]{{8,}})-([0-9a-f]{{16}})")
_DOCUMENT = re.compile(rf"{_FENCE}\.(json|partial)")

#: All jobs are below this key.
ROOT = "artifacts"


def checked(id: str) -> str:
    """The id, if it is a UUID in lower case: no other text ever becomes part of a key. Raises
    ValueError.
    """
    if not is_id(id):
        raise ValueError(f"not a job id: {id!r}")
    return id


def is_id(text: str) -> bool:
    """Whether the text is a job id."""
    return re.fullmatch(_UUID, text) is not None


@dataclass(frozen=True, slots=True)
class Run:
    """Segments of one writer in a row; `sizes` in bytes."""

    token: str
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment: the bytes [start, start + size) of the file."""

    key: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Place:
    """The keys of one job under one fence."""

    id: str
    fence: int = 0

    @property
    def job(self) -> str:
        """The prefix of all objects of the job."""
        return f"{ROOT}/{self.id}"

    @property
    def segments(self) -> str:
        """The prefix of the segments."""
        return f"{self.job}/{self.fence}"

    @property
    def head(self) -> str:
        """The key of the partial file."""
        return f"{self.segments}.partial"

    @property
    def commit(self) -> str:
        """The key of the artifact."""
        return f"{self.segments}.json"

    def segment(self, index: int, token: str) -> str:
        """The key of a segment."""
        return f"{self.segments}/{index:08d}-{token}"

    def listed(self, runs: tuple[Run, ...]) -> Iterator[Segment]:
        """The segments of a file, in order."""
        start, index = 0, count()
        for run in runs:
            for size in run.sizes:
                yield Segment(self.segment(next(index), run.token), start, size)
                start += size


class Sequence:
    """The segments of a file by offset, in little memory: a large file has many."""

    def __init__(self, place: Place, runs: tuple[Run, ...]) -> None:
        self._place = place
        self._runs = runs
        self._firsts = list(accumulate((len(run.sizes) for run in runs), initial=0))[:-1]
        sizes = chain.from_iterable(run.sizes for run in runs)
        self._starts = array("Q", accumulate(sizes, initial=0))

    def add(self, size: int) -> None:
        """Add a segment to the last run, which may have been empty."""
        self._starts.append(self._starts[-1] + size)

    def at(self, offset: int) -> Segment:
        """The segment that has the byte at the offset, which is less than the size of the file."""
        index = bisect_right(self._starts, offset) - 1
        run = self._runs[bisect_right(self._firsts, index) - 1]
        start, stop = self._starts[index], self._starts[index + 1]
        return Segment(self._place.segment(index, run.token), start, stop - start)


@dataclass(frozen=True, slots=True)
class Head:
    """A partial file: the segments found when it was opened, and the token of its writer."""

    token: str
    runs: tuple[Run, ...] = ()

    def encode(self) -> bytes:
        """The object, in JSON."""
        return json.dumps({"token": self.token, "runs": _plain(self.runs)}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Head:
        """The head from its object. Raises ValueError."""
        with _reading("partial file"):
            raw = json.loads(data)
            return cls(str(raw["token"]), _runs(raw["runs"]))


@dataclass(frozen=True, slots=True)
class Commit:
    """An artifact, its segments and its record copy."""

    artifact: Artifact
    runs: tuple[Run, ...]
    record_copy: bytes

    def encode(self) -> bytes:
        """The object, in JSON."""
        facts = {
            "size": self.artifact.size,
            "sha256": self.artifact.sha256.hex(),
            "created": self.artifact.created,
            "runs": _plain(self.runs),
            "record": base64.b64encode(self.record_copy).decode(),
        }
        return json.dumps(facts).encode()

    @classmethod
    def decode(cls, id: str, data: bytes) -> Commit:
        """The commit from its object. Raises ValueError, also if the sizes disagree."""
        with _reading("artifact"):
            raw = json.loads(data)
            artifact = Artifact(
                id, int(raw["size"]), bytes.fromhex(raw["sha256"]), float(raw["created"])
            )
            runs = _runs(raw["runs"])
            if artifact.size != length(runs) or len(artifact.sha256) != 32:
                raise ValueError("the sizes disagree")
            return cls(artifact, runs, base64.b64decode(raw["record"]))


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Raise ValueError for a document of another shape."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, RecursionError) as why:
        raise ValueError(f"not a {what}: {why!r}") from why


def length(runs: tuple[Run, ...]) -> int:
    """The bytes of all segments."""
    return sum(sum(run.sizes) for run in runs)


def _plain(runs: tuple[Run, ...]) -> list[object]:
    return [[run.token, list(run.sizes)] for run in runs]


def _runs(raw: list[tuple[str, list[int]]]) -> tuple[Run, ...]:
    same: dict[int, int] = {}  # most sizes are equal: one object for all
    runs = tuple(
        Run(str(token), tuple(same.setdefault(int(size), int(size)) for size in sizes))
        for token, sizes in raw
    )
    if any(re.fullmatch("[0-9a-f]{16}", run.token) is None for run in runs):
        raise ValueError("not the token of a writer")
    return runs


@dataclass(slots=True)
class Files:
    """What is stored of a job under one fence. `segments` maps (index, token) to sizes."""

    head: bool = False
    commit: bool = False
    segments: dict[tuple[int, str], int] = field(default_factory=dict)

    def following(self, head: Head) -> tuple[Run, ...]:
        """The segments of the partial file: those of its head that are stored, and then those of
        its writer, up to the first gap.
        """
        runs, index = [], 0
        for run in head.runs:
            sizes = list(self._present(run, index))
            runs.append(Run(run.token, tuple(sizes)))
            index += len(sizes)
            if len(sizes) < len(run.sizes):
                return tuple(runs)
        own = []
        while (size := self.segments.get((index, head.token))) is not None:
            own.append(size)
            index += 1
        return (*runs, Run(head.token, tuple(own))) if own else tuple(runs)

    def _present(self, run: Run, index: int) -> Iterator[int]:
        for each, size in enumerate(run.sizes, start=index):
            if self.segments.get((each, run.token)) != size:
                return
            yield size

    @property
    def stored(self) -> int:
        """The bytes of all segments."""
        return sum(self.segments.values())


def by_fence(id: str, sizes: Mapping[str, int]) -> dict[int, Files]:
    """What is stored of the job, from the keys and sizes of its objects."""
    found: dict[int, Files] = {}
    start = len(f"{ROOT}/{id}/")
    for key, size in sizes.items():
        if (name := _SEGMENT.fullmatch(key, start)) is not None:
            files = found.setdefault(int(name[1]), Files())
            files.segments[int(name[2]), name[3]] = size
        elif (name := _DOCUMENT.fullmatch(key, start)) is not None:
            files = found.setdefault(int(name[1]), Files())
            files.commit |= name[2] == "json"
            files.head |= name[2] == "partial"
    return found
