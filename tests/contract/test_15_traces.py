"""CONTRACT §15: `traceparent` is passed on by jobs, and OpenTelemetry gets their spans."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.contract.conftest import MakeStage, Stage
from tests.support.process import ROOT
from tests.support.wire import Message

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLED = {"Traceparent": f"00-{TRACE}-{PARENT}-01", "Tracestate": "a=1"}


@dataclass
class Collector:
    """An OTLP endpoint. `spans` are those received, by name."""

    url: str = ""
    spans: dict[str, Any] = field(default_factory=dict)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def take(self, request: web.Request) -> web.Response:
        message = ExportTraceServiceRequest.FromString(await request.read())
        async with self.arrived:
            for resource in message.resource_spans:
                for scope in resource.scope_spans:
                    self.spans |= {span.name: span for span in scope.spans}
            self.arrived.notify_all()
        return web.Response()

    async def named(self, *names: str) -> list[Any]:
        """The spans with these names, once all have arrived."""
        async with asyncio.timeout(20), self.arrived:
            await self.arrived.wait_for(lambda: self.spans.keys() >= set(names))
        return [self.spans[name] for name in names]


@pytest.fixture(autouse=True)
def no_exporter_left() -> Iterator[None]:
    """Wait for the exporters, which would otherwise log their failures within a later test."""
    yield
    for thread in threading.enumerate():
        if thread.name == "telemetry" or thread.name.startswith("OtelBatch"):
            thread.join(30)
            assert not thread.is_alive(), thread.name


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    found = Collector()
    application = web.Application()
    application.router.add_post("/v1/traces", found.take)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{host}:{port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    yield found
    await runner.cleanup()


def sent(stage: Stage) -> dict[str, list[str]]:
    """The trace context of the job's request to VB365."""
    (request,) = [one for one in stage.simulator.requests if one.method == "POST"]
    return {
        wanted: [
            value.decode() for name, value in request.headers if name.lower() == wanted.encode()
        ]
        for wanted in ("traceparent", "tracestate")
    }


def attributes(span: Any) -> dict[str, Any]:
    values = {each.key: each.value for each in span.attributes}
    return {name: value.string_value or value.int_value for name, value in values.items()}


async def test_without_otel_the_trace_context_is_passed_on_as_it_is(make_stage: MakeStage) -> None:
    stage = await make_stage()
    await stage.done(**CALLED)
    assert sent(stage) == {
        "traceparent": [CALLED["Traceparent"]],
        "tracestate": [CALLED["Tracestate"]],
    }


def check_linked(stage: Stage, job: str, kickoff: Any, export: Any, delivery: Any) -> None:
    """The spans are of the caller's trace and of the job, and VB365 gets that of the export."""
    for span in (kickoff, export, delivery):
        assert span.trace_id.hex() == TRACE
        assert attributes(span)["vb365.job.id"] == job
    assert kickoff.parent_span_id.hex() == delivery.parent_span_id.hex() == PARENT
    assert export.parent_span_id == kickoff.span_id
    assert sent(stage) == {
        "traceparent": [f"00-{TRACE}-{export.span_id.hex()}-01"],
        "tracestate": ["a=1"],
    }


async def test_kickoff_export_and_delivery_have_a_span(
    collector: Collector, make_stage: MakeStage
) -> None:
    """The export's is a child of the kick-off's, and the parent of VB365's."""
    stage = await make_stage()
    status = await stage.done(**CALLED)
    job = status.rpartition("/")[2]
    await stage.get(status + "/result", **CALLED)
    await stage.ask("HEAD", status + "/result")
    kickoff, export, delivery = await collector.named("kickoff", "export", "delivery")
    check_linked(stage, job, kickoff, export, delivery)
    facts = attributes(kickoff)
    assert (facts["url.path"], facts["http.response.status_code"]) == (stage.export, 202)
    assert attributes(export)["vb365.bytes"] == len(stage.file())
    facts = attributes(delivery)
    assert (facts["http.response.status_code"], facts["vb365.bytes"]) == (200, len(stage.file()))
    assert kickoff.start_time_unix_nano <= export.start_time_unix_nano < export.end_time_unix_nano


async def test_14_a_rescued_export_has_the_same_spans(
    collector: Collector, make_stage: MakeStage
) -> None:
    """§14: its POST is the kick-off and gets the file."""
    stage = await make_stage(EXPORTS__RESCUE_SYNC="true", EXPORTS__GRACE="2s")
    response = await stage.ask("POST", stage.export + "?x=secret", stage.fields | CALLED, b"{}")
    assert response.body == stage.file()
    kickoff, export, delivery = await collector.named("kickoff", "export", "delivery")
    [job] = (await stage.get("/v8/_async/exports")).json()["results"]
    check_linked(stage, job["id"], kickoff, export, delivery)
    facts = attributes(kickoff)
    assert (facts["url.path"], facts["http.response.status_code"]) == (stage.export, 200)
    facts = attributes(delivery)
    assert (facts["http.response.status_code"], facts["vb365.bytes"]) == (200, len(stage.file()))
    assert "secret" not in str(kickoff) + str(export) + str(delivery)


async def test_14_an_export_that_is_passed_through_keeps_its_trace_context(
    collector: Collector, make_stage: MakeStage
) -> None:
    stage = await make_stage(EXPORTS__RESCUE_SYNC="true", STORAGE__MIN_FREE="1000TiB")
    response = await stage.ask("POST", stage.export, stage.fields | CALLED, b"{}")
    assert response.body == stage.file()
    [kickoff] = await collector.named("kickoff")
    assert attributes(kickoff).keys() == {"http.request.method", "url.path"}
    assert sent(stage) == {
        "traceparent": [CALLED["Traceparent"]],
        "tracestate": [CALLED["Tracestate"]],
    }


async def test_a_failed_export_is_an_error(collector: Collector, make_stage: MakeStage) -> None:
    stage = await make_stage()
    stage.fault(outlook_missing=True)
    await stage.finished(await stage.begun(stage.export + "?x=secret"))
    kickoff, export = await collector.named("kickoff", "export")
    assert attributes(export)["error.type"] == "UpstreamError"
    assert "Outlook" in export.status.message
    assert export.status.code == 2
    assert "secret" not in str(kickoff) + str(export)


async def test_an_endpoint_that_is_away_delays_and_breaks_nothing(
    monkeypatch: pytest.MonkeyPatch, make_stage: MakeStage
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3")
    stage = await make_stage()
    status = await stage.done()
    response: Message = await stage.get(status + "/result")
    assert response.body == stage.file()


def test_off_it_costs_no_import() -> None:
    program = (
        "import sys, proxy.app, proxy.parts.exports\n"
        "from proxy.telemetry.environment import Telemetry\n"
        "Telemetry({}, '1')\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert done.returncode == 0
