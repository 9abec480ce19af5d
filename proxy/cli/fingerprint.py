"""The `fingerprint` command: which certificate a server presents, to pin it."""

from __future__ import annotations

import re
import ssl
from urllib.parse import urlsplit

import typer
from cryptography import x509

from proxy.cli.diagnosis.reach import presented
from proxy.core.http.authority import can_be_looked_up
from proxy.core.text import visible
from proxy.net.tls import fingerprint

_DEFAULT_PORT = 443


def run(address: str, timeout: float) -> int:
    """Print the fingerprint to stdout, and what the certificate says to stderr. Return the exit
    code: 1 if the server has none to show, 2 if `address` is not HOST:PORT or a URL.
    """
    parsed = _parsed(address)
    if parsed is None:
        typer.echo(f"{address!r} is not HOST:PORT, such as vb365.example.com:4443", err=True)
        return 2
    host, port = parsed
    try:
        der = presented(host, port, timeout)
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        typer.echo(f"{host} port {port}: TLS failed ({reason}): does it use TLS?", err=True)
        return 1
    except OSError as error:
        typer.echo(f"{host} port {port}: {error.strerror or error}", err=True)
        return 1
    for line in _about(der):
        typer.echo(visible(line), err=True)
    typer.echo(fingerprint(der))
    return 0


def _parsed(address: str) -> tuple[str, int] | None:
    """The host and the port of HOST, HOST:PORT or a URL; None for anything else."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        port = parts.port
    except ValueError:
        return None
    host = parts.hostname
    if not host or re.search(r"[\s/]", host) or parts.username is not None:
        return None
    if not can_be_looked_up(host):
        return None
    return host, _DEFAULT_PORT if port is None else port


def _about(der: bytes) -> list[str]:
    try:
        certificate = x509.load_der_x509_certificate(der)
        issuer, subject = certificate.issuer, certificate.subject
        return [
            f"Subject: {subject.rfc4514_string()}",
            f"Issuer: {'itself' if issuer == subject else issuer.rfc4514_string()}",
            f"Valid until: {certificate.not_valid_after_utc:%Y-%m-%d}",
        ]
    except ValueError:
        return ["The certificate cannot be read"]
