"""The options that every client command shares: which proxy, whose credentials, which trust."""

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

from proxy.client.credentials import GivenToken, Login, TokenFile, read_secret
from proxy.client.display import Display
from proxy.client.faults import Fault
from proxy.client.proxy import Proxy, named_job
from proxy.client.wire import Credentials, Http

_SECRET = "Better in the environment or a file than on the command line."  # noqa: S105  # it is a help text


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Where and as whom to call; each member is an option of the command line."""

    url: Annotated[
        str | None,
        typer.Option(envvar="VB365_URL", help="The proxy, like https://vb365.example.com:4443"),
    ] = None
    token: Annotated[
        str | None, typer.Option(envvar="VB365_TOKEN", help=f"A bearer token. {_SECRET}")
    ] = None
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar="VB365_TOKEN_FILE", help="A file with the token, read again when it runs out"
        ),
    ] = None
    username: Annotated[
        str | None,
        typer.Option(envvar="VB365_USERNAME", help="Log in as this user; tokens renew themselves"),
    ] = None
    password: Annotated[
        str | None, typer.Option(envvar="VB365_PASSWORD", help=f"Asked for if not given. {_SECRET}")
    ] = None
    password_file: Annotated[
        Path | None, typer.Option(envvar="VB365_PASSWORD_FILE", help="A file with the password")
    ] = None
    api: Annotated[
        str, typer.Option(envvar="VB365_API", help="The API version to log in and list with")
    ] = "v8"
    segment: Annotated[
        str, typer.Option(envvar="VB365_SEGMENT", help="The proxy's own path segment")
    ] = "_async"
    ca_file: Annotated[
        Path | None, typer.Option(envvar="VB365_CA_FILE", help="Trust these CA certificates (PEM)")
    ] = None
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Do not verify the server's certificate")
    ] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every exchange's head")] = (
        False
    )

    def for_job(self, name: str) -> tuple[Connection, str]:
        """The connection and path for a job named by id or by its URL, which also tells the proxy's
        address.
        """
        path = named_job(name, self.api, self.segment)
        if name.startswith(("http://", "https://")):
            return replace(self, url=name[: name.lower().rindex(path.lower())]), path
        return self, path

    def credentials(self) -> Credentials:
        """The strongest of what was given: a user (renewable), a token file, a token. Prompts for a
        password.
        """
        if self.username is not None:
            return Login(self.username, self._password(self.username), self.api)
        if self.token_file is not None:
            return TokenFile(self.token_file)
        if self.token is not None:
            return GivenToken(self.token)
        raise Fault(
            "No credentials: set VB365_TOKEN, or VB365_USERNAME and VB365_PASSWORD (see --help)",
            code=2,
        )

    @asynccontextmanager
    async def open(self, display: Display, credentials: Credentials) -> AsyncIterator[Proxy]:
        """The proxy, ready to be called."""
        if self.url is None:
            raise Fault("No address: give --url or set VB365_URL", code=2)
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
        except (OSError, ssl.SSLError) as why:
            raise Fault(f"{self.ca_file} is no file of PEM certificates: {why}", code=2) from why


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command`, whose first parameter is a `Connection`, that class's members as options of
    its own.
    """
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
    """An exchange's heads as they went over the wire, the credentials left out."""
    request = response.request_info
    lines = [f"> {response.method} {request.url.raw_path_qs}"]
    lines += [f"> {name}: {_shown(name, value)}" for name, value in request.headers.items()]
    lines += [f"< {response.status} {response.reason}"]
    lines += [f"< {name}: {_shown(name, value)}" for name, value in response.headers.items()]
    return "\n".join(lines)


def _shown(name: str, value: str) -> str:
    return "***" if name.lower() in ("authorization", "cookie", "set-cookie") else value
