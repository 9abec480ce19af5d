"""What the packages ask of tracing (CONTRACT §15, OpenTelemetry): a span for each kick-off, export
and delivery.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from typing import Protocol

from proxy.ports.upstream import Field, Fields

#: The value of a span's attribute.
Value = str | int


class Traced(Enum):
    """What has a span. The values are the names of the spans."""

    KICKOFF = "kickoff"
    EXPORT = "export"
    DELIVERY = "delivery"


class Span(Protocol):
    """A span that has begun."""

    def fields(self, fields: Fields) -> list[Field]:
        """Return the fields of a request that the span causes: `traceparent` names the span."""

    def set(self, name: str, value: Value | None) -> None:
        """Set an attribute, unless the value is None."""

    def fail(self, kind: str, message: str) -> None:
        """Mark the span as failed."""


class Tracing(Protocol):
    """Makes spans."""

    def span(
        self, what: Traced, fields: Fields, attributes: Mapping[str, Value]
    ) -> AbstractContextManager[Span]:
        """Begin a span, which ends with the block. Its parent is the one that `traceparent` among
        the fields of the request names.
        """


class _NoSpan:
    def fields(self, fields: Fields) -> list[Field]:
        return [*fields]

    def set(self, name: str, value: Value | None) -> None:
        """Do nothing."""

    def fail(self, kind: str, message: str) -> None:
        """Do nothing."""


_NOTHING = nullcontext(_NoSpan())


class NoTracing:
    """Traces nothing: fields are passed on as they are, `traceparent` too."""

    def span(
        self, what: Traced, fields: Fields, attributes: Mapping[str, Value]
    ) -> AbstractContextManager[Span]:
        """Do nothing."""
        return _NOTHING
