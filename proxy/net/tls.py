"""TLS on both sides: verifying VB365, and the proxy's own certificate (CONTRACT §15).

Functions that read files block: call them in a thread while the proxy serves.
"""

from __future__ import annotations

import base64
import hmac
import re
import ssl
from collections.abc import Iterator
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import cast

from proxy.core.certificates import validity
from proxy.core.text import UTF_16, NotUtf8
from proxy.net.tls_records import BoundedContext, BoundedObject

#: The application protocol, on both sides.
_ALPN = ["http/1.1"]
_EXPIRES_SOON = timedelta(days=14)
#: RFC 7468 §5.
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----([^-]*)-----END CERTIFICATE-----")


class TlsError(Exception):
    """A certificate, key or CA file cannot be used. The message names the file, the fault and the
    fix.
    """


class PinMismatch(ssl.SSLCertVerificationError):
    """The upstream's certificate is not the pinned one. Both are raw SHA-256 digests."""

    def __init__(self, presented: bytes, pinned: bytes) -> None:
        super().__init__(
            1, f"the certificate has fingerprint {_readable(presented)}, not {_readable(pinned)}"
        )
        self.reason = "PIN_MISMATCH"
        self.presented = presented
        self.pinned = pinned


def fingerprint(der: bytes) -> str:
    """Return the SHA-256 fingerprint of a DER certificate, formatted as `openssl x509 -fingerprint
    -sha256` does.
    """
    return _readable(sha256(der).digest())


def _readable(digest: bytes) -> str:
    return digest.hex(":").upper()


def not_after(der: bytes) -> float | None:
    """Return the end of a DER certificate in Unix seconds, None if it cannot be read."""
    try:
        return validity(der)[1].timestamp()
    except ValueError:
        return None


def upstream_context(
    *, ca_file: Path | None = None, fingerprint: str | None = None, verify: bool = True
) -> ssl.SSLContext:
    """Return the context for connections to VB365, with TLS 1.2 or later.

    With a `fingerprint` (hex, colons allowed) exactly that certificate is trusted, whatever its
    chain, name and dates. Otherwise, with `verify=False` any certificate is trusted; the caller
    must warn. Otherwise the chain must lead to `ca_file` (PEM or DER, may be the server's own
    self-signed certificate), or without it to the system's CAs, and the name must match. Raises
    `TlsError`, and ValueError for a malformed fingerprint.
    """
    if fingerprint is not None:
        return _secured(_PinnedContext.of(fingerprint))
    context: ssl.SSLContext = BoundedContext(ssl.PROTOCOL_TLS_CLIENT)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file is not None:
        _trust(context, ca_file)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return _secured(context)


def _secured(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(_ALPN)
    return context


def _trust(context: ssl.SSLContext, ca_file: Path) -> None:
    data = _read(ca_file)
    try:
        # Windows exports certificates as DER by default.
        context.load_verify_locations(
            cadata=data.decode("ascii", "ignore") if b"-----BEGIN" in data else data
        )
    except (ssl.SSLError, ValueError) as error:
        raise TlsError(
            f"{ca_file} holds no certificate: name a PEM file of CA certificates"
        ) from error
    # A server's own certificate is trusted as it is. Few of these pass the strict checks.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT


class _PinnedObject(BoundedObject):
    """Checks the pin within the handshake, so that no caller can omit it and nothing is sent
    before.
    """

    def do_handshake(self) -> None:
        super().do_handshake()
        _PinnedContext.check(self)


class _PinnedSocket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        _PinnedContext.check(self)


class _PinnedContext(BoundedContext):
    pin: bytes
    sslobject_class = _PinnedObject
    sslsocket_class = _PinnedSocket

    @classmethod
    def of(cls, fingerprint: str) -> _PinnedContext:
        pin = bytes.fromhex(fingerprint.replace(":", ""))
        if len(pin) != sha256().digest_size:
            raise ValueError("a SHA-256 fingerprint has 64 hex digits")
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.pin = pin
        return context

    @staticmethod
    def check(connection: ssl.SSLObject | ssl.SSLSocket) -> None:
        pin = cast("_PinnedContext", connection.context).pin
        presented = sha256(connection.getpeercert(binary_form=True) or b"").digest()
        if not hmac.compare_digest(presented, pin):
            raise PinMismatch(presented, pin)


class ServerCertificate:
    """The proxy's own certificate, which can be reloaded while connections are open.

    `context` is for the listener and never changes. `certificate` is the PEM chain, `key` its PEM
    private key without a passphrase (None: in the same file). Raises `TlsError`.
    """

    def __init__(self, certificate: Path, key: Path | None = None) -> None:
        self._certificate = certificate
        self._key = key or certificate
        self._seen = self._stamps()
        #: The end of the certificate in Unix seconds, None if it is not known.
        self.not_after: float | None = None
        self._current = self.context = self._load()
        self.context.sni_callback = self._choose

    def reload(self) -> None:
        """Use the files' certificate in new handshakes. Raises `TlsError`, and keeps the old one.

        The swap is a single assignment, so it may be called from any thread.
        """
        self._seen = self._stamps()
        self._current = self._load()

    def changed(self) -> bool:
        """Report whether a file has changed since the last load, successful or not."""
        return self._stamps() != self._seen

    def warning(self, now: datetime) -> str | None:
        """Return a warning if the certificate file is not valid, or about to expire; else None."""
        try:
            begins, ends = _validity(self._certificate)
        except (TlsError, ValueError):
            # OpenSSL may accept more; without dates there is no warning
            return None
        if begins > now:
            return f"{self._certificate} is not valid before {begins:%Y-%m-%d %H:%M} UTC"
        if ends < now:
            return f"{self._certificate} expired on {ends:%Y-%m-%d %H:%M} UTC: clients refuse it"
        if ends < now + _EXPIRES_SOON:
            return f"{self._certificate} expires on {ends:%Y-%m-%d %H:%M} UTC: renew it"
        return None

    def _choose(
        self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        # OpenSSL calls this with and without SNI. load_cert_chain on the live context would not
        # work: it keeps one certificate per key type, so a replaced RSA certificate could still be
        # used beside a new ECDSA one.
        connection.context = self._current

    def _load(self) -> ssl.SSLContext:
        context = _secured(BoundedContext(ssl.PROTOCOL_TLS_SERVER))
        _load_chain(context, self._certificate, self._key)
        try:
            self.not_after = _validity(self._certificate)[1].timestamp()
        except (TlsError, ValueError):
            self.not_after = None
        return context

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(self._certificate), _stamp(self._key)]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def _validity(path: Path) -> tuple[datetime, datetime]:
    """The validity of the first certificate in a PEM file. Raises `TlsError` and ValueError."""
    first = _CERTIFICATE.search(_read(path))
    if first is None:
        raise ValueError("no certificate")
    return validity(base64.b64decode(first[1]))


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path} cannot be read: {error.strerror or error}") from error
    if data.startswith(UTF_16):
        raise TlsError(f"{path} is UTF-16: {NotUtf8.fix}")
    return data


class _Encrypted(Exception):
    """OpenSSL needs a passphrase for the key. Without a callback it would prompt on the
    terminal.
    """


def _refuse_passphrase() -> str:
    raise _Encrypted


def _load_chain(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    for path, label, name in (
        (certificate, b"CERTIFICATE-----", "certificate"),
        (key, b"PRIVATE KEY-----", "key"),
    ):
        if label not in _read(path):
            raise TlsError(f"{path} holds no {name} in PEM form (-----BEGIN …)")
    try:
        context.load_cert_chain(certificate, key, password=_refuse_passphrase)
    except _Encrypted:
        raise TlsError(
            f"{key} is encrypted: store the key without a passphrase, readable by the proxy only"
        ) from None
    except ssl.SSLError as error:
        if _code(error) in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
            raise TlsError(
                f"{key} is not the key of the first certificate in {certificate}"
            ) from error
        raise TlsError(f"{certificate} and {key} cannot be used: {_reason(error)}") from error
    except OSError as error:
        raise TlsError(
            f"{certificate} or {key} cannot be read: {error.strerror or error}"
        ) from error


def _reason(error: BaseException) -> str:
    return _code(error).replace("_", " ").lower() or str(error) or type(error).__name__


def _code(error: BaseException) -> str:
    """Return OpenSSL's name of the error, "" if it is not an OpenSSL error."""
    return getattr(error, "reason", None) or ""


_UNTRUSTED = (
    18,
    19,
    20,
    21,
)  # X509_V_ERR_*: self-signed, in the chain, no local issuer, no issuer at all
_DATES = {9: "is not valid yet: check the clocks", 10: "has expired: renew it on the server"}
_WRONG_NAMES = (62, 64)
_OLD = frozenset(("UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "NO_PROTOCOLS_AVAILABLE"))
_NOT_TLS = frozenset(("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"))


def explain(error: BaseException, host: str, presented: str | None = None) -> str:
    """Return one sentence on why TLS with the upstream `host` failed, and how to fix it.

    `error` may wrap the ssl error; `presented` is the certificate's fingerprint if it is known.
    """
    # Libraries wrap these errors in ssl errors without details; only OpenSSL's have a reason.
    cause = next(
        (link for link in _chain(error) if isinstance(link, ssl.SSLError) and _code(link)), None
    )
    if isinstance(cause, PinMismatch):
        return (
            f"The certificate of {host} is not the pinned one; if it was renewed on purpose, "
            f"set upstream.fingerprint to {_readable(cause.presented)}."
        )
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _distrust(cause, host, presented)
    if cause and _code(cause) in _NOT_TLS:
        return (
            f"{host} does not speak TLS on this port; check the port of upstream.url, or "
            "write http:// if meant."
        )
    if cause and _code(cause) in _OLD:
        return f"{host} does not speak TLS 1.2 or later; enable it there."
    return f"TLS with {host} failed: {_reason(cause or error)}."


def _distrust(error: ssl.SSLCertVerificationError, host: str, presented: str | None) -> str:
    pin = (
        f"upstream.fingerprint to {presented} (check it on the server)"
        if presented
        else "upstream.fingerprint"
    )
    if error.verify_code in _UNTRUSTED:
        kind = (
            "self-signed"
            if error.verify_code == _UNTRUSTED[0]
            else "not signed by a known authority"
        )
        return (
            f"The certificate of {host} is {kind}; set upstream.ca_file to it or to its "
            f"CA, or set {pin}."
        )
    if error.verify_code in _WRONG_NAMES:
        return (
            f"The certificate of {host} is for another name; use that name in "
            f"upstream.url, or set {pin}."
        )
    if error.verify_code in _DATES:
        return f"The certificate of {host} {_DATES[error.verify_code]}, or set {pin}."
    return (
        f"The certificate of {host} is not trusted: {error.verify_message}; fix it "
        f"there, or set {pin}."
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
