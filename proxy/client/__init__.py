"""The `export` and `jobs` commands: kick off, follow, fetch and verify, against any running proxy
(CONTRACT §15).
"""

from proxy.client.commands import client_app

__all__ = ["client_app"]
