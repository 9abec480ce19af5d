"""The proxy's certificate and its renewal, on asyncio and uvloop (CONTRACT §15 listen)."""

from __future__ import annotations

import asyncio
import contextlib
import os
from datetime import timedelta
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from proxy.net.tls import ServerCertificate, TlsError, upstream_context
from tests.support.tls_peers import NOW, Run, connected, der, echoing, pin, ping, shown, write


def test_a_renewed_certificate_is_shown_to_new_connections_only(
    run: Run, authority: trustme.CA, localhost: trustme.LeafCert, tmp_path: Path
) -> None:
    """No connection is dropped; with and without SNI, also when the key type changes back and
    forth.
    """
    kinds = (trustme.KeyType.RSA, trustme.KeyType.ECDSA, trustme.KeyType.RSA)
    renewals = [authority.issue_cert("localhost", "127.0.0.1", key_type=kind) for kind in kinds]
    certificate, key = write(localhost, tmp_path)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    client = upstream_context(ca_file=tmp_path / "ca.pem")

    async def scenario() -> None:
        ours = ServerCertificate(certificate, key)
        async with echoing(ours.context) as server, contextlib.AsyncExitStack() as stack:
            open_ones = [await stack.enter_async_context(connected(server.port, client))]
            for leaf in renewals:
                write(leaf, tmp_path)
                await asyncio.to_thread(ours.reload)
                for name in ("localhost", "127.0.0.1"):
                    assert await shown(server.port, client, name) == pin(leaf)
                open_ones.append(await stack.enter_async_context(connected(server.port, client)))
                for connection in open_ones:
                    await ping(connection)

    run(scenario())


def test_no_handshake_fails_while_certificates_change(
    run: Run, authority: trustme.CA, localhost: trustme.LeafCert, tmp_path: Path
) -> None:
    """The swap is atomic: every client gets one of the two certificates."""
    other = authority.issue_cert("localhost", key_type=trustme.KeyType.RSA)
    first, second = write(localhost, tmp_path, "first"), write(other, tmp_path, "second")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    client = upstream_context(ca_file=tmp_path / "ca.pem")
    certificate, key = write(localhost, tmp_path)

    def renew(ours: ServerCertificate) -> None:
        for pair in (second, first) * 10:
            certificate.write_bytes(pair[0].read_bytes())
            key.write_bytes(pair[1].read_bytes())
            ours.reload()

    async def scenario() -> None:
        ours = ServerCertificate(certificate, key)
        async with echoing(ours.context) as server:
            renewing = asyncio.create_task(asyncio.to_thread(renew, ours))
            met = set[str]()
            while not renewing.done():
                met.add(await shown(server.port, client))
            await renewing
            assert met <= {pin(localhost), pin(other)}
            assert await shown(server.port, client) == pin(localhost)

    run(scenario())


def test_invalid_new_files_keep_the_old_certificate(
    run: Run, authority: trustme.CA, localhost: trustme.LeafCert, tmp_path: Path
) -> None:
    """`changed` requests one reload per change, successful or not."""
    other = authority.issue_cert("localhost", key_type=trustme.KeyType.ECDSA)
    certificate, key = write(localhost, tmp_path)

    async def scenario() -> None:
        ours = ServerCertificate(certificate, key)
        async with echoing(ours.context) as server:
            client = upstream_context(fingerprint=pin(localhost))
            assert not ours.changed()
            certificate.write_bytes(other.cert_chain_pems[0].bytes())
            assert ours.changed()
            with pytest.raises(TlsError, match="is not the key of"):
                ours.reload()
            assert not ours.changed()
            await shown(server.port, client)
            key.unlink()
            assert ours.changed()
            with pytest.raises(TlsError, match="cannot be read: No such file"):
                ours.reload()
            assert not ours.changed()
            await shown(server.port, client)
            write(other, tmp_path)
            assert ours.changed()
            ours.reload()
            assert not ours.changed()
            await shown(server.port, upstream_context(fingerprint=pin(other)))

    run(scenario())


def test_a_swapped_link_is_a_change(
    authority: trustme.CA, localhost: trustme.LeafCert, tmp_path: Path
) -> None:
    """Mounted secrets are renewed like this: same name, same size, another file behind the link."""
    certificate, key = write(localhost, tmp_path)
    link = tmp_path / "link.pem"
    link.symlink_to(certificate)
    ours = ServerCertificate(link, key)
    copy = tmp_path / "copy.pem"
    copy.write_bytes(certificate.read_bytes())
    stamp = certificate.stat()
    os.utime(copy, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    fresh = tmp_path / "fresh"
    fresh.symlink_to(copy)
    fresh.replace(link)
    assert ours.changed()


def test_certificate_and_key_may_share_a_file(
    run: Run, localhost: trustme.LeafCert, tmp_path: Path
) -> None:
    both = tmp_path / "both.pem"
    localhost.private_key_and_cert_chain_pem.write_to_path(str(both))

    async def scenario() -> None:
        async with echoing(ServerCertificate(both).context) as server:
            await shown(server.port, upstream_context(fingerprint=pin(localhost)))

    run(scenario())


@pytest.fixture
def files(authority: trustme.CA, localhost: trustme.LeafCert, tmp_path: Path) -> Path:
    """A directory with valid and invalid files of every kind."""
    write(localhost, tmp_path)
    rsa = authority.issue_cert("localhost", key_type=trustme.KeyType.RSA)
    ecdsa = authority.issue_cert("localhost", key_type=trustme.KeyType.ECDSA)
    secret = serialization.load_pem_private_key(localhost.private_key_pem.bytes(), None)
    formats = {
        "pkcs8": serialization.PrivateFormat.PKCS8,
        "openssl": serialization.PrivateFormat.TraditionalOpenSSL,
    }
    for name, form in formats.items():
        sealed = secret.private_bytes(
            serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"passphrase")
        )
        (tmp_path / f"{name}.key").write_bytes(sealed)
    (tmp_path / "rsa.key").write_bytes(rsa.private_key_pem.bytes())
    (tmp_path / "other.key").write_bytes(ecdsa.private_key_pem.bytes())
    (tmp_path / "der.pem").write_bytes(der(localhost.cert_chain_pems[0].bytes()))
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "cut.pem").write_bytes(
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    )
    (tmp_path / "cut.key").write_bytes(
        b"-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n"
    )
    (tmp_path / "directory").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("certificate", "key", "says"),
    [
        ("missing.pem", "server.key", r"missing\.pem cannot be read: No such file"),
        ("server.pem", "missing.key", r"missing\.key cannot be read: No such file"),
        ("directory", "server.key", r"directory cannot be read: Is a directory"),
        ("empty", "server.key", r"empty holds no certificate in PEM form"),
        ("der.pem", "server.key", r"der\.pem holds no certificate in PEM form"),
        ("server.key", "server.key", r"server\.key holds no certificate in PEM form"),
        ("server.pem", "server.pem", r"server\.pem holds no key in PEM form"),
        (
            "server.pem",
            "other.key",
            r"other\.key is not the key of the first certificate in .*server\.pem",
        ),
        (
            "server.pem",
            "rsa.key",
            r"rsa\.key is not the key of the first certificate in .*server\.pem",
        ),
        ("server.pem", "pkcs8.key", r"pkcs8\.key is encrypted"),
        ("server.pem", "openssl.key", r"openssl\.key is encrypted"),
        ("cut.pem", "server.key", r"cut\.pem and .*server\.key cannot be used: "),
        ("server.pem", "cut.key", r"server\.pem and .*cut\.key cannot be used: "),
    ],
)
def test_every_unusable_file_is_reported(
    files: Path, certificate: str, key: str, says: str
) -> None:
    """§15 tls_certificate, tls_key: clear errors for each failure; nothing asks for a passphrase on
    the terminal.
    """
    with pytest.raises(TlsError, match=says):
        ServerCertificate(files / certificate, files / key)


def test_an_expired_certificate_is_a_warning(
    run: Run,
    authority: trustme.CA,
    localhost: trustme.LeafCert,
    expired: trustme.LeafCert,
    tmp_path: Path,
) -> None:
    """It is used nevertheless: some clients do not check, and the others report it themselves."""
    fine, gone = (
        ServerCertificate(*write(localhost, tmp_path)),
        ServerCertificate(*write(expired, tmp_path, "old")),
    )
    start, end = NOW - timedelta(9), NOW - timedelta(1)
    assert fine.warning(NOW) is None
    assert f"old.pem expired on {end:%Y-%m-%d %H:%M} UTC" in (gone.warning(NOW) or "")
    assert f"expires on {end:%Y-%m-%d %H:%M} UTC" in (gone.warning(NOW - timedelta(5)) or "")
    assert f"is not valid before {start:%Y-%m-%d %H:%M} UTC" in (
        gone.warning(NOW - timedelta(20)) or ""
    )
    (tmp_path / "server.pem").unlink()
    assert fine.warning(NOW) is None

    async def scenario() -> None:
        async with echoing(gone.context) as server:
            await shown(server.port, upstream_context(fingerprint=pin(expired)))

    run(scenario())
