"""Spans of OpenTelemetry, with W3C Trace Context on both sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import (
    SERVICE_NAME,
    SERVICE_VERSION,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from proxy.core.http.fields import values_of
from proxy.ports import Field, Fields
from proxy.ports.tracing import Span, Traced, Value

_SERVICE = "vb365-async-proxy"
_PARENT, _STATE = b"traceparent", b"tracestate"
_KINDS = {
    Traced.KICKOFF: trace.SpanKind.SERVER,
    Traced.EXPORT: trace.SpanKind.CLIENT,
    Traced.DELIVERY: trace.SpanKind.SERVER,
}
_W3C = TraceContextTextMapPropagator()


class OpenTelemetry:
    """Makes spans, and gives the ended ones to `processor`. `version` is the proxy's."""

    def __init__(self, processor: SpanProcessor, version: str) -> None:
        # what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say comes first
        ours = Resource.create({SERVICE_NAME: _SERVICE, SERVICE_VERSION: version})
        resource = ours.merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer(_SERVICE, version)

    @classmethod
    def to_otlp(cls, version: str) -> OpenTelemetry:
        """Export over OTLP to where the OTEL_* variables say."""
        return cls(BatchSpanProcessor(OTLPSpanExporter()), version)

    @contextmanager
    def span(self, what: Traced, fields: Fields, attributes: Mapping[str, Value]) -> Iterator[Span]:
        """Begin a span, which ends with the block; see `ports.tracing`."""
        begun = self._tracer.start_span(
            what.value,
            context=_W3C.extract(_carrier(fields)),
            kind=_KINDS[what],
            attributes=attributes,
        )
        try:
            yield _Span(begun)
        finally:
            begun.end()

    def shutdown(self) -> None:
        """Export what is left. Blocks."""
        self._provider.shutdown()


class _Span:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def fields(self, fields: Fields) -> list[Field]:
        """Return the fields with this span as the parent of the request."""
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, trace.set_span_in_context(self._span))
        others = [field for field in fields if field[0].lower() not in (_PARENT, _STATE)]
        return [*others, *((name.encode(), value.encode()) for name, value in carrier.items())]

    def set(self, name: str, value: Value | None) -> None:
        """Set an attribute, unless the value is None."""
        if value is not None:
            self._span.set_attribute(name, value)

    def fail(self, kind: str, message: str) -> None:
        """Mark the span as failed."""
        self._span.set_attribute("error.type", kind)
        self._span.set_status(trace.StatusCode.ERROR, message)


def _carrier(fields: Fields) -> dict[str, str]:
    """The trace context of a request. Two lines of `traceparent` are none (W3C Trace Context
    §3.2), those of `tracestate` are one list (§3.3).
    """
    parents = values_of(fields, _PARENT)
    if len(parents) != 1:
        return {}
    carrier = {"traceparent": parents[0].decode("latin-1")}
    if states := b",".join(values_of(fields, _STATE)):
        carrier["tracestate"] = states.decode("latin-1")
    return carrier
