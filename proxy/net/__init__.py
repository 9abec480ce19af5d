"""Sockets: TLS, certificates, buffers and deadlines. Knows neither HTTP nor jobs."""
