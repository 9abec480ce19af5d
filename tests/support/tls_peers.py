"""Peers, certificates and connections for the proofs of TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from proxy.net.tls import fingerprint

NOW = datetime.now(UTC)
Run = Callable[[Coroutine[Any, Any, None]], None]


def self_signed() -> tuple[bytes, bytes]:
    """Certificate and key in PEM, without any extension but the name, as an appliance makes
    them.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(NOW - timedelta(1)).not_valid_after(NOW + timedelta(99))
    builder = builder.add_extension(
        x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), private


def write(leaf: trustme.LeafCert, directory: Path, name: str = "server") -> tuple[Path, Path]:
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    certificate.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    key.write_bytes(leaf.private_key_pem.bytes())
    return certificate, key


def der(pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.decode())


def pin(leaf: trustme.LeafCert) -> str:
    return fingerprint(der(leaf.cert_chain_pems[0].bytes()))


def server_side(leaf: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    return context


class Echo:
    """A TLS server that sends back what it gets, and remembers it."""

    def __init__(self) -> None:
        self.port = 0
        self.received = bytearray()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1024):
                self.received += data
                writer.write(data)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def echoing(context: ssl.SSLContext) -> AsyncIterator[Echo]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0, ssl=context)
    echo.port = server.sockets[0].getsockname()[1]
    async with server:
        yield echo


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def connected(
    port: int, context: ssl.SSLContext, name: str = "localhost"
) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=name
    )
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def ping(connection: Connection, data: bytes = b"ping") -> None:
    connection[1].write(data)
    assert await connection[0].readexactly(len(data)) == data


async def shown(port: int, context: ssl.SSLContext, name: str = "localhost") -> str:
    """The fingerprint of what the server shows on a connection that works."""
    async with connected(port, context, name) as connection:
        await ping(connection)
        return fingerprint(connection[1].get_extra_info("ssl_object").getpeercert(binary_form=True))


async def failure(port: int, context: ssl.SSLContext, name: str = "localhost") -> OSError:
    with pytest.raises((ssl.SSLError, ConnectionError)) as caught:
        await shown(port, context, name)
    return caught.value
