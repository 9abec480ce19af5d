"""The `export` and `jobs` commands, which work with any running proxy (CONTRACT §15)."""

from proxy.client.commands import client_app

__all__ = ["client_app"]
