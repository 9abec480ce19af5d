"""OpenTelemetry (extra `otel`): imported only if OTEL_* variables ask for it."""
