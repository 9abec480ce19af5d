"""The Lua scripts. Every change of a record and its indexes is one script, which the server runs
whole or not at all: whatever crashes, the two never disagree.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A script. `repeatable`: running it twice is the same as running it once."""

    name: str
    text: bytes
    sha: str
    repeatable: bool


_FOLDER = files("proxy.stores.redis_jobs") / "lua"
_COMMON = (_FOLDER / "common.lua").read_bytes()


def _load(name: str, *, repeatable: bool = True) -> Script:
    text = _COMMON + (_FOLDER / f"{name}.lua").read_bytes()
    # the name by which EVALSHA knows a script; nothing relies on it being hard to forge
    sha = hashlib.sha1(text, usedforsecurity=False).hexdigest()
    return Script(name, text, sha, repeatable)


ADD = _load("add", repeatable=False)
REPLACE = _load("replace", repeatable=False)
REMOVE = _load("remove", repeatable=False)
CLAIM = _load("claim", repeatable=False)
FIND = _load("find")
LIST = _load("list")
NEWEST = _load("newest")
RECORDS = _load("records")
COUNTS = _load("counts")
SPENT = _load("spent")
DUE = _load("due")
PENDING = _load("pending")
VERSIONS = _load("versions")
ORPHANS = _load("orphans")
SLOT_USE = _load("slot_use")
RENEW = _load("renew")
LEAVE = _load("leave")
REPLICAS = _load("replicas")
JOIN = _load("join")
OWNER_KEY = _load("owner_key")
ANNOUNCE = _load("announce")
WITHDRAW = _load("withdraw")
CLAIMS = _load("claims")

#: All of them.
SCRIPTS = tuple(value for value in list(globals().values()) if isinstance(value, Script))
