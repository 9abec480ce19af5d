"""The proxy in front of the simulator, with several users and tenants behind it."""

from __future__ import annotations

from tests.contract.conftest import clock, closing, make_play, make_stage

__all__ = ["clock", "closing", "make_play", "make_stage"]
