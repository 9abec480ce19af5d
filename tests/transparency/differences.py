"""Every difference that the proxy is meant to make, by name. What is not in these two tables passes
as it is.

Each is a function from what was sent to what must arrive; it leaves alone what it is not about.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from tests.transparency.reference import Message, chunks

_HOPS = {b"connection", b"proxy-connection", b"keep-alive", b"te", b"upgrade"}

RequestDifference = Callable[[Message], Message]
AnswerDifference = Callable[[Message, Message], Message | None]


def _connection(message: Message) -> set[bytes]:
    return {
        element.strip().lower()
        for value in message.values(b"connection")
        for element in value.split(b",")
    }


def _hops(message: Message) -> set[bytes]:
    return _HOPS | _connection(message)


def _tunnel(message: Message) -> bool:
    return [value.lower() for value in message.values(b"upgrade")] == [
        b"websocket"
    ] and b"upgrade" in _connection(message)


def empty_line_before_a_request(sent: Message) -> Message:
    """RFC 9112 §2.2: one empty line before a request line is ignored."""
    return Message(sent.lines[0][:-2], sent.lines[1:], sent.body) if not sent.start else sent


def hop_by_hop_fields(sent: Message) -> Message:
    """RFC 9110 §7.6.1: they end here, and those that Connection names. A WebSocket's Upgrade is
    passed on.
    """
    if sent.start.startswith(b"GET ") and _tunnel(sent):
        kept = sent.without(lambda name: name != b"upgrade" and name in _hops(sent))
        return replace(kept, lines=(*kept.lines, b"Connection: Upgrade\r\n"))
    return sent.without(lambda name: name in _hops(sent))


def chunk_extensions(sent: Message) -> Message:
    """RFC 9112 §7.1.1: they are for the next hop only."""
    if not sent.chunked:
        return sent
    return replace(sent, body=_without_extensions(sent.body))


def _without_extensions(body: bytes) -> bytes:
    out = b""
    while True:
        line, _, body = body.partition(b"\r\n")
        size = re.match(rb"[0-9A-Fa-f]+", line)
        assert size
        out += size[0] + b"\r\n"
        length = int(size[0], 16)
        if not length:
            return out + body
        out += body[: length + 2]
        body = body[length + 2 :]


def answered_hop_by_hop_fields(request: Message, sent: Message) -> Message:
    """The upstream's Connection is about its own connection. A WebSocket's 101 keeps its
    Upgrade.
    """
    if b" 101 " in sent.start:
        kept = sent.without(lambda name: name != b"upgrade" and name in _hops(sent))
        return replace(kept, lines=(*kept.lines, b"Connection: Upgrade\r\n"))
    return sent.without(lambda name: name in _hops(sent))


def answered_chunk_extensions(request: Message, sent: Message) -> Message:
    """The same as in requests."""
    return chunk_extensions(sent) if sent.body else sent


def own_version(request: Message, sent: Message) -> Message:
    """RFC 9112 §2.3: the version is the sender's, hop by hop."""
    return replace(sent, start=sent.start.replace(b"HTTP/1.0 ", b"HTTP/1.1 ", 1))


def space_before_an_absent_reason(request: Message, sent: Message) -> Message:
    """RFC 9112 §4: the space before the reason is there even when the reason is not."""
    return (
        replace(sent, start=sent.start + b" ")
        if re.fullmatch(rb"HTTP/1\.[01] \d{3}", sent.start)
        else sent
    )


def no_transfer_encoding_without_a_body(request: Message, sent: Message) -> Message:
    """RFC 9112 §6.1: a 204 must not have one."""
    return (
        sent.without(lambda name: name == b"transfer-encoding") if b" 204 " in sent.start else sent
    )


def no_interim_answers_to_http_1_0(request: Message, sent: Message) -> Message | None:
    """RFC 9110 §15.2: a client of HTTP/1.0 does not know them."""
    return (
        None if request.start.endswith(b"/1.0") and re.match(rb"HTTP/1\.1 1", sent.start) else sent
    )


def no_chunks_to_http_1_0(request: Message, sent: Message) -> Message:
    """RFC 9112 §6.1: the end of the connection ends the body instead; trailers are dropped."""
    if not (request.start.endswith(b"/1.0") and sent.chunked):
        return sent
    payload, _ = chunks(sent.body) if sent.body else ([], b"")
    return replace(sent.without(lambda name: name == b"transfer-encoding"), body=b"".join(payload))


def own_connection_line(request: Message, sent: Message) -> Message:
    """RFC 9112 §9.6: said when the connection ends, and to a client of HTTP/1.0 also when it does
    not.
    """
    status = int(sent.start.split(b" ")[1])
    if status < 200:
        return sent
    options = _connection(request)
    old = request.start.endswith(b"/1.0")
    bodiless = request.start.startswith(b"HEAD ") or status in (204, 304)
    delimited = bool(sent.values(b"content-length")) or sent.chunked or bodiless
    keep = delimited and b"close" not in options and (not old or b"keep-alive" in options)
    line = (
        (b"Connection: keep-alive\r\n",)
        if keep and old
        else ()
        if keep
        else (b"Connection: close\r\n",)
    )
    return replace(sent, lines=(*sent.lines, *line))


#: In this order.
REQUEST: tuple[RequestDifference, ...] = (
    empty_line_before_a_request,
    hop_by_hop_fields,
    chunk_extensions,
)
ANSWER: tuple[AnswerDifference, ...] = (
    answered_hop_by_hop_fields,
    answered_chunk_extensions,
    own_version,
    space_before_an_absent_reason,
    no_transfer_encoding_without_a_body,
    no_interim_answers_to_http_1_0,
    no_chunks_to_http_1_0,
    own_connection_line,
)
NAMES = {difference.__name__ for difference in (*REQUEST, *ANSWER)}


def expected_request(sent: bytes) -> tuple[bytes, set[str]]:
    """What must reach the upstream, and the names of the differences that are in it."""
    message, made = (
        Message.of(sent) if not sent.startswith(b"\r\n") else _led_by_empty_line(sent),
        set(),
    )
    for difference in REQUEST:
        changed = difference(message)
        if changed != message:
            made.add(difference.__name__)
        message = changed
    return message.raw, made


def _led_by_empty_line(sent: bytes) -> Message:
    message = Message.of(sent[2:])
    return Message(b"", (message.start + b"\r\n", *message.lines), message.body)


def expected_answer(request: bytes, sent: bytes) -> tuple[bytes, set[str]]:
    """What must reach the client that asked, and the names of the differences that are in it."""
    question, made = Message.of(request.removeprefix(b"\r\n")), set()
    out = b""
    for one in split_answers(sent):
        message: Message | None = Message.of(one)
        for difference in ANSWER:
            assert message is not None
            changed = difference(question, message)
            if changed != message:
                made.add(difference.__name__)
            message = changed
            if message is None:
                break
        out += message.raw if message is not None else b""
    return out, made


def split_answers(sent: bytes) -> list[bytes]:
    """Interim answers, and the final one with its body."""
    found: list[bytes] = []
    while True:
        head, mark, rest = sent.partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1][:3])
        if status >= 200 or status == 101 or not rest:
            return [*found, sent]
        found.append(head + mark)
        sent = rest
