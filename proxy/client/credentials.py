"""Sources of bearer tokens: the environment, a file, a login (`POST /v{N}/token`), a profile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlencode

from proxy.client import profiles
from proxy.client.errors import CommandError
from proxy.client.profiles import Profile
from proxy.client.wire import Http, WholeResponse, error_from
from proxy.core.text import NotUtf8, decoded

#: Seconds before the end of a token when it is renewed.
_EARLY = 60.0


class FixedToken:
    """A token that cannot be renewed."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def token(self, http: Http) -> str:
        """Return the token."""
        return self._token

    async def renew(self, http: Http, rejected: str) -> bool:
        """Return False."""
        return False


class TokenFile:
    """A token in a file that another program updates. It is read again after a 401."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token: str | None = None

    async def token(self, http: Http) -> str:
        """Return the token that was read last. Raises `CommandError` if there is none."""
        if self._token is None:
            self._token = await asyncio.to_thread(read_secret, self._path)
        return self._token

    async def renew(self, http: Http, rejected: str) -> bool:
        """Read the file and return whether the token has changed."""
        self._token = await asyncio.to_thread(read_secret, self._path)
        return self._token != rejected


@dataclass(frozen=True, slots=True)
class Tokens:
    """The response to a login. `expires` is in Unix seconds, None if it is not known."""

    access: str = field(repr=False)
    refresh: str | None = field(repr=False)
    expires: float | None


class Login:
    """A user of VB365, whose tokens are valid for 60 minutes by default."""

    def __init__(self, username: str, password: str, api: str = "v8") -> None:
        self._username = username
        self._password = password
        self._api = api
        self._tokens: Tokens | None = None
        self._renewing = asyncio.Lock()

    async def token(self, http: Http) -> str:
        """Return the token, after a login the first time. Raises `ErrorResponse` if that fails."""
        async with self._renewing:
            if self._tokens is None:
                self._tokens = await self._log_in(http)
            return self._tokens.access

    async def renew(self, http: Http, rejected: str) -> bool:
        """Get a new token with the refresh token if it is valid, else with the password."""
        async with self._renewing:
            if self._tokens is None or self._tokens.access == rejected:
                refresh = None if self._tokens is None else self._tokens.refresh
                renewed = await refreshed(http, self._api, refresh)
                self._tokens = renewed or await self._log_in(http)
        return True

    async def _log_in(self, http: Http) -> Tokens:
        return await log_in(http, self._api, self._username, self._password)


class Saved:
    """The login of a profile. New tokens are written to its file, for the next command.

    `password` is that of the environment; it is used after the refresh token has expired.
    """

    def __init__(self, profile: Profile, password: str | None = None) -> None:
        self._profile = profile
        self._password = password
        self._renewing = asyncio.Lock()

    async def token(self, http: Http) -> str:
        """Return the token. One that is about to expire is renewed first."""
        expires, now = self._profile.expires, time.time()
        if expires is not None and expires - _EARLY < now and self._profile.refresh_token:
            await self.renew(http, self._profile.access_token)
        return self._profile.access_token

    async def renew(self, http: Http, rejected: str) -> bool:
        """Get a new token with the refresh token, or use that which another command has got.

        Raises `CommandError` if the login has expired.
        """
        async with self._renewing, _locked(self._profile.name):
            if self._profile.access_token != rejected:
                return True
            known = await asyncio.to_thread(profiles.load, self._profile.name)
            if known.access_token != rejected and known.is_for(self._profile.url):
                self._profile = known
                return True
            tokens = await refreshed(http, self._profile.api, self._profile.refresh_token)
            self._profile = with_tokens(self._profile, tokens or await self._log_in(http))
            await asyncio.to_thread(profiles.save, self._profile)
        return True

    async def _log_in(self, http: Http) -> Tokens:
        name, username = self._profile.name, self._profile.username
        if username is None or self._password is None:
            raise CommandError(
                f"Your login at {self._profile.url} has expired. Log in again: "
                f"{profiles.login_command(name, self._profile.url)}"
            )
        return await log_in(http, self._profile.api, username, self._password)


@asynccontextmanager
async def _locked(name: str) -> AsyncIterator[None]:
    """Hold the lock of the profile, and wait for it in a thread."""
    lock = profiles.locked(name)
    await asyncio.to_thread(lock.__enter__)
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def with_tokens(profile: Profile, tokens: Tokens) -> Profile:
    """Return the profile with these tokens."""
    return replace(
        profile,
        access_token=tokens.access,
        refresh_token=tokens.refresh,
        expires=tokens.expires,
    )


async def log_in(http: Http, api: str, username: str, password: str) -> Tokens:
    """Return the tokens of the user. Raises `ErrorResponse` if VB365 rejects the password."""
    response = await _grant(http, api, grant_type="password", username=username, password=password)
    if response.status != 200:
        raise error_from(response)
    return _tokens(response, api)


async def refreshed(http: Http, api: str, refresh: str | None) -> Tokens | None:
    """Return new tokens for a refresh token, or None if VB365 rejects it.

    Raises `ErrorResponse` if VB365 has not decided, for example because it restarts.
    """
    if refresh is None:
        return None
    response = await _grant(http, api, grant_type="refresh_token", refresh_token=refresh)
    if response.status == 200:
        return _tokens(response, api)
    if response.status in (400, 401, 403):
        return None
    raise error_from(response)


async def _grant(http: Http, api: str, **form: str) -> WholeResponse:
    # Otherwise VB365 requires an antiforgery cookie, which is meant for browsers.
    body = urlencode(form | {"disable_antiforgery_token": "true"}).encode()
    fields = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    return await http.call("POST", f"/{api}/token", fields, body)


def _tokens(response: WholeResponse, api: str) -> Tokens:
    document = response.document()
    access, refresh = document.get("access_token"), document.get("refresh_token")
    if not isinstance(access, str) or not usable(access):
        raise CommandError(
            f"The response of /{api}/token has no access_token: is --url the address of the proxy?"
        )
    lifetime = document.get("expires_in")
    known = isinstance(lifetime, int | float) and not isinstance(lifetime, bool) and lifetime > 0
    expires = time.time() + lifetime if known and isinstance(lifetime, int | float) else None
    return Tokens(access, refresh if isinstance(refresh, str) else None, expires)


def usable(token: str) -> bool:
    """Whether a token can be sent in a field: visible ASCII without spaces (RFC 6750 §2.1)."""
    return bool(token) and token.isascii() and token.isprintable() and " " not in token


def read_secret(path: Path) -> str:
    """Return the secret in a file of one line. Raises `CommandError`."""
    try:
        secret = decoded(path.read_bytes()).strip()
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}", code=2) from error
    except NotUtf8 as error:
        raise CommandError(f"{path} {error}: {error.fix}", code=2) from error
    if not secret or "\n" in secret:
        raise CommandError(f"{path} must contain one line with the secret", code=2)
    return secret
