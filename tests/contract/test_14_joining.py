"""CONTRACT §14: which requests join an export that runs or has ended."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from typing import Any

import pytest

from proxy.rescue import joining
from proxy.rescue.call import Call
from proxy.rescue.identities import Identities
from tests.contract.conftest import MakeRescue
from tests.contract.test_16_api import delivered
from tests.support.exports import (
    CHUNKED_HEAD,
    CONTENT,
    EXPORT,
    HEAD,
    LENGTH,
    LINES,
    Slow,
    answer,
    raw_response,
    whole,
)
from tests.support.wire import Message, Peer, ask, eventually, raw


async def test_14_a_retry_joins_the_export_that_its_client_left(make_rescue: MakeRescue) -> None:
    """§14: VB365 sees one POST, whatever the number of retries."""
    slow = Slow()
    stage = await make_rescue(slow)
    await stage.leave()
    for count in (1, 2):
        peer = await stage.send()
        await stage.joined(count)
        peer.reset()
    peer = await stage.send()
    slow.finish()
    assert await raw_response(peer, len(CONTENT)) == (HEAD, CONTENT)
    assert len(stage.upstream.posts) == 1
    job = await stage.finished()
    assert job["origin"] == "Rescue"
    assert job["joined"] == 3


async def test_14_the_finished_file_is_there_at_once_until_it_was_delivered_whole(
    make_rescue: MakeRescue,
) -> None:
    slow = Slow()
    stage = await make_rescue(slow, whole)
    await stage.leave()
    slow.finish()
    job = await stage.finished()
    broken = await stage.send()
    await broken.head()
    broken.reset()
    response = await stage.export()
    assert (response.head, response.body) == (HEAD, CONTENT)
    assert len(stage.upstream.posts) == 1
    await delivered(stage, job["id"])
    assert (await stage.export()).body == CONTENT
    assert len(stage.upstream.posts) == 2


async def test_14_after_rescue_ttl_the_same_post_is_a_new_export(make_rescue: MakeRescue) -> None:
    slow = Slow()
    stage = await make_rescue(slow, whole, EXPORTS__RESCUE_TTL="10m")
    await stage.leave()
    slow.finish()
    await stage.finished()
    stage.clock.ahead = 601
    assert (await stage.export()).body == CONTENT
    assert len(stage.upstream.posts) == 2


@pytest.mark.parametrize(
    ("spec", "start", "stop"), [("1000-", 1000, None), ("0-99", 0, 100), ("-5", -5, None)]
)
async def test_14_a_range_of_a_joined_export_is_a_206(
    make_rescue: MakeRescue, spec: str, start: int, stop: int | None
) -> None:
    """§14: of a running one, as the bytes arrive, and of a finished one."""
    slow = Slow()
    stage = await make_rescue(slow)
    await stage.leave()
    running = await stage.send(fields=(f"Range: bytes={spec}",))
    slow.finish()
    await stage.finished()
    expected = CONTENT[start:stop]
    first = len(CONTENT) + start if start < 0 else start
    shown = f"bytes {first}-{first + len(expected) - 1}/{len(CONTENT)}"
    for peer in (running, await stage.send(fields=(f"Range: bytes={spec}",))):
        response = await peer.message()
        assert (response.status, response.reason) == (206, "Partial Content")
        assert response.body == expected
        length = b"Content-Length: %d\r\n" % len(expected)
        assert response.head.partition(b"\r\n")[2] == (
            LINES + length + f"Content-Range: {shown}\r\n\r\n".encode()
        )
    assert len(stage.upstream.posts) == 1


async def test_14_a_range_that_cannot_be_satisfied_is_a_416(make_rescue: MakeRescue) -> None:
    slow = Slow()
    stage = await make_rescue(slow)
    await stage.leave()
    slow.finish()
    response = await stage.export(fields=(f"Range: bytes={len(CONTENT)}-",))
    assert (response.status, response.body) == (416, b"")
    assert response["Content-Range"] == f"bytes */{len(CONTENT)}"


async def test_14_a_range_whose_condition_fails_gets_the_whole_file(
    make_rescue: MakeRescue,
) -> None:
    slow = Slow()
    stage = await make_rescue(slow)
    await stage.leave()
    slow.finish()
    await stage.finished()
    for tag, status in (('"other"', 200), ('"abc"', 206)):
        peer = await stage.send(fields=("Range: bytes=5-", f"If-Range: {tag}"))
        assert (await peer.message()).status == status
        peer.reset()
    assert len(stage.upstream.posts) == 1


async def test_14_a_range_of_a_chunked_export_waits_for_its_end(make_rescue: MakeRescue) -> None:
    release = asyncio.Event()

    async def write(peer: Peer, message: Message) -> None:
        await peer.send(CHUNKED_HEAD + b"4\r\n!BDN\r\n")
        await release.wait()
        await peer.send(b"2\r\nab\r\n0\r\n\r\n")

    stage = await make_rescue(write)
    await stage.leave()
    peer = await stage.send(fields=("Range: bytes=2-",))
    release.set()
    response = await peer.message()
    assert (response.status, response.body) == (206, b"DNab")
    assert "Transfer-Encoding" not in response


async def test_14_parts_over_several_connections_make_the_file(make_rescue: MakeRescue) -> None:
    """§14: as download managers do. No part ends the rescue."""
    slow = Slow()
    stage = await make_rescue(slow)
    await stage.leave()
    ends = [0, 300_000, 700_000, len(CONTENT)]
    parts = [
        await stage.send(fields=(f"Range: bytes={start}-{stop - 1}",))
        for start, stop in itertools.pairwise(ends)
    ]
    await stage.joined(len(parts))
    slow.finish()
    responses = [await peer.message() for peer in parts]
    assert [response.status for response in responses] == [206, 206, 206]
    assert b"".join(response.body for response in responses) == CONTENT
    assert (await stage.export()).body == CONTENT
    assert len(stage.upstream.posts) == 1


async def test_14_identical_posts_at_the_same_moment_are_one_job(make_rescue: MakeRescue) -> None:
    slow = Slow()
    stage = await make_rescue(slow)
    peers = await asyncio.gather(*(stage.send() for _ in range(20)))
    await slow.requested.wait()
    slow.finish()
    for peer in peers:
        assert await raw_response(peer, len(CONTENT)) == (HEAD, CONTENT)
    assert len(stage.upstream.posts) == 1
    assert (await stage.finished())["joined"] == 19


@pytest.mark.parametrize(
    "other",
    [{"token": "other"}, {"body": b"{ }"}, {"target": EXPORT + "?x=1"}, {"body": b""}],
    ids=["caller", "body", "query", "no body"],
)
async def test_14_another_caller_or_request_is_another_export(
    make_rescue: MakeRescue, other: dict[str, Any]
) -> None:
    """§14: never a file for the wrong caller."""
    slow = Slow()
    mine = b"!BDN mine"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(mine)
    stage = await make_rescue(slow, answer(head + mine))
    await stage.leave()
    assert (await stage.export(**other)).body == mine
    slow.finish()
    await stage.finished() if "token" in other else None
    assert (await stage.export()).body == CONTENT
    assert len(stage.upstream.posts) == 2


async def test_14_a_caller_that_vb365_rejects_now_joins_nothing(make_rescue: MakeRescue) -> None:
    """§9: access is decided now; VB365 itself answers the request."""
    slow = Slow()
    refusal = raw("401 Unauthorized", ["WWW-Authenticate: Bearer"], b"expired")
    stage = await make_rescue(slow, answer(refusal))
    await stage.leave()
    slow.finish()
    await stage.finished()
    stage.clock.ahead = 61
    stage.upstream.checks["Bearer t"] = 401
    response = await stage.export()
    assert (response.status, response.body) == (401, b"expired")


def jwt(subject: str, number: int) -> str:
    """A token of this user, one of several."""

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({})}.{part({'iss': 'vb365', 'sub': subject, 'n': number})}.c2lnbg"


async def test_14_identical_posts_with_different_tokens_of_a_caller_are_one_job(
    make_rescue: MakeRescue,
) -> None:
    """§14: at the same moment, before VB365 has confirmed one of the tokens."""
    slow = Slow()
    stage = await make_rescue(slow)
    peers = [await stage.send(jwt("alice", number)) for number in range(6)]
    await stage.joined(len(peers) - 1, jwt("alice", 6))
    slow.finish()
    for peer in peers:
        assert await raw_response(peer, len(CONTENT)) == (HEAD, CONTENT)
    assert len(stage.upstream.posts) == 1


async def test_14_invented_tokens_do_not_make_two_exports_of_one(make_rescue: MakeRescue) -> None:
    """§14: identical requests with different tokens of a caller are one job, however many invented
    tokens claim to be that caller at the same moment.
    """
    slow = Slow()
    invented = [jwt("alice", 100 + number) for number in range(20)]
    rejected = {f"Bearer {token}" for token in invented}

    async def check(message: Message) -> bytes | None:
        await asyncio.sleep(0.05)
        refused = message.get("Authorization") in rejected
        return raw("401 Unauthorized", body=b"{}") if refused else None

    async def export(peer: Peer, message: Message) -> None:
        if message.get("Authorization") in rejected:
            await peer.send(raw("401 Unauthorized", body=b"{}"))
        else:
            await slow(peer, message)

    stage = await make_rescue(export, EXPORTS__MAX_RUNNING="50")
    stage.upstream.answer = check
    for token in invented:
        await stage.send(token)
    peers = [await stage.send(jwt("alice", number)) for number in range(2)]
    await stage.joined(1, jwt("alice", 2))
    slow.finish()
    for peer in peers:
        assert await raw_response(peer, len(CONTENT)) == (HEAD, CONTENT)
    posts = [post.get("Authorization") for post in stage.upstream.posts]
    assert len([each for each in posts if each not in rejected]) == 1


async def test_14_a_request_waits_for_the_export_that_its_caller_has_just_started(
    make_rescue: MakeRescue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§14: invented tokens used up the confirmations that it waits for, VB365 confirmed its own
    token, and meanwhile the same request with another token of its caller started the export.
    """
    first, second = jwt("alice", 1), jwt("alice", 2)
    confirmed, asked = asyncio.Event(), asyncio.Event()

    async def check(message: Message) -> bytes | None:
        if message.get("Authorization") == f"Bearer {first}":
            await confirmed.wait()
        elif message.get("Authorization") == f"Bearer {second}":
            asked.set()
        return None

    async def export(peer: Peer, message: Message) -> None:
        await confirmed.wait()
        await asyncio.sleep(0.1)  # until the second one, if there is one, has arrived
        await whole(peer, message)

    stage = await make_rescue(export)
    stage.upstream.answer = check
    peers = [await stage.send(first)]
    await eventually(lambda: len(stage.upstream.posts) == 1)
    monkeypatch.setattr(joining, "_CONFIRMATIONS", 0)
    peers.append(await stage.send(second))
    await asked.wait()
    await asyncio.sleep(0.1)
    confirmed.set()
    for peer in peers:
        assert await raw_response(peer, len(CONTENT)) == (HEAD, CONTENT)
    assert len(stage.upstream.posts) == 1


async def test_14_an_identity_that_is_forgotten_meanwhile_stops_no_request(
    make_rescue: MakeRescue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request holds the lock of its caller, whom its token only claims to be now."""

    def forgotten(self: Identities, call: Call) -> str:
        return self._access.owners(call.credentials)[0]

    monkeypatch.setattr(Identities, "claimed", forgotten)
    stage = await make_rescue(whole)
    response = await stage.export(jwt("alice", 1))
    assert (response.head, response.body) == (HEAD, CONTENT)


async def test_14_a_rejected_token_ends_no_request_with_a_refreshed_one(
    make_rescue: MakeRescue,
) -> None:
    """§14: VB365 would have served it. It becomes an export of its own."""
    old, new = jwt("alice", 1), jwt("alice", 2)
    release = asyncio.Event()

    async def refuse(peer: Peer, message: Message) -> None:
        await release.wait()
        await peer.send(raw("401 Unauthorized", ["WWW-Authenticate: Bearer"], b"expired"))

    stage = await make_rescue(whole, refuse, whole)
    assert (await stage.export(old)).status == 200
    posts = [await stage.send(old)]
    await eventually(lambda: len(stage.upstream.posts) == 2)
    posts += [await stage.send(old), await stage.send(new), await stage.send(new)]
    await stage.joined(3, new)
    release.set()
    assert [(await peer.message()).status for peer in posts] == [401, 401, 200, 200]
    assert len(stage.upstream.posts) == 3


async def test_14_a_request_does_not_follow_a_job_that_another_caller_resumes(
    make_rescue: MakeRescue,
) -> None:
    """§9, §14: while VB365 decides whether the job's own caller may see it. That caller cannot see
    the session any more, and must not get what another one exports from it.
    """
    slow = Slow()
    stage = await make_rescue(slow, whole)
    await stage.leave()
    await stage.restart()
    [job] = [each for each in await stage.jobs() if each["phase"] == "Suspended"]
    stage.clock.ahead = 61
    held, release = asyncio.Event(), asyncio.Event()

    async def gone(message: Message) -> bytes | None:
        if message["Authorization"] != "Bearer t" or "limit=1" in message.target:
            return None
        held.set()
        await release.wait()
        return raw("404 Not Found")

    stage.upstream.answer = gone
    stage.upstream.writes = [whole, answer(raw("404 Not Found", [], b"no session"))]
    retry = await stage.send()
    await held.wait()
    fields = {"Authorization": "Bearer another"}
    target = f"/v8/_async/exports/{job['id']}"
    assert (await ask(stage.running.url, "GET", target, fields)).status in (200, 202)
    await stage.finished("another", f"?restoreSessionId={job['request']['restoreSessionId']}")
    release.set()
    response = await retry.message()
    assert (response.status, response.body) == (404, b"no session")


@pytest.mark.parametrize("encoded", [False, True], ids=["a refusal", "a file that is not kept"])
async def test_14_set_cookie_of_any_response_is_not_repeated(
    make_rescue: MakeRescue, encoded: bool
) -> None:
    """§14: a server in front of VB365 may tell apart, by their cookies, users of one Authorization:
    the one that has joined must not get the session of the one that VB365 answered.
    """
    head = b"HTTP/1.1 %b\r\nSet-Cookie: session=first\r\nX-Kept: 1\r\n%b"
    coding = b"Content-Encoding: gzip\r\n"
    parts = (b"200 OK", coding + LENGTH) if encoded else (b"500 Busy", LENGTH)
    slow = Slow(head % parts + b"\r\n")
    stage = await make_rescue(slow)
    first = await stage.send(fields=("Cookie: user=first",))
    await slow.requested.wait()
    if encoded:  # one client gets such a response: the one that waits for it
        first.reset()
    second = await stage.send(fields=("Cookie: user=second",))
    await stage.joined(1)
    slow.finish()
    response = await second.message()
    assert (response.status, response["X-Kept"]) == (200 if encoded else 500, "1")
    assert (response.all("Set-Cookie"), response.body) == ([], CONTENT)
    if not encoded:
        assert (await first.message())["Set-Cookie"] == "session=first"
    assert len(stage.upstream.posts) == 1


@pytest.mark.parametrize("status", [b"401 Unauthorized", b"403 Forbidden"])
async def test_14_a_rejection_of_credentials_that_the_client_takes_away_is_its_response(
    make_rescue: MakeRescue, status: bytes
) -> None:
    """§12: `Connection` may name Authorization. VB365 gets the request once."""
    stage = await make_rescue(answer(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % status))
    response = await stage.export(fields=("Connection: Authorization", "Cookie: a=b"))
    assert response.status == int(status[:3])
    assert len(stage.upstream.posts) == 1
