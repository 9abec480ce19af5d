"""Keeps what `serve` does not need out of its memory."""

from __future__ import annotations

import ssl
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


@contextmanager
def without_certificates() -> Iterator[None]:
    """Within the block, SSL contexts load no CA certificates of the system: they trust nobody.

    aiohttp makes contexts when it is imported. The proxy does not use them.
    """
    names = ("load_default_certs", "set_default_verify_paths")
    own = {name: vars(ssl.SSLContext)[name] for name in names if name in vars(ssl.SSLContext)}
    for name in names:
        setattr(ssl.SSLContext, name, _load_none)
    try:
        yield
    finally:
        for name in names:
            if name in own:
                setattr(ssl.SSLContext, name, own[name])
            else:
                delattr(ssl.SSLContext, name)


def _load_none(context: ssl.SSLContext, *purpose: ssl.Purpose) -> None:
    """Load nothing."""
