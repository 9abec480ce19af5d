"""The cause of a failed request, as a message that says what to change."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl

import aiohttp
from yarl import URL

from proxy.client.errors import CommandError, Unreachable

#: OpenSSL's reasons for input that is not TLS.
_NOT_TLS = frozenset(
    {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"}
)
#: Time limit in seconds of the handshake that detects TLS.
_PROBE = 5.0


async def diagnose(error: Exception, url: URL, base: str, *, connected: bool) -> CommandError:
    """Return `Unreachable` if another try may succeed, else a `CommandError`.

    `connected` means that the server at `base` has responded before. The exit code is then 1, since
    the command line is right, else 2.
    """
    code = 1 if connected else 2
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        text = (
            f"The certificate of {base} is not trusted ({error.certificate_error}): see "
            "--ca-file and --insecure, or trust exactly this one with --fingerprint"
        )
        return CommandError(text, code=code)
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return _tls_error(error.os_error, base, code)
    if isinstance(error, aiohttp.ServerFingerprintMismatch):
        return CommandError(
            f"The certificate of {base} has the SHA-256 fingerprint {readable(error.got)}, not "
            f"{readable(error.expected)}. If the certificate was not renewed, somebody intercepts "
            "the connection; see --fingerprint",
            code=code,
        )
    if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        return Unreachable(
            f"{base}: the proxy in {url.scheme.upper()}_PROXY cannot be used: {_reason(error)}",
            code=code,
        )
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        if not connected and error.os_error.errno != socket.EAI_AGAIN:
            return CommandError(f"{base}: host {url.host} does not exist; check --url", code=2)
        return Unreachable(
            f"{base}: the host name {url.host} cannot be resolved ({_os_error(error)})", code=code
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return Unreachable(f"{base}: Cannot connect: {_os_error(error)}", code=code)
    if not connected and url.scheme == "http" and await _uses_tls(url):
        return CommandError(f"{base} uses TLS: write https:// in --url", code=2)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Unreachable(f"{base}: Cannot connect: timeout", code=code)
    return Unreachable(f"{base}: {str(error) or type(error).__name__}")


def _tls_error(error: OSError, base: str, code: int) -> CommandError:
    reason = getattr(error, "reason", None) or ""
    if reason in _NOT_TLS:
        return CommandError(
            f"{base} does not use TLS: write http:// in --url if that is intended", code=code
        )
    return Unreachable(
        f"{base}: TLS failed ({reason.replace('_', ' ').lower() or error})", code=code
    )


def _os_error(error: aiohttp.ClientConnectorError) -> str:
    number = error.os_error.errno
    return os.strerror(number) if number is not None and number > 0 else str(error.os_error)


def _reason(error: aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError) -> str:
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"it responded with {error.status}"
    return _os_error(error)


def readable(digest: bytes) -> str:
    """The fingerprint as openssl prints it."""
    return digest.hex(":").upper()


async def _uses_tls(url: URL) -> bool:
    """Return whether a TLS handshake succeeds, with any certificate. Nothing else is sent."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(_PROBE):
            _, writer = await asyncio.open_connection(url.host, url.port, ssl=context)
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True
