"""TLS messages without data are bounded, on both sides."""

from __future__ import annotations

import contextlib
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from proxy.net.tls import ServerCertificate, upstream_context
from proxy.net.tls_records import BoundedContext, BoundedObject
from tests.support.tls_peers import pin, write

LIMIT = 64 << 10
NOT_REQUESTED, REQUESTED = 0, 1


class Pair:
    """A client and a server after their handshake; `sent` is what the client sends."""

    def __init__(self, directory: Path) -> None:
        leaf = trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert("localhost")
        self.leaf = leaf
        self.keys = directory / "keys"
        context = upstream_context(verify=False)
        context.keylog_filename = str(self.keys)
        self.sent, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = context.wrap_bio(to_client, self.sent)
        accepting = ServerCertificate(*write(leaf, directory)).context
        self.server = accepting.wrap_bio(self.sent, to_client, server_side=True)
        for side in (self.client, self.server, self.client, self.server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
        assert self.client.cipher() == ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256)

    def key_updates(self, request: int) -> Iterator[bytes]:
        """Records of the client with a KeyUpdate, if it has sent no data (RFC 8446 §4.6.3, §7)."""
        lines = [line.split() for line in self.keys.read_text().splitlines()]
        [secret] = [bytes.fromhex(x[2]) for x in lines if x[0] == "CLIENT_TRAFFIC_SECRET_0"]
        message = b"\x18\x00\x00\x01" + bytes([request]) + b"\x16"  # of type handshake
        header = b"\x17\x03\x03" + struct.pack("!H", len(message) + 16)
        while True:
            key, nonce = expanded(secret, b"key", 32), expanded(secret, b"iv", 12)
            yield header + AESGCM(key).encrypt(nonce, message, header)
            secret = expanded(secret, b"traffic upd", 48)

    def read(self, size: int = 1 << 16) -> bytes:
        """What the server reads of all that the client has sent."""
        found = b""
        with contextlib.suppress(ssl.SSLWantReadError):
            while piece := self.server.read(size):
                found += piece
        return found


def expanded(secret: bytes, label: bytes, length: int) -> bytes:
    """HKDF-Expand-Label of RFC 8446 §7.1 with an empty context."""
    label = b"tls13 " + label
    info = struct.pack("!HB", length, len(label)) + label + b"\0"
    return HKDFExpand(SHA384(), length, info).derive(secret)


@pytest.mark.parametrize("request_", [NOT_REQUESTED, REQUESTED])
def test_15_a_flood_of_key_updates_ends_the_connection(tmp_path: Path, request_: int) -> None:
    """§15: they would block the event loop for seconds, and a client needs no request for it."""
    pair = Pair(tmp_path)
    count = 0
    for record in pair.key_updates(request_):
        count += len(record)
        pair.sent.write(record)
        if count > LIMIT:
            break
        assert pair.read() == b""
    with pytest.raises(ssl.SSLError, match="without data"):
        pair.read()


def test_15_a_few_key_updates_and_small_records_are_no_flood(tmp_path: Path) -> None:
    """Ten thousand records with a byte of data each; a hundred KeyUpdates."""
    pair = Pair(tmp_path)
    for record, _ in zip(pair.key_updates(REQUESTED), range(100), strict=False):
        pair.sent.write(record)
        assert pair.read() == b""
    (tmp_path / "other").mkdir()
    pair = Pair(tmp_path / "other")
    for _ in range(10_000):
        pair.client.write(b"x")
    assert pair.read() == b"x" * 10_000


def test_15_data_that_is_read_in_parts_is_no_flood(tmp_path: Path) -> None:
    """Records arrive in pieces, and are read in pieces."""
    pair = Pair(tmp_path)
    for _ in range(64):
        pair.client.write(bytes(16 << 10))
    data, size = pair.sent.read(), 0
    for at in range(0, len(data), 1000):
        pair.sent.write(data[at : at + 1000])
        size += len(pair.read(700))
    assert size == 1 << 20


def test_15_all_contexts_are_bounded(tmp_path: Path) -> None:
    """Of the listener, and of connections to VB365 however its certificate is verified."""
    leaf = trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert("localhost")
    chain, _ = write(leaf, tmp_path)
    contexts = [
        ServerCertificate(*write(leaf, tmp_path)).context,
        upstream_context(),
        upstream_context(verify=False),
        upstream_context(ca_file=chain),
        upstream_context(fingerprint=pin(leaf)),
    ]
    for each in contexts:
        assert isinstance(each, BoundedContext)
        assert issubclass(each.sslobject_class, BoundedObject)
