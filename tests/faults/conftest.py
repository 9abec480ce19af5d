"""Back-off takes no time in the fault tests."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.jobs.retries._BACKOFF", (0.001, 0.002))
