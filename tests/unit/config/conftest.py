"""Files for the tests of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from tests.unit.config.values import Written


@pytest.fixture
def written(tmp_path: Path) -> Written:
    def write(toml: str) -> Path:
        path = tmp_path / "proxy.toml"
        path.write_text(toml)
        return path

    return write


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ca.pem, two certificates and their keys."""
    directory, authority = tmp_path_factory.mktemp("pems"), trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    for name in ("one", "two"):
        leaf = authority.issue_cert("localhost")
        leaf.private_key_pem.write_to_path(directory / f"{name}.key")
        leaf.cert_chain_pems[0].write_to_path(directory / f"{name}.pem")
    return directory
