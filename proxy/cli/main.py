"""The command line (CONTRACT §15): `vb365-async-proxy`, also `python -m proxy`.

Commands import what they need when they run: --help stays fast, and `config check` works where the
dependencies of `serve` cannot be loaded.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

import proxy
from proxy.cli.client import WithClient, add_client_commands
from proxy.cli.completion import completion
from proxy.cli.imports import without, without_certificates
from proxy.cli.leaving import leave
from proxy.cli.options import (
    EXIT_CODES,
    HEALTH_EXIT_CODES,
    AdminAddress,
    ConfigFile,
    ConfigOutput,
    Connect,
    Ready,
    Sources,
    Timeout,
    with_sources,
)
from proxy.cli.trial import add_trial_commands

if TYPE_CHECKING:
    from proxy.config import Problem, Settings
    from proxy.net.seat import Seat

COMMAND = "vb365-async-proxy"
#: The panel of --help beside those of the client and of `trial`.
_SERVER = "Run a proxy"
#: Of the commands together; each has its own in its help.
_EXIT_CODES = f"{EXIT_CODES} Commands that export have more: see their --help."
#: Bytes of a health check's response that are read.
_LONGEST_REPORT = 64 << 10

app = typer.Typer(
    cls=WithClient,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=_EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
add_client_commands(app)
config_app = typer.Typer(
    no_args_is_help=True,
    help="Create, check and print the configuration.",
    epilog=EXIT_CODES,
)
app.add_typer(config_app, name="config", rich_help_panel=_SERVER)
webhooks_app = typer.Typer(
    no_args_is_help=True, help="Test the receivers of webhooks.", epilog=EXIT_CODES
)
app.add_typer(webhooks_app, name="webhooks", rich_help_panel=_SERVER)
add_trial_commands(app)
app.command(rich_help_panel="Other", epilog=EXIT_CODES)(completion)


def main() -> None:
    """Run the command line and exit.

    Characters that the encoding of stdout lacks are escaped.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app(prog_name=COMMAND)
    except SystemExit as why:
        leave(why)
        raise


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"{COMMAND} {proxy.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            *("--version", "-V"),
            callback=_print_version,
            is_eager=True,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    """An asynchronous reverse proxy for the Veeam Backup for Microsoft 365 REST API."""


@app.command(rich_help_panel=_SERVER, epilog=EXIT_CODES)
@with_sources
def serve(sources: Sources) -> None:
    """Run the proxy.

    Settings come from these options, VB365_PROXY_* environment variables, secret files and the
    configuration file, in this order.
    """
    settings = _startable(sources, logged=True)
    if sys.platform != "win32":
        os.umask(0o077)  # also for the files that libraries create
        # until it is handled: it would end the process, and a service manager takes that for a stop
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    # structlog loads rich for tracebacks that the log does not use
    with without("rich"), without_certificates():
        from proxy.cli.serve import open_log, run, run_in_loop, run_workers, warn
    from proxy.config import load

    if not open_log(settings):
        raise typer.Exit(1)
    warn(settings)

    def reread() -> Settings:
        return load(sources.config, sources.flags, os.environ)

    config = sources.config
    if settings.listen.workers > 1:

        def work(seat: Seat) -> int:
            return run_in_loop(settings, run(settings, reread, seat))

        raise typer.Exit(run_workers(settings, work, config=config))
    raise typer.Exit(run_in_loop(settings, run(settings, reread, config=config)))


@app.command(rich_help_panel=_SERVER, epilog=EXIT_CODES)
def fingerprint(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Address of the server.")],
    timeout: Timeout = 10.0,
) -> None:
    """Print the SHA-256 fingerprint of a server's certificate, to trust exactly that one.

    For upstream.fingerprint and --fingerprint. Compare it with what the server's administrator
    sees, because this connection trusts any certificate.
    """
    from proxy.cli.fingerprint import run

    raise typer.Exit(run(address, timeout))


@config_app.command("check", epilog=EXIT_CODES)
@with_sources
def config_check(sources: Sources, connect: Connect = False) -> None:
    """Report everything that prevents `serve` from starting. Exit code 2 if there is anything.

    With --connect, also try what `serve` needs, as `doctor` does: VB365, ports, disk, stores. Exit
    code 1 if something fails.
    """
    if connect:
        from proxy.cli.connect import check_all

        settings = check_all(sources)
    else:
        settings = _startable(sources)
    typer.echo(f"Configuration OK: {settings.listen.address} -> {settings.upstream.url}")


@config_app.command("print", epilog=EXIT_CODES)
@with_sources
def config_print(sources: Sources) -> None:
    """Print the effective settings as TOML, with secrets masked."""
    settings = _settings(sources.config, sources.flags)

    from proxy.config import text

    typer.echo(text.to_toml(settings), nl=False)


@config_app.command("init", epilog=EXIT_CODES)
def config_init(file: ConfigOutput = None) -> None:
    """Write a configuration file with all settings, their defaults and descriptions."""
    from proxy.config import text

    if file is None:
        typer.echo(text.sample_toml(), nl=False)
        return
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(text.sample_toml())
    except OSError as error:
        typer.echo(f"Cannot write {file}: {error.strerror}", err=True)
        raise typer.Exit(2) from error


@config_app.command("schema", epilog=EXIT_CODES)
def config_schema() -> None:
    """Print the JSON Schema of the configuration file, for editors."""
    from proxy.config import text

    typer.echo(json.dumps(text.json_schema(), indent=2))


@webhooks_app.callback()
def _webhooks() -> None:
    """Test the receivers of webhooks."""


@webhooks_app.command("test", epilog=EXIT_CODES)
@with_sources
def webhooks_test(sources: Sources) -> None:
    """Post a signed test notification to each of webhooks.urls and print the responses.

    Exit code 0 if all are accepted, else 1; 2 for an error in the configuration.
    """
    settings = _settings(sources.config, sources.flags)
    if not settings.webhooks.urls:
        typer.echo("webhooks.urls is empty: there is nothing to test.", err=True)
        raise typer.Exit(2)

    from proxy import logs
    from proxy.cli.webhooks import try_webhooks

    logs.configure("console", "critical")  # the responses are the output
    lines, accepted = asyncio.run(try_webhooks(settings))
    for line in lines:
        typer.echo(line)
    raise typer.Exit(0 if accepted else 1)


@app.command(rich_help_panel=_SERVER, epilog=HEALTH_EXIT_CODES)
def healthcheck(
    config: ConfigFile = None,
    admin: AdminAddress = None,
    ready: Ready = False,
    timeout: Timeout = 5.0,
) -> None:
    """Check a running proxy through its admin listener. Exit code 0 if healthy, else 1."""
    # The upstream may be a flag of `serve`; it is not needed here.
    flags = {"admin.address": admin, "upstream.url": "http://localhost"}
    settings = _settings(config, flags, exit_code=1)
    path = "/readyz" if ready else "/healthz"
    raise typer.Exit(_check_health(settings.admin.address.reachable, path, timeout))


def _check_health(address: tuple[str, int], path: str, timeout: float) -> int:
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection(*address, timeout=timeout)
    try:
        # The listener accepts localhost always, and the name in admin.address only if it is in
        # admin.hosts.
        connection.request("GET", path, headers={"Host": "localhost"})
        response = connection.getresponse()
        body = response.read(_LONGEST_REPORT).decode(errors="replace")
        typer.echo(_health_report(response.status, body))
    except (OSError, HTTPException) as error:
        host, port = address
        typer.echo(f"No response from {host} port {port}: {error}", err=True)
        return 1
    finally:
        connection.close()
    return 0 if response.status == 200 else 1


def _health_report(status: int, body: str) -> str:
    """The response of the admin listener; of `/readyz`, a line with the reason of each check that
    has one.
    """
    try:
        found = json.loads(body)
        ready, checks = found["ready"], found["checks"].items()
        reasons = [f"{name}: {each['reason']}" for name, each in checks if "reason" in each]
    except (ValueError, LookupError, TypeError, AttributeError):
        return f"{status} {body[:1000]}".strip()
    from proxy.core.text import visible

    return "\n".join([f"{status} {'ready' if ready else 'not ready'}", *map(visible, reasons)])


def _settings(config: ConfigFile, flags: dict[str, str | None], *, exit_code: int = 2) -> Settings:
    """Load the settings; print all problems and exit if there are any."""
    from proxy.config import ConfigError, load
    from proxy.parts.store_addresses import CHECKS

    try:
        return load(config, flags, os.environ, CHECKS)
    except ConfigError as error:
        _exit_with(error.problems, exit_code)


def _startable(sources: Sources, *, logged: bool = False) -> Settings:
    """Load settings that `serve` can start with; print all problems and exit if there are any.

    `logged`: they are lines of JSON if the log is.
    """
    from proxy.config import ConfigError, load, logs_json

    with without("rich"):  # as in `serve`
        from proxy.cli.late import warned
        from proxy.parts.start_checks import start_problems
    from proxy.parts.store_addresses import CHECKS

    try:
        settings = load(sources.config, sources.flags, os.environ, CHECKS)
        with warned(settings, partial(typer.echo, err=True)):
            problems = start_problems(settings)
    except ConfigError as error:
        problems = error.problems
    if problems and logged and logs_json(sources.config, sources.flags, os.environ):
        from proxy.cli.serve import log_problems

        log_problems(problems)
        raise typer.Exit(2)
    if problems:
        _exit_with(problems, 2)
    return settings


def _exit_with(problems: list[Problem], exit_code: int) -> NoReturn:
    from proxy.config import format_problems

    typer.echo(format_problems(problems), err=True)
    raise typer.Exit(exit_code)
