"""CONTRACT §6: preconditions and ranges (RFC 9110 §13, §14)."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping, Sequence
from email import message_from_bytes
from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.http.ranges import (
    MAX_PARTS,
    MAX_SPECS,
    MAX_TAGS,
    Facts,
    Lookup,
    NotModified,
    One,
    PreconditionFailed,
    Selection,
    Several,
    Unsatisfiable,
    Whole,
    coalesce,
    content_range,
    etag_list,
    multipart,
    select,
)

MODIFIED = 784111777  # Sun, 06 Nov 1994 08:49:37 GMT
EQUAL, EARLIER, LATER = (
    "Sun, 06 Nov 1994 08:49:37 GMT",
    "Sun, 06 Nov 1994 08:49:36 GMT",
    "Sun, 06 Nov 1994 08:49:38 GMT",
)
FACTS = Facts(size=100, etag='"e1"', modified=MODIFIED + 0.75)


def _lookup(fields: Mapping[str, str | Sequence[str]]) -> Lookup:
    def lines(name: str) -> Sequence[str]:
        value = fields.get(name, ())
        return [value] if isinstance(value, str) else value

    return lines


def _get(facts: Facts = FACTS, **fields: str | Sequence[str]) -> Selection:
    return select(
        "GET", _lookup({name.replace("_", "-"): value for name, value in fields.items()}), facts
    )


def test_without_fields_the_whole_file_is_sent() -> None:
    assert _get() == Whole()
    assert select("HEAD", _lookup({}), FACTS) == Whole()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-0", One(0, 1)),
        ("bytes=0-99", One(0, 100)),
        ("bytes=10-19", One(10, 20)),
        ("bytes=10-1000", One(10, 100)),
        ("bytes=99-", One(99, 100)),
        ("bytes=0-", One(0, 100)),
        ("bytes=-1", One(99, 100)),
        ("bytes=-100", One(0, 100)),
        ("bytes=-1000", One(0, 100)),
        ("BYTES=0-1", One(0, 2)),
        (" bytes=0-1\t", One(0, 2)),
        ("bytes= , 0-1 ,\t,", One(0, 2)),
        ("bytes=0000000000000000000001-0000000000000000000002", One(1, 3)),
        ("bytes=5-9223372036854775808", One(5, 100)),
        ("bytes=5-" + "9" * 50_000, One(5, 100)),
        ("bytes=-" + "9" * 50_000, One(0, 100)),
        ("bytes=" + "0" * 50_000 + "7-8", One(7, 9)),
    ],
)
def test_one_range_selects_its_bytes(value: str, expected: Selection) -> None:
    """§6: `a-b`, `a-`, `-n`; numbers beyond the file or beyond 64 bits mean its end."""
    assert _get(Range=value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=a-b",
        "bytes=0",
        "bytes=0-1x",
        "bytes=0--1",
        "bytes=--1",
        "bytes=+1-2",
        "bytes=1-+2",
        "bytes=0 -1",
        "bytes=0x0-0x1",
        "bytes=\u0661-",
        "bytes:0-1",
        "bytes =0-1",
        "=0-1",
        "bytes=5-2",
        "bytes=10-9",
        "bytes=1" + "0" * 5000 + "-5",
        "bytes=0-1,5-2",
        "bytes=0-1,x",
        "bytes=0-1;2-3",
        "items=0-1",
        "octets=0-1",
        "none",
        "bytes=0-1, bytes=2-3",
    ],
)
def test_unknown_units_and_malformed_ranges_are_ignored(value: str) -> None:
    """§6: unknown unit or malformed: ignored, 200."""
    assert _get(Range=value) == Whole()


def test_a_repeated_range_is_ignored() -> None:
    """Range is not a list: two lines are malformed (RFC 9110 §5.3)."""
    assert _get(Range=["bytes=0-1", "bytes=0-1"]) == Whole()


@pytest.mark.parametrize(
    "value",
    [
        "bytes=100-",
        "bytes=100-200",
        "bytes=-0",
        "bytes=-000",
        "bytes=100-,-0",
        f"bytes={2**64}-{2**65}",
    ],
)
def test_no_satisfiable_range_is_416(value: str) -> None:
    """§6: none satisfiable 416."""
    assert _get(Range=value) == Unsatisfiable()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-", Unsatisfiable()),
        ("bytes=0-0", Unsatisfiable()),
        ("bytes=-0", Unsatisfiable()),
        ("bytes=-1", Whole()),
        ("bytes=0-,-5", Whole()),
        ("bytes=x", Whole()),
    ],
)
def test_only_a_suffix_of_an_empty_file_is_satisfiable(value: str, expected: Selection) -> None:
    """RFC 9110 §14.1.2. Content-Range cannot express a part of an empty file: 200."""
    assert _get(Facts(0, '"e"', 0.0), Range=value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-0,2-2", Several(((0, 1), (2, 3)))),
        ("bytes=-1,0-0", Several(((99, 100), (0, 1)))),
        ("bytes=50-59,0-9,200-,-0", Several(((50, 60), (0, 10)))),
        ("bytes=50-59,0-9,55-64", Several(((50, 65), (0, 10)))),
        ("bytes=0-9,20-29,5-24", One(0, 30)),
        ("bytes=0-9,10-19", One(0, 20)),
        ("bytes=0-9,200-300", One(0, 10)),
        ("bytes=0-,-1", One(0, 100)),
        ("bytes=5-6,5-6,5-6", One(5, 7)),
        (
            "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 16, 2)),
            Several(tuple((n, n + 1) for n in range(0, 16, 2))),
        ),
    ],
)
def test_several_ranges_are_coalesced_and_keep_their_order(value: str, expected: Selection) -> None:
    """§6, RFC 9110 §15.3.7.2: ranges that overlap or touch are joined, in the requested order."""
    assert _get(Range=value) == expected


def test_more_than_eight_parts_are_416() -> None:
    """§6: more than 8 parts 416; parts count after coalescing."""
    spread = [f"{n}-{n}" for n in range(0, 18, 2)]
    assert len(spread) == MAX_PARTS + 1
    assert _get(Range="bytes=" + ",".join(spread)) == Unsatisfiable()
    assert _get(Range="bytes=" + ",".join([*spread[:8], "100-"])) == Several(
        tuple((n, n + 1) for n in range(0, 16, 2))
    )
    assert _get(Range="bytes=" + ",".join(f"{n}-{n}" for n in range(100))) == One(0, 100)


def test_too_many_ranges_are_not_parsed() -> None:
    """More than `MAX_SPECS` are rejected."""
    assert _get(Range="bytes=" + "0-0," * MAX_SPECS) == One(0, 1)
    assert _get(Range="bytes=" + "0-0," * (MAX_SPECS + 1)) == Unsatisfiable()
    assert _get(Range="bytes=" + "x," * 1_000_000) == Unsatisfiable()


def test_empty_range_specs_take_no_memory() -> None:
    """A list of 250,000 elements takes 2 MB, and 70 ms to make."""
    value = "bytes=" + ", " * 125_000
    tracemalloc.start()
    try:
        assert _get(Range=value) == Whole()
        assert _get(Range=value + "0-0") == One(0, 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(value)


def test_head_ignores_range() -> None:
    """§6: Range: GET only (HEAD + Range = 200 headers)."""
    for value in ("bytes=0-1", "bytes=100-"):
        assert select("HEAD", _lookup({"Range": value}), FACTS) == Whole()


@pytest.mark.parametrize(
    ("value", "holds"),
    [
        ('"e1"', True),
        ('  "e1"\t', True),
        ('"x", "e1"', True),
        (['"x"', '"e1"'], True),
        ("*", True),
        (' ,"e1"', True),
        ('junk, "e1"', True),
        ('W/"e1"', False),
        ('w/"e1"', False),
        ("e1", False),
        ('"E1"', False),
        ('"e1', False),
        ('"e1"x', False),
        ('"x"', False),
        ('"e1""x"', False),
        ('*, "x"', False),
        ("", False),
        ('"a, "e1", b"', False),
    ],
)
def test_if_match_is_a_strong_comparison(value: str | list[str], holds: bool) -> None:
    """§6: If-Match 412; RFC 9110 §13.1.1; malformed elements match nothing."""
    assert _get(If_Match=value) == (Whole() if holds else PreconditionFailed())


@pytest.mark.parametrize(
    ("value", "fresh"),
    [
        ('"e1"', True),
        ('W/"e1"', True),
        ("*", True),
        ('"x", W/"e1"', True),
        (['"x"', 'W/"e1"'], True),
        ('"x,", "e1"', True),
        ('w/"e1"', False),
        ('"x"', False),
        ("e1", False),
        ("", False),
        ("\udcff", False),
        ('"\udcff"', False),
    ],
)
def test_if_none_match_is_a_weak_comparison(value: str | list[str], fresh: bool) -> None:
    """§6: If-None-Match 304, for GET and HEAD; RFC 9110 §13.1.2."""
    assert _get(If_None_Match=value) == (NotModified() if fresh else Whole())
    assert select("HEAD", _lookup({"If-None-Match": value}), FACTS) == (
        NotModified() if fresh else Whole()
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (EQUAL, Whole()),
        (LATER, Whole()),
        (EARLIER, PreconditionFailed()),
        ("Sunday, 06-Nov-94 08:49:36 GMT", PreconditionFailed()),
        ("Sun Nov  6 08:49:36 1994", PreconditionFailed()),
        ("yesterday", Whole()),
        ([EARLIER, EARLIER], Whole()),
        ("", Whole()),
    ],
)
def test_if_unmodified_since(value: str | list[str], expected: Selection) -> None:
    """§6: If-Unmodified-Since 412; RFC 9110 §13.1.4: anything but one valid date is ignored."""
    assert _get(If_Unmodified_Since=value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (EQUAL, NotModified()),
        (LATER, NotModified()),
        (EARLIER, Whole()),
        (f" {EQUAL}\t", NotModified()),
        ("tomorrow", Whole()),
        ([EQUAL, EQUAL], Whole()),
        ("0", Whole()),
    ],
)
def test_if_modified_since(value: str | list[str], expected: Selection) -> None:
    """§6: If-Modified-Since 304, in whole seconds; RFC 9110 §13.1.3."""
    assert _get(If_Modified_Since=value) == expected
    assert select("HEAD", _lookup({"If-Modified-Since": value}), FACTS) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"If-Match": '"e1"', "If-Unmodified-Since": EARLIER}, Whole()),
        ({"If-Match": '"x"', "If-None-Match": '"e1"'}, PreconditionFailed()),
        ({"If-Match": '"e1"', "If-None-Match": '"e1"'}, NotModified()),
        ({"If-Unmodified-Since": EARLIER, "If-None-Match": '"e1"'}, PreconditionFailed()),
        ({"If-None-Match": '"x"', "If-Modified-Since": LATER}, Whole()),
        ({"If-None-Match": '"e1"', "If-Modified-Since": EARLIER}, NotModified()),
        ({"If-None-Match": '"e1"', "Range": "bytes=0-1"}, NotModified()),
        ({"If-Match": '"x"', "Range": "bytes=200-"}, PreconditionFailed()),
        ({"If-Match": '"e1"', "Range": "bytes=0-1"}, One(0, 2)),
        ({"If-Modified-Since": EARLIER, "If-Range": '"e1"', "Range": "bytes=0-1"}, One(0, 2)),
        ({"If-Modified-Since": EQUAL, "If-Range": '"e1"', "Range": "bytes=0-1"}, NotModified()),
    ],
)
def test_preconditions_are_evaluated_in_order(fields: dict[str, str], expected: Selection) -> None:
    """§6: the order of RFC 9110 §13.2.2."""
    assert select("GET", _lookup(fields), FACTS) == expected


@pytest.mark.parametrize(
    ("value", "holds"),
    [
        ('"e1"', True),
        (' "e1" ', True),
        (EQUAL, True),
        ("Sunday, 06-Nov-94 08:49:37 GMT", True),
        ("Sun Nov  6 08:49:37 1994", True),
        ('W/"e1"', False),
        ('"x"', False),
        ('"x", "e1"', False),
        ("*", False),
        (EARLIER, False),
        (LATER, False),
        ("e1", False),
        ("", False),
        (['"e1"', '"e1"'], False),
    ],
)
def test_range_is_ignored_unless_if_range_matches(value: str | list[str], holds: bool) -> None:
    """§6: strong comparison; mismatch, weak, or unequal date: Range ignored, 200, never 416."""
    assert _get(If_Range=value, Range="bytes=0-1") == (One(0, 2) if holds else Whole())
    assert _get(If_Range=value, Range="bytes=100-") == (Unsatisfiable() if holds else Whole())
    assert _get(If_Range=value) == Whole()


@pytest.mark.parametrize("field", ["If-Match", "If-None-Match"])
def test_few_entity_tags_are_compared(field: str) -> None:
    """A list of tags may fill a head of 256 KiB: its end is not looked at."""
    tags = '"x",' * (MAX_TAGS - 1) + FACTS.etag
    compared = {"If-Match": Whole(), "If-None-Match": NotModified()}
    ignored = {"If-Match": PreconditionFailed(), "If-None-Match": Whole()}
    assert select("GET", _lookup({field: tags}), FACTS) == compared[field]
    assert select("GET", _lookup({field: f'"x",{tags}'}), FACTS) == ignored[field]


def test_etag_lists_keep_the_well_formed_elements() -> None:
    assert etag_list(['"a", W/"b"', "x", '"c,d"', '"']) == ['"a"', 'W/"b"', '"c,d"']
    assert etag_list([" * "]) == "*"
    assert etag_list([]) == []


SPEC = st.tuples(st.integers(0, 120), st.integers(0, 120)).map(
    lambda p: f"{min(p)}-{max(p)}"
) | st.integers(0, 120).flatmap(lambda n: st.sampled_from([f"{n}-", f"-{n}"]))


def _bytes_of(spec: str, size: int) -> set[int]:
    first, _, last = spec.partition("-")
    if not first:
        return set(range(max(0, size - int(last)), size))
    return set(range(int(first), min(size, int(last) + 1 if last else size)))


@given(st.lists(SPEC, min_size=1, max_size=12), st.integers(1, 100))
def test_exactly_the_requested_bytes_are_selected(specs: list[str], size: int) -> None:
    """§6, against sets of byte positions: no byte is missing, none is extra, none twice."""
    wanted = set[int]().union(*(_bytes_of(spec, size) for spec in specs))
    match select("GET", _lookup({"Range": "bytes=" + ",".join(specs)}), Facts(size, '"e"', 0.0)):
        case One(start, stop):
            assert set(range(start, stop)) == wanted
        case Several(parts):
            sent = [position for part in parts for position in range(*part)]
            assert len(sent) == len(set(sent))
            assert set(sent) == wanted
            assert 2 <= len(parts) <= MAX_PARTS
            assert coalesce(parts) == list(parts)
        case Unsatisfiable():
            runs = sum(position - 1 not in wanted for position in wanted)
            assert runs == 0 or runs > MAX_PARTS
        case other:
            pytest.fail(f"{other} for a well-formed Range")


@given(st.text(max_size=40) | st.text("bytes=-0123456789, ", max_size=40))
def test_no_range_is_an_error(value: str) -> None:
    assert _get(Range=value) != NotModified()
    assert _get(Range="bytes=" + value) != PreconditionFailed()


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 100)), min_size=2, max_size=8))
def test_a_multipart_body_matches_its_header_fields(cuts: list[tuple[int, int]]) -> None:
    """§6 `multipart/byteranges` (RFC 9110 §14.6), read back by an independent MIME parser."""
    file = bytes(b % 64 + 48 for b in range(500))
    parts = [(start, start + length) for start, length in cuts]
    body = multipart(parts, 500, "application/octet-stream", "b0undary")
    sent = b"".join(
        piece if isinstance(piece, bytes) else file[slice(*piece)] for piece in body.pieces
    )
    assert len(sent) == body.length
    message = message_from_bytes(f"Content-Type: {body.media_type}\r\n\r\n".encode() + sent)
    assert message.is_multipart()
    received = message.get_payload()
    assert isinstance(received, list)
    assert len(received) == len(parts)
    for part, (start, stop) in zip(received, parts, strict=True):
        assert isinstance(part, Message)
        assert (
            part["Content-Range"]
            == content_range(start, stop, 500)
            == f"bytes {start}-{stop - 1}/500"
        )
        assert part["Content-Type"] == "application/octet-stream"
        assert part.get_payload(decode=True) == file[start:stop]


def test_the_parts_have_the_media_type_of_the_file() -> None:
    """§6: `Content-Type` of VB365, also if it is not ASCII."""
    body = multipart([(0, 1), (5, 9)], 10, "text/\xe9", "b")
    assert (
        body.pieces[0]
        == b"\r\n--b\r\nContent-Type: text/\xe9\r\nContent-Range: bytes 0-0/10\r\n\r\n"
    )
    assert body.pieces[1:2] == ((0, 1),)
    assert body.pieces[-1] == b"\r\n--b--\r\n"
