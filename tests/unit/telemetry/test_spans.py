"""Spans and W3C Trace Context, with the SDK's exporter in memory."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from proxy.ports.tracing import NoTracing, Traced
from proxy.telemetry.environment import Telemetry, asks_for_traces
from proxy.telemetry.spans import OpenTelemetry
from tests.support.log_lines import logged
from tests.support.threads import no_new_thread

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01".encode()
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def telemetry(exported: InMemorySpanExporter) -> OpenTelemetry:
    return OpenTelemetry(SimpleSpanProcessor(exported), "1.2.3")


def test_a_span_continues_the_trace_of_its_request(
    telemetry: OpenTelemetry, exported: InMemorySpanExporter
) -> None:
    """The request that it causes names the span, and keeps the caller's trace state."""
    received = [(b"Host", b"h"), (b"Traceparent", TRACEPARENT)]
    received += [(b"tracestate", b"a=1"), (b"TraceState", b"b=2"), (b"X-A", b"1")]
    with telemetry.span(Traced.EXPORT, received, {"vb365.job.id": "j"}) as span:
        sent = span.fields(received)
        span.set("vb365.bytes", 3)
        span.set("nothing", None)
    (ended,) = exported.get_finished_spans()
    assert ended.context is not None
    assert ended.parent is not None
    own = f"00-{TRACE}-{ended.context.span_id:016x}-01".encode()
    assert sent == [
        *[(b"Host", b"h"), (b"X-A", b"1")],
        *[(b"traceparent", own), (b"tracestate", b"a=1,b=2")],
    ]
    assert f"{ended.parent.span_id:016x}" == PARENT
    assert (ended.name, ended.kind) == ("export", SpanKind.CLIENT)
    assert ended.attributes == {"vb365.job.id": "j", "vb365.bytes": 3}
    assert ended.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(b"traceparent", b"nonsense")],
        [(b"traceparent", TRACEPARENT), (b"traceparent", TRACEPARENT)],
        [(b"tracestate", b"a=1")],
    ],
)
def test_without_one_valid_traceparent_a_trace_begins(
    telemetry: OpenTelemetry, exported: InMemorySpanExporter, fields: list[tuple[bytes, bytes]]
) -> None:
    with telemetry.span(Traced.KICKOFF, fields, {}) as span:
        (name, value), *more = span.fields(fields)
    (ended,) = exported.get_finished_spans()
    assert ended.parent is None
    assert (name, value[3:35] == TRACE.encode(), more) == (b"traceparent", False, [])


def test_a_trace_that_is_not_sampled_is_only_passed_on(
    telemetry: OpenTelemetry, exported: InMemorySpanExporter
) -> None:
    fields = [(b"traceparent", TRACEPARENT[:-1] + b"0")]
    with telemetry.span(Traced.KICKOFF, fields, {}) as span:
        ((_, value),) = span.fields(fields)
    assert value.startswith(f"00-{TRACE}-".encode())
    assert value.endswith(b"-00")
    assert not exported.get_finished_spans()


def test_a_failure_marks_the_span_and_an_exception_ends_it(
    telemetry: OpenTelemetry, exported: InMemorySpanExporter
) -> None:
    def export() -> None:
        with telemetry.span(Traced.EXPORT, [], {}) as span:
            span.fail("UpstreamError", "VB365 answered 500")
            raise KeyError

    with pytest.raises(KeyError):
        export()
    (ended,) = exported.get_finished_spans()
    assert ended.status.status_code is StatusCode.ERROR
    assert ended.attributes == {"error.type": "UpstreamError"}
    assert not ended.events


@pytest.mark.parametrize(
    ("environ", "service"),
    [({}, "vb365-async-proxy"), ({"OTEL_SERVICE_NAME": "mine"}, "mine")],
)
def test_the_resource_names_the_service(
    monkeypatch: pytest.MonkeyPatch,
    exported: InMemorySpanExporter,
    environ: dict[str, str],
    service: str,
) -> None:
    for name, value in (environ | {"OTEL_RESOURCE_ATTRIBUTES": "site=Bern"}).items():
        monkeypatch.setenv(name, value)
    with OpenTelemetry(SimpleSpanProcessor(exported), "1.2.3").span(Traced.EXPORT, [], {}):
        pass
    (ended,) = exported.get_finished_spans()
    found = {name: ended.resource.attributes[name] for name in ("service.name", "site")}
    assert found == {"service.name": service, "site": "Bern"}
    assert ended.resource.attributes["service.version"] == "1.2.3"


@pytest.mark.parametrize(
    ("environ", "enabled"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, False),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "zipkin"}, False),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False),
        (
            ENDPOINT
            | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
            | {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
            True,
        ),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "TRUE"}, False),
    ],
)
def test_the_environment_asks_for_traces(environ: dict[str, str], enabled: bool) -> None:
    assert asks_for_traces(environ) is enabled


async def test_without_the_package_there_is_a_warning_and_no_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "proxy.telemetry.spans", None)
    with logged() as log:
        telemetry = Telemetry(ENDPOINT, "1.2.3")
        assert isinstance(telemetry.tracing, NoTracing)
        await telemetry.close()
    (entry,) = log.entries
    assert "not installed" in entry["event"]
    assert "vb365-async-proxy[otel]" in entry["hint"]


async def test_the_proxy_stops_although_the_system_starts_no_thread() -> None:
    telemetry = Telemetry(ENDPOINT, "1.2.3")
    with logged() as log, no_new_thread():
        await telemetry.close()
    assert [entry["event"] for entry in log.entries] == ["the last spans are lost"]


async def test_an_environment_that_asks_for_nothing_imports_nothing() -> None:
    telemetry = Telemetry({}, "1.2.3")
    fields = [(b"traceparent", TRACEPARENT)]
    with telemetry.tracing.span(Traced.EXPORT, fields, {}) as span:
        assert span.fields(fields) == fields
    await telemetry.close()
