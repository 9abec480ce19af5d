"""The event loop of the commands that serve."""

from __future__ import annotations

import asyncio
import sys

import pytest

from proxy.cli.loop import run_loop


async def _is_uvloop() -> int:
    """Whether the loop is uvloop's."""
    return int(type(asyncio.get_running_loop()).__module__.startswith("uvloop"))


def test_it_is_uvloop_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows it is not."""
    monkeypatch.delenv("VB365_LOOP", raising=False)
    assert run_loop(_is_uvloop()) == 1
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert run_loop(_is_uvloop()) == 0


def test_asyncio_can_be_selected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VB365_LOOP", "asyncio")
    assert run_loop(_is_uvloop()) == 0
