"""Sockets: TLS, certificates, buffers and deadlines. Independent of HTTP and jobs."""
