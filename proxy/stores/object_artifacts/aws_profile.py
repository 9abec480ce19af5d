"""Credentials from a profile of the AWS tools, which obstore does not read by itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from configparser import ConfigParser, Error
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from obstore.store import S3Credential

#: The file is read again after this time: another program may renew its credentials.
_VALID = timedelta(minutes=5)


def from_profile(name: object) -> Callable[[], S3Credential] | None:
    """A function that returns the credentials of the profile `name`, else of `AWS_PROFILE`. None if
    neither is set: then the usual chain applies (environment, web identity, container, instance).

    Raises ValueError if the profile has no static credentials.
    """
    profile = name if isinstance(name, str) else os.environ.get("AWS_PROFILE")
    if not profile or (name is None and "AWS_ACCESS_KEY_ID" in os.environ):
        return None

    def read() -> S3Credential:
        return _read(profile)

    read()
    return read


def _read(profile: str) -> S3Credential:
    home = Path.home() / ".aws"
    files = (
        (Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", home / "credentials")), profile),
        (Path(os.environ.get("AWS_CONFIG_FILE", home / "config")), f"profile {profile}"),
    )
    for path, section in files:
        parser = ConfigParser(interpolation=None)
        try:
            parser.read(path, encoding="utf-8")
        except (Error, UnicodeDecodeError):
            raise ValueError(f"storage.artifacts: {path} is not a file of AWS profiles") from None
        if parser.has_option(section, "aws_access_key_id"):
            values = parser[section]
            return {
                "access_key_id": values["aws_access_key_id"],
                "secret_access_key": values.get("aws_secret_access_key", ""),
                "token": values.get("aws_session_token"),
                "expires_at": datetime.now(UTC) + _VALID,
            }
    raise ValueError(
        f"storage.artifacts: the profile {profile!r} has no aws_access_key_id in {files[0][0]}; "
        "profiles of other kinds are not supported: set the AWS_* variables instead"
    )
