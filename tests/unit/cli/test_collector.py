"""The garbage collector while the proxy starts."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from proxy.cli import collector


@pytest.fixture(autouse=True)
def unfrozen() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def test_no_garbage_is_collected_during_the_start_and_its_objects_are_not_looked_at_again() -> None:
    with collector.paused():
        assert not gc.isenabled()
        record = [object()]
    assert gc.isenabled()
    assert not any(each is record for each in gc.get_objects())
    assert gc.get_freeze_count() > 0


def test_garbage_is_collected_after_a_start_that_failed() -> None:
    with pytest.raises(OSError), collector.paused():
        raise OSError
    assert gc.isenabled()
