"""The responses of the cases, through the relay and as those of rescued exports (CONTRACT §14)."""

from __future__ import annotations

from pathlib import Path

from proxy import app
from tests.support.exports import Exports, post
from tests.support.local_proxy import settings_of
from tests.support.wire import Message, Peer, ask
from tests.transparency.cases import CASES
from tests.transparency.reference import Message as Raw
from tests.transparency.reference import chunks, read_response

#: Interim responses are not repeated, and the boundaries of chunks are those of the file.
_SWITCHING = b" 101 "


def responses() -> dict[str, bytes]:
    """The final response of each case with one."""
    found = {}
    for case in CASES:
        raw = case.answered[-1]
        while raw.startswith(b"HTTP/1.1 1") and _SWITCHING not in raw.partition(b"\r\n")[0]:
            raw = raw.partition(b"\r\n\r\n")[2]
        method = case.requests[-1].lstrip(b"\r\n").partition(b" ")[0]
        if method != b"HEAD" and _SWITCHING not in raw.partition(b"\r\n")[0] and raw:
            found[case.name] = raw
    return found


def payload(raw: bytes) -> tuple[bytes, tuple[bytes, ...], bytes]:
    """Start line, field lines and the body without its framing."""
    message = Raw.of(raw)
    body = b"".join(chunks(message.body)[0]) if message.chunked and message.body else message.body
    return message.start, message.lines, body


async def test_14_a_rescued_response_differs_from_a_relayed_one_in_nothing(tmp_path: Path) -> None:
    """§14: status line, reason, fields in their order and case, framing, body."""
    current = b""

    async def write(peer: Peer, message: Message) -> None:
        await peer.send(current)

    cases = responses()
    assert len(cases) > 50
    async with Exports(write).running() as upstream:
        settings = {"EXPORTS__RESCUE_SYNC": "true", "EXPORTS__GRACE": "2s"}
        running = await app.start(settings_of(upstream.url, tmp_path / "data", settings))
        try:
            for number, (name, raw) in enumerate(cases.items()):
                current, got = raw, []
                for fields in ((), ("Prefer: wait=1",)):
                    peer = await Peer.to(running.url)
                    await peer.send(post(body=b"%d" % number, fields=fields))
                    got.append(payload(await read_response(peer, b"POST")))
                    await peer.close()
                assert got[0] == got[1], name
            caller = {"Authorization": "Bearer t"}
            jobs = await ask(running.url, "GET", "/v8/_async/exports?limit=100", caller)
            assert len(jobs.json()["results"]) > 20  # the others are errors
        finally:
            await running.stop()
