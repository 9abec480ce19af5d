"""Where the proxy listens: the ports, its own certificate, and what others can read."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

from proxy.cli.diagnosis.findings import Finding, failed, ok, warning
from proxy.cli.diagnosis.reach import Certificate
from proxy.config.addresses import HostPort
from proxy.config.settings import Settings
from proxy.core.paths import description_url
from proxy.net.listening import listen

#: Seconds for a program that listens on the port to say what it is.
_TIMEOUT = 5.0
_LONGEST = 1 << 20
_FIXES = {
    errno.EADDRINUSE: "Stop the program that listens there, or choose another port",
    errno.EACCES: "Choose a port above 1023, or allow this one (AmbientCapabilities="
    "CAP_NET_BIND_SERVICE of the systemd unit)",
    errno.EADDRNOTAVAIL: "Choose an address of this machine",
}


async def port_findings(settings: Settings) -> AsyncIterator[Finding]:
    """Yield what is found of the addresses for clients and operators, and of the certificate."""
    address, certificate = settings.listen.address, settings.listen.tls_certificate
    path = description_url("", settings.public.segment)
    tls = certificate is not None
    yield await asyncio.to_thread(_port, "listen.address", "--listen", address, path, tls)
    if certificate is not None:
        for found in _own_certificate(settings, certificate):
            yield found
    elif not address.loopback:
        yield _plain(settings)
    address, path = settings.admin.address, "/healthz"
    yield await asyncio.to_thread(_port, "admin.address", "--admin", address, path, False)


def _port(setting: str, option: str, address: HostPort, path: str, tls: bool) -> Finding:
    """Whether the proxy can listen there, or does so already: then it has a resource at `path`."""
    check = f"{setting.partition('.')[0]}.port"
    kind = socket.SOCK_STREAM
    try:
        found = socket.getaddrinfo(address.host, address.port, type=kind, flags=socket.AI_PASSIVE)
        sockets = listen(found)
    except (OSError, UnicodeError) as why:
        number = getattr(why, "errno", None)
        if number == errno.EADDRINUSE and _is_proxy(address, path, tls):
            return ok(check, setting, f"a vb365-async-proxy listens on {address} already")
        fix = _FIXES.get(number or 0, "Choose another address")
        message = "is in use" if number == errno.EADDRINUSE else f"cannot be used: {_reason(why)}"
        return failed(check, setting, f"{address} {message}", f"{fix}, with {option} too.")
    for sock in sockets:
        sock.close()
    return ok(check, setting, f"{address} is free")


def _reason(why: Exception) -> str:
    return str(getattr(why, "strerror", None) or why)


def _is_proxy(address: HostPort, path: str, tls: bool) -> bool:
    """Whether what listens at the address is a running proxy."""
    host, port = address.reachable
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing secret is sent
    connection = (
        HTTPSConnection(host, port, timeout=_TIMEOUT, context=context)
        if tls
        else HTTPConnection(host, port, timeout=_TIMEOUT)
    )
    try:
        connection.request("GET", path, headers={"Host": "localhost"})
        response = connection.getresponse()
        body = response.read(_LONGEST)
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
    if response.status != 200:
        return False
    try:
        return path == "/healthz" or json.loads(body)["info"]["title"] == "vb365-async-proxy"
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def _own_certificate(settings: Settings, path: Path) -> Iterator[Finding]:
    """Whether clients accept the proxy's certificate. Its key belongs to it, or the settings are
    not valid.
    """
    check, setting = "listen.certificate", "listen.tls_certificate"
    try:
        pem = path.read_text(encoding="ascii", errors="ignore")
        start = pem.index("-----BEGIN CERTIFICATE-----")
        first = pem[start : pem.index("-----END CERTIFICATE-----", start) + 25]
        facts = Certificate.of(ssl.PEM_cert_to_DER_cert(first))
    except (OSError, ValueError) as why:
        yield failed(check, setting, f"{path} cannot be read: {why}", "Replace it.")
        return
    yield facts.dated(check, setting, "Renew it: a new file is used at once.")
    public = urlsplit(settings.public.url or "")
    if public.scheme == "https" and public.hostname and not facts.is_for(public.hostname):
        message = f"{path} is not for {public.hostname}, the name in public.url"
        fix = "Get one for that name, unless a load balancer in front ends TLS."
        yield warning("listen.certificate-name", setting, message, fix)


def _plain(settings: Settings) -> Finding:
    check, setting = "listen.tls", "listen.tls_certificate"
    if settings.public.trusted_proxies and (settings.public.url or "").startswith("https:"):
        return ok(check, setting, "not set: the load balancer in front ends TLS")
    message = f"clients connect to {settings.listen.address} over plain http: passwords and files "
    message += "can be read on the network"
    fix = "Set it and listen.tls_key, unless a load balancer in front ends TLS."
    return warning(check, setting, message, fix)
