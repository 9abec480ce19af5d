"""`config check --connect`: the connections that `serve` would make (CONTRACT §18)."""

from __future__ import annotations

import socket
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.support.commands import finished
from tests.support.http_peers import vb365_peer
from tests.support.redis_server import RedisServer, valkey


def check(
    directory: Path, upstream: str, *, endpoint: str = "", **settings: str
) -> CompletedProcess[str]:
    environment = {f"VB365_PROXY_{name}": value for name, value in settings.items()}
    environment |= {
        "VB365_PROXY_LISTEN__ADDRESS": "127.0.0.1:0",
        "VB365_PROXY_ADMIN__ADDRESS": "127.0.0.1:0",
        "VB365_PROXY_STORAGE__MIN_FREE": "1MiB",
    }
    environment |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    if endpoint:
        environment["AWS_ENDPOINT_URL"] = endpoint
    line = ("config", "check", "--connect", "--upstream", upstream)
    return finished(*line, "--data-dir", str(directory / "data"), env=environment)


@pytest.fixture
def closed() -> int:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_every_failure_is_reported(tmp_path: Path, closed: int) -> None:
    """All at once, each with the setting; no password is shown; nothing is created."""
    done = check(
        tmp_path,
        f"http://127.0.0.1:{closed}",
        STORAGE__JOBS=f"redis://user:canary@127.0.0.1:{closed}/0",
        STORAGE__ARTIFACTS=f"s3://exports?endpoint=http://127.0.0.1:{closed}&allow_http=true",
    )
    assert (done.returncode, done.stdout) == (1, "")
    upstream, jobs, artifacts = done.stderr.splitlines()
    assert upstream.startswith(f"upstream.url: no connection to 127.0.0.1:{closed}: ")
    assert jobs.startswith("storage.jobs: ")
    assert "cannot be reached" in jobs
    there = f"http://127.0.0.1:{closed}"
    fix = "Check the address, and that the store runs."
    assert artifacts == f"storage.artifacts: s3://exports at {there} cannot be reached. {fix}"
    assert "canary" not in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_store_that_may_lose_records_is_a_warning(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, valkey(), appendonly="no")
    server.start()
    try:
        with vb365_peer() as url:
            done = check(tmp_path, url, STORAGE__JOBS=server.url)
    finally:
        server.stop()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Configuration OK: ")
    assert "Warning: " in done.stderr
    assert "appendonly" in done.stderr


def test_an_endpoint_without_tls_is_named(tmp_path: Path, closed: int) -> None:
    """The environment may name the endpoint; the message names the option that allows it."""
    done = check(
        tmp_path,
        f"http://127.0.0.1:{closed}",
        endpoint=f"http://127.0.0.1:{closed}",
        STORAGE__ARTIFACTS="s3://exports",
    )
    assert done.returncode == 1
    assert "without TLS: use https, or add allow_http=true" in done.stderr
