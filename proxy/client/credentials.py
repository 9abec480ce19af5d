"""Sources of bearer tokens: an option, a file, or a login (`POST /v{N}/token`)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlencode

from proxy.client.errors import CommandError
from proxy.client.wire import Http, WholeResponse, error_from
from proxy.core.text import NotUtf8, decoded


class FixedToken:
    """A token that cannot be renewed."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def token(self, http: Http) -> str:
        """Return the token."""
        return self._token

    async def renew(self, http: Http) -> bool:
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
            self._token = await asyncio.to_thread(self._read)
        return self._token

    async def renew(self, http: Http) -> bool:
        """Read the file and return whether the token has changed."""
        before, self._token = self._token, await asyncio.to_thread(self._read)
        return self._token != before

    def _read(self) -> str:
        return read_secret(self._path)


class Login:
    """A user of VB365, whose tokens are valid for 60 minutes by default."""

    def __init__(self, username: str, password: str, api: str = "v8") -> None:
        self._username = username
        self._password = password
        self._path = f"/{api}/token"
        self._access: str | None = None
        self._refresh: str | None = None

    async def token(self, http: Http) -> str:
        """Return the token, after a login the first time. Raises `ErrorResponse` if that fails."""
        return self._access or await self._log_in(http)

    async def renew(self, http: Http) -> bool:
        """Get a new token with the refresh token if it is valid, else with the password."""
        if self._refresh is not None:
            response = await self._grant(
                http, grant_type="refresh_token", refresh_token=self._refresh
            )
            if response.status == 200:
                self._accept(response)
                return True
        await self._log_in(http)
        return True

    async def _log_in(self, http: Http) -> str:
        return self._accept(
            await self._grant(
                http, grant_type="password", username=self._username, password=self._password
            )
        )

    async def _grant(self, http: Http, **form: str) -> WholeResponse:
        # Otherwise VB365 requires an antiforgery cookie, which is meant for browsers.
        body = urlencode(form | {"disable_antiforgery_token": "true"}).encode()
        fields = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        return await http.call("POST", self._path, fields, body)

    def _accept(self, response: WholeResponse) -> str:
        if response.status != 200:
            raise error_from(response)
        document = response.document()
        token = document.get("access_token")
        if not isinstance(token, str):
            raise CommandError(
                f"The response of {self._path} has no access_token: "
                "is --url the address of the proxy?"
            )
        self._access, self._refresh = token, document.get("refresh_token")
        return token


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
