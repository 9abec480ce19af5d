"""docs/upstream.md §3: credentials."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import Any

import pytest

from tests.unit.simulator.conftest import Client, Connect, Start

PASSWORD = {"grant_type": "password", "username": "alice", "password": "secret-a"}
PROBE = "/v8/RestoreSessions?limit=1"


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


async def status(client: Client, token: str, **headers: str) -> int:
    return (await client.get(PROBE, headers={"Authorization": f"Bearer {token}", **headers})).status


@pytest.mark.parametrize("target", ["/v8/token", "/v7/Token", "/v6/TOKEN"])
@pytest.mark.parametrize("form", ["data", "json"])
async def test_a_password_grant_as_form_or_json_returns_a_token(
    alice: Client, target: str, form: str
) -> None:
    options: dict[str, Any] = {form: PASSWORD}
    grant = (await alice.post(target, **options)).json
    assert {"access_token", "refresh_token", "userName"} < set(grant)
    assert (grant["token_type"], grant["expires_in"]) == ("bearer", 3600)
    issued, expires = (datetime.fromisoformat(grant[name]) for name in (".issued", ".expires"))
    assert 3599 <= (expires - issued).total_seconds() <= 3601
    assert await status(alice, grant["access_token"]) == 200


async def test_a_percent_encoded_form_is_accepted_as_curl_sends_it(alice: Client) -> None:
    data = b"grant_type=password&username=alice&password=secret%2Da&disable_antiforgery_token=true"
    assert (await alice.post("/v8/token", data=data)).status == 200


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (PASSWORD | {"password": "wrong"}, 401),
        (PASSWORD | {"username": "mallory"}, 401),
        ({"grant_type": "refresh_token", "refresh_token": "x"}, 401),
        ({"grant_type": "operator", "client_id": "app", "assertion": "a.b.c"}, 401),
        ({"grant_type": "magic"}, 400),
        ({}, 400),
    ],
)
async def test_a_denied_grant_has_a_message(
    alice: Client, form: dict[str, str], expected: int
) -> None:
    reply = await alice.post("/v8/token", json=form)
    assert (reply.status, bool(reply.json["message"])) == (expected, True)


async def test_a_token_request_with_invalid_json_is_400(alice: Client) -> None:
    for body in (b"{", b"[1]"):
        reply = await alice.post(
            "/v8/token", data=body, headers={"Content-Type": "application/json"}
        )
        assert reply.status == 400


@pytest.mark.parametrize(
    ("grant", "user"),
    [("operator", "operator"), ("urn:ietf:params:oauth:grant-type:jwt-bearer", "alice")],
)
async def test_an_assertion_grant_returns_a_token_of_its_user(
    alice: Client, grant: str, user: str
) -> None:
    claims = base64.urlsafe_b64encode(json.dumps({"upn": user}).encode()).decode().rstrip("=")
    form = {"grant_type": grant, "client_id": "app", "assertion": f"e30.{claims}.sig"}
    assert (await alice.post("/v8/token", data=form)).json["userName"] == user


async def test_a_refresh_token_works_once_and_for_the_same_user(alice: Client) -> None:
    first = (await alice.post("/v8/token", data=PASSWORD)).json
    form = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    second = (await alice.post("/v8/token", data=form)).json
    assert second["userName"] == "alice"
    assert second["access_token"] != first["access_token"]
    assert (await alice.post("/v8/token", data=form)).status == 401


@pytest.mark.parametrize("authorization", ["Bearer nonsense", "Basic abc", "", None])
async def test_a_rejected_token_is_401_with_an_empty_body(
    sim: Any, connect: Connect, authorization: str | None
) -> None:
    anonymous = await connect(sim, None)
    reply = await anonymous.get(
        PROBE, headers={} if authorization is None else {"Authorization": authorization}
    )
    assert (reply.status, reply.body) == (401, b"")


async def test_tokens_expire_with_time_and_on_demand(start: Start, connect: Connect) -> None:
    clock = Clock()
    alice = await connect(await start(now=clock, token_lifetime=60.0))
    assert (await alice.get(PROBE)).status == 200
    clock.now += 60
    assert (await alice.get(PROBE)).status == 401
    fresh = await connect(alice.sim)
    fresh.sim.tokens.expire(user="bob")
    assert (await fresh.get(PROBE)).status == 200
    fresh.sim.tokens.expire()
    assert (await fresh.get(PROBE)).status == 401


async def test_a_token_of_v7_works_on_v8(alice: Client) -> None:
    assert (
        await status(alice, (await alice.post("/v7/Token", data=PASSWORD)).json["access_token"])
        == 200
    )


async def test_logging_out_revokes_the_token(alice: Client) -> None:
    assert (await alice.post("/v8/token/logout")).status == 204
    assert (await alice.get(PROBE)).status == 401


async def test_a_refreshed_jwt_has_the_same_subject(start: Start, connect: Connect) -> None:
    alice = await connect(await start(token="jwt"))
    first = (await alice.post("/v8/token", data=PASSWORD)).json
    form = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    tokens = [
        first["access_token"],
        (await alice.post("/v8/token", data=form)).json["access_token"],
    ]
    claims = [json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "==")) for token in tokens]
    assert tokens[0] != tokens[1]
    assert {(one["iss"], one["sub"]) for one in claims} == {("https://vb365.example", "alice")}
    assert await status(alice, tokens[1]) == 200
    assert await status(alice, tokens[1][:-4]) == 401


async def test_with_antiforgery_a_token_needs_its_cookie_unless_disabled(
    start: Start, connect: Connect
) -> None:
    alice = await connect(await start(antiforgery=True))
    reply = await alice.post("/v8/token", data=PASSWORD)
    lines = reply.headers.getall("Set-Cookie")
    assert len(lines) == 2
    token = reply.json["access_token"]
    assert await status(alice, token) == 401
    assert (
        await status(alice, token, Cookie="; ".join(line.partition(";")[0] for line in lines))
        == 200
    )
    assert await status(alice, token, Cookie=".AspNetCore.Antiforgery=other") == 401
    free = await alice.post("/v8/token", json=PASSWORD | {"disable_antiforgery_token": True})
    assert "Set-Cookie" not in free.headers
    assert await status(alice, free.json["access_token"]) == 200
