"""The tokens of a profile in the system's keyring, with the optional package `keyring`: Windows'
Credential Manager, the keychain of macOS, or the Secret Service of a Linux desktop.
"""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import Any

from proxy.client.errors import CommandError

_SERVICE = "vb365-async-proxy"
#: Characters of an entry: Windows allows 1,280.
_LONGEST = 1000
#: Entries of a profile: a login has some thousand characters.
MAX_ENTRIES = 100
_INSTALL = 'pip install "vb365-async-proxy[keyring]"'


def store(name: str, text: str) -> int:
    """Keep the text and return the number of its entries. Raises `CommandError`."""
    keyring = _keyring()
    parts = [text[start : start + _LONGEST] for start in range(0, len(text), _LONGEST)]
    for number, part in enumerate(parts):
        _call(keyring.set_password, name, number, part)
        if _call(keyring.get_password, name, number) != part:
            raise CommandError(
                f"The keyring {keyring.get_keyring().name} does not keep what it is given: log in "
                "with --no-keyring",
                code=2,
            )
    return len(parts)


def fetch(name: str, count: int) -> str | None:
    """Return the text of this many entries; None if one is missing. Raises `CommandError`."""
    keyring = _keyring()
    parts = [_call(keyring.get_password, name, number) for number in range(count)]
    return "".join(parts) if None not in parts else None


def remove(name: str, first: int, count: int) -> None:
    """Remove the entries from `first` to `count`, as far as they exist and can be removed."""
    with suppress(CommandError):
        keyring = _keyring()
        for number in range(first, count):
            with suppress(CommandError):
                _call(keyring.delete_password, name, number)


def _keyring() -> Any:
    try:
        return importlib.import_module("keyring")
    except ImportError as error:
        raise CommandError(
            f"The system's keyring needs the package keyring ({error}): {_INSTALL}", code=2
        ) from error


def _call(function: Any, name: str, number: int, *value: str) -> Any:
    """Call a function of the package for an entry. Each backend has errors of its own."""
    try:
        return function(_SERVICE, f"{name}#{number}", *value)
    except Exception as error:
        reason = str(error).partition(". ")[0] or type(error).__name__
        raise CommandError(
            f"The system's keyring cannot be used: {reason}. Unlock it, or log in with "
            "--no-keyring",
            code=2,
        ) from error
