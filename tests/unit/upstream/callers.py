"""Callers and jobs, and a VB365 that decides who may see them, for tests of access."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

import pytest

from proxy.core.errors import Problem
from proxy.core.job import Job
from proxy.ports import Fields, UpstreamUnreachable
from proxy.upstream.access import Access
from proxy.upstream.credentials import Credentials
from proxy.upstream.turns import Turns
from tests.support.export_requests import export_request

SESSIONS = "/v8/RestoreSessions?limit=1"


@dataclass
class Scripted:
    """A response of VB365 of which only the status counts."""

    status: int
    reason: bytes = b""
    fields: Fields = ()
    lines: bytes = b""
    length: int | None = 0
    delimited: bool = True

    async def read(self) -> bytes:
        return b""

    def close(self) -> None:
        """Nothing to close."""


class Vb365:
    """Decides by authorization and target; None is an upstream that is down.

    A request without credentials gets `anonymous` and is not counted.
    """

    def __init__(self, decide: Callable[[str, str, bool], int | None]) -> None:
        self.decide = decide
        self.anonymous: int | None = 401
        self.requests: list[tuple[str, str]] = []

    async def send(
        self,
        method: bytes,
        target: bytes,
        fields: Fields,
        body: bytes = b"",
        *,
        timeout: float,
        stall: float,
    ) -> Scripted:
        assert not any(n.lower() == b"host" for n, _ in fields)
        token = next((v.decode() for n, v in fields if n == b"Authorization"), "")
        cookie = any(n == b"Cookie" for n, _ in fields)
        if token or cookie:
            self.requests.append((token, target.decode()))
            status = self.decide(token, target.decode(), cookie)
        else:
            status = self.anonymous
        if status is None:
            raise UpstreamUnreachable("down", delivered=False)
        return Scripted(status)

    async def close(self) -> None:
        """Nothing to close."""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def make(decide: Callable[[str, str, bool], int | None]) -> tuple[Access, Vb365, Clock]:
    vb365, clock = Vb365(decide), Clock()
    return (
        Access(vb365, key=b"k" * 32, cache=60, timeout=5, turns=Turns(8), now=clock),
        vb365,
        clock,
    )


def credentials(token: str = "Bearer a", cookie: str | None = None) -> Credentials:
    fields = [(b"authorization", token.encode())] + (
        [(b"Cookie", cookie.encode())] if cookie else []
    )
    made = Credentials.of(fields)
    assert made is not None
    return made


def jwt(subject: str, salt: str = "1", issuer: str = "https://vb365", claim: str = "sub") -> str:
    claims = base64.urlsafe_b64encode(
        json.dumps({"iss": issuer, claim: subject, "jti": salt}).encode()
    ).decode()
    return f"Bearer e30.{claims.rstrip('=')}.sig{salt}"


def owner_of(access: Access, who: Credentials) -> str:
    return access.owners(who)[0]


def job(
    owner: str, session: str | None = "S1", *, api: str = "v8", aliases: tuple[str, ...] = ()
) -> Job:
    request = export_request(
        target="/v8/RestoreSessions/S1/organization/exportToPst",
        api=api,
        session=session,
        fingerprint="",
    )
    now = time.time()
    return Job(
        id=str(uuid4()),
        version=1,
        owner=owner,
        aliases=aliases,
        request=request,
        created=now,
        updated=now,
    )


async def refused(access: Access, who: Credentials, what: Job) -> tuple[int, str]:
    with pytest.raises(Problem) as why:
        await access.check(who, what)
    return why.value.status, why.value.name


def gone(token: str, target: str, cookie: bool) -> int:
    """The session has ended; only tokens named ok are accepted."""
    if "ok" not in token and "e30" not in token:
        return 401
    return 200 if target == SESSIONS else 404
