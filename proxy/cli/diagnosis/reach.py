"""Whether a server can be reached: its name, its port, its certificate, its clock."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from proxy.cli.diagnosis.findings import Finding, failed, ok, warning

#: A difference of the clocks, in seconds, that a Date field with whole seconds and a slow response
#: explain, and one above which tokens and certificates are taken for expired.
_SAME_CLOCK, _WRONG_CLOCK = 30.0, 300.0
_EXPIRES_SOON = timedelta(days=14)
#: Names of a certificate that a line shows.
_NAMES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server to reach: `check` begins the names of its checks, and `setting` names what says
    where it is.
    """

    check: str
    setting: str
    host: str
    port: int
    timeout: float

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


async def resolved(server: Server) -> tuple[Finding, list[str]]:
    """Look the name up. Return the addresses too, none if it has none."""
    check, setting = f"{server.check}.name", server.setting
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(server.timeout):
            found = await loop.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    except TimeoutError:
        fix = "Check the name servers of this machine."
        return failed(check, setting, f"no name server responds for {server.host}", fix), []
    except (OSError, UnicodeError) as why:
        reason = getattr(why, "strerror", None) or str(why)
        fix = f"Correct {setting}, or the name servers of this machine."
        return failed(check, setting, f"{server.host} cannot be resolved: {reason}", fix), []
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    if addresses == [server.host]:
        return ok(check, setting, f"{server.host} is an address"), addresses
    return ok(check, setting, f"{server.host} is {', '.join(addresses)}"), addresses


def presented(host: str, port: int, timeout: float) -> bytes:
    """The certificate of a server in DER, whatever it is: nothing else is sent or trusted. Blocks.
    Raises OSError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((host, port), timeout) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        return secure.getpeercert(binary_form=True) or b""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What people want to know of a certificate."""

    names: tuple[str, ...]
    issuer: str
    begins: datetime
    ends: datetime

    @classmethod
    def of(cls, der: bytes) -> Certificate:
        """Read a certificate. Raises ValueError."""
        found = x509.load_der_x509_certificate(der)
        subject, issuer = found.subject, found.issuer
        names = tuple(_alternative_names(found)) or (subject.rfc4514_string(),)
        signer = "itself" if issuer == subject else issuer.rfc4514_string()
        return cls(names, signer, found.not_valid_before_utc, found.not_valid_after_utc)

    @classmethod
    async def at(cls, server: Server) -> Certificate:
        """Read the certificate of a server. Raises OSError and ValueError."""
        return cls.of(await asyncio.to_thread(presented, server.host, server.port, server.timeout))

    def __str__(self) -> str:
        more = f" and {len(self.names) - _NAMES} more" if len(self.names) > _NAMES else ""
        names = f"{', '.join(self.names[:_NAMES])}{more}"
        return f"for {names}; signed by {self.issuer}; valid until {self.ends:%Y-%m-%d}"

    def dated(self, check: str, subject: str, renew: str) -> Finding:
        """Whether it is valid now. `renew` says how to replace it."""
        now = datetime.now(UTC)
        if self.begins > now:
            message = f"{self}: not valid before {self.begins:%Y-%m-%d %H:%M} UTC"
            return failed(check, subject, message, f"Check the clock of this machine. {renew}")
        if self.ends < now:
            return failed(check, subject, f"{self}: expired", renew)
        if self.ends < now + _EXPIRES_SOON:
            return warning(check, subject, f"{self}: expires in {(self.ends - now).days} d", renew)
        return ok(check, subject, str(self))

    def is_for(self, host: str) -> bool:
        """Whether a client accepts it for this name or address (RFC 9525 §6)."""
        wanted = host.lower()
        _, dot, parent = wanted.partition(".")
        return any(
            name.lower() == wanted or (dot and name.lower() == f"*.{parent}") for name in self.names
        )


def _alternative_names(certificate: x509.Certificate) -> Iterator[str]:
    try:
        names: Any = certificate.extensions.get_extension_for_oid(
            ExtensionOID.SUBJECT_ALTERNATIVE_NAME
        ).value
    except x509.ExtensionNotFound:
        return
    yield from names.get_values_for_type(x509.DNSName)
    yield from map(str, names.get_values_for_type(x509.IPAddress))


def clock(check: str, date: str | None) -> Iterator[Finding]:
    """How far the clock of this machine is from that of a server, by the Date field of a response
    that has just arrived.
    """
    try:
        theirs = parsedate_to_datetime(date or "").timestamp()
    except (ValueError, OverflowError):
        return
    ahead = time.time() - theirs - 0.5  # on average, the field is half a second old
    if abs(ahead) <= _SAME_CLOCK:
        yield ok(check, "clock", f"within {_SAME_CLOCK:.0f} s of the server's")
        return
    message = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's"
    fix = "Synchronize both machines with a time service (NTP)."
    yield (failed if abs(ahead) > _WRONG_CLOCK else warning)(check, "clock", message, fix)


async def connected(server: Server, addresses: Sequence[str]) -> tuple[Finding, bool]:
    """Connect to each address, and send nothing. Return also whether one accepts."""
    check, setting = f"{server.check}.connection", server.setting
    reasons = [await _refusal(server, address) for address in addresses]
    fix = "Start the server there, or open the port in the firewalls between."
    if all(reasons):
        reason = "; ".join(dict.fromkeys(filter(None, reasons)))
        return failed(check, setting, f"no connection to {server}: {reason}", fix), False
    if any(reasons):
        bad = [f"{address}: {why}" for address, why in zip(addresses, reasons, strict=True) if why]
        message = f"{server} accepts connections, but not at every address ({'; '.join(bad)})"
        return warning(check, setting, message, fix), True
    return ok(check, setting, f"{server} accepts connections"), True


async def _refusal(server: Server, address: str) -> str | None:
    try:
        async with asyncio.timeout(server.timeout):
            _, writer = await asyncio.open_connection(address, server.port)
    except TimeoutError:
        return f"no response within {server.timeout:g} s"
    except OSError as why:
        return reason_of(why)
    writer.transport.abort()
    return None


def reason_of(why: OSError) -> str:
    """The error in the words of the system. asyncio's are "Connect call failed"."""
    number = why.errno
    return os.strerror(number) if number is not None and number > 0 else why.strerror or str(why)
