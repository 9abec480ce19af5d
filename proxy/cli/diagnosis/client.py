"""What a client can see of a proxy: whether it can be reached, what it is, and whether the login
works.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from ssl import SSLContext

from yarl import URL

from proxy.cli.diagnosis.findings import Finding, failed, has_failed, ok, warning
from proxy.cli.diagnosis.reach import Certificate, Server, clock, connected, resolved
from proxy.client.connection import Resolved, opened
from proxy.client.display import Display
from proxy.client.errors import CommandError
from proxy.client.forward import forward_proxy, is_loopback
from proxy.client.proxy import Proxy
from proxy.client.vb365 import VERSIONS
from proxy.client.wire import Http, WholeResponse, error_from
from proxy.core.paths import description_url

_TIMEOUT = 10.0
_URL, _CERTIFICATE, _PROXY, _LOGIN = "--url", "certificate", "proxy", "login"


async def client_findings(connection: Resolved, display: Display) -> AsyncIterator[Finding]:
    """Yield what is found on the way to the proxy; a failure that makes the rest impossible is the
    last one. Raises `CommandError` for an address that is not valid.
    """
    trust = {"insecure": connection.insecure, "verbose": connection.verbose}
    async with opened(connection.url, connection.tls, display, **trust) as http:
        url = URL(connection.url)
        forward = forward_proxy(url)
        if forward.url is None:
            reached = await _reach(url, pinned=not isinstance(connection.tls, SSLContext | bool))
            for found in reached:
                yield found
            if has_failed(reached):
                return
        else:
            message = f"connections go through {forward.url}, by {url.scheme.upper()}_PROXY"
            yield ok("proxy.forward", _URL, message)
        if url.scheme == "http" and not is_loopback(url.host or ""):
            message = f"{connection.url} does not use TLS: the network can read passwords and files"
            yield warning("proxy.tls", _URL, message, "Use https.")
        async for found in _responses(http, connection):
            yield found


async def _reach(url: URL, *, pinned: bool) -> list[Finding]:
    """What is found of the name, the port and the certificate, up to the first failure. A
    certificate that is `pinned` is trusted whatever its dates are.
    """
    port = url.port or 443
    server = Server(check="proxy", setting=_URL, host=url.host or "", port=port, timeout=_TIMEOUT)
    name, addresses = await resolved(server)
    if not addresses:
        return [name]
    found = [name, (await connected(server, addresses))[0]]
    if has_failed(found) or url.scheme != "https":
        return found
    check = "proxy.certificate"
    try:
        facts = await Certificate.at(server)
    except (OSError, ValueError):
        return found  # the request that follows says why
    if pinned:
        return [*found, ok(check, _CERTIFICATE, f"{facts}; pinned by --fingerprint")]
    return [*found, facts.dated(check, _CERTIFICATE, "Renew it on the proxy.")]


async def _responses(http: Http, connection: Resolved) -> AsyncIterator[Finding]:
    """Yield what the server is, what is behind it, and whether the login works."""
    path = description_url("", connection.segment)
    try:
        description = await http.call("GET", path, {"Accept": "application/json"})
        clocks = [*clock("proxy.clock", description.fields.get("Date"))]
        yield _is_proxy(connection, description)
        yield _behind(
            {each: await http.call("GET", f"/{each}/ServiceInstance", {}) for each in VERSIONS}
        )
        for each in clocks:
            yield each
        yield await _login(Proxy(http, connection.credentials), connection)
    except CommandError as why:
        yield failed("proxy.response", _PROXY, str(why))


def _is_proxy(connection: Resolved, response: WholeResponse) -> Finding:
    check = "proxy.identity"
    try:
        about = response.document()["info"]
        if about["title"] == "vb365-async-proxy":
            return ok(check, _PROXY, f"vb365-async-proxy {about['version']}")
    except (CommandError, LookupError, TypeError):
        pass
    if response.from_proxy:
        return failed(check, _PROXY, str(error_from(response)))
    path = description_url("", connection.segment)
    message = f"{connection.url} is not the proxy: it responded with {response.status} to {path}"
    fix = "Set --url to the address of the proxy, and --segment to its public.segment."
    return failed(check, _PROXY, message, fix)


def _behind(responses: dict[str, WholeResponse]) -> Finding:
    """Whether VB365 responds: without credentials with 401 to the API versions that it has."""
    check, subject = "vb365.response", "VB365"
    served = [version for version, response in responses.items() if response.status == 401]
    if served:
        return ok(check, subject, f"API {', '.join(served)}")
    first = next(iter(responses.values()))
    if first.from_proxy:  # 502 or 504: the proxy cannot reach VB365
        fix = "Run `vb365-async-proxy doctor` on the machine of the proxy."
        return failed(check, subject, str(error_from(first)), fix)
    shown = ", ".join(f"/{version}: {found.status}" for version, found in responses.items())
    message = f"the server does not respond as VB365 does ({shown})"
    return failed(check, subject, message, "Check --url.")


async def _login(proxy: Proxy, connection: Resolved) -> Finding:
    """Whether VB365 accepts the credentials, and which version it is."""
    check = "login.token"
    again = f"Log in again: vb365-async-proxy login {connection.url}"
    if connection.anonymous:
        message = f"none; to keep one: vb365-async-proxy login {connection.url}"
        return ok(check, _LOGIN, message)
    path = f"/{connection.api}/ServiceInstance"
    try:
        response = await proxy.call("GET", path, {"Accept": "application/json"})
    except CommandError as why:
        return failed(check, _LOGIN, str(why))
    if response.status in (401, 400):
        return failed(check, _LOGIN, "VB365 does not accept the credentials", again)
    if response.status != 200:
        return failed(check, _LOGIN, f"{path}: {error_from(response)}", "Check --api.")
    try:
        version = json.loads(response.body)["version"]
    except (ValueError, LookupError, TypeError, RecursionError):
        version = "of unknown version"
    return ok(check, _LOGIN, f"accepted by VB365 {version}")
