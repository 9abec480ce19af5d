"""The options of every client command: the proxy, the credentials and the certificates."""

from __future__ import annotations

import inspect
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import typer

from proxy.client.credentials import FixedToken, Login, TokenFile, read_secret
from proxy.client.display import Display
from proxy.client.errors import CommandError
from proxy.client.proxy import Proxy, links_of
from proxy.client.wire import Credentials, Http
from proxy.core.paths import Links

_SECRET = "Use the environment or a file rather than the command line."  # noqa: S105  # a help text


@dataclass(frozen=True, kw_only=True)
class Connection:
    """How to connect to the proxy; each member is an option of the command line."""

    url: Annotated[
        str | None,
        typer.Option(
            envvar="VB365_URL", help="URL of the proxy, for example https://vb365.example.com:4443."
        ),
    ] = None
    token: Annotated[
        str | None, typer.Option(envvar="VB365_TOKEN", help=f"Bearer token. {_SECRET}")
    ] = None
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar="VB365_TOKEN_FILE",
            help="File with the token; it is read again when the token expires.",
        ),
    ] = None
    username: Annotated[
        str | None,
        typer.Option(
            envvar="VB365_USERNAME", help="User to log in as; tokens are renewed automatically."
        ),
    ] = None
    password: Annotated[
        str | None,
        typer.Option(envvar="VB365_PASSWORD", help=f"Password (default: prompt). {_SECRET}"),
    ] = None
    password_file: Annotated[
        Path | None, typer.Option(envvar="VB365_PASSWORD_FILE", help="File with the password.")
    ] = None
    api: Annotated[
        str, typer.Option(envvar="VB365_API", help="API version for login and list.")
    ] = "v8"
    segment: Annotated[
        str, typer.Option(envvar="VB365_SEGMENT", help="Setting public.segment of the proxy.")
    ] = "_async"
    ca_file: Annotated[
        Path | None, typer.Option(envvar="VB365_CA_FILE", help="CA certificates (PEM) to trust.")
    ] = None
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Do not verify the server's certificate.")
    ] = False
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the heads of requests and responses.")
    ] = False

    def for_job(self, name: str) -> tuple[Connection, Links]:
        """Return the connection to use for a job and its paths, given its id or its URL.

        A URL contains the address of the proxy too.
        """
        links = links_of(name, self.api, self.segment)
        if name.startswith(("http://", "https://")):
            return replace(self, url=name[: name.lower().rindex(links.status.lower())]), links
        return self, links

    def credentials(self) -> Credentials:
        """Return the credentials: a user, else a token file, else a token.

        Prompts for a missing password. Raises `CommandError`.
        """
        if self.username is not None:
            return Login(self.username, self._password(self.username), self.api)
        if self.token_file is not None:
            return TokenFile(self.token_file)
        if self.token is not None:
            return FixedToken(self.token)
        raise CommandError(
            "No credentials: set VB365_TOKEN, or VB365_USERNAME and VB365_PASSWORD (see --help)",
            code=2,
        )

    @asynccontextmanager
    async def open(self, display: Display, credentials: Credentials) -> AsyncIterator[Proxy]:
        """Yield the proxy."""
        if self.url is None:
            raise CommandError("No address: use --url or set VB365_URL", code=2)
        if self.insecure:
            display.say("WARNING: the server's certificate is not verified (--insecure)")
        trace = (lambda response: display.say(head(response))) if self.verbose else None
        async with Http(self.url, tls=self._tls(), trace=trace) as http:
            yield Proxy(http, credentials, notice=display.say)

    def _password(self, username: str) -> str:
        if self.password_file is not None:
            return read_secret(self.password_file)
        if self.password is not None:
            return self.password
        return str(typer.prompt(f"Password of {username}", hide_input=True, err=True))

    def _tls(self) -> ssl.SSLContext | bool:
        if self.insecure:
            return False
        if self.ca_file is None:
            return True
        try:
            return ssl.create_default_context(cafile=str(self.ca_file))
        except (OSError, ssl.SSLError) as error:
            raise CommandError(
                f"{self.ca_file} is not a file of PEM certificates: {error}", code=2
            ) from error


def with_connection(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command`, whose first parameter is a `Connection`, its members as options."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    shared = list(inspect.signature(Connection, eval_str=True).parameters.values())
    names = [parameter.name for parameter in shared]

    def with_options(**given: Any) -> None:
        connection = Connection(**{name: given.pop(name) for name in names})
        command(connection, **given)

    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *shared)
    ]
    with_options.__name__, with_options.__doc__ = command.__name__, command.__doc__
    with_options.__annotations__ = {
        parameter.name: parameter.annotation for parameter in parameters
    }
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect
    return with_options


def head(response: aiohttp.ClientResponse) -> str:
    """Return the heads of a request and its response as text, without credentials."""
    request = response.request_info
    lines = [f"> {response.method} {request.url.raw_path_qs}"]
    lines += [f"> {name}: {_shown(name, value)}" for name, value in request.headers.items()]
    lines += [f"< {response.status} {response.reason}"]
    lines += [f"< {name}: {_shown(name, value)}" for name, value in response.headers.items()]
    return "\n".join(lines)


def _shown(name: str, value: str) -> str:
    return "***" if name.lower() in ("authorization", "cookie", "set-cookie") else value
