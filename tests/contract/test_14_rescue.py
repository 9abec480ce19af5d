"""CONTRACT §14: exports that nobody asked to be asynchronous run as jobs, and retries join them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from proxy import app
from tests.contract.conftest import Clock, settings_of
from tests.support.exports import (
    CHUNKED_HEAD,
    CONTENT,
    EXPORT,
    HEAD,
    LINES,
    Exports,
    Slow,
    Write,
    answer,
    chunked,
    post,
    whole,
)
from tests.support.log_lines import check_documented, logged
from tests.support.wire import Message, Peer, ask, eventually, raw


@dataclass
class Stage:
    """A proxy with `exports.rescue_sync` in front of a scripted VB365."""

    running: app.Running
    upstream: Exports
    clock: Clock
    start: Callable[[], Awaitable[app.Running]]
    peers: list[Peer] = field(default_factory=list)

    async def restart(self) -> None:
        """Stop the proxy, and start another one with its data."""
        await self.running.stop()
        self.running = await self.start()

    async def send(self, *args: Any, **more: Any) -> Peer:
        """Send an export POST on a new connection."""
        peer = await Peer.to(self.running.url)
        self.peers.append(peer)
        await peer.send(post(*args, **more))
        return peer

    async def export(self, *args: Any, **more: Any) -> Message:
        """The response to an export POST. The client closes the connection properly."""
        peer = await self.send(*args, **more)
        response = await peer.message(ends=True)
        await peer.close()
        return response

    async def leave(self, *args: Any, **more: Any) -> None:
        """Send an export POST, and reset the connection once VB365 works on it."""
        peer = await self.send(*args, **more)
        count = len(self.upstream.posts)
        if not count:
            await eventually(lambda: len(self.upstream.posts) > 0)
        peer.reset()

    def close(self) -> None:
        for peer in self.peers:
            peer.abort()

    async def jobs(self, token: str = "t", query: str = "") -> list[Any]:
        fields = {"Authorization": f"Bearer {token}"}
        response = await ask(self.running.url, "GET", f"/v8/_async/exports{query}", fields)
        return list(response.json()["results"])

    async def finished(self, token: str = "t", query: str = "") -> Any:
        """The document of the only job, once it is terminal."""
        async with asyncio.timeout(20):
            while True:
                jobs = await self.jobs(token, query)
                if jobs and jobs[0]["endTime"] is not None:
                    return jobs[0]
                await asyncio.sleep(0.01)

    async def joined(self, count: int, token: str = "t") -> None:
        """Return once so many POSTs have joined the newest job."""
        async with asyncio.timeout(20):
            while True:
                jobs = await self.jobs(token)
                if jobs and jobs[0]["joined"] == count:
                    return
                await asyncio.sleep(0.01)


Make = Callable[..., Awaitable[Stage]]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    clock = Clock()
    async with contextlib.AsyncExitStack() as stack:

        async def start(*writes: Write, **given: str) -> Stage:
            upstream = await stack.enter_async_context(Exports(*writes).running())
            settings = {"EXPORTS__RESCUE_SYNC": "true", "EXPORTS__GRACE": "2s"} | given

            async def begin() -> app.Running:
                values = settings_of(upstream.url, tmp_path / "data", settings)
                running = await app.start(values, clock)
                stack.push_async_callback(running.stop)
                return running

            stage = Stage(await begin(), upstream, clock, begin)
            stack.callback(stage.close)
            return stage

        yield start


async def raw_response(peer: Peer, size: int) -> tuple[bytes, bytes]:
    head = await peer.head()
    return head, await peer.exactly(size)


# the response


@pytest.mark.parametrize("size", [len(CONTENT), 0, 1])
async def test_14_the_response_is_vb365s_byte_for_byte(make: Make, size: int) -> None:
    """§14: status line, reason, all end-to-end fields in their order and case, and the framing."""
    head = b"HTTP/1.1 200 Fine, thanks\r\n" + LINES + b"Content-Length: %d\r\n\r\n" % size
    stage = await make(answer(head + CONTENT[:size]))
    peer = await stage.send()
    assert await raw_response(peer, size) == (head, CONTENT[:size])
    [sent] = stage.upstream.posts
    assert (sent.target, sent.body, sent["Authorization"]) == (EXPORT, b"{}", "Bearer t")
    job = await stage.finished()
    assert (job["origin"], job["joined"], job["status"]) == ("Rescue", 0, "Success")


async def test_14_the_framing_is_vb365s(make: Make) -> None:
    """§14: Content-Length, or chunked; the fields that frame it have their place and spelling."""
    stage = await make(chunked)
    peer = await stage.send()
    response = await peer.message()
    assert response.head == CHUNKED_HEAD
    assert response.body == CONTENT
    await peer.send(post())  # the connection is still usable, and the file was delivered
    assert (await peer.message()).body == CONTENT
    assert len(stage.upstream.posts) == 2


async def test_14_a_body_that_ends_with_the_connection_ends_so_here(make: Make) -> None:
    lines = b"HTTP/1.1 200 OK\r\n" + LINES

    async def closing(peer: Peer, message: Message) -> None:
        await peer.send(lines + b"\r\n" + CONTENT)

    stage = await make(closing)
    peer = await stage.send()
    assert await peer.head() == lines + b"Connection: close\r\n\r\n"
    assert await peer.rest() == CONTENT


async def test_14_hop_by_hop_fields_and_set_cookie_are_not_repeated(make: Make) -> None:
    """§14: the client whose POST VB365 answered gets its cookie, those who join do not."""
    extra = b"Set-Cookie: a=1\r\nKeep-Alive: timeout=5\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\n"
    slow = Slow(HEAD.replace(b"\r\n\r\n", b"\r\n" + extra + b"\r\n"))
    stage = await make(slow)
    first = await stage.send()
    await slow.asked.wait()
    second = await stage.send()
    slow.finish()
    with_cookie = HEAD.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=1\r\n\r\n")
    assert await raw_response(first, len(CONTENT)) == (with_cookie, CONTENT)
    assert await raw_response(second, len(CONTENT)) == (HEAD, CONTENT)
    first.reset()
    second.reset()
    await stage.finished()
    assert await raw_response(await stage.send(), len(CONTENT)) == (HEAD, CONTENT)
    assert len(stage.upstream.posts) == 1


async def test_14_bytes_arrive_as_they_are_stored(make: Make) -> None:
    slow = Slow()
    stage = await make(slow)
    peer = await stage.send()
    await slow.asked.wait()
    slow.head.set()
    assert await peer.head() == HEAD
    for at in range(0, 3000, 1000):
        slow.pieces.put_nowait(CONTENT[at : at + 1000])
        assert await peer.exactly(1000) == CONTENT[at : at + 1000]
    slow.pieces.put_nowait(CONTENT[3000:])
    assert await peer.exactly(len(CONTENT) - 3000) == CONTENT[3000:]


async def test_14_each_post_is_logged_with_its_job(make: Make) -> None:
    """§15: the lane is `rescue`; the first client left before there was a response."""
    slow = Slow()
    with logged() as log:
        stage = await make(slow, LOG__ACCESS="true")
        await stage.leave(fields=("X-Request-Id: first",))
        await eventually(lambda: len(log.named("request")) == 1)
        peer = await stage.send()
        await stage.joined(1)
        slow.finish()
        assert await raw_response(peer, len(CONTENT)) == (HEAD, CONTENT)
        job = await stage.finished()
        posts = [line for line in log.named("request") if line["method"] == "POST"]
        (accepted,) = log.named("job.accepted")
    check_documented(log.entries)
    ends = [(line["lane"], line["status"], line["termination"], line["job"]) for line in posts]
    assert ends == [("rescue", 499, "client-left", None), ("rescue", 200, "served", job["id"])]
    assert posts[0]["request_id"] == accepted["request_id"]
    assert posts[1]["bytes_out"] == len(HEAD + CONTENT)


# joining


async def test_14_a_retry_joins_the_export_that_its_client_left(make: Make) -> None:
    """§14: VB365 sees one POST, whatever the number of retries."""
    slow = Slow()
    stage = await make(slow)
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
    make: Make,
) -> None:
    slow = Slow()
    stage = await make(slow, whole)
    await stage.leave()
    slow.finish()
    await stage.finished()
    broken = await stage.send()
    await broken.head()
    broken.reset()
    response = await stage.export()
    assert (response.head, response.body) == (HEAD, CONTENT)
    assert len(stage.upstream.posts) == 1
    assert (await stage.export()).body == CONTENT
    assert len(stage.upstream.posts) == 2


async def test_14_after_rescue_ttl_the_same_post_is_a_new_export(make: Make) -> None:
    slow = Slow()
    stage = await make(slow, whole, EXPORTS__RESCUE_TTL="10m")
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
    make: Make, spec: str, start: int, stop: int | None
) -> None:
    """§14: of a running one, as the bytes arrive, and of a finished one."""
    slow = Slow()
    stage = await make(slow)
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


async def test_14_a_range_that_cannot_be_satisfied_is_a_416(make: Make) -> None:
    slow = Slow()
    stage = await make(slow)
    await stage.leave()
    slow.finish()
    response = await stage.export(fields=(f"Range: bytes={len(CONTENT)}-",))
    assert (response.status, response.body) == (416, b"")
    assert response["Content-Range"] == f"bytes */{len(CONTENT)}"


async def test_14_a_range_whose_condition_fails_gets_the_whole_file(make: Make) -> None:
    slow = Slow()
    stage = await make(slow)
    await stage.leave()
    slow.finish()
    await stage.finished()
    for tag, status in (('"other"', 200), ('"abc"', 206)):
        peer = await stage.send(fields=("Range: bytes=5-", f"If-Range: {tag}"))
        assert (await peer.message()).status == status
        peer.reset()
    assert len(stage.upstream.posts) == 1


async def test_14_a_range_of_a_chunked_export_waits_for_its_end(make: Make) -> None:
    release = asyncio.Event()

    async def write(peer: Peer, message: Message) -> None:
        await peer.send(CHUNKED_HEAD + b"4\r\n!BDN\r\n")
        await release.wait()
        await peer.send(b"2\r\nab\r\n0\r\n\r\n")

    stage = await make(write)
    await stage.leave()
    peer = await stage.send(fields=("Range: bytes=2-",))
    release.set()
    response = await peer.message()
    assert (response.status, response.body) == (206, b"DNab")
    assert "Transfer-Encoding" not in response


async def test_14_identical_posts_at_the_same_moment_are_one_job(make: Make) -> None:
    slow = Slow()
    stage = await make(slow)
    peers = await asyncio.gather(*(stage.send() for _ in range(20)))
    await slow.asked.wait()
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
    make: Make, other: dict[str, Any]
) -> None:
    """§14: never a file for the wrong caller."""
    slow = Slow()
    mine = b"!BDN mine"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(mine)
    stage = await make(slow, answer(head + mine))
    await stage.leave()
    assert (await stage.export(**other)).body == mine
    slow.finish()
    await stage.finished() if "token" in other else None
    assert (await stage.export()).body == CONTENT
    assert len(stage.upstream.posts) == 2


async def test_14_a_caller_that_vb365_rejects_now_joins_nothing(make: Make) -> None:
    """§9: access is decided now; VB365 itself answers the request."""
    slow = Slow()
    refusal = raw("401 Unauthorized", ["WWW-Authenticate: Bearer"], b"expired")
    stage = await make(slow, answer(refusal))
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


async def test_14_a_rejected_token_ends_no_request_with_a_refreshed_one(make: Make) -> None:
    """§14: VB365 would have served it. It becomes an export of its own."""
    old, new = jwt("alice", 1), jwt("alice", 2)
    release = asyncio.Event()

    async def refuse(peer: Peer, message: Message) -> None:
        await release.wait()
        await peer.send(raw("401 Unauthorized", ["WWW-Authenticate: Bearer"], b"expired"))

    stage = await make(whole, refuse, whole)
    assert (await stage.export(old)).status == 200
    posts = [await stage.send(old)]
    await eventually(lambda: len(stage.upstream.posts) == 2)
    posts += [await stage.send(old), await stage.send(new), await stage.send(new)]
    await stage.joined(3, new)
    release.set()
    assert [(await peer.message()).status for peer in posts] == [401, 401, 200, 200]
    assert len(stage.upstream.posts) == 3


async def test_14_a_request_does_not_follow_a_job_that_another_caller_resumes(
    make: Make,
) -> None:
    """§9, §14: while VB365 decides whether the job's own caller may see it. That caller cannot see
    the session any more, and must not get what another one exports from it.
    """
    slow = Slow()
    stage = await make(slow, whole)
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


# errors of VB365


@pytest.mark.parametrize(
    "response",
    [
        raw("500 Outlook?", ["X-B: 2", "Content-Type: application/json"], b'{"message":"no"}'),
        raw("401 Unauthorized", ["WWW-Authenticate: Bearer"], b""),
        b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngone\r\n0\r\n\r\n",
        b"HTTP/1.1 202 Accepted\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n",
    ],
)
async def test_14_an_answer_other_than_200_is_relayed_verbatim_and_not_kept(
    make: Make, response: bytes
) -> None:
    """§14: to all that wait for it; a client that retries after it gets a new try."""
    release = asyncio.Event()

    async def write(peer: Peer, message: Message) -> None:
        await release.wait()
        await peer.send(response)

    stage = await make(write, whole)
    first = await stage.send()
    await eventually(lambda: len(stage.upstream.posts) == 1)
    second = await stage.send()
    await stage.joined(1)  # it was shown to its caller
    release.set()
    for peer in (first, second):
        assert await peer.exactly(len(response)) == response
    assert await stage.jobs() == []
    assert (await stage.export()).body == CONTENT
    assert len(stage.upstream.posts) == 2


async def test_14_no_answer_of_vb365_is_a_502_and_not_kept(make: Make) -> None:
    async def gone(peer: Peer, message: Message) -> None:
        """Close without a response."""

    stage = await make(gone, whole)
    response = await stage.export()
    assert response.status == 502
    assert response.json()["type"].endswith("upstream-unreachable")
    assert await stage.jobs() == []
    assert (await stage.export()).body == CONTENT


# a transfer that breaks


def continued(start: int) -> bytes:
    """A 206 with the rest from `start` on."""
    shown = b"Content-Range: bytes %d-%d/%d\r\n" % (start, len(CONTENT) - 1, len(CONTENT))
    length = b"Content-Length: %d\r\n" % (len(CONTENT) - start)
    lines = LINES + length + shown
    return b"HTTP/1.1 206 Partial Content\r\n" + lines + b"\r\n" + CONTENT[start:]


async def test_14_a_break_that_is_continued_is_only_a_pause(make: Make) -> None:
    """§10, §14."""
    cut = 300_000

    async def broken(peer: Peer, message: Message) -> None:
        await peer.send(HEAD + CONTENT[:cut])

    async def rest(peer: Peer, message: Message) -> None:
        await peer.send(continued(int(message["Range"][6:-1])))

    stage = await make(broken, rest)
    assert await raw_response(await stage.send(), len(CONTENT)) == (HEAD, CONTENT)
    assert len(stage.upstream.posts) == 2


async def test_14_a_break_that_cannot_be_continued_breaks_the_response(make: Make) -> None:
    """§14: visibly; never a spliced file. Later requests get the regenerated one."""
    cut = 300_000
    other = CONTENT[::-1]

    async def broken(peer: Peer, message: Message) -> None:
        await peer.send(HEAD + CONTENT[:cut])

    async def again(peer: Peer, message: Message) -> None:
        await peer.send(HEAD.replace(b'"abc"', b'"def"') + other)

    stage = await make(broken, again)
    peer = await stage.send()
    assert await peer.head() == HEAD
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)) as why:
        await peer.exactly(len(CONTENT))
    if isinstance(why.value, asyncio.IncompleteReadError):
        assert CONTENT.startswith(why.value.partial)
    assert (await stage.export()).body == other


async def test_14_a_bare_range_gets_the_whole_file_after_a_restart_from_zero(make: Make) -> None:
    """§10, §14: its client may have the first bytes of the file before, and must not add the rest
    of another one. With If-Range it gets a part.
    """
    cut, other = 300_000, CONTENT[::-1]
    release = asyncio.Event()

    async def broken(peer: Peer, message: Message) -> None:
        await peer.send(HEAD + CONTENT[:cut])

    async def again(peer: Peer, message: Message) -> None:
        await peer.send(HEAD.replace(b'"abc"', b'"def"') + other[:cut])
        await release.wait()
        await peer.send(other[cut:])

    stage = await make(broken, again)
    first = await stage.send()
    assert await first.head() == HEAD
    assert await first.closed()
    growing = await stage.send(fields=(f"Range: bytes={cut}-",))
    await stage.joined(1)
    release.set()
    await stage.finished()
    # unless it has got the last byte, which would end the job's rescue
    for peer in (growing, await stage.send(fields=(f"Range: bytes={cut}-",))):
        head = await peer.head()
        assert (head.split()[1], await peer.exactly(1000)) == (b"200", other[:1000])
        peer.reset()
    for tag, expected in (('"def"', b"206"), ('"abc"', b"200")):
        peer = await stage.send(fields=(f"Range: bytes={cut}-", f"If-Range: {tag}"))
        assert (await peer.head()).split()[1] == expected
        peer.reset()


async def test_14_a_cancelled_export_breaks_its_clients_and_is_not_joined(make: Make) -> None:
    slow = Slow()
    stage = await make(slow, whole, EXPORTS__CANCEL_HOLD="0s")
    peer = await stage.send()
    await slow.asked.wait()
    [job] = await stage.jobs()
    fields = {"Authorization": "Bearer t"}
    target = f"/v8/_async/exports/{job['id']}/cancel"
    assert (await ask(stage.running.url, "POST", target, fields, b"")).status == 202
    assert await peer.closed()
    assert (await stage.export()).body == CONTENT


# kinds of clients


async def test_14_a_client_that_waits_for_100_continue_gets_it(make: Make) -> None:
    stage = await make()
    peer = await stage.send(fields=("Expect: 100-continue",), body=b"")
    peer = await Peer.to(stage.running.url)
    stage.peers.append(peer)
    head, _, _ = post(fields=("Expect: 100-continue",)).partition(b"{}")
    await peer.send(head)
    assert await peer.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    await peer.send(b"{}")
    assert await raw_response(peer, len(CONTENT)) == (HEAD, CONTENT)


async def test_14_an_http_1_0_client_gets_the_file_to_the_end_of_the_connection(
    make: Make,
) -> None:
    stage = await make(chunked)
    peer = await stage.send(version="1.0")
    response = await peer.head()
    assert response == b"HTTP/1.1 200 OK\r\n" + LINES + b"Connection: close\r\n\r\n"
    assert await peer.rest() == CONTENT


async def test_14_pipelined_requests_are_answered_in_order(make: Make) -> None:
    stage = await make()
    peer = await Peer.to(stage.running.url)
    stage.peers.append(peer)
    get = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
    await peer.send(post() + get + post(body=b"other") + get)
    for expected in (CONTENT, b"{}", CONTENT, b"{}"):
        assert (await peer.message()).body == expected


async def test_14_a_chunked_request_is_the_same_as_one_with_a_length(make: Make) -> None:
    """§14: the same body, however it is framed; VB365 gets it with a length."""
    slow = Slow()
    stage = await make(slow)
    await stage.leave()
    body = b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"
    peer = await stage.send(body=body, fields=("Transfer-Encoding: chunked",))
    slow.finish()
    assert (await peer.message()).body == CONTENT
    assert [sent.body for sent in stage.upstream.posts] == [b"{}"]


# never refuse what VB365 would have served


async def relayed(stage: Stage, *args: Any, **more: Any) -> Message:
    """The response to a POST that is relayed: no job is made of it."""
    before = len(stage.upstream.posts)
    response = await stage.export(*args, **more)
    assert len(stage.upstream.posts) == before + 1
    return response


@pytest.mark.parametrize(
    "request_",
    [
        {"token": None},
        {"target": EXPORT + "?async=false"},
        {"fields": ("Prefer: wait=5",)},
        {"fields": ("Range: bytes=5-",)},
        {"body": b"x" * 2000},
        {
            "body": b"7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n",
            "fields": ("Transfer-Encoding: chunked",),
        },
        {"fields": ("Authorization: Negotiate abc",), "token": None},
    ],
    ids=["no credentials", "async=false", "wait", "range", "large", "large, chunked", "negotiate"],
)
async def test_14_what_is_not_rescued_is_relayed(make: Make, request_: dict[str, Any]) -> None:
    stage = await make(EXPORTS__MAX_REQUEST_BODY="1KiB")
    response = await relayed(stage, **request_)
    assert (response.head, response.body) == (HEAD, CONTENT)
    [sent] = stage.upstream.posts
    assert sent.target == EXPORT
    expected = request_.get("body", b"{}")
    assert sent.body == (b"x" * 2000 if len(expected) > 2000 else expected)
    for name in request_.get("fields", ()):
        assert name.encode() in sent.head
    assert await stage.jobs() == []


@pytest.mark.parametrize(
    "settings",
    [
        {"EXPORTS__MAX_PER_CALLER": "1"},
        {"EXPORTS__MAX_RUNNING": "1", "EXPORTS__MAX_QUEUED": "0"},
        {"EXPORTS__MAX_RUNNING": "1", "EXPORTS__GRACE": "10ms"},
        {"EXPORTS__MAX_RECORDS_PER_CALLER": "1"},
        {"EXPORTS__MAX_RUNNING_PER_CALLER": "1", "EXPORTS__GRACE": "0s"},
    ],
    ids=["quota", "queue full", "grace in the queue", "records", "slots of the caller"],
)
async def test_14_an_export_over_a_limit_is_relayed(make: Make, settings: dict[str, str]) -> None:
    slow = Slow()
    stage = await make(slow, whole, **settings)
    await stage.leave()
    response = await relayed(stage, body=b"another export")
    assert (response.head, response.body) == (HEAD, CONTENT)
    slow.finish()
    assert (await stage.finished())["origin"] == "Rescue"


async def test_14_an_export_without_space_is_relayed(make: Make) -> None:
    stage = await make(STORAGE__MIN_FREE="1000TiB")
    assert (await relayed(stage)).body == CONTENT
    assert await stage.jobs() == []


async def test_14_a_file_without_space_goes_to_its_client_unstored(make: Make) -> None:
    """§14: the generation is not lost."""
    stage = await make(STORAGE__MAX_BYTES="500KiB")
    response = await stage.export()
    assert (response.head, response.body) == (HEAD, CONTENT)
    assert len(stage.upstream.posts) == 1
    job = await stage.finished()
    assert (job["status"], job["error"]["code"]) == ("Failed", "StorageFull")


async def test_14_with_the_switch_off_no_job_is_made(make: Make) -> None:
    stage = await make(EXPORTS__RESCUE_SYNC="false")
    for _ in range(2):
        response = await relayed(stage)
        assert (response.head, response.body) == (HEAD, CONTENT)
    assert await stage.jobs() == []
    assert stage.upstream.gets != []  # those of the list of jobs
    assert all("_async" not in one.target for one in stage.upstream.gets)
