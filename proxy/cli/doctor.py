"""The command `doctor`: what prevents the proxy from working, or a client from using it.

It is loaded when it is used, because the options of a client load its libraries.
"""

from __future__ import annotations

import asyncio
import os
from typing import NoReturn

import typer

from proxy.cli.diagnosis.client import client_findings
from proxy.cli.diagnosis.findings import Finding, has_failed, to_json, to_text
from proxy.cli.diagnosis.server import Configuration, examine
from proxy.cli.options import EXIT_CODES, Sources
from proxy.client import profiles
from proxy.client.commands.options import CONTEXT, AsJson, with_groups
from proxy.client.commands.running import exit_on_error
from proxy.client.connection import Connection
from proxy.client.display import display
from proxy.client.errors import CommandError
from proxy.client.output import Stderr, print_result
from proxy.config.section import PREFIX

#: The options that say whose view it is.
_CLIENT = {"url", "profile"}
_SERVER = {"config", "upstream", "listen", "admin", "data_dir", "workers"}


doctor_app = typer.Typer(context_settings=CONTEXT, add_completion=False)


@doctor_app.command("doctor", epilog=EXIT_CODES)
@with_groups
def doctor(
    context: typer.Context, sources: Sources, connection: Connection, as_json: AsJson = False
) -> None:
    """Find what prevents the proxy, or a client of it, from working, and how to fix it.

    On the machine of the proxy, with the options of `serve`: the configuration, VB365 (name, port,
    certificate, response, clock), the ports, the proxy's own certificate, the disk, the stores, and
    who can read secrets. Nothing is changed, and the proxy may run meanwhile.

    With --url or --profile, or after `login`: whether a client can reach the proxy, and whether its
    login works.
    """
    with exit_on_error(connection.progress):
        if _is_client(context, connection):
            findings, code = asyncio.run(_from_client(connection)), 0
        else:
            configuration = Configuration.of(sources.config, sources.flags)
            findings = asyncio.run(examine(configuration))
            code = 2 if configuration.problems else 0
    _finish(findings, code, as_json=as_json)


def _finish(findings: list[Finding], code: int, *, as_json: bool) -> NoReturn:
    print_result(to_json(findings) if as_json else to_text(findings))
    raise typer.Exit(code or int(has_failed(findings)))


def _is_client(context: typer.Context, connection: Connection) -> bool:
    """Whether a client asks: by an option, else by what the environment has, else by a login.

    Raises `CommandError` if there are options of both.
    """
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}
    if given & _CLIENT and given & _SERVER:
        raise CommandError("--url and --profile are of a client: use them alone", code=2)
    if given & (_CLIENT | _SERVER):
        return bool(given & _CLIENT)
    if any(name.startswith(PREFIX) for name in os.environ):
        return False
    named = connection.url is not None or connection.profile is not None
    return named or profiles.DEFAULT in profiles.names()


async def _from_client(connection: Connection) -> list[Finding]:
    with display(Stderr(), connection.progress) as shown:
        found = client_findings(connection.resolved(anonymous=True), shown)
        return [each async for each in found]
