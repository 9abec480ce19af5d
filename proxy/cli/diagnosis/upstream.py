"""VB365 as the proxy reaches it: name, port, response, clock."""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import closing, suppress
from urllib.parse import urlsplit

from proxy.cli.diagnosis.findings import Finding, failed, ok, warning
from proxy.cli.diagnosis.reach import (
    Certificate,
    Server,
    clock,
    connected,
    reason_of,
    resolved,
)
from proxy.config.settings import Settings
from proxy.core.http.fields import value_of
from proxy.core.paths import description_url
from proxy.parts.clients import upstream_pool, upstream_tls
from proxy.parts.start import StartFailed
from proxy.ports import UpstreamFailure, WholeResponse
from proxy.upstream.client import HttpUpstream
from proxy.upstream.whole_response import read_whole

_SETTING, _CERTIFICATE, _API = "upstream.url", "VB365's certificate", "VB365"
#: The API versions, the newest first. Without credentials VB365 responds with 401 to those that it
#: has and with 404 to others (docs/upstream.md §3).
_VERSIONS = ("v8", "v7", "v6")
_LONGEST = 1 << 20
_RENEW = "Renew it on the VB365 server."


async def upstream_findings(settings: Settings, *, listens: bool) -> AsyncIterator[Finding]:
    """Yield what is found on the way to VB365; a failure that makes the rest impossible is the last
    one. `listens`: the section `listen` is valid.
    """
    url = urlsplit(settings.upstream.url)
    server = Server(
        check="upstream",
        setting=_SETTING,
        host=url.hostname or "",
        port=url.port or (443 if url.scheme == "https" else 80),
        timeout=settings.upstream.connect_timeout,
    )
    found, addresses = await resolved(server)
    yield found
    if not addresses:
        return
    if listens and (own := _itself(settings, server, addresses)):
        yield own
        return
    found, accepted = await connected(server, addresses)
    yield found
    if not accepted:
        return
    if url.scheme == "https":
        found, trusted = await _certificate(settings, server)
        yield found
        if not trusted:
            return
    async for found in _responses(settings):
        yield found


def _itself(settings: Settings, server: Server, addresses: Sequence[str]) -> Finding | None:
    """A finding if the address is one that the proxy listens on."""
    listen = settings.listen.address
    if listen.port == 0 or listen.port != server.port:
        return None
    if not any(_covers(listen.host, address) for address in addresses):
        return None
    message = f"{server} is the proxy itself, which listens on {listen}"
    return failed("upstream.itself", _SETTING, message, "Set it to the address of VB365.")


def _covers(listen: str, address: str) -> bool:
    """Whether listening on the host `listen` takes connections to this address."""
    if listen in ("0.0.0.0", "::"):  # noqa: S104  # compared, not bound
        return _is_local(address)
    with suppress(OSError):
        return address in {str(found[4][0]) for found in socket.getaddrinfo(listen, None)}
    return False


def _is_local(address: str) -> bool:
    """Whether it is an address of this machine: only those can be bound."""
    if ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return True
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe, suppress(OSError):
        probe.bind((address, 0))
        return True
    return False


async def _certificate(settings: Settings, server: Server) -> tuple[Finding, bool]:
    """What VB365's certificate says, and whether the proxy trusts it."""
    check, upstream = "upstream.certificate", settings.upstream
    facts: Certificate | None = None
    with suppress(OSError, ValueError):
        facts = await Certificate.at(server)
    shown = "" if facts is None else f"{facts}; "
    distrust = await _distrust(settings)
    if distrust is not None:
        return failed(
            check, _CERTIFICATE, distrust if facts is None else f"{facts}: {distrust}"
        ), False
    if not upstream.verify:
        fix = "Set upstream.fingerprint or upstream.ca_file, and remove upstream.verify."
        return warning(check, _CERTIFICATE, f"{shown}not verified", fix), True
    if upstream.fingerprint is not None:  # it is trusted whatever its dates are
        return ok(check, _CERTIFICATE, f"{shown}pinned by upstream.fingerprint"), True
    if facts is None:
        return ok(check, _CERTIFICATE, "trusted"), True
    return facts.dated(check, _CERTIFICATE, _RENEW), True


async def _distrust(settings: Settings) -> str | None:
    """Why the proxy cannot connect or does not trust the certificate; None if it does."""
    try:
        pool = upstream_pool(settings, upstream_tls(settings))
    except StartFailed as why:
        return str(why)
    try:
        (await pool.connect()).close()
    except UpstreamFailure as why:
        return str(why)
    finally:
        await pool.close()
    return None


async def _responses(settings: Settings) -> AsyncIterator[Finding]:
    """Yield what VB365 responds, without credentials, and how its clock is set."""
    pool = upstream_pool(settings, upstream_tls(settings))
    upstream = HttpUpstream(pool, checks_only=True)
    limit = settings.upstream.check_timeout

    async def get(path: str) -> WholeResponse:
        fields = [(b"Accept", b"application/json")]
        target = path.encode()
        response = await upstream.send(b"GET", target, fields, timeout=limit, stall=limit)
        return await read_whole(response, _LONGEST)

    try:
        first = await get(description_url("", settings.public.segment))
        date = value_of(first.fields, b"date")
        clocks = [*clock("upstream.clock", None if date is None else date.decode("latin-1"))]
        if _is_proxy(first):
            message = f"{settings.upstream.url} is a vb365-async-proxy, not VB365"
            fix = "Set it to the address of VB365."
            yield failed("upstream.itself", _SETTING, message, fix)
            return
        responses = {version: await get(f"/{version}/ServiceInstance") for version in _VERSIONS}
    except UpstreamFailure as why:
        message, fix = f"no response: {why}", "Look at VB365's REST API service and its log."
        yield failed("upstream.response", _API, message, fix)
        return
    except OSError as why:
        yield failed("upstream.response", _API, f"no response: {reason_of(why)}")
        return
    finally:
        await upstream.close()
    yield _api(settings, {version: response.status for version, response in responses.items()})
    for found in clocks:
        yield found


def _is_proxy(response: WholeResponse) -> bool:
    try:
        return bool(json.loads(response.body)["info"]["title"] == "vb365-async-proxy")
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def _api(settings: Settings, statuses: dict[str, int]) -> Finding:
    served = [version for version, status in statuses.items() if status == 401]
    if served:
        return ok("upstream.response", _API, f"API {', '.join(served)}")
    shown = ", ".join(f"/{version}: {status}" for version, status in statuses.items())
    message = f"{settings.upstream.url} does not respond as VB365 does ({shown})"
    if all(status >= 500 for status in statuses.values()):
        return failed("upstream.response", _API, message, "Look at VB365's log.")
    fix = "Set upstream.url to the address of VB365's REST API, by default port 4443."
    return failed("upstream.response", _API, message, fix)
