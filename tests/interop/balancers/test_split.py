"""The split variant: what goes to the proxy, and what straight to VB365 (CONTRACT §1, §2)."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

from proxy.core.http.heads import parse_request
from proxy.core.routing import PassThrough, Router
from tests.interop.balancers.balancer import SPLIT, Balancer, Files, balancing
from tests.interop.balancers.conftest import SceneMaker
from tests.interop.balancers.test_exports import mailbox
from tests.support.upstreams import Origin
from tests.support.wire import LIMIT, Peer

MAIL = "/v8/RestoreSessions/5f0c/organization/mailboxes/b951/exportToPst"
ASYNC = ("Prefer: respond-async",)

#: Method, target and further fields of requests that belong to the proxy …
FOR_THE_PROXY: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("POST", MAIL, ASYNC),
    ("POST", MAIL, ("prefer: RESPOND-ASYNC",)),
    ("POST", MAIL, ("Prefer: return=minimal, respond-async; wait=5",)),
    ("POST", MAIL, ("Prefer: return=minimal", "Prefer: respond-async")),
    ("POST", MAIL.lower(), ASYNC),
    ("POST", MAIL.upper().replace("/V8", "/v8"), ASYNC),
    ("POST", MAIL.replace("/v8", "/V6"), ASYNC),
    ("POST", MAIL + "/", ASYNC),
    ("POST", MAIL + "?x=1", ASYNC),
    ("POST", MAIL + "/?async=true", ()),
    ("POST", MAIL + "?async=true", ()),
    ("POST", MAIL + "?async", ()),
    ("POST", MAIL + "?async=", ()),
    ("POST", MAIL + "?ASYNC=TRUE", ()),
    ("POST", MAIL + "?x=1&Async=1&y=2", ()),
    ("POST", MAIL + "?async=false", ASYNC),
    ("POST", MAIL + "?async=perhaps", ()),
    ("POST", "/v7/RestoreSessions/5f0c/organization/onedrives/a%2Fb%3D/documents/1/Save", ASYNC),
    ("POST", "/v8/RestoreSessions/5f0c/organization/teams/t/posts/export", ASYNC),
    ("POST", "/v8/RestoreSessions/5f0c/Organization/exportToPst", ASYNC),
    ("GET", "/v8/_async/exports/5f0c6d3e-0000-4000-8000-000000000000", ()),
    ("GET", "/v8/_async/exports/5f0c6d3e-0000-4000-8000-000000000000/result", ()),
    ("HEAD", "/V8/_ASYNC/exports/5f0c6d3e-0000-4000-8000-000000000000", ()),
    ("DELETE", "/_async/exports/5f0c6d3e-0000-4000-8000-000000000000", ()),
    ("GET", "/v8/_async/exports?limit=5", ()),
    ("GET", "/_async/openapi.json", ()),
    ("GET", "//v8/_async/exports", ()),
    ("OPTIONS", "/_async", ()),
    ("GET", "/_async?x", ()),
)

#: … and of those that do not.
FOR_VB365: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("POST", MAIL, ()),
    ("POST", MAIL + "?x=async", ()),
    ("POST", MAIL + "?asynchronous=true", ()),
    ("POST", MAIL + "?x&notasync=true", ()),
    ("POST", MAIL + "?%61sync=true", ()),
    ("GET", MAIL, ASYNC),
    ("GET", MAIL + "?async=true", ()),
    ("POST", "/v8/Token", ASYNC),
    ("POST", "/v8/token?async=true", ()),
    ("GET", "/v8/Organizations", ASYNC),
    ("GET", "/v8/Organizations?async=true", ()),
    ("POST", "/v8/RestoreSessions/5f0c/organization/mailboxes/b951/restoreTo", ASYNC),
    ("POST", "/v8/RestoreSessions/5f0c/organization/mailboxes/b951/exportToPst/x", ASYNC),
    ("POST", "/v8/RestoreSessions/5f0c/organization/mailboxes/b951/Action", ASYNC),
    ("POST", "/v8/RestoreSessions/5f0c/Stop", ASYNC),
    ("POST", "/x/v8/RestoreSessions/5f0c/organization/exportToPst", ASYNC),
    ("POST", "/RestoreSessions/5f0c/organization/exportToPst", ASYNC),
    ("GET", "/v8/_asynchronous", ()),
    ("GET", "/v8/x/_async/exports", ()),
    ("GET", "/v8/Organizations?x=/_async/exports", ()),
    ("GET", "/", ()),
    ("GET", "/swagger/ui/index/index.html", ()),
)


def answering(word: bytes) -> Callable[[Peer], Coroutine[None, None, None]]:
    """An origin that tells its name and what it was asked for."""

    async def script(peer: Peer) -> None:
        while True:
            head = await peer.head()
            body = b"" if head.startswith(b"HEAD") else head.split(b"\r\n", 1)[0]
            size = len(head.split(b"\r\n", 1)[0])
            await peer.send(
                b"HTTP/1.1 200 OK\r\nX-Who: %s\r\nContent-Length: %d\r\n\r\n%s" % (word, size, body)
            )

    return script


@contextlib.asynccontextmanager
async def splitting(name: str, files: Files, place: Path) -> AsyncIterator[Balancer]:
    """The split between two origins that tell who they are."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(files.both)
    async with (
        Origin(answering(b"proxy")).running() as proxy,
        Origin(answering(b"vb365")).running(tls) as vb365,
        balancing(name, place, files, proxy=proxy.port, vb365=vb365.port) as balancer,
    ):
        yield balancer


async def test_only_requests_for_the_proxy_go_there(
    name: str, files: Files, tmp_path: Path, trusting: ssl.SSLContext
) -> None:
    """CONTRACT §1, §2; and the target arrives as it was sent (§12)."""
    async with splitting(name, files, tmp_path) as balancer:
        opened = asyncio.open_connection(
            "127.0.0.1", balancer.ports[SPLIT], ssl=trusting, server_hostname="localhost"
        )
        client = Peer(*await asyncio.wait_for(opened, LIMIT))
        wrong = []
        for who, cases in ((b"proxy", FOR_THE_PROXY), (b"vb365", FOR_VB365)):
            for method, target, fields in cases:
                lines = (
                    f"{method} {target} HTTP/1.1",
                    "Host: localhost",
                    *fields,
                    "Content-Length: 0",
                )
                await client.send("\r\n".join((*lines, "", "")).encode())
                head = await client.head()
                body = b"" if method == "HEAD" else await client.exactly(len(lines[0]))
                if b"x-who: " + who not in head.lower() or body not in (b"", lines[0].encode()):
                    wrong.append((method, target, fields, head, body))
        await client.close()
    assert wrong == []


def decision(method: str, target: str, fields: tuple[str, ...]) -> object:
    """What the proxy itself makes of the request, with credentials."""
    lines = (
        f"{method} {target} HTTP/1.1",
        "Host: localhost",
        "Authorization: Bearer x",
        *fields,
        "Content-Length: 0",
    )
    door = Router(segment="_async", prefix="", max_body=1, reports=False)
    return door.decide(parse_request("\r\n".join((*lines, "", "")).encode()))


def test_the_table_agrees_with_the_proxy() -> None:
    """What is told to go straight to VB365 is nothing that the proxy would have handled itself."""
    for case in FOR_VB365:
        assert isinstance(decision(*case), PassThrough), case
    passed_on = [case for case in FOR_THE_PROXY if isinstance(decision(*case), PassThrough)]
    assert [target for _, target, _ in passed_on] == [MAIL + "?async=false"], (
        "the switch must still be stripped"
    )


async def test_while_the_proxy_is_down_all_else_works(scene: SceneMaker) -> None:
    """The split keeps the proxy from being a single point of failure."""
    async with scene() as here:
        path, url = mailbox(here), here.balancer.url(SPLIT)
        await here.proxy.stop()
        fields = here.vb365.login()
        async with here.http.get(f"{url}/v8/Organizations", headers=fields) as response:
            assert response.status == 200
        async with here.http.post(url + path, data=b"{}", headers=fields) as response:
            assert response.status == 200
            assert (await response.read())[:4] == b"!BDN"
        async with here.http.post(
            url + path, data=b"{}", headers=fields | {"Prefer": "respond-async"}
        ) as response:
            assert response.status in (502, 503)
