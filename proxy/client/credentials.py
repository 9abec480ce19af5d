"""Bearer tokens: given, read from a file, or obtained with a user name and a password from `POST
/v{N}/token`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlencode

from proxy.client.faults import Fault
from proxy.client.wire import Answer, Http, refusal
from proxy.core.text import NotUtf8, decoded


class GivenToken:
    """A token as it is. It cannot be renewed."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def token(self, http: Http) -> str:
        """The token."""
        return self._token

    async def renew(self, http: Http) -> bool:
        """Never."""
        return False


class TokenFile:
    """A token that something else keeps fresh in a file: it is read again when the server says
    401.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token: str | None = None

    async def token(self, http: Http) -> str:
        """The file's content as last read. Raises `Fault` if it cannot be read or is empty."""
        if self._token is None:
            self._token = await asyncio.to_thread(self._read)
        return self._token

    async def renew(self, http: Http) -> bool:
        """True if the file holds another token by now."""
        before, self._token = self._token, await asyncio.to_thread(self._read)
        return self._token != before

    def _read(self) -> str:
        return read_secret(self._path)


class Login:
    """A user of VB365. Its tokens live 60 minutes, exports longer: `renew` refreshes, or logs in
    again.
    """

    def __init__(self, username: str, password: str, api: str = "v8") -> None:
        self._username = username
        self._password = password
        self._path = f"/{api}/token"
        self._access: str | None = None
        self._refresh: str | None = None

    async def token(self, http: Http) -> str:
        """The current token, after a login the first time. Raises `Refused` when the login is."""
        return self._access or await self._log_in(http)

    async def renew(self, http: Http) -> bool:
        """By the refresh token if it is still good, else by the password."""
        if self._refresh is not None:
            answer = await self._grant(
                http, grant_type="refresh_token", refresh_token=self._refresh
            )
            if answer.status == 200:
                self._accept(answer)
                return True
        await self._log_in(http)
        return True

    async def _log_in(self, http: Http) -> str:
        return self._accept(
            await self._grant(
                http, grant_type="password", username=self._username, password=self._password
            )
        )

    async def _grant(self, http: Http, **form: str) -> Answer:
        # Without this VB365 also wants an antiforgery cookie, which is for browsers.
        body = urlencode(form | {"disable_antiforgery_token": "true"}).encode()
        fields = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        return await http.call("POST", self._path, fields, body)

    def _accept(self, answer: Answer) -> str:
        if answer.status != 200:
            raise refusal(answer)
        document = answer.document()
        token = document.get("access_token")
        if not isinstance(token, str):
            raise Fault(
                f"{self._path} answered without an access_token: is --url the proxy's address?"
            )
        self._access, self._refresh = token, document.get("refresh_token")
        return token


def read_secret(path: Path) -> str:
    """The first line of a file that holds a secret. Raises `Fault` if there is none."""
    try:
        secret = decoded(path.read_bytes()).strip()
    except OSError as why:
        raise Fault(f"{path} cannot be read: {why.strerror}", code=2) from why
    except NotUtf8 as why:
        raise Fault(f"{path} {why}: {why.fix}", code=2) from why
    if not secret or "\n" in secret:
        raise Fault(f"{path} must hold one line, the secret", code=2)
    return secret
