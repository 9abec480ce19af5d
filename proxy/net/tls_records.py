"""What a peer sends over TLS beside whole records of data.

Messages that carry no data are bounded: a peer may send them at any time (RFC 8446 §4.6). A
KeyUpdate has 27 bytes and costs new keys in both directions, and a response. Without a bound, a
peer that sends nothing else blocks the event loop for seconds: OpenSSL handles all that has arrived
within one read.

So is the handshake of a client, for which OpenSSL takes as much memory as a ClientHello announces.
"""

from __future__ import annotations

import ssl
from typing import Any

from proxy.net.client_hellos import ClientHellos

#: Bytes beside the data in a record of TLS 1.3: header, content type and authentication tag.
_RECORD = 22
#: Bytes of other messages on a connection, and for how many bytes of data there may be one more.
#: Padding of records counts too (RFC 8446 §5.4).
_OTHERS, _DATA = 64 << 10, 8
#: Bytes of a client's handshake. Clients send about 2 KiB.
_HANDSHAKE = 16 << 10


class BoundedObject(ssl.SSLObject):
    """One connection. `read` raises `ssl.SSLError` if the peer sends too little data in what it
    sends, and `do_handshake` if a client sends too much.
    """

    #: What has arrived and is not read, and the ClientHellos in it; set by `BoundedContext`.
    incoming: ssl.MemoryBIO
    hellos: ClientHellos
    #: The peer has sent something since the last data: a part of a record, or a message without
    #: data.
    unfinished = False
    _budget = _OTHERS * _DATA
    _handshake = _HANDSHAKE

    def do_handshake(self) -> None:
        """Called by the event loop."""
        waiting = self.incoming.pending
        cipher = self.cipher()  # `version` is not known before the end
        if self.server_side and (cipher is None or cipher[1] == "TLSv1.3"):
            # a session of an older version that is resumed goes on with encrypted messages
            self._look()
        try:
            super().do_handshake()
        except ssl.SSLWantReadError:
            self._handshake -= waiting - self.incoming.pending
            if self._handshake < 0 and self.server_side:
                raise ssl.SSLError(1, "too long a TLS handshake") from None
            raise

    def _look(self) -> None:
        """Look at what OpenSSL will read, as far as it is not too long anyway."""
        data = self.incoming.read()
        self.incoming.write(data)
        self.hellos.read(data[: self._handshake])
        del data  # the exception would keep it
        if self.hellos.longest > _HANDSHAKE:
            raise ssl.SSLError(1, "too long a ClientHello")

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        """Called by the event loop."""
        waiting = self.incoming.pending
        try:
            found: Any = super().read(len, buffer)
        except ssl.SSLWantReadError:
            taken = waiting - self.incoming.pending
            self.unfinished = self.unfinished or taken > 0
            self._read(taken, 0)
            raise
        self.unfinished = False
        # a count if there is a buffer for the data
        size = found if buffer is not None else found.__len__()
        self._read(waiting - self.incoming.pending, size)
        return found

    def _read(self, taken: int, size: int) -> None:
        """Note that `taken` bytes were read and gave `size` bytes of data."""
        if taken and size:
            taken -= _RECORD
        self._budget = min(self._budget + size - (taken - size) * _DATA, _OTHERS * _DATA)
        if self._budget < 0 and self.version() == "TLSv1.3":
            raise ssl.SSLError(1, "too many TLS messages without data")


class BoundedContext(ssl.SSLContext):
    """Makes `BoundedObject`s."""

    sslobject_class = BoundedObject

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **kwargs: Any
    ) -> ssl.SSLObject:
        """Called by the event loop."""
        made = super().wrap_bio(incoming, outgoing, *args, **kwargs)
        if isinstance(made, BoundedObject):
            made.incoming = incoming
            made.hellos = ClientHellos()
        return made
