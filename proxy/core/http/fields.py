"""Field lines and lists of fields: the grammar of a line, look-up by name, hop-by-hop fields (RFC
9110 §5, §7.6.1).

The order, case, repeats and bytes of fields are kept as received.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

Field = tuple[bytes, bytes]
#: Bytes of memory that a `Field` needs in addition to its name and value.
PER_FIELD = 200

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
VALUE = rb"[\t\x20-\x7e\x80-\xff]*+"
FIELD_LINE = re.compile(rb"(" + TOKEN + rb"):[ \t]*+(" + VALUE + rb")\r\n")
_HOP_BY_HOP = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"te", b"transfer-encoding", b"upgrade"}
)


def split_fields(block: bytes) -> tuple[Field, ...]:
    """The fields of a block of valid field lines."""
    return tuple([(name, value.rstrip(b" \t")) for name, value in FIELD_LINE.findall(block)])


def values_of(fields: Iterable[Field], name: bytes) -> list[bytes]:
    """The values of the fields with the lower-case name `name`, in order."""
    return [value for found, value in fields if found.lower() == name]


def value_of(fields: Iterable[Field], name: bytes) -> bytes | None:
    """The value of the first field with the lower-case name `name`, or None."""
    return next(iter(values_of(fields, name)), None)


def has_conflict(fields: Iterable[Field], name: bytes) -> bool:
    """Whether fields with the lower-case name `name` have different values."""
    return len(set(values_of(fields, name))) > 1


def elements(values: Iterable[bytes]) -> set[bytes]:
    """The lower-case elements of a comma-separated list, over all its lines (RFC 9110 §5.6.1)."""
    return {element.strip(b" \t") for value in values for element in value.lower().split(b",")}


def hop_by_hop(fields: Iterable[Field]) -> frozenset[bytes]:
    """The lower-case names of hop-by-hop fields, and those that Connection lists (RFC 9110
    §7.6.1).
    """
    return _HOP_BY_HOP | elements(values_of(fields, b"connection"))


def end_to_end(fields: Iterable[Field]) -> list[Field]:
    """The fields without the hop-by-hop ones, in order."""
    fields = list(fields)
    drop = hop_by_hop(fields)
    return [field for field in fields if field[0].lower() not in drop]


def without(block: bytes, names: frozenset[bytes]) -> bytes:
    """The block of field lines without the lines whose lower-case name is in `names`."""
    if not names:
        return block
    return b"".join([block[start:end] for start, end in runs_without(block, names)])


def runs_without(block: bytes, names: frozenset[bytes]) -> tuple[tuple[int, int], ...]:
    """Start and end offsets of each run of lines whose lower-case name is not in `names`."""
    runs = []
    start = at = 0
    for line in block.split(b"\r\n")[:-1]:
        end = at + len(line) + 2
        if line.partition(b":")[0].lower() in names:
            if start < at:
                runs.append((start, at))
            start = end
        at = end
    if start < at:
        runs.append((start, at))
    return tuple(runs)
