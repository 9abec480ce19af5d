"""`simulate`: the stand-in VB365 as a program, to develop against; with TLS it signs itself, as VB365 does."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import signal
import ssl
import tempfile
from pathlib import Path

import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from proxy.simulator import Simulator, SimulatorSettings, serve


async def run(settings: SimulatorSettings, host: str, port: int, *, tls: bool) -> int:
    """Serve until SIGINT or SIGTERM; the exit code."""
    running = asyncio.ensure_future(serve(settings, host, port, _signed(host) if tls else None, ready=_ready))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows has no such handlers: Ctrl-C raises there
            loop.add_signal_handler(number, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        return 0
    except OSError as why:
        typer.echo(f"{host} port {port} cannot be listened on: {why.strerror}", err=True)
        return 1
    return 0


def _ready(simulator: Simulator) -> None:
    users = ", ".join(f"{user.name} (password {user.password})" for user in simulator.settings.users)
    typer.echo(f"users: {users}", err=True)
    typer.echo(f"listening on {simulator.url}", err=True)


def _signed(host: str) -> ssl.SSLContext:
    """A context with a new certificate of its own making; tells the fingerprint to pin."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(host, key)
    typer.echo(f"upstream.fingerprint = {certificate.fingerprint(hashes.SHA256()).hex()}", err=True)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as place:
        pem = Path(place, "both.pem")
        pem.touch(mode=0o600)
        pem.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        context.load_cert_chain(pem)
    return context


def _certificate(host: str, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "VB365 stand-in")])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName([_named("localhost"), _named(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )


def _named(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
