"""The commands that work with any running proxy: `login`, `export`, `jobs` (CONTRACT §15)."""

from proxy.client.commands import client_app

__all__ = ["client_app"]
