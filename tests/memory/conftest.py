"""The memory of a proxy is that of a process which shares none with others."""

from __future__ import annotations

import pytest

from tests.support.process import ProxyProcess


@pytest.fixture(autouse=True)
def fresh_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProxyProcess, "fresh", True)
