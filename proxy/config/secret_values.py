"""Secrets, Fernet keys and fingerprints (CONTRACT §15)."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import SecretStr

from proxy.config.paths import readable_file
from proxy.config.syntax import MASK, TEXT_SCHEMA, Syntax, invalid, read_text, text
from proxy.core.text import NotUtf8

#: Bytes of a Fernet key: 16 to sign and 16 to encrypt.
_KEY_BYTES = 32


def _secret(value: Any) -> SecretStr:
    return SecretStr(text(value))


def _token(value: Any) -> SecretStr:
    if not re.fullmatch(r"[!-~]+", text(value)):
        hint = (
            "write printable ASCII without spaces, for example the output of `openssl rand -hex 32`"
        )
        raise invalid("is not a bearer token", hint)
    return _secret(value)


def split_keys(keys: str) -> tuple[str, ...]:
    """Return Fernet keys that are separated by commas or white space, in their order."""
    return tuple(re.split(r"[\s,]+", keys.strip()))


def check_keys(keys: str) -> None:
    """Raise ValueError unless `keys` contains Fernet keys only."""
    for number, key in enumerate(split_keys(keys), start=1):
        try:
            valid = len(base64.b64decode(key, altchars=b"-_", validate=True)) == _KEY_BYTES
        except (binascii.Error, ValueError):
            valid = False
        if not valid:
            hint = (
                "write keys made by `openssl rand -base64 32 | tr +/ -_`, separated by commas, "
                "the newest first"
            )
            problem = f"is wrong: key {number} is not a Fernet key (32 bytes in URL-safe base64)"
            raise invalid(problem, hint)


def _keys(value: Any) -> SecretStr:
    check_keys(text(value))
    return _secret(value)


def _key_file(value: Any) -> Path:
    path = readable_file(value)
    try:
        check_keys(read_text(path))
    except NotUtf8 as error:
        raise invalid(str(error), error.fix) from None
    return path


def _mask(_value: SecretStr) -> str:
    return MASK


def _fingerprint(value: Any) -> str:
    digits = text(value).replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        hint = (
            "write what `openssl x509 -noout -fingerprint -sha256` prints after the = for "
            "VB365's certificate"
        )
        raise invalid("is not a SHA-256 fingerprint (64 hex digits)", hint)
    return digits


_SECRET_SCHEMA = {"type": "string", "format": "password", "writeOnly": True}

Token = Annotated[SecretStr, Syntax(_token, _mask, _SECRET_SCHEMA)]
Keys = Annotated[SecretStr, Syntax(_keys, _mask, _SECRET_SCHEMA)]
KeyFile = Annotated[Path, Syntax(_key_file, str, TEXT_SCHEMA)]
Fingerprint = Annotated[str, Syntax(_fingerprint, str, TEXT_SCHEMA)]
