"""Authentication: the grants of the token endpoint and the issued tokens (docs/upstream.md §3)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from proxy.simulator.settings import SimulatorSettings, User

#: The name of the antiforgery cookie.
COOKIE = ".AspNetCore.Antiforgery"
_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class GrantDenied(Exception):
    """A grant is denied. The response has `status` and this message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class Token:
    """An access token.

    `expires` is in Unix seconds, `refresh` is the refresh token, and `antiforgery` is the value of
    the antiforgery cookie that requests must send; None if they need none.
    """

    user: User
    expires: float
    refresh: str
    antiforgery: str | None


@dataclass(frozen=True, slots=True)
class Grant:
    """A successful grant: the JSON document of the response and its Set-Cookie values."""

    body: dict[str, Any]
    cookies: tuple[str, ...]


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _claims(assertion: str) -> dict[str, Any]:
    """Return the claims of a JWT without verifying its signature; empty if it is not a JWT."""
    try:
        payload = assertion.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}


class Tokens:
    """The tokens of one simulator. `now` returns the time in Unix seconds."""

    def __init__(self, settings: SimulatorSettings, now: Callable[[], float]) -> None:
        self._settings = settings
        self._now = now
        self._key = secrets.token_bytes(32)
        self._access: dict[str, Token] = {}
        self._refresh: dict[str, User] = {}

    def grant(self, form: Mapping[str, str]) -> Grant:
        """Issue a token for the form fields of a token request. Raises `GrantDenied`."""
        kind = form.get("grant_type", "")
        if kind == "password":
            user = self._by_password(form.get("username", ""), form.get("password", ""))
        elif kind == "refresh_token":
            user = self._by_refresh(form.get("refresh_token", ""))
        elif kind in (_JWT_BEARER, "operator"):
            user = self._by_assertion(form, operator=kind == "operator")
        else:
            raise GrantDenied(400, f"Unsupported grant_type {kind!r}")
        disabled = form.get("disable_antiforgery_token", "").lower() == "true"
        return self._issue(user, antiforgery=self._settings.antiforgery and not disabled)

    def user(self, authorization: str, cookies: Mapping[str, str]) -> User | None:
        """Return the user of a request.

        Returns None if the token is missing, unknown or expired, or its cookie is missing.
        """
        scheme, _, value = authorization.partition(" ")
        token = self._access.get(value.strip())
        if scheme.lower() != "bearer" or token is None or token.expires <= self._now():
            return None
        if token.antiforgery is not None and cookies.get(COOKIE) != token.antiforgery:
            return None
        return token.user

    def expire(self, *, authorization: str | None = None, user: str | None = None) -> None:
        """Expire the token of an Authorization value, all tokens of a user, or all tokens.

        Refresh tokens remain valid.
        """
        wanted = authorization.partition(" ")[2].strip() if authorization is not None else None
        for value, token in self._access.items():
            if wanted in (None, value) and user in (None, token.user.name):
                token.expires = 0.0

    def revoke(self, authorization: str) -> None:
        """Revoke the token of an Authorization value and its refresh token."""
        token = self._access.pop(authorization.partition(" ")[2].strip(), None)
        if token is not None:
            self._refresh.pop(token.refresh, None)

    def issue(self, user: str) -> str:
        """Return a new access token of the user with that name. Raises KeyError."""
        grant = self._issue(self._settings.user(user), antiforgery=False)
        return str(grant.body["access_token"])

    def _by_password(self, name: str, password: str) -> User:
        for user in self._settings.users:
            matches = hmac.compare_digest(user.password.encode(), password.encode())
            if user.name == name and matches:
                return user
        raise GrantDenied(401, "The user name or password is incorrect")

    def _by_refresh(self, value: str) -> User:
        user = self._refresh.pop(value, None)
        if user is None:
            raise GrantDenied(401, "The refresh token is not valid")
        return user

    def _by_assertion(self, form: Mapping[str, str], *, operator: bool) -> User:
        claims = _claims(form.get("assertion", ""))
        names = {claims.get(name) for name in ("upn", "unique_name", "preferred_username", "sub")}
        for user in self._settings.users:
            if form.get("client_id") and user.name in names and user.operator >= operator:
                return user
        raise GrantDenied(401, "The assertion is not valid")

    def _issue(self, user: User, *, antiforgery: bool) -> Grant:
        issued, lifetime = self._now(), self._settings.token_lifetime
        as_jwt = self._settings.token == "jwt"  # noqa: S105  # the token format
        access = self._jwt(user, issued) if as_jwt else secrets.token_urlsafe(48)
        token = Token(
            user=user,
            expires=issued + lifetime,
            refresh=secrets.token_urlsafe(32),
            antiforgery=secrets.token_hex(16) if antiforgery else None,
        )
        self._access[access] = token
        self._refresh[token.refresh] = user
        body = {
            "access_token": access,
            "token_type": "bearer",
            "expires_in": int(lifetime),
            "refresh_token": token.refresh,
            "userName": user.name,
            ".issued": _iso_time(issued),
            ".expires": _iso_time(token.expires),
        }
        cookies = (
            f"{COOKIE}={token.antiforgery}; path=/; samesite=strict; httponly",
            f"XSRF-TOKEN={secrets.token_hex(16)}; path=/",
        )
        return Grant(body, cookies if antiforgery else ())

    def _jwt(self, user: User, issued: float) -> str:
        claims = {
            "iss": "https://vb365.example",
            "sub": user.name,
            "unique_name": f"{user.name}@{user.tenant}.example",
            "iat": int(issued),
            "exp": int(issued + self._settings.token_lifetime),
            "jti": secrets.token_hex(8),
        }
        parts = ({"alg": "HS256", "typ": "JWT"}, claims)
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in parts)
        signature = hmac.digest(self._key, signed.encode(), hashlib.sha256)
        return f"{signed}.{_base64url(signature)}"


def _iso_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
