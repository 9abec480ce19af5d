"""One rescued export on a client connection: its request, and VB365's response (CONTRACT §14).

Theory of operation. An exchange is in one `Phase`, beginning with GATHERING:

    GATHERING ── the request is whole ──> WAITING ── head of the response ──> RESPONDING ──> ENDED
    GATHERING ── its body cannot stay in memory ──> RELAYED
    WAITING ── it cannot be rescued ──> RELAYED
    every phase ── the client leaves, or the file is lost ──> ENDED

A RELAYED exchange hands everything on to an exchange of the relay. The job does not depend on the
exchange: it runs even if the client leaves.
"""

from __future__ import annotations

import asyncio
import enum
from contextlib import aclosing
from dataclasses import dataclass, replace

import structlog
from structlog.contextvars import bound_contextvars

from proxy.core.errors import Problem
from proxy.core.http.fields import value_of, values_of
from proxy.core.http.heads import Framing, Head, ResponseHead, parse_response
from proxy.core.http.origin import Networks, client_address
from proxy.core.http.outbound import CLOSE, KEEP_ALIVE, response_bytes
from proxy.core.http.partial import partial_response, requested
from proxy.core.http.ranges import One
from proxy.core.job_request import stored_request
from proxy.core.routing import Rescue
from proxy.downstream.duplex import ClientSide, Forwarded, Forwarder
from proxy.downstream.endings import Ending
from proxy.downstream.request_ids import request_id
from proxy.ports import PartialLost, Response, StoreUnavailable, UpstreamFailure, WholeResponse
from proxy.ports.tracing import Traced, Tracing
from proxy.rescue.call import (
    RELAYED,
    Call,
    File,
    Growing,
    Handed,
    Outcome,
    Relayed,
    Stored,
    StoredElsewhere,
)
from proxy.rescue.deliveries import RescueDeliveries, RescueDelivery
from proxy.rescue.following import Following
from proxy.rescue.request import GatheredBody, Memory
from proxy.rescue.source import Pieces, of_bytes, of_reader, of_response, of_tail
from proxy.upstream.credentials import Credentials

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What all exchanges share. `memory` bounds the bodies that are gathered, `max_body` each of
    them, in bytes; `trusted` are the proxies that report clients' addresses.
    """

    relay: Forwarder
    following: Following
    deliveries: RescueDeliveries
    tracing: Tracing
    memory: Memory
    max_body: int
    trusted: Networks


class Phase(enum.Enum):
    """See the theory of operation. The values are for logs and debuggers."""

    GATHERING = "gathering"
    WAITING = "waiting for the export"
    RESPONDING = "responding"
    RELAYED = "relayed"
    ENDED = "ended"


class Short(Exception):
    """The file is shorter than the response announces."""


class RescueExchange:
    """See the module. `whole`: the request has no body."""

    def __init__(
        self, needs: Needs, client: ClientSide, head: Head, decision: Rescue, *, whole: bool
    ) -> None:
        self._needs = needs
        self._client = client
        self._head = head
        self._decision = decision
        self._bodiless = self._whole = whole
        self._now = asyncio.get_running_loop().time
        self._body = GatheredBody(head, needs.memory, needs.max_body, self._now())
        self._phase = Phase.GATHERING
        self._relayed: Forwarded | None = None
        self._task: asyncio.Task[None] | None = None
        self._delivery: RescueDelivery | None = None
        self._ready = asyncio.Event()
        self._ready.set()

    def __repr__(self) -> str:
        """Path, phase, and whether the client reads slowly."""
        path = self._head.target.partition(b"?")[0].decode("latin-1")
        slow = "" if self._ready.is_set() else " slow"
        return f"<RescueExchange {path} {self._phase.value}{slow}>"

    def begin(self) -> None:
        """Invite the body, or start at once if there is none."""
        if self._whole:
            self._start()
        elif self._head.expect_continue:
            self._client.interim(b"HTTP/1.1 100 Continue\r\n\r\n")

    # Called by the client connection; see `duplex.Exchange`.

    @property
    def begun(self) -> bool:
        """Whether bytes of the response are written."""
        if self._relayed is not None:
            return self._relayed.begun
        return self._phase is Phase.RESPONDING

    def feed(self, data: bytes) -> None:
        """Gather bytes of the request's body."""
        if self._relayed is not None:
            self._relayed.feed(data)
        elif not self._body.add(data, self._now()):
            self._relay()

    def end(self) -> None:
        """Start: the request is whole."""
        self._whole = True
        if self._relayed is not None:
            self._relayed.end()
        elif self._phase is Phase.GATHERING:
            self._start()

    def client_left(self) -> None:
        """Stop. The job goes on."""
        if self._relayed is not None:
            self._relayed.client_left()
        if self._task is not None:
            self._task.cancel()
            # cancelled, it refers to this: the cycle would keep the body
            self._task = None
        self._body.release()
        if self._delivery is not None and self._phase is Phase.RESPONDING:
            self._delivery.ended(False)
        self._phase = Phase.ENDED

    def client_slow(self) -> None:
        """Pause for a client that reads slowly. Nothing else waits for it."""
        self._ready.clear()
        if self._relayed is not None:
            self._relayed.client_slow()

    def client_ready(self) -> None:
        """Continue."""
        self._ready.set()
        if self._relayed is not None:
            self._relayed.client_ready()

    # The relay, as if there were no rescue.

    def _relay(self) -> None:
        self._phase = Phase.RELAYED
        try:
            self._relay_body()
        except MemoryError:  # the client would wait for ever
            self._client.break_off(Ending.ABORTED)

    def _relay_body(self) -> None:
        raw = self._body.taken()
        target = self._decision.target
        relayed = self._needs.relay.start(self._client, self._head, target, whole=self._bodiless)
        self._relayed = relayed
        if raw:
            relayed.feed_counted(raw, self._body.memory)
        else:
            self._body.release()
        if self._whole and not self._bodiless:
            relayed.end()

    # The rescue.

    def _start(self) -> None:
        self._phase = Phase.WAITING
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            named = self._client.peer.decode("latin-1")
            peer = client_address(named, self._needs.trusted, self._lines)
            with bound_contextvars(request_id=request_id(self._head), client=peer):
                await self._rescue(peer)
        except Exception:  # the client would wait for ever
            self._give_up()
            raise

    async def _rescue(self, peer: str | None) -> None:
        # the log comes last: there may be no memory for it
        try:
            call = await self._call(peer)
            found = RELAYED if call is None else await self._outcome(call)
            # the response may take hours, and the memory of the body does not count any more
            del call
            try:
                await self._respond(found)
            finally:
                await _close(found)
        except (PartialLost, StoreUnavailable, UpstreamFailure, Short) as why:
            self._give_up()
            log.warning("rescued response broken off", reason=str(why))
        except Exception:
            self._give_up()
            log.exception("rescue failed")

    async def _outcome(self, call: Call) -> Outcome:
        """What the client gets, in a span that the job's request to VB365 belongs to."""
        line = self._head.method, self._head.target.partition(b"?")[0]
        method, path = (part.decode("latin-1") for part in line)
        facts = {"http.request.method": method, "url.path": path}
        with self._needs.tracing.span(Traced.KICKOFF, call.fields, facts) as span:
            call = replace(call, fields=span.fields(call.fields))
            found = await self._needs.following.outcome(call)
            span.set("vb365.job.id", found.job.id if isinstance(found, File) else None)
            span.set("http.response.status_code", _status_of(found))
            return found

    def _lines(self, name: str) -> list[str]:
        wanted = name.lower().encode()
        return [value.decode("latin-1") for value in values_of(self._head.fields, wanted)]

    async def _call(self, peer: str | None) -> Call | None:
        """The request, None if it cannot be rescued."""
        fields, body = self._head.fields, await self._body.content()
        credentials = Credentials.of(fields)
        if body is None or credentials is None or len(body) > self._needs.max_body:
            return None
        target = self._decision.target
        export = stored_request(self._head, self._decision.export, target, body, key=None)
        memory = self._body.memory
        return Call(self._head, fields, credentials, export, body, memory, peer, self._now())

    def _give_up(self) -> None:
        """Break the response off visibly, or relay the request if there is none yet."""
        if self._phase is Phase.WAITING:
            self._relay()
        elif self._phase is Phase.RESPONDING:
            self._client.break_off(Ending.UPSTREAM_CUT)

    async def _respond(self, found: Outcome) -> None:
        match found:
            case Growing() | StoredElsewhere():
                size = found.head.length if found.head.get_all(b"content-length") else None
                await self._send_file(found, size)
            case Stored():
                await self._send_file(found, found.reader.artifact.size)
            case WholeResponse():
                await self._send(_head_of(found, found.lines), of_bytes(found.body))
            case Problem():
                self._body.release()
                self._phase = Phase.ENDED
                self._client.problem(found)
            case Handed():
                response = found.over.take()
                if response is None:
                    self._relay()
                else:
                    try:
                        head = _head_of(response, found.lines)
                        await self._send(head, of_response(response, found.over.first))
                    finally:
                        response.close()
            case Relayed():
                self._relay()
            case _:
                self._phase = Phase.ENDED
                self._client.break_off(Ending.ABORTED)

    async def _send_file(self, found: File, size: int | None) -> None:
        """Send the file, or the part of it that the request asks for."""
        fields, part = self._head.fields, None
        # a client may have the first bytes of the file before the restart: only If-Range can say
        # which one its Range is of. A server may ignore any Range (RFC 9110 §14.2)
        if size is not None and (not found.restarted or value_of(fields, b"if-range") is not None):
            part = requested(fields, found.head, size)
        head, start, stop = found.head, 0, size
        if part is not None and size is not None:
            head = partial_response(found.head, part, size)
            start, stop = (part.start, part.stop) if isinstance(part, One) else (0, 0)
        if isinstance(found, Growing):
            pieces = of_tail(found.tail, start, stop)
        elif isinstance(found, StoredElsewhere):
            pieces = found.pieces
        else:
            pieces = of_reader(
                found.reader, start, found.reader.artifact.size if stop is None else stop
            )
        deliveries = self._needs.deliveries
        self._client.job = found.job.id
        self._delivery = deliveries.begin(found.job.id, head.status, whole=part is None)
        facts = {"vb365.job.id": found.job.id}
        with self._needs.tracing.span(Traced.DELIVERY, fields, facts) as span:
            span.set("http.response.status_code", head.status)
            try:
                await self._send(head, pieces)
            except BaseException as why:
                span.fail(type(why).__name__, "The response broke off.")
                raise
            finally:
                span.set("vb365.bytes", self._delivery.sent)

    async def _send(self, head: ResponseHead, pieces: Pieces) -> None:
        """Send a response with this head, framed as VB365 framed it."""
        client, old = self._client, self._head.minor == 0
        chunked = head.framing is Framing.CHUNKED
        dechunked = old and chunked
        delimited = head.framing is not Framing.CLOSE and not dechunked
        keep = self._head.keep_alive and delimited and not client.closing
        connection = (KEEP_ALIVE if old else b"") if keep else CLOSE
        self._body.release()
        self._phase = Phase.RESPONDING
        client.code = head.status
        client.write(response_bytes(head, connection, dechunked=dechunked))
        client.responding()
        length = head.length if head.framing is Framing.LENGTH else None
        sent = 0
        async with aclosing(pieces):
            await self._ready.wait()
            async for piece in pieces:
                sent += len(piece)
                self._count(len(piece))
                client.write(_chunk(piece) if chunked and not old else piece)
                del piece  # the transport has it
                if sent == length:
                    # before the source is closed: the client may close at once
                    self._answered(keep=keep)
                    return
                # before the next piece is read: a slow client costs one in memory, not two
                await self._ready.wait()
        if length is not None and sent != length:
            raise Short(f"{sent} bytes instead of {length}")
        if chunked and not old:
            client.write(b"0\r\n\r\n")
        self._answered(keep=keep)

    def _answered(self, *, keep: bool) -> None:
        self._phase = Phase.ENDED
        if self._delivery is not None:
            self._client.delivered = self._delivery.ended
        self._client.answered(keep=keep)

    def _count(self, size: int) -> None:
        if self._delivery is not None:
            self._delivery.sent += size
            self._needs.deliveries.counts.served += size


async def _close(found: Outcome) -> None:
    """Close the file: a generator that was not started does not close its source."""
    if isinstance(found, Growing):
        await found.tail.close()
    elif isinstance(found, Stored):
        await found.reader.close()


def _chunk(piece: bytes | bytearray) -> bytes:
    return b"".join((b"%x\r\n" % len(piece), piece, b"\r\n"))


def _status_of(found: Outcome) -> int | None:
    """The status of the response, None for a request that is passed through or broken off."""
    match found:
        case Growing() | Stored() | StoredElsewhere():
            return found.head.status
        case Handed():
            return found.over.response.status
        case WholeResponse() | Problem():
            return found.status
        case _:
            return None


def _head_of(response: Response | WholeResponse, lines: bytes) -> ResponseHead:
    line = b"HTTP/1.1 %d %b\r\n" % (response.status, response.reason)
    return parse_response(b"%b%b\r\n" % (line, lines), b"POST")
