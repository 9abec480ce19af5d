"""Settings for all tests, and the servers that tests of several folders use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support import redis_server
from tests.support.redis_server import RedisServer

# A busy machine is not a failure: pytest-timeout limits a test, not hypothesis's deadline.
settings.register_profile("default", deadline=None)
settings.register_profile("check", deadline=None, max_examples=25)  # `make check`: soon done
settings.register_profile("fuzz", deadline=None, max_examples=10_000)
settings.load_profile("default")


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for all tests that do not stop it; each store has a prefix of its own."""
    directory = tmp_path_factory.mktemp("valkey")
    with redis_server.running(directory, redis_server.valkey()) as server:
        yield server


@pytest.fixture(scope="session")
def _seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from tests.support.object_stores import seaweedfs

    with seaweedfs(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture
def s3_endpoint(_seaweedfs: str) -> Iterator[str]:
    """The URL of an S3 server for all tests, with its credentials in the environment. It has the
    bucket "tests", in which each store has a prefix of its own.
    """
    from tests.support.object_stores import CREDENTIALS

    with pytest.MonkeyPatch.context() as patch:  # a test may undo its own `monkeypatch`
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield _seaweedfs
