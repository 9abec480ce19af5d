"""What `serve` keeps out of its memory."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from proxy.cli.imports import without_certificates


def test_a_context_made_without_certificates_trusts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is made afterwards trusts the system's CAs."""
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with without_certificates():
        within = ssl.create_default_context()
    assert within.get_ca_certs() == []
    assert within.verify_mode is ssl.CERT_REQUIRED
    assert len(ssl.create_default_context().get_ca_certs()) == 1
