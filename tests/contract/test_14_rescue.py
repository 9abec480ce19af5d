"""CONTRACT §14: exports that nobody asked to be asynchronous run as jobs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.core.job import Job
from proxy.ports import StoreUnavailable
from proxy.stores.disk_jobs.store import DiskJobs
from tests.contract.conftest import MakeRescue, RescueStage
from tests.contract.test_3_leaving import Gate
from tests.support.exports import (
    CHUNKED_HEAD,
    CONTENT,
    EXPORT,
    HEAD,
    LINES,
    Slow,
    answer,
    chunked,
    post,
    raw_response,
    whole,
)
from tests.support.log_lines import check_documented, logged
from tests.support.wire import Message, Peer, ask, eventually, raw

# the response


@pytest.mark.parametrize("size", [len(CONTENT), 0, 1])
async def test_14_the_response_is_vb365s_byte_for_byte(make_rescue: MakeRescue, size: int) -> None:
    """§14: status line, reason, all end-to-end fields in their order and case, and the framing."""
    head = b"HTTP/1.1 200 Fine, thanks\r\n" + LINES + b"Content-Length: %d\r\n\r\n" % size
    stage = await make_rescue(answer(head + CONTENT[:size]))
    peer = await stage.send()
    assert await raw_response(peer, size) == (head, CONTENT[:size])
    [sent] = stage.upstream.posts
    assert (sent.target, sent.body, sent["Authorization"]) == (EXPORT, b"{}", "Bearer t")
    job = await stage.finished()
    assert (job["origin"], job["joined"], job["status"]) == ("Rescue", 0, "Success")


async def test_14_the_framing_is_vb365s(make_rescue: MakeRescue) -> None:
    """§14: Content-Length, or chunked; the fields that frame it have their place and spelling."""
    stage = await make_rescue(chunked)
    peer = await stage.send()
    response = await peer.message()
    assert response.head == CHUNKED_HEAD
    assert response.body == CONTENT
    await peer.send(post())  # the connection is still usable, and the file was delivered
    assert (await peer.message()).body == CONTENT
    assert len(stage.upstream.posts) == 2


async def test_14_a_body_that_ends_with_the_connection_ends_so_here(
    make_rescue: MakeRescue,
) -> None:
    lines = b"HTTP/1.1 200 OK\r\n" + LINES

    async def closing(peer: Peer, message: Message) -> None:
        await peer.send(lines + b"\r\n" + CONTENT)

    stage = await make_rescue(closing)
    peer = await stage.send()
    assert await peer.head() == lines + b"Connection: close\r\n\r\n"
    assert await peer.rest() == CONTENT


async def test_14_hop_by_hop_fields_and_set_cookie_are_not_repeated(
    make_rescue: MakeRescue,
) -> None:
    """§14: the client whose POST VB365 answered gets its cookie, those who join do not."""
    extra = b"Set-Cookie: a=1\r\nKeep-Alive: timeout=5\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\n"
    slow = Slow(HEAD.replace(b"\r\n\r\n", b"\r\n" + extra + b"\r\n"))
    stage = await make_rescue(slow)
    first = await stage.send()
    await slow.requested.wait()
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


async def test_14_bytes_arrive_as_they_are_stored(make_rescue: MakeRescue) -> None:
    slow = Slow()
    stage = await make_rescue(slow)
    peer = await stage.send()
    await slow.requested.wait()
    slow.head.set()
    assert await peer.head() == HEAD
    for at in range(0, 3000, 1000):
        slow.pieces.put_nowait(CONTENT[at : at + 1000])
        assert await peer.exactly(1000) == CONTENT[at : at + 1000]
    slow.pieces.put_nowait(CONTENT[3000:])
    assert await peer.exactly(len(CONTENT) - 3000) == CONTENT[3000:]


async def test_14_each_post_is_logged_with_its_job(make_rescue: MakeRescue) -> None:
    """§15: the lane is `rescue`; the first client left before there was a response."""
    slow = Slow()
    with logged() as log:
        stage = await make_rescue(slow, LOG__ACCESS="true")
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


async def test_14_joins_are_logged_with_what_they_save(make_rescue: MakeRescue) -> None:
    """§14: counted and logged; `seconds_saved` is how long VB365 has worked on the export."""
    slow = Slow()
    with logged() as log:
        stage = await make_rescue(slow)
        await stage.leave()
        stage.clock.ahead = 100
        peer = await stage.send(fields=("X-Request-Id: retry",))
        await stage.joined(1)
        slow.finish()
        assert await raw_response(peer, len(CONTENT)) == (HEAD, CONTENT)
        peer.reset()
        job = await stage.finished()
        stage.clock.ahead = 1000
        again = await stage.send()
        await again.head()
        await stage.joined(2)
        [rescued] = log.named("job.rescued")
        first, second = log.named("job.joined")
    check_documented(log.entries)
    assert rescued["job"] == first["job"] == second["job"] == job["id"]
    assert rescued["export"] == "exportToPst organization/mailboxes/m1"
    assert (first["joined"], second["joined"]) == (1, 2)
    assert first["request_id"] == "retry"
    assert 100 <= first["seconds_saved"] < 130
    # after its end the clock goes on, and VB365 does not
    assert 100 <= second["seconds_saved"] < 130


async def test_14_an_export_that_leaves_the_queue_is_logged(make_rescue: MakeRescue) -> None:
    slow = Slow()
    with logged() as log:
        stage = await make_rescue(slow, whole, EXPORTS__MAX_RUNNING="1", EXPORTS__GRACE="10ms")
        await stage.leave()
        assert (await relayed(stage, body=b"another")).body == CONTENT
        [withdrawn] = log.named("job.withdrawn")
        assert withdrawn["job"] in [entry["job"] for entry in log.named("job.queued")]
        slow.finish()
        assert (await stage.finished())["id"] != withdrawn["job"]
    check_documented(log.entries)


async def test_14_an_export_whose_client_leaves_while_it_is_stored_leaves_the_queue(
    make_rescue: MakeRescue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§14: it waits no longer than any other, and its body is not in memory."""
    slow = Slow()
    stage = await make_rescue(slow, whole, EXPORTS__MAX_RUNNING="1", EXPORTS__GRACE="10ms")
    await stage.leave()
    gate = Gate(monkeypatch, "add")
    peer = await stage.send(body=b"another")
    async with asyncio.timeout(20):
        await gate.entered.wait()
        with logged() as log:
            peer.reset()
            gate.opened.set()
            await eventually(lambda: bool(log.named("job.withdrawn")))
    assert (await relayed(stage, body=b"another")).body == CONTENT
    slow.finish()


async def suspended(make_rescue: MakeRescue, *slow: Slow) -> RescueStage:
    """A proxy with a suspended export, whose only slot another one has."""
    stage = await make_rescue(*slow, whole, EXPORTS__MAX_RUNNING="1", EXPORTS__GRACE="10ms")
    await stage.leave()
    await stage.restart()
    occupying = await stage.send(body=b"another")
    await eventually(lambda: len(stage.upstream.posts) == 2)
    occupying.reset()
    return stage


@pytest.mark.parametrize("early", [True, False], ids=["before that is recorded", "afterwards"])
async def test_14_no_request_waits_in_the_queue_with_an_export_that_was_resumed_there(
    make_rescue: MakeRescue, monkeypatch: pytest.MonkeyPatch, early: bool
) -> None:
    """§14: whatever became of the request that resumed it, and whenever the next one joins."""
    slow, other = Slow(), Slow()
    stage = await suspended(make_rescue, slow, other)
    gate = Gate(monkeypatch, "replace")
    peer = await stage.send()
    with logged() as log:
        async with asyncio.timeout(20):
            await gate.entered.wait()
            retry = asyncio.create_task(relayed(stage)) if early else None
            if early:
                await eventually(lambda: bool(log.named("job.joined")))
            peer.reset()
            await stage.jobs()
            gate.opened.set()
            assert (await (retry or relayed(stage))).body == CONTENT
    slow.finish()
    other.finish()


async def test_14_an_export_whose_resume_the_store_does_not_confirm_leaves_the_queue(
    make_rescue: MakeRescue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§14: its request is relayed, so nobody waits for it; the next one resumes it."""
    slow, other = Slow(), Slow()
    stage = await suspended(make_rescue, slow, other)
    replace, unconfirmed = DiskJobs.replace, [True]

    async def replacing(jobs: DiskJobs, old: Job, new: Job) -> bool:
        replaced = await replace(jobs, old, new)
        if unconfirmed:
            unconfirmed.clear()
            raise StoreUnavailable("no reply")
        return replaced

    monkeypatch.setattr(DiskJobs, "replace", replacing)
    with logged() as log:
        assert (await relayed(stage)).body == CONTENT
        await eventually(lambda: bool(log.named("job.suspended")))
    assert [job["phase"] for job in await stage.jobs()] == ["Generating", "Suspended"]
    slow.finish()
    other.finish()


async def test_14_no_caller_is_shown_an_export_that_may_still_leave_the_queue(
    make_rescue: MakeRescue,
) -> None:
    """A job that is listed does not vanish: it is in the list once it has a slot, and its own URL
    says the same.
    """
    slow, later = Slow(), Slow()
    with logged() as log:
        stage = await make_rescue(slow, later, EXPORTS__MAX_RUNNING="1", EXPORTS__GRACE="1h")
        token = {"Authorization": "Bearer t"}

        async def status_of(job: str) -> int:
            target = f"/v8/_async/exports/{job}"
            return (await ask(stage.running.url, "GET", target, token)).status

        await stage.leave()
        [running] = await stage.jobs()
        peer = await stage.send(body=b"another")
        await eventually(lambda: bool(log.named("job.queued")))
        [queued] = log.named("job.queued")
        assert [job["id"] for job in await stage.jobs()] == [running["id"]]
        assert await status_of(queued["job"]) == 404
        slow.finish()
        await eventually(lambda: len(stage.upstream.posts) == 2)
        assert {job["id"] for job in await stage.jobs()} == {running["id"], queued["job"]}
        assert await status_of(queued["job"]) == 202
        later.finish()
        assert (await peer.message()).body == CONTENT


async def test_14_an_export_that_leaves_the_queue_is_not_listed_when_it_is_relayed(
    make_rescue: MakeRescue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§14: relayed as if the setting were off, even with a store that takes its time."""
    slow, listed = Slow(), list[list[Any]]()
    remove = DiskJobs.remove

    async def later(jobs: DiskJobs, job: Job) -> bool:
        await asyncio.sleep(0.05)
        return await remove(jobs, job)

    async def write(peer: Peer, message: Message) -> None:
        listed.append(await stage.jobs())
        await whole(peer, message)

    stage = await make_rescue(slow, write, EXPORTS__MAX_RUNNING="1", EXPORTS__GRACE="10ms")
    await stage.leave()
    monkeypatch.setattr(DiskJobs, "remove", later)
    assert (await relayed(stage, body=b"another")).body == CONTENT
    assert [job["phase"] for job in listed[0]] == ["Generating"]
    slow.finish()
    await stage.finished()


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
    make_rescue: MakeRescue, response: bytes
) -> None:
    """§14: to all that wait for it; a client that retries after it gets a new try."""
    release = asyncio.Event()

    async def write(peer: Peer, message: Message) -> None:
        await release.wait()
        await peer.send(response)

    stage = await make_rescue(write, whole)
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


@pytest.mark.parametrize("status", [b"500 Large", b"401 Large"])
async def test_14_a_large_answer_other_than_200_is_relayed_verbatim(
    make_rescue: MakeRescue, status: bytes
) -> None:
    """§14: of any size, without a second POST for the client that waits for it."""
    body = bytes(range(256)) * (80 << 10)
    lines = b"X-B: 2\r\nContent-Length: %d\r\n\r\n" % len(body)
    stage = await make_rescue(answer(b"HTTP/1.1 %b\r\n%b" % (status, lines) + body), whole)
    peer = await stage.send()
    assert await raw_response(peer, len(body)) == (b"HTTP/1.1 %b\r\n%b" % (status, lines), body)
    assert len(stage.upstream.posts) == 1
    assert (await stage.export()).body == CONTENT
    assert len(stage.upstream.posts) == 2


async def test_14_a_large_answer_goes_to_one_client_and_the_others_are_relayed(
    make_rescue: MakeRescue,
) -> None:
    """§14: it is not kept. The others get what VB365 responds to their own POST."""
    body = bytes(17 << 20)
    head = b"HTTP/1.1 500 Large\r\nContent-Length: %d\r\n\r\n" % len(body)
    slow = Slow(head)
    stage = await make_rescue(slow, whole)
    first = await stage.send()
    await slow.requested.wait()
    second = await stage.send()
    await stage.joined(1)
    slow.head.set()
    slow.pieces.put_nowait(body)
    slow.pieces.put_nowait(None)
    heads = [await peer.head() for peer in (first, second)]
    assert sorted(heads) == [HEAD, head]
    large, small = (first, second) if heads[0] == head else (second, first)
    assert await large.exactly(len(body)) == body
    assert await small.exactly(len(CONTENT)) == CONTENT
    assert len(stage.upstream.posts) == 2


async def test_14_a_file_that_is_encoded_unasked_is_passed_on_and_not_kept(
    make_rescue: MakeRescue,
) -> None:
    """§14: VB365's 200 as it is, from one POST. Stored, it would be for its first client only."""
    size = b"Content-Length: %d\r\n" % len(CONTENT)
    head = HEAD.replace(size, b"Content-Encoding: gzip\r\n" + size)
    stage = await make_rescue(answer(head + CONTENT), whole)
    peer = await stage.send(fields=("Accept-Encoding: gzip",))
    assert await raw_response(peer, len(CONTENT)) == (head, CONTENT)
    assert [sent["Accept-Encoding"] for sent in stage.upstream.posts] == ["identity"]
    job = await stage.finished()
    assert (job["status"], job["result"]) == ("Failed", None)
    assert (await stage.export()).body == CONTENT
    assert len(stage.upstream.posts) == 2


async def test_14_no_answer_of_vb365_is_a_502_and_not_kept(make_rescue: MakeRescue) -> None:
    async def gone(peer: Peer, message: Message) -> None:
        """Close without a response."""

    stage = await make_rescue(gone, whole)
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


async def test_14_a_break_that_is_continued_is_only_a_pause(make_rescue: MakeRescue) -> None:
    """§10, §14."""
    cut = 300_000

    async def broken(peer: Peer, message: Message) -> None:
        await peer.send(HEAD + CONTENT[:cut])

    async def rest(peer: Peer, message: Message) -> None:
        await peer.send(continued(int(message["Range"][6:-1])))

    stage = await make_rescue(broken, rest)
    assert await raw_response(await stage.send(), len(CONTENT)) == (HEAD, CONTENT)
    assert len(stage.upstream.posts) == 2


async def test_14_a_break_that_cannot_be_continued_breaks_the_response(
    make_rescue: MakeRescue,
) -> None:
    """§14: visibly; never a spliced file. Later requests get the regenerated one."""
    cut = 300_000
    other = CONTENT[::-1]

    async def broken(peer: Peer, message: Message) -> None:
        await peer.send(HEAD + CONTENT[:cut])

    async def again(peer: Peer, message: Message) -> None:
        await peer.send(HEAD.replace(b'"abc"', b'"def"') + other)

    stage = await make_rescue(broken, again)
    peer = await stage.send()
    assert await peer.head() == HEAD
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)) as why:
        await peer.exactly(len(CONTENT))
    if isinstance(why.value, asyncio.IncompleteReadError):
        assert CONTENT.startswith(why.value.partial)
    assert (await stage.export()).body == other


async def test_14_a_bare_range_gets_the_whole_file_after_a_restart_from_zero(
    make_rescue: MakeRescue,
) -> None:
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

    stage = await make_rescue(broken, again)
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


async def test_14_a_date_does_not_prove_that_two_parts_are_of_one_file(
    make_rescue: MakeRescue,
) -> None:
    """§10, §14: VB365 may generate another file with the same Last-Modified."""
    cut, other, date = 300_000, CONTENT[::-1], "Thu, 26 Nov 2026 00:00:00 GMT"
    head = HEAD.replace(b'ETag: "abc"', f"Last-Modified: {date}".encode())

    async def broken(peer: Peer, message: Message) -> None:
        await peer.send(head + CONTENT[:cut])

    stage = await make_rescue(broken, answer(head + other))
    first = await stage.send()
    assert await first.head() == head
    assert await first.closed()
    await stage.finished()
    second = await stage.send(fields=(f"Range: bytes={cut}-", f"If-Range: {date}"))
    assert await raw_response(second, len(other)) == (head, other)


async def test_14_a_cancelled_export_breaks_its_clients_and_is_not_joined(
    make_rescue: MakeRescue,
) -> None:
    slow = Slow()
    stage = await make_rescue(slow, whole, EXPORTS__CANCEL_HOLD="0s")
    peer = await stage.send()
    await slow.requested.wait()
    [job] = await stage.jobs()
    fields = {"Authorization": "Bearer t"}
    target = f"/v8/_async/exports/{job['id']}/cancel"
    assert (await ask(stage.running.url, "POST", target, fields, b"")).status == 202
    assert await peer.closed()
    assert (await stage.export()).body == CONTENT


# kinds of clients


async def test_14_a_client_that_waits_for_100_continue_gets_it(make_rescue: MakeRescue) -> None:
    stage = await make_rescue()
    peer = await stage.send(fields=("Expect: 100-continue",), body=b"")
    peer = await Peer.to(stage.running.url)
    stage.peers.append(peer)
    head, _, _ = post(fields=("Expect: 100-continue",)).partition(b"{}")
    await peer.send(head)
    assert await peer.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    await peer.send(b"{}")
    assert await raw_response(peer, len(CONTENT)) == (HEAD, CONTENT)


async def test_14_an_http_1_0_client_gets_the_file_to_the_end_of_the_connection(
    make_rescue: MakeRescue,
) -> None:
    stage = await make_rescue(chunked)
    peer = await stage.send(version="1.0")
    response = await peer.head()
    assert response == b"HTTP/1.1 200 OK\r\n" + LINES + b"Connection: close\r\n\r\n"
    assert await peer.rest() == CONTENT


async def test_14_pipelined_requests_are_answered_in_order(make_rescue: MakeRescue) -> None:
    stage = await make_rescue()
    peer = await Peer.to(stage.running.url)
    stage.peers.append(peer)
    get = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
    await peer.send(post() + get + post(body=b"other") + get)
    for expected in (CONTENT, b"{}", CONTENT, b"{}"):
        assert (await peer.message()).body == expected


async def test_14_a_chunked_request_is_the_same_as_one_with_a_length(
    make_rescue: MakeRescue,
) -> None:
    """§14: the same body, however it is framed; VB365 gets it with a length."""
    slow = Slow()
    stage = await make_rescue(slow)
    await stage.leave()
    body = b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"
    peer = await stage.send(body=body, fields=("Transfer-Encoding: chunked",))
    slow.finish()
    assert (await peer.message()).body == CONTENT
    assert [sent.body for sent in stage.upstream.posts] == [b"{}"]


# never refuse what VB365 would have served


async def relayed(stage: RescueStage, *args: Any, **more: Any) -> Message:
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
async def test_14_what_is_not_rescued_is_relayed(
    make_rescue: MakeRescue, request_: dict[str, Any]
) -> None:
    stage = await make_rescue(EXPORTS__MAX_REQUEST_BODY="1KiB")
    response = await relayed(stage, **request_)
    assert (response.head, response.body) == (HEAD, CONTENT)
    [sent] = stage.upstream.posts
    assert sent.target == EXPORT
    expected = request_.get("body", b"{}")
    assert sent.body == (b"x" * 2000 if len(expected) > 2000 else expected)
    for name in request_.get("fields", ()):
        assert name.encode() in sent.head
    assert await stage.jobs() == []


async def test_14_async_false_joins_no_export(make_rescue: MakeRescue) -> None:
    """§14: it opts one request out, also of the export that runs, and of its file."""
    slow = Slow()
    stage = await make_rescue(slow, whole)
    await stage.leave()
    for _ in range(2):
        response = await relayed(stage, target=EXPORT + "?async=false")
        assert (response.head, response.body) == (HEAD, CONTENT)
    slow.finish()
    assert (await stage.finished())["joined"] == 0
    await relayed(stage, target=EXPORT + "?async=false")
    posts = len(stage.upstream.posts)
    assert (await stage.export()).body == CONTENT
    assert len(stage.upstream.posts) == posts


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
async def test_14_an_export_over_a_limit_is_relayed(
    make_rescue: MakeRescue, settings: dict[str, str]
) -> None:
    slow = Slow()
    stage = await make_rescue(slow, whole, **settings)
    await stage.leave()
    response = await relayed(stage, body=b"another export")
    assert (response.head, response.body) == (HEAD, CONTENT)
    slow.finish()
    assert (await stage.finished())["origin"] == "Rescue"


async def test_14_an_export_without_space_is_relayed(make_rescue: MakeRescue) -> None:
    stage = await make_rescue(STORAGE__MIN_FREE="1000TiB")
    assert (await relayed(stage)).body == CONTENT
    assert await stage.jobs() == []


async def test_14_a_file_without_space_goes_to_its_client_unstored(make_rescue: MakeRescue) -> None:
    """§14: the generation is not lost."""
    stage = await make_rescue(STORAGE__MAX_BYTES="500KiB")
    response = await stage.export()
    assert (response.head, response.body) == (HEAD, CONTENT)
    assert len(stage.upstream.posts) == 1
    job = await stage.finished()
    assert (job["status"], job["error"]["code"]) == ("Failed", "StorageFull")


async def test_14_with_the_switch_off_no_job_is_made(make_rescue: MakeRescue) -> None:
    stage = await make_rescue(EXPORTS__RESCUE_SYNC="false")
    for _ in range(2):
        response = await relayed(stage)
        assert (response.head, response.body) == (HEAD, CONTENT)
    assert await stage.jobs() == []
    assert stage.upstream.gets != []  # those of the list of jobs
    assert all("_async" not in one.target for one in stage.upstream.gets)
