"""Settings for all tests."""

from __future__ import annotations

from hypothesis import settings

# A busy machine is not a failure: pytest-timeout limits a test, not hypothesis's deadline.
settings.register_profile("default", deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=10_000)
settings.load_profile("default")
