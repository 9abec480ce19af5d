"""CONTRACT §14: when a rescued file counts as delivered, and stalls of VB365."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from tests.contract.conftest import MakeRescue
from tests.support.exports import CONTENT, HEAD, Slow, post, raw_response, rest, whole
from tests.support.tls_peers import write
from tests.support.wire import Peer


@pytest.mark.parametrize(
    ("ending", "count"), [("close", 2), ("reuse", 2), ("reset", 1)], ids=lambda value: str(value)
)
async def test_14_with_tls_a_file_counts_as_delivered_as_without(
    make_rescue: MakeRescue, tmp_path: Path, ending: str, count: int
) -> None:
    """§14: once its client closes (close_notify) or reuses the connection, and not if it resets it:
    then the file is there for the next POST.
    """
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    chain, key = write(certificate, tmp_path)
    key.chmod(0o600)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    stage = await make_rescue(whole, LISTEN__TLS_CERTIFICATE=str(chain), LISTEN__TLS_KEY=str(key))

    async def connect() -> Peer:
        peer = await Peer.to(stage.running.url, tls=trusting)
        stage.peers.append(peer)
        return peer

    peer = await connect()
    await peer.send(post())
    assert await raw_response(peer, len(CONTENT)) == (HEAD, CONTENT)
    if ending == "close":
        await peer.close()
    elif ending == "reset":
        peer.reset()
    again = peer if ending == "reuse" else await connect()
    await again.send(post())
    assert await raw_response(again, len(CONTENT)) == (HEAD, CONTENT)
    assert len(stage.upstream.posts) == count


async def test_14_a_stall_that_is_continued_is_only_a_pause(make_rescue: MakeRescue) -> None:
    """§10, §14: after `exports.stall_timeout` the transfer is continued with another request."""
    stall = Slow()
    stall.head.set()
    stall.pieces.put_nowait(CONTENT[:300_000])

    stage = await make_rescue(stall, rest, EXPORTS__STALL_TIMEOUT="1s")
    peer = await stage.send()
    assert await raw_response(peer, len(CONTENT)) == (HEAD, CONTENT)
    assert len(stage.upstream.posts) == 2


async def test_14_a_stall_before_the_first_byte_breaks_the_response(
    make_rescue: MakeRescue,
) -> None:
    """§14: nothing proves that another response is of the same file. The retry gets that one."""
    stall = Slow()
    stall.head.set()
    stage = await make_rescue(stall, whole, EXPORTS__STALL_TIMEOUT="1s")
    peer = await stage.send()
    assert await peer.head() == HEAD
    assert await peer.closed()
    assert await raw_response(await stage.send(), len(CONTENT)) == (HEAD, CONTENT)
    assert len(stage.upstream.posts) == 2
