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
CHANGE_CIPHER = b"\x14\x03\x03\0\x01\x01"


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
        """Records of the client with a KeyUpdate, if it has sent no data."""
        return key_updates(self.keys, request)

    def read(self, size: int = 1 << 16) -> bytes:
        """What the server reads of all that the client has sent."""
        found = b""
        with contextlib.suppress(ssl.SSLWantReadError):
            while piece := self.server.read(size):
                found += piece
        return found


def key_updates(keys: Path, request: int) -> Iterator[bytes]:
    """Records of the client whose secrets are in a file, if it has sent no data (RFC 8446 §4.6.3,
    §7).
    """
    lines = [line.split() for line in keys.read_text().splitlines()]
    [secret] = [bytes.fromhex(x[2]) for x in lines if x[0] == "CLIENT_TRAFFIC_SECRET_0"]
    message = b"\x18\x00\x00\x01" + bytes([request]) + b"\x16"  # of type handshake
    header = b"\x17\x03\x03" + struct.pack("!H", len(message) + 16)
    while True:
        key, nonce = expanded(secret, b"key", 32), expanded(secret, b"iv", 12)
        yield header + AESGCM(key).encrypt(nonce, message, header)
        secret = expanded(secret, b"traffic upd", 48)


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


def hello(announced: int, sent: int, *, pieces: int = 1 << 14) -> bytes:
    """Records of a client with the beginning of a ClientHello."""
    message = b"\x01" + announced.to_bytes(3) + b"\x03\x03" + bytes(sent)
    return records(message, pieces)


def records(message: bytes, size: int) -> bytes:
    """Handshake records of up to `size` bytes."""
    parts = (message[at : at + size] for at in range(0, len(message), size))
    return b"".join(b"\x16\x03\x01" + struct.pack("!H", len(part)) + part for part in parts)


def accepting(directory: Path) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    """A server, what it reads, and what it writes."""
    leaf = trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert("localhost")
    reads, writes = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ServerCertificate(*write(leaf, directory)).context
    context.set_ecdh_curve("secp384r1")  # so that it requests another key share first
    return context.wrap_bio(reads, writes, server_side=True), reads, writes


def receive(server: ssl.SSLObject, reads: ssl.MemoryBIO, data: bytes, size: int) -> None:
    """Let the server read the data in pieces, within its handshake."""
    for at in range(0, len(data), size):
        reads.write(data[at : at + size])
        shake_hands(server)


def shake_hands(side: ssl.SSLObject) -> None:
    with contextlib.suppress(ssl.SSLWantReadError):
        side.do_handshake()


@pytest.mark.parametrize("size", [1, 3, 1 << 14])
@pytest.mark.parametrize(
    "sent",
    [
        hello(128 << 10, 4),
        hello(128 << 10, 4, pieces=1),
        hello(16 << 10, 12 << 10, pieces=8),
        b"\x16\x03\x01\0\0" * 4000 + hello(128 << 10, 4),
    ],
    ids=["announced", "in pieces", "many records", "after others"],
)
def test_15_a_client_hello_takes_little_memory(tmp_path: Path, sent: bytes, size: int) -> None:
    """§15: OpenSSL takes as much as it announces, for 9 bytes of anybody."""
    server, reads, _ = accepting(tmp_path)
    with pytest.raises(ssl.SSLError, match=r"too long|record"):
        receive(server, reads, sent, size)


@pytest.mark.parametrize("step", [1, 7, 1 << 14])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_15_a_client_hello_in_many_records_is_read(
    tmp_path: Path, version: ssl.TLSVersion, step: int
) -> None:
    """Also if the server requests another, and the client sends data at once."""
    server, reads, writes = accepting(tmp_path)
    context = upstream_context(verify=False)
    context.maximum_version = version
    sent, received = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(received, sent)
    for _ in range(4):
        shake_hands(client)
        data = sent.read()
        if data.startswith(b"\x16") and data[5:6] == b"\x01":
            data = records(data[5:], 60)
        elif client.version() and client.cipher() and not data:
            break
        receive(server, reads, data, step)
        received.write(writes.read())
    client.write(b"data")
    reads.write(sent.read())
    shake_hands(server)
    assert server.read(10) == b"data"


def test_15_a_second_client_hello_takes_little_memory_either(tmp_path: Path) -> None:
    """The server requests one if it knows no key share of the first (RFC 8446 §4.1.4)."""
    server, reads, writes = accepting(tmp_path)
    sent = ssl.MemoryBIO()
    shake_hands(upstream_context(verify=False).wrap_bio(ssl.MemoryBIO(), sent))
    reads.write(sent.read())
    shake_hands(server)
    assert b"\xcf\x21\xad\x74" in writes.read()  # the random of a HelloRetryRequest
    reads.write(CHANGE_CIPHER + hello(128 << 10, 4))
    with pytest.raises(ssl.SSLError, match="too long"):
        shake_hands(server)


@pytest.mark.parametrize("size", [1, 1 << 14])
@pytest.mark.parametrize("resumed", [False, True])
def test_15_an_encrypted_message_is_no_client_hello(
    tmp_path: Path, resumed: bool, size: int
) -> None:
    """With TLS 1.2 the last message of each 256th client begins as one, after its encryption."""
    leaf = trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert("localhost")
    accepting = ServerCertificate(*write(leaf, tmp_path)).context
    context = upstream_context(verify=False)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    session = None
    for attempt in range(1 + resumed):
        reads, writes, sent, received = (ssl.MemoryBIO() for _ in range(4))
        client = context.wrap_bio(received, sent, session=session)
        server = accepting.wrap_bio(reads, writes, server_side=True)
        shake_hands(client)
        receive(server, reads, sent.read(), size)
        received.write(writes.read())
        shake_hands(client)
        flight = sent.read()
        if attempt < resumed:
            receive(server, reads, flight, size)
            received.write(writes.read())
            shake_hands(client)
            session = client.session
    assert client.session_reused == resumed
    at = flight.index(CHANGE_CIPHER) + len(CHANGE_CIPHER) + 5
    flight = flight[:at] + b"\x01\xff\xff\xff" + flight[at + 4 :]
    with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
        receive(server, reads, flight, size)


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
