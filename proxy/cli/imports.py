"""Keeps what `serve` does not need out of its memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast


@contextmanager
def without(library: str) -> Iterator[None]:
    """Within the block an optional library of others counts as not installed, unless it is loaded
    already.
    """
    modules = cast("dict[str, Any]", sys.modules)
    if library in modules:
        yield
        return
    modules[library] = None  # as documented for `sys.modules`: an import of it fails
    try:
        yield
    finally:
        del modules[library]
