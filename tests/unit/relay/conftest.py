"""Every asynchronous test of this folder runs on asyncio's loop and on uvloop."""

from tests.support.loops import authority, expired, localhost, pytest_asyncio_loop_factories, run

__all__ = ["authority", "expired", "localhost", "pytest_asyncio_loop_factories", "run"]
