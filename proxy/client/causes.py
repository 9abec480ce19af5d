"""Why an exchange failed, in a sentence that names the true cause and what to change."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl

import aiohttp
from yarl import URL

from proxy.client.faults import Fault, Unreachable

#: OpenSSL's names for bytes that are no TLS.
_NOT_TLS = frozenset(
    {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"}
)
#: Seconds for the TLS handshake that tells whether a port speaks TLS.
_PROBE = 5.0


async def cause(why: Exception, url: URL, base: str, *, connected: bool) -> Fault:
    """The error for `why`: `Unreachable` where another try may help, else a `Fault` with exit code
    2.

    `connected` says that the server at `base` was reached before: then nothing is wrong with the
    command line.
    """
    code = 1 if connected else 2
    if isinstance(why, aiohttp.ClientConnectorCertificateError):
        text = (
            f"The certificate of {base} is not trusted ({why.certificate_error}): see "
            "--ca-file and --insecure"
        )
        return Fault(text, code=code)
    if isinstance(why, aiohttp.ClientConnectorSSLError):
        return _no_tls(why.os_error, base, code)
    if isinstance(why, aiohttp.ClientConnectorDNSError):
        if not connected and why.os_error.errno != socket.EAI_AGAIN:
            return Fault(f"{base}: there is no host {url.host}: check --url", code=2)
        return Unreachable(
            f"{base}: the host name {url.host} cannot be resolved ({_system(why)})", code=code
        )
    if isinstance(why, aiohttp.ClientConnectorError):
        return Unreachable(f"{base}: Cannot connect: {_system(why)}", code=code)
    if not connected and url.scheme == "http" and await _speaks_tls(url):
        return Fault(f"{base} speaks TLS: write https:// in --url", code=2)
    if isinstance(why, aiohttp.ConnectionTimeoutError):
        return Unreachable(f"{base}: Cannot connect: no answer", code=code)
    return Unreachable(f"{base}: {str(why) or type(why).__name__}")


def _no_tls(why: OSError, base: str, code: int) -> Fault:
    reason = getattr(why, "reason", None) or ""
    if reason in _NOT_TLS:
        return Fault(
            f"{base} does not speak TLS: write http:// in --url if that is meant", code=code
        )
    return Unreachable(f"{base}: TLS failed ({reason.replace('_', ' ').lower() or why})", code=code)


def _system(why: aiohttp.ClientConnectorError) -> str:
    number = why.os_error.errno
    return os.strerror(number) if number is not None and number > 0 else str(why.os_error)


async def _speaks_tls(url: URL) -> bool:
    """Whether a TLS handshake succeeds there, whatever the certificate; nothing is sent over it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(_PROBE):
            _, writer = await asyncio.open_connection(url.host, url.port, ssl=context)
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True
