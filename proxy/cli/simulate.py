"""The `simulate` command: run the VB365 simulator until a signal stops it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
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

from proxy.cli.request_log import line
from proxy.cli.scenario import Scenario
from proxy.simulator import Simulator, serve
from proxy.simulator.calls import RecordedRequest

_VALIDITY = dt.timedelta(days=365)
#: The certificate is valid from one hour ago, for clients whose clock is slow.
_CLOCK_SKEW = dt.timedelta(hours=1)


async def run(scenario: Scenario, host: str, port: int, *, tls: bool, quiet: bool) -> int:
    """Serve until SIGINT or SIGTERM and return the exit code.

    With `tls`, serve https with a new self-signed certificate, as VB365 does by default. Unless
    `quiet`, print a line per request on stderr.
    """
    context = _self_signed_context(host) if tls else None
    server = asyncio.ensure_future(
        serve(
            scenario.settings,
            host,
            port,
            context,
            ready=_print_address,
            faults=scenario.faults,
            log=None if quiet else _print_request,
        )
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Windows has no such handlers; there Ctrl-C raises KeyboardInterrupt.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, server.cancel)
    try:
        await server
    except asyncio.CancelledError:
        return 0
    except OSError as error:
        typer.echo(
            f"Cannot listen on {host} port {port}: {error.strerror}. Choose another --port; "
            "0 is any free one.",
            err=True,
        )
        return 1
    return 0


def _print_address(simulator: Simulator) -> None:
    users = (f"{user.name} (password {user.password})" for user in simulator.settings.users)
    typer.echo(f"users: {', '.join(users)}", err=True)
    for fault in simulator.faults:
        where = f" of {fault.method or 'any method'} {fault.path or 'any path'}"
        typer.echo(f"fault: {', '.join(fault.names)}{where}", err=True)
    typer.echo(f"listening on {simulator.url}", err=True)


def _print_request(request: RecordedRequest) -> None:
    typer.echo(line(request), err=True)


def _self_signed_context(host: str) -> ssl.SSLContext:
    """Return a context with a new certificate and print the fingerprint to pin in the proxy."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(host, key)
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    typer.echo(f"upstream.fingerprint = {fingerprint}", err=True)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    pem += certificate.public_bytes(serialization.Encoding.PEM)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # The ssl module loads a private key from a file only.
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "certificate-and-key.pem")
        file.touch(mode=0o600)
        file.write_bytes(pem)
        context.load_cert_chain(file)
    return context


def _certificate(host: str, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "VB365 simulator")])
    alternative_names = [_general_name("localhost"), _general_name(host)]
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _VALIDITY)
        .add_extension(x509.SubjectAlternativeName(alternative_names), critical=False)
        .sign(key, hashes.SHA256())
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
