"""Which servers the proxy accepts as VB365, over real sockets, on asyncio and uvloop (CONTRACT §15
upstream).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import aiohttp
import pytest
import trustme

from proxy.net.tls import (
    PinMismatch,
    ServerCertificate,
    TlsError,
    explain,
    fingerprint,
    upstream_context,
)
from tests.support.tls_peers import (
    NOW,
    Run,
    connected,
    der,
    echoing,
    failure,
    pin,
    self_signed,
    server_side,
    shown,
    write,
)


def test_the_system_authorities_are_trusted_by_default(
    run: Run,
    authority: trustme.CA,
    localhost: trustme.LeafCert,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """§15: without `ca_file`, `fingerprint` and `verify = false` the system's CAs decide, and the
    name.
    """
    bundle = tmp_path / "system.pem"
    bundle.write_bytes(authority.cert_pem.bytes())

    async def scenario() -> None:
        async with echoing(server_side(localhost)) as server:
            error = await failure(server.port, upstream_context())
            assert "not signed by a known authority" in explain(error, "localhost")
            monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
            assert await shown(server.port, upstream_context()) == pin(localhost)

    run(scenario())


@pytest.mark.parametrize("form", ["PEM", "DER", "leaf", "bundle"])
def test_a_ca_file_is_trusted(
    run: Run, authority: trustme.CA, localhost: trustme.LeafCert, tmp_path: Path, form: str
) -> None:
    """§15 `upstream.ca_file`: a CA in PEM or DER, several of them, or the server's own
    certificate.
    """
    pem = authority.cert_pem.bytes()
    file = tmp_path / "ca"
    file.write_bytes(
        {
            "PEM": "Kommentar: für VB365\n".encode() + pem,
            "DER": der(pem),
            "leaf": localhost.cert_chain_pems[0].bytes(),
            "bundle": trustme.CA(key_type=trustme.KeyType.ECDSA).cert_pem.bytes() + pem,
        }[form]
    )

    async def scenario() -> None:
        async with echoing(server_side(localhost)) as server:
            context = upstream_context(ca_file=file)
            assert await shown(server.port, context) == pin(localhost)
            assert await shown(server.port, context, "127.0.0.1") == pin(localhost)
            error = await failure(server.port, context, "other.example.com")
            assert "is for another name" in explain(error, "other.example.com")
            assert bytes(server.received) == b"pingping"

    run(scenario())


def test_a_self_signed_certificate_is_trusted_by_file(run: Run, tmp_path: Path) -> None:
    """§15: VB365's default; the error without the file shows the possible fixes and the
    fingerprint.
    """
    certificate, key = self_signed()
    file = tmp_path / "vb365.pem"
    file.write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, tmp_path / "key.pem")

    async def scenario() -> None:
        async with echoing(context) as server:
            error = await failure(server.port, upstream_context())
            presented = fingerprint(der(certificate))
            assert explain(error, "vb365", presented) == (
                "The certificate of vb365 is self-signed; set upstream.ca_file to it or to "
                "its CA, or set "
                f"upstream.fingerprint to {presented} (check it on the server)."
            )
            for trusting in (
                upstream_context(ca_file=file),
                upstream_context(fingerprint=presented),
            ):
                assert await shown(server.port, trusting) == presented

    run(scenario())


@pytest.mark.parametrize(
    "write", [str, str.lower, lambda pin: pin.replace(":", "")], ids=["openssl", "lower", "plain"]
)
def test_a_pinned_certificate_is_trusted_without_any_other_check(
    run: Run, expired: trustme.LeafCert, write: Callable[[str], str]
) -> None:
    """§15 `upstream.fingerprint`: chain, name and dates are not verified."""

    async def scenario() -> None:
        async with echoing(server_side(expired)) as server:
            context = upstream_context(fingerprint=write(pin(expired)), verify=False)
            assert await shown(server.port, context, "other.example.com") == pin(expired)

    run(scenario())


def test_a_certificate_other_than_the_pinned_one_is_rejected(
    run: Run, authority: trustme.CA, localhost: trustme.LeafCert
) -> None:
    """§15: the handshake itself fails, before a byte of the caller's is sent."""
    other = authority.issue_cert("localhost", key_type=trustme.KeyType.ECDSA)

    async def scenario() -> None:
        async with echoing(server_side(other)) as server:
            error = await failure(server.port, upstream_context(fingerprint=pin(localhost)))
            assert isinstance(error, PinMismatch)
            assert error.presented == sha256(der(other.cert_chain_pems[0].bytes())).digest()
            assert explain(error, "vb365") == (
                "The certificate of vb365 is not the pinned one; if it was renewed on purpose, "
                f"set upstream.fingerprint to {pin(other)}."
            )
            assert not server.received

    run(scenario())


def test_the_pin_is_checked_in_aiohttp(run: Run, localhost: trustme.LeafCert) -> None:
    """§15: the context alone has the pin, so every client library checks it; wrapped errors are
    explained.
    """

    async def scenario() -> None:
        async with echoing(server_side(localhost)) as server, aiohttp.ClientSession() as session:
            context = upstream_context(fingerprint="00" * 32)
            with pytest.raises(aiohttp.ClientConnectorCertificateError) as caught:
                await session.get(f"https://localhost:{server.port}/", ssl=context)
            assert "is not the pinned one" in explain(caught.value, "vb365")
            assert not server.received

    run(scenario())


def test_the_pin_is_checked_on_blocking_sockets(localhost: trustme.LeafCert) -> None:
    """A context that trusts any chain must not be usable without its pin."""

    async def handshake(port: int, pin: str) -> bytes:
        def blocking() -> bytes:
            with (
                socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
                upstream_context(fingerprint=pin).wrap_socket(plain) as secured,
            ):
                secured.sendall(b"ping")
                return secured.recv(4)

        return await asyncio.to_thread(blocking)

    async def scenario() -> None:
        async with echoing(server_side(localhost)) as server:
            assert await handshake(server.port, pin(localhost)) == b"ping"
            with pytest.raises(PinMismatch):
                await handshake(server.port, "00" * 32)

    asyncio.run(scenario())


def test_verify_false_trusts_every_certificate(run: Run, expired: trustme.LeafCert) -> None:
    """§15 `upstream.verify = false`."""

    async def scenario() -> None:
        async with echoing(server_side(expired)) as server:
            assert await shown(
                server.port, upstream_context(verify=False), "other.example.com"
            ) == pin(expired)

    run(scenario())


@pytest.mark.parametrize(("days", "says"), [(-1, "has expired"), (30, "is not valid yet")])
def test_wrong_dates_are_explained(
    run: Run, authority: trustme.CA, tmp_path: Path, days: int, says: str
) -> None:
    end = NOW + timedelta(days)
    leaf = authority.issue_cert("localhost", not_before=end - timedelta(9), not_after=end)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    async def scenario() -> None:
        async with echoing(server_side(leaf)) as server:
            error = await failure(server.port, upstream_context(ca_file=tmp_path / "ca.pem"))
            assert says in explain(error, "localhost")

    run(scenario())


def test_a_server_without_tls_is_explained(run: Run) -> None:
    """It has no fingerprint to show."""

    async def response(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def scenario() -> None:
        server = await asyncio.start_server(response, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            error = await failure(port, upstream_context(verify=False))
            assert explain(error, "vb365").startswith("vb365 does not speak TLS on this port")

    run(scenario())


def _old(context: ssl.SSLContext) -> ssl.SSLContext:
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def test_a_client_with_tls_below_1_2_is_rejected(
    run: Run, localhost: trustme.LeafCert, tmp_path: Path
) -> None:
    """TLS 1.2+."""
    ours = ServerCertificate(*write(localhost, tmp_path)).context
    client = upstream_context(verify=False)

    async def scenario() -> None:
        async with echoing(ours) as server:
            await shown(server.port, client)
            await failure(server.port, _old(client))
            assert bytes(server.received) == b"ping"

    run(scenario())


def test_a_server_with_tls_below_1_2_is_explained(run: Run, localhost: trustme.LeafCert) -> None:
    """TLS 1.2+; a server on blocking sockets, because asyncio's own sends no alerts."""
    context = _old(server_side(localhost))

    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(10)

            def refuse() -> None:
                accepted, _ = listener.accept()
                with accepted, pytest.raises(ssl.SSLError):
                    context.wrap_socket(accepted, server_side=True)

            refusing = asyncio.create_task(asyncio.to_thread(refuse))
            error = await failure(listener.getsockname()[1], upstream_context(verify=False))
            await refusing
            assert (
                explain(error, "vb365") == "vb365 does not speak TLS 1.2 or later; enable it there."
            )

    run(scenario())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_alpn_selects_http_1_1(
    run: Run, localhost: trustme.LeafCert, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """On TLS 1.2 and 1.3, also for a client that offers other protocols as well."""
    ours = ServerCertificate(*write(localhost, tmp_path)).context

    async def scenario() -> None:
        async with echoing(ours) as server:
            for offered in (["http/1.1"], ["h2", "http/1.1"]):
                context = upstream_context(verify=False)
                context.minimum_version = context.maximum_version = version
                context.set_alpn_protocols(offered)
                async with connected(server.port, context) as (_, writer):
                    assert (
                        writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
                    )
        async with (
            echoing(ours) as server,
            connected(server.port, upstream_context(verify=False)) as (_, writer),
        ):
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"

    run(scenario())


@pytest.mark.parametrize(
    "content", [None, b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n", b"\x30\x82"]
)
def test_an_unusable_ca_file_is_reported(tmp_path: Path, content: bytes | None) -> None:
    """§15: clear errors for each failure."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(
        TlsError, match=r"ca\.pem (?:cannot be read: No such file|holds no certificate)"
    ):
        upstream_context(ca_file=file)


@pytest.mark.parametrize("pin", ["", "00", "00" * 31, "00" * 33, "zz" * 32])
def test_a_malformed_fingerprint_is_rejected(pin: str) -> None:
    with pytest.raises(ValueError):
        upstream_context(fingerprint=pin)


def _code(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.reason, error.verify_code, error.verify_message = (
        "CERTIFICATE_VERIFY_FAILED",
        code,
        "some reason",
    )
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            _code(19),
            "The certificate of h is not signed by a known authority; set upstream.ca_file",
        ),
        (_code(64), "The certificate of h is for another name;"),
        (_code(99), "The certificate of h is not trusted: some reason;"),
        (ssl.SSLError(1, "odd"), "TLS with h failed: "),
        (ConnectionResetError("peer"), "TLS with h failed: peer."),
        (ConnectionResetError(), "TLS with h failed: ConnectionResetError."),
    ],
)
def test_every_other_error_is_one_sentence(error: Exception, says: str) -> None:
    assert explain(error, "h").startswith(says)


def test_wrapped_errors_are_found_and_loops_end() -> None:
    outer, inner = RuntimeError("outer"), RuntimeError("inner")
    outer.__cause__, inner.__context__ = inner, outer
    assert explain(outer, "h") == "TLS with h failed: outer."
    inner.__context__ = _code(10)
    assert "has expired" in explain(outer, "h")
