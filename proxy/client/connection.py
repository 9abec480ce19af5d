"""The options of every client command: the proxy, the credentials and the certificates."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import typer
from yarl import URL

from proxy.client import profiles
from proxy.client.credentials import FixedToken, Login, Saved, TokenFile, read_secret
from proxy.client.display import Display, Mode
from proxy.client.errors import CommandError
from proxy.client.profiles import Profile
from proxy.client.proxy import Proxy
from proxy.client.wire import Credentials, Http
from proxy.core.paths import find_links

_PANEL = "Connection"
_SECRET_FIELDS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})
#: The options that a process list would show the value of, and what to use instead.
_SECRETS = {
    "token": "set VB365_TOKEN or use --token-file",
    "password": "set VB365_PASSWORD, use --password-file, or wait for the prompt",
}


def _not_in_argv(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """Reject a secret on the command line, where other users can read it."""
    source = context.get_parameter_source(str(parameter.name))
    if source is not None and source.name == "COMMANDLINE":
        fix = _SECRETS[str(parameter.name)]
        raise typer.BadParameter(f"other users can read the command line: {fix}")
    return value


def option(*names: str, **how: Any) -> Any:
    """An option in the panel of the connection."""
    return typer.Option(*names, rich_help_panel=_PANEL, show_default=False, **how)


@dataclass(frozen=True, kw_only=True)
class Connection:
    """How to connect to the proxy; each member is an option of the command line.

    `resolved` adds what the profile says.
    """

    profile: Annotated[
        str | None,
        option(envvar="VB365_PROFILE", metavar="NAME", help="Login to use (default: default)."),
    ] = None
    url: Annotated[
        str | None,
        option(
            envvar="VB365_URL",
            metavar="URL",
            help="Address of the proxy, such as https://vb365.example.com:4443.",
        ),
    ] = None
    token: Annotated[
        str | None, option(envvar="VB365_TOKEN", hidden=True, callback=_not_in_argv)
    ] = None
    token_file: Annotated[
        Path | None,
        option(
            envvar="VB365_TOKEN_FILE",
            metavar="FILE",
            help="File with the token; it is read again when the token expires.",
        ),
    ] = None
    username: Annotated[
        str | None,
        option(
            envvar="VB365_USERNAME",
            metavar="NAME",
            help="User to log in as for this command only; tokens are renewed automatically.",
        ),
    ] = None
    password: Annotated[
        str | None, option(envvar="VB365_PASSWORD", hidden=True, callback=_not_in_argv)
    ] = None
    password_file: Annotated[
        Path | None,
        option(envvar="VB365_PASSWORD_FILE", metavar="FILE", help="File with the password."),
    ] = None
    api: Annotated[
        str | None,
        option(envvar="VB365_API", metavar="VERSION", help="API version (default: v8)."),
    ] = None
    segment: Annotated[
        str | None,
        option(
            envvar="VB365_SEGMENT",
            metavar="NAME",
            help="Setting public.segment of the proxy (default: _async).",
        ),
    ] = None
    ca_file: Annotated[
        Path | None,
        option(envvar="VB365_CA_FILE", metavar="FILE", help="CA certificates (PEM) to trust."),
    ] = None
    fingerprint: Annotated[
        str | None,
        option(
            envvar="VB365_FINGERPRINT",
            metavar="SHA256",
            help="Trust exactly the certificate with this fingerprint.",
        ),
    ] = None
    insecure: Annotated[
        bool, option("--insecure", help="Do not verify the server's certificate.")
    ] = False
    verbose: Annotated[
        bool, option("--verbose", "-v", help="Show the heads of requests and responses.")
    ] = False
    progress: Annotated[
        Mode,
        typer.Option(
            envvar="VB365_PROGRESS",
            metavar="MODE",
            help="Progress on stderr: bar, plain (lines), json (a line of JSON per event) or none. "
            "By default (auto) a bar on a terminal, else lines.",
            show_default=False,
        ),
    ] = Mode.AUTO

    def at_job(self, name: str) -> Connection:
        """Return the connection for a job, whose URL, if that is its name, has the address."""
        links = find_links(name) if name.startswith(("http://", "https://")) else None
        if links is None:
            return self
        return replace(self, url=name[: name.lower().rindex(links.status.lower())])

    def resolved(self, *, anonymous: bool = False) -> Resolved:
        """Return the address, the credentials and how to trust the server: what is given, else what
        the profile says. A profile's token is used for its own server only. If `anonymous`, there
        need not be credentials.

        Prompts for a missing password. Raises `CommandError`.
        """
        saved = self._profile()
        url = self.url or (saved.url if saved else None)
        if url is None:
            raise CommandError(
                "No address: log in with `vb365-async-proxy login URL`, or use --url or VB365_URL",
                code=2,
            )
        api = self.api or (saved.api if saved else "v8")
        check_api(api)
        credentials = self._credentials(url, api, saved)
        if credentials is None and not anonymous:
            raise CommandError(
                f"No credentials: log in with `vb365-async-proxy login {url}`, or set "
                "VB365_TOKEN, or VB365_USERNAME and VB365_PASSWORD",
                code=2,
            )
        return Resolved(
            url=url,
            api=api.lower(),
            segment=self.segment or (saved.segment if saved else "_async"),
            organization=saved.organization if saved else None,
            credentials=credentials or FixedToken(""),
            anonymous=credentials is None,
            tls=self._tls(saved),
            insecure=self.insecure or bool(saved and saved.insecure and not self._trusts),
            verbose=self.verbose,
        )

    @property
    def _trusts(self) -> bool:
        return self.ca_file is not None or self.fingerprint is not None

    def _profile(self) -> Profile | None:
        """Return the profile that is named, else that of the address, else the default one."""
        if self.profile is not None:
            saved = profiles.load(self.profile)
            if self.url is not None and not saved.is_for(self.url):
                raise CommandError(
                    f"--profile: {self.profile} is a login at {saved.url}, and --url or VB365_URL "
                    f"is {self.url}: use one of them",
                    code=2,
                )
            return saved
        if self.url is not None:
            return profiles.find(self.url)
        return profiles.load(profiles.DEFAULT) if profiles.DEFAULT in profiles.names() else None

    def _credentials(self, url: str, api: str, saved: Profile | None) -> Credentials | None:
        """Return the credentials: a user, else a token file, else a token, else the profile; None
        without any.
        """
        if self.profile is not None and saved is not None:
            return Saved(saved, self.password)
        if self.username is not None:
            return Login(self.username, self.ask_password(self.username), api)
        if self.token_file is not None:
            return TokenFile(self.token_file)
        if self.token is not None:
            return FixedToken(self.token)
        if saved is not None:
            return Saved(saved, self.password)
        return None

    def ask_password(self, username: str) -> str:
        """Return the password: that of the file or the environment, else what the user types."""
        if self.password_file is not None:
            return read_secret(self.password_file)
        if self.password is not None:
            return self.password
        return str(typer.prompt(f"Password of {username}", hide_input=True, err=True))

    def _tls(self, saved: Profile | None) -> ssl.SSLContext | aiohttp.Fingerprint | bool:
        if self._trusts or self.insecure or saved is None:
            return tls(self.ca_file, self.fingerprint, insecure=self.insecure)
        file = None if saved.ca_file is None else Path(saved.ca_file)
        return tls(file, saved.fingerprint, insecure=saved.insecure)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """An address, credentials and how to trust the server. `organization` is the profile's.
    `anonymous`: there are no credentials.
    """

    url: str
    api: str
    segment: str
    organization: str | None
    credentials: Credentials
    anonymous: bool
    tls: Any
    insecure: bool
    verbose: bool

    @asynccontextmanager
    async def open(self, display: Display) -> AsyncIterator[Proxy]:
        """Yield the proxy."""
        async with opened(
            self.url, self.tls, display, insecure=self.insecure, verbose=self.verbose
        ) as http:
            yield Proxy(http, self.credentials, notice=display.say)


@asynccontextmanager
async def opened(
    url: str, trusted: Any, display: Display, *, insecure: bool, verbose: bool
) -> AsyncIterator[Http]:
    """Yield requests to `url`; warn if the server is not verified."""
    if insecure:
        display.say("WARNING: the server's certificate is not verified (--insecure)")
    trace = (lambda response: display.say(head(response))) if verbose else None
    async with Http(url, tls=trusted, trace=trace) as http:
        yield http


def check_api(api: str) -> None:
    """Raise `CommandError` for what is not an API version."""
    if not re.fullmatch(r"(?i)v\d{1,3}", api):
        raise CommandError(f"--api: {api!r} is not an API version such as v8", code=2)


def tls(
    ca_file: Path | None, fingerprint: str | None, *, insecure: bool
) -> ssl.SSLContext | aiohttp.Fingerprint | bool:
    """Return how to verify the server, for `Http`. Raises `CommandError`."""
    if fingerprint is not None:
        return _Pinned(digest_of(fingerprint))
    if insecure:
        return False
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise CommandError(
            f"{ca_file} is not a file of PEM certificates: {error}", code=2
        ) from error


class _Pinned(aiohttp.Fingerprint):
    """A fingerprint. The connection to a server with another one is aborted: aiohttp only closes
    it, and then it is open until the server has closed it, too.
    """

    def check(self, transport: asyncio.Transport) -> None:
        try:
            super().check(transport)
        except aiohttp.ServerFingerprintMismatch:
            asyncio.get_running_loop().call_soon(transport.abort)  # aiohttp still asks it for more
            raise


def digest_of(fingerprint: str) -> bytes:
    """Return the digest of a fingerprint, with or without colons. Raises `CommandError`."""
    try:
        digest = bytes.fromhex(fingerprint.replace(":", ""))
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise CommandError(
            f"--fingerprint: {fingerprint!r} is not a SHA-256 fingerprint of 64 hexadecimal digits",
            code=2,
        )
    return digest


def head(response: aiohttp.ClientResponse) -> str:
    """Return the heads of a request and its response as text, without credentials."""
    request = response.request_info
    lines = [f"> {response.method} {request.url.raw_path_qs}"]
    lines += [f"> {name}: {_shown(name, value)}" for name, value in request.headers.items()]
    lines += [f"< {response.status} {response.reason}"]
    lines += [f"< {name}: {_shown(name, value)}" for name, value in response.headers.items()]
    return "\n".join(lines)


def _shown(name: str, value: str) -> str:
    return "***" if name.lower() in _SECRET_FIELDS else value


def origin(url: str) -> str:
    """Return the address in a URL without its path. Raises `CommandError`."""
    try:
        return str(URL(url).origin())
    except ValueError as error:
        raise CommandError(f"{url!r} is not a URL", code=2) from error
