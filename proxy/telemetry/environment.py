"""Whether the environment asks for traces (the OpenTelemetry specification, "Environment Variable
Specification"), and the exporter that it configures.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

from proxy.ports.tracing import NoTracing, Tracing

if TYPE_CHECKING:
    from proxy.telemetry.spans import OpenTelemetry

log = structlog.get_logger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
#: Seconds that the spans which are not exported yet may take at the end.
_CLOSING = 5.0


class Telemetry:
    """The tracing that the environment configures; `tracing` does nothing if it configures none."""

    def __init__(self, environ: Mapping[str, str], version: str) -> None:
        self._open = _opened(version) if asks_for_traces(environ) else None

    @property
    def tracing(self) -> Tracing:
        """Makes the spans."""
        return self._open or NoTracing()

    async def close(self) -> None:
        """Export the last spans, for at most a few seconds."""
        if self._open is None:
            return
        # a daemon: one that waits for an endpoint does not delay the end of the process
        thread = threading.Thread(target=self._open.shutdown, name="telemetry", daemon=True)
        try:
            thread.start()
        except RuntimeError as why:  # the system starts no more threads
            log.warning("the last spans are lost", reason=str(why))
            return
        await asyncio.to_thread(thread.join, _CLOSING)
        if thread.is_alive():
            log.warning("the last spans are lost: they could not be exported in time")


def asks_for_traces(environ: Mapping[str, str]) -> bool:
    """Whether there is an endpoint, or an exporter is named, and nothing turns it off."""

    def value(name: str) -> str:
        return environ.get(name, "").strip().lower()

    exporter = value("OTEL_TRACES_EXPORTER")
    if value("OTEL_SDK_DISABLED") == "true" or exporter == "none":
        return False
    if exporter not in ("", "otlp"):
        log.warning("no traces: OTEL_TRACES_EXPORTER must be otlp or none", exporter=exporter)
        return False
    protocol = next((value(name) for name in _PROTOCOLS if value(name)), "http/protobuf")
    asked = bool(exporter) or any(value(name) for name in _ENDPOINTS)
    if asked and protocol != "http/protobuf":
        log.warning("no traces: the only protocol is http/protobuf", protocol=protocol)
        return False
    return asked


def _opened(version: str) -> OpenTelemetry | None:
    try:
        from proxy.telemetry.spans import OpenTelemetry
    except ImportError as why:
        log.warning(
            "no traces: OpenTelemetry is not installed",
            package=why.name,
            hint='Run: pip install "vb365-async-proxy[otel]"',
        )
        return None
    try:
        return OpenTelemetry.to_otlp(version)
    except (ValueError, OSError) as why:
        log.warning("no traces: the OTEL_* variables are not valid", reason=str(why))
        return None
