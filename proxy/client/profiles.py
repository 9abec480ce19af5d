"""Profiles: the logins that are kept on this computer, one file for each server and customer.

A profile holds tokens, so its file has mode 0600 in a directory with mode 0700. On Windows it is in
the user's own AppData, which other users cannot read. On request the tokens are in the system's
keyring instead; the file then has the number of entries there.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import typer

from proxy.client import keyring
from proxy.client.address import parse_address
from proxy.client.errors import CommandError
from proxy.client.locking import wait_for_lock

#: The name of the profile without --profile.
DEFAULT = "default"
_APP = "vb365-async-proxy"
_SUFFIX = ".json"
#: A name is the name of a file on every system: no path, no device of Windows.
_NAME = re.compile(r"(?i)(?!(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$))[a-z0-9_][a-z0-9._-]{0,63}")
_MAX_BYTES = 1 << 20
_SECRETS = ("access_token", "refresh_token", "expires")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A login: the server, how to trust it, and the tokens. `expires` is in Unix seconds.

    `keyring`: how many entries of the system's keyring hold the tokens; 0 if the file does.
    """

    name: str
    url: str
    api: str = "v8"
    segment: str = "_async"
    username: str | None = None
    organization: str | None = None
    ca_file: str | None = None
    fingerprint: str | None = None
    insecure: bool = False
    keyring: int = 0
    access_token: str = field(default="", repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    expires: float | None = None

    def is_for(self, url: str) -> bool:
        """Whether `url` is the address of this profile's server."""
        return _address(self.url) == _address(url)


def directory() -> Path:
    """The directory of the profiles: VB365_CONFIG_DIR, else below the platform's own."""
    return Path(os.environ.get("VB365_CONFIG_DIR") or typer.get_app_dir(_APP)) / "profiles"


def names() -> list[str]:
    """The names of all profiles."""
    with suppress(OSError):
        found = (path.name.removesuffix(_SUFFIX) for path in directory().glob(f"*{_SUFFIX}"))
        return sorted(name for name in found if _NAME.fullmatch(name))
    return []


def load(name: str) -> Profile:
    """Return the profile. Raises `CommandError` if there is none or it must not be used."""
    return _with_secrets(described(name))


def described(name: str) -> Profile:
    """Return what the file of the profile has, as `load` does. It has no tokens if they are in the
    system's keyring.
    """
    path = _path(name)
    try:
        with path.open("rb") as file:
            _check_private(path, os.fstat(file.fileno()))
            document = json.loads(file.read(_MAX_BYTES))
    except FileNotFoundError as error:
        known = f" The profiles are: {', '.join(names())}." if names() else ""
        raise CommandError(
            f"--profile: there is no profile {name!r}.{known} Create it: {login_command(name)}",
            code=2,
        ) from error
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}", code=2) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, name) from error
    return _decoded(document, path, name)


def find(url: str) -> Profile | None:
    """The profile of the server at `url`: the default one, else the first by name. A damaged
    profile is skipped.
    """
    for name in sorted(names(), key=lambda name: (name != DEFAULT, name)):
        try:
            profile = described(name)
        except CommandError:
            continue
        if profile.is_for(url):
            return _with_secrets(profile)
    return None


def save(profile: Profile) -> Path:
    """Write the profile to its file, readable by this user only, and return its path. Tokens that
    belong there are written to the system's keyring.
    """
    path = _path(profile.name)
    before = _entries(profile.name)
    document = {key: value for key, value in asdict(profile).items() if key != "name"}
    if profile.keyring:
        secrets = {key: document.pop(key) for key in _SECRETS}
        document["keyring"] = keyring.store(str(path), json.dumps(secrets))
    _write(path, json.dumps({"format": 1, **document}, indent=2))
    keyring.remove(str(path), document["keyring"], before)
    return path


def _write(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise CommandError(f"{path} cannot be written: {error.strerror}") from error


def delete(name: str) -> None:
    """Delete the profile, if there is one. Raises `CommandError`."""
    path = _path(name)
    entries = _entries(name)
    try:
        path.unlink(missing_ok=True)
        _lock_path(path).unlink(missing_ok=True)
    except OSError as error:
        raise CommandError(f"{path} cannot be deleted: {error.strerror}") from error
    keyring.remove(str(path), 0, entries)


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock of the profile, so that two commands do not use one refresh token. Blocks."""
    path = _lock_path(_path(name))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise CommandError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        wait_for_lock(descriptor)
        yield
    finally:
        os.close(descriptor)  # also releases the lock


def login_command(name: str, url: str = "URL") -> str:
    """The command line that creates or renews the profile."""
    option = "" if name == DEFAULT else f" --profile {name}"
    return f"{_APP} login {url}{option}"


def check_name(name: str) -> None:
    """Raise `CommandError` for what cannot be the name of a profile."""
    if not _NAME.fullmatch(name):
        raise CommandError(
            f"--profile: {name!r} is not a name of letters, digits, '.', '_' and '-'", code=2
        )


def _with_secrets(profile: Profile) -> Profile:
    """Return the profile with its tokens, also if they are in the system's keyring."""
    if not profile.keyring:
        return profile
    path = _path(profile.name)
    text = keyring.fetch(str(path), profile.keyring)
    try:
        secrets = json.loads(text or "")
        known = asdict(profile) | {key: secrets[key] for key in _SECRETS}
    except (ValueError, TypeError, LookupError) as error:
        raise CommandError(
            f"The system's keyring does not have the tokens of {path}: "
            f"{login_command(profile.name, profile.url)} --keyring",
            code=2,
        ) from error
    return _decoded({"format": 1} | known, path, profile.name)


def _entries(name: str) -> int:
    """How many entries of the keyring the file of the profile names."""
    with suppress(CommandError):
        return described(name).keyring
    return 0


def _path(name: str) -> Path:
    check_name(name)
    return directory() / f"{name}{_SUFFIX}"


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def _check_private(path: Path, found: os.stat_result) -> None:
    """Raise `CommandError` if other users can read or replace the file, as ssh does."""
    if sys.platform == "win32":
        return
    if found.st_uid != os.getuid():
        raise CommandError(f"{path} belongs to another user: log in again", code=2)
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise CommandError(
            f"{path} has mode {mode:04o}, so other users can use its tokens: chmod 600 {path}",
            code=2,
        )


def _decoded(document: Any, path: Path, name: str) -> Profile:
    types = {
        "url": str,
        "api": str,
        "segment": str,
        "insecure": bool,
        "keyring": int,
        "access_token": str,
    }
    if not isinstance(document, dict):
        raise _damaged(path, name)
    if document.get("format") != 1:
        raise CommandError(
            f"{path} was written by another version of this program: {login_command(name)}", code=2
        )
    members = {each.name for each in fields(Profile)} - {"name"}
    values = {key: value for key, value in document.items() if key in members}
    optional = (str, int, float, type(None))
    if "url" not in values or not all(
        isinstance(value, types.get(key, optional)) for key, value in values.items()
    ):
        raise _damaged(path, name)
    if not 0 <= values.get("keyring", 0) <= keyring.MAX_ENTRIES:
        raise _damaged(path, name)
    try:
        parse_address(values["url"])
    except CommandError as error:
        raise _damaged(path, name) from error
    return Profile(name=name, **values)


def _damaged(path: Path, name: str) -> CommandError:
    return CommandError(f"{path} is damaged: {login_command(name)}", code=2)


def _address(url: str) -> tuple[str, str | None, int | None, str]:
    parsed = parse_address(url)
    return parsed.scheme, parsed.host, parsed.port, parsed.path.rstrip("/")
