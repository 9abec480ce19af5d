"""The commands `login` and `logout`: a profile with tokens instead of options for each command."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from proxy.client import profiles
from proxy.client.address import parse_address
from proxy.client.commands.options import with_groups
from proxy.client.commands.running import exit_on_error, finish
from proxy.client.connection import Connection, check_api, opened, tls
from proxy.client.credentials import FixedToken, log_in, with_tokens
from proxy.client.display import Display, display
from proxy.client.errors import CommandError, Unreachable
from proxy.client.export import Outcome
from proxy.client.forward import is_loopback
from proxy.client.output import Stderr
from proxy.client.profiles import Profile
from proxy.client.proxy import Proxy
from proxy.client.vb365 import VERSIONS
from proxy.client.wire import Http


@with_groups
def login(
    connection: Connection,
    address: Annotated[
        str | None,
        typer.Argument(
            metavar="URL",
            help="Address of the proxy (default: that of the profile).",
            show_default=False,
        ),
    ] = None,
    organization: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Organization to export from, if there are several."),
    ] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from stdin.")
    ] = False,
    in_keyring: Annotated[
        bool | None,
        typer.Option(
            "--keyring/--no-keyring",
            help="Keep the tokens in the system's keyring, or in the profile's file (default: as "
            "before, at first in the file).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Log in and keep the tokens in a profile.

    Other commands then need no options for the address and the credentials.

    The password is prompted for, or read from VB365_PASSWORD, --password-file or stdin. It is not
    kept. The tokens are in a file that only you can read, or in the system's keyring, and are
    renewed automatically.
    """
    with exit_on_error(connection.progress):
        before = _before(connection, address)
        username = connection.username or before.username or _ask("User name")
        password = _stdin() if password_stdin else connection.ask_password(username)
        given = replace(before, username=username, organization=organization or before.organization)
        if in_keyring is not None:
            given = replace(given, keyring=int(in_keyring))
        saved = asyncio.run(_logged_in(connection, given, password))
        path = profiles.save(saved)
    with display(Stderr(), connection.progress) as shown:
        where = f"{path}, tokens in the system's keyring" if saved.keyring else str(path)
        shown.say(f"Logged in to {saved.url} as {username}: {where}")
    finish(Outcome(0, ""))


@with_groups
def logout(connection: Connection) -> None:
    """Revoke the tokens of a profile and delete it."""
    name = profiles.DEFAULT if connection.profile is None else connection.profile
    with exit_on_error(connection.progress):
        saved = profiles.load(name)
        try:
            asyncio.run(_revoke(connection, saved))
        finally:
            profiles.delete(name)
    with display(Stderr(), connection.progress) as shown:
        shown.say(f"Logged out of {saved.url}")
    finish(Outcome(0, ""))


def _before(connection: Connection, url: str | None) -> Profile:
    """Return the profile to log in with: what is given, else what it was before.

    A profile keeps nothing of another server.
    """
    name = profiles.DEFAULT if connection.profile is None else connection.profile
    profiles.check_name(name)
    before: Profile | None = None
    if name in profiles.names():
        try:
            before = profiles.described(name)
        except CommandError:
            before = None  # it is replaced
    url = url or connection.url or (before.url if before else None)
    if url is None:
        raise CommandError("No address: vb365-async-proxy login https://HOST:PORT", code=2)
    if before is None or not before.is_for(url):
        before = Profile(name=name, url=url.rstrip("/"))
    if connection.api is not None:
        check_api(connection.api)
    changes: dict[str, Any] = {"segment": connection.segment or before.segment}
    if connection.ca_file or connection.fingerprint or connection.insecure:
        file = connection.ca_file
        changes |= {
            "ca_file": None if file is None else str(file.resolve()),
            "fingerprint": connection.fingerprint,
            "insecure": connection.insecure,
        }
    return replace(before, **changes)


def _ask(what: str) -> str:
    if not sys.stdin.isatty():
        raise CommandError(f"No {what.lower()}: use --username or set VB365_USERNAME", code=2)
    return str(typer.prompt(what, err=True))


def _stdin() -> str:
    password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise CommandError("--password-stdin: stdin is empty", code=2)
    return password


async def _logged_in(connection: Connection, profile: Profile, password: str) -> Profile:
    with display(Stderr(), connection.progress) as shown:
        _warn_of_plain_http(profile, shown)
        async with _opened(connection, profile, shown) as http:
            await Proxy(http, FixedToken("")).check(profile.segment)
            api = connection.api or await _newest_version(http, profile.api)
            tokens = await log_in(http, api.lower(), profile.username or "", password)
    return with_tokens(replace(profile, api=api.lower()), tokens)


def _warn_of_plain_http(profile: Profile, shown: Display) -> None:
    url = parse_address(profile.url)
    if url.scheme == "http" and not is_loopback(url.host or ""):
        shown.say(f"WARNING: {profile.url} does not use TLS: the network can read the password")


async def _newest_version(http: Http, known: str) -> str:
    """Return the newest API version that VB365 has: without credentials, it responds with 401 to a
    version that it has, and with 404 to others.
    """
    for version in VERSIONS:
        response = await http.call("GET", f"/{version}/ServiceInstance", {})
        if response.status != 404:
            return version
    return known


async def _revoke(connection: Connection, profile: Profile) -> None:
    """Ask VB365 to revoke the tokens. If that fails, they expire by themselves."""
    with display(Stderr(), connection.progress) as shown:
        try:
            async with _opened(connection, profile, shown) as http:
                proxy = Proxy(http, FixedToken(profile.access_token))
                response = await proxy.call("POST", f"/{profile.api}/token/logout")
        except (Unreachable, CommandError) as error:
            shown.say(f"The tokens are deleted here, but could not be revoked: {error}")
            return
        if response.status not in (200, 204, 401):
            shown.say(
                "The tokens are deleted here, but could not be revoked: the server responded with "
                f"{response.status}"
            )


def _opened(connection: Connection, profile: Profile, shown: Display) -> Any:
    file = None if profile.ca_file is None else Path(profile.ca_file)
    trusted = tls(file, profile.fingerprint, insecure=profile.insecure)
    return opened(
        profile.url, trusted, shown, insecure=profile.insecure, verbose=connection.verbose
    )
