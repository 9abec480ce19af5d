"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# A busy machine is no failure: pytest-timeout bounds a test, not hypothesis's clock per example.
settings.register_profile("default", deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=10_000)
settings.load_profile("default")
