"""The command line (CONTRACT §15): `vb365-async-proxy`, also `python -m proxy`.

What a command needs is imported inside it: --help is instant, and `config check` works where the
rest cannot start.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

import proxy

if TYPE_CHECKING:
    from proxy.config import Problem, Settings

COMMAND = "vb365-async-proxy"

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
config_app = typer.Typer(no_args_is_help=True, help="Check, print and make the configuration.")
app.add_typer(config_app, name="config")

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", envvar="VB365_PROXY_CONFIG", metavar="FILE", help="TOML file with settings"
    ),
]
UpstreamUrl = Annotated[
    str | None, typer.Option("--upstream", metavar="URL", help="VB365's REST API")
]
ListenAddress = Annotated[
    str | None, typer.Option("--listen", metavar="HOST:PORT", help="Where clients connect")
]
AdminAddress = Annotated[
    str | None, typer.Option("--admin", metavar="HOST:PORT", help="The operator's listener")
]
DataDir = Annotated[
    str | None, typer.Option("--data-dir", metavar="DIR", help="Where jobs and files are kept")
]
Workers = Annotated[
    str | None, typer.Option("--workers", metavar="N", help="Processes that share the address")
]


def main() -> None:
    """Run the command line and leave with its exit code; characters that stdout's encoding lacks
    are escaped.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    app(prog_name=COMMAND)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{COMMAND} {proxy.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Tell the version")
    ] = False,
) -> None:
    """An asynchronous reverse proxy in front of the Veeam Backup for Microsoft 365 REST API."""


@app.command()
def serve(
    config: ConfigFile = None,
    upstream: UpstreamUrl = None,
    listen: ListenAddress = None,
    admin: AdminAddress = None,
    data_dir: DataDir = None,
    workers: Workers = None,
) -> None:
    """Run the proxy."""
    flags = _flags(upstream, listen, admin, data_dir, workers)
    settings = _startable(config, flags)
    if sys.platform != "win32":
        os.umask(
            0o077
        )  # what the process creates, its libraries' files included, is for its user alone

    from proxy import app as composition
    from proxy import logs
    from proxy.config import load

    logs.configure(settings.log.format, settings.log.level)
    raise typer.Exit(_run(composition.run(settings, lambda: load(config, flags, os.environ))))


@app.command()
def demo(
    keep: Annotated[
        bool, typer.Option("--serve", help="Keep everything running, to try it by hand")
    ] = False,
) -> None:
    """Show an asynchronous export, end to end, against the stand-in VB365."""
    from proxy.cli.demo import run

    raise typer.Exit(run(keep=keep))


def _parser(kind: str) -> Callable[[str], float]:
    """Reads a command line's duration or size as the configuration does."""

    def parse(text: str) -> float:
        from proxy.config import values

        try:
            return values.parse_size(text) if kind == "size" else values.parse_duration(text)
        except ValueError as why:
            raise typer.BadParameter(f"{text!r} {why}") from why

    return parse


@app.command()
def simulate(
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one")] = 4443,
    size: Annotated[
        int, typer.Option(parser=_parser("size"), metavar="SIZE", help="Of every export")
    ] = "1MiB",  # type: ignore[assignment]
    generate: Annotated[
        float,
        typer.Option(
            parser=_parser("duration"), metavar="DURATION", help="Silence before an export's head"
        ),
    ] = "0s",  # type: ignore[assignment]
    rate: Annotated[
        int | None,
        typer.Option(parser=_parser("size"), metavar="SIZE", help="Bytes per second of an export"),
    ] = None,
    tls: Annotated[
        bool, typer.Option("--tls", help="Speak https with a certificate signed by itself")
    ] = False,
) -> None:
    """Run the stand-in VB365, to try things out and to develop against."""
    from proxy.cli.simulate import run
    from proxy.simulator import SimulatorSettings

    settings = SimulatorSettings(size=size, generate=generate, rate=rate)
    raise typer.Exit(_run(run(settings, host, port, tls=tls)))


_FORWARD = {
    "ignore_unknown_options": True,
    "allow_extra_args": True,
    "allow_interspersed_args": False,
}


@app.command(context_settings=_FORWARD, add_help_option=False)
def export(context: typer.Context) -> None:
    """Kick off an export at a proxy, follow it and fetch the verified file."""
    _client(context)


@app.command(context_settings=_FORWARD, add_help_option=False)
def jobs(context: typer.Context) -> None:
    """List, show, cancel, delete and fetch the export jobs of a proxy."""
    _client(context)


def _client(context: typer.Context) -> None:
    """Hand the command over to the client's own command line, which need not be loaded for anything
    else.
    """
    from proxy.client import client_app

    client_app([str(context.info_name), *context.args], prog_name=COMMAND)


@config_app.command("check")
def config_check(
    config: ConfigFile = None,
    upstream: UpstreamUrl = None,
    listen: ListenAddress = None,
    admin: AdminAddress = None,
    data_dir: DataDir = None,
    workers: Workers = None,
) -> None:
    """Tell every problem that would keep `serve` from starting here, as this user; exit 2 if there
    is one.
    """
    settings = _startable(config, _flags(upstream, listen, admin, data_dir, workers))
    typer.echo(
        f"The configuration is good: {settings.upstream.url} behind {settings.listen.address}."
    )


@config_app.command("print")
def config_print(
    config: ConfigFile = None,
    upstream: UpstreamUrl = None,
    listen: ListenAddress = None,
    admin: AdminAddress = None,
    data_dir: DataDir = None,
    workers: Workers = None,
) -> None:
    """Print the settings in force as TOML, secrets masked."""
    settings = _settings(config, _flags(upstream, listen, admin, data_dir, workers))

    from proxy.config import text

    typer.echo(text.effective(settings), nl=False)


@config_app.command("init")
def config_init(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Where to; stdout without it")
    ] = None,
) -> None:
    """Write a configuration file with every setting, its default and its meaning."""
    from proxy.config import text

    if file is None:
        typer.echo(text.sample(), nl=False)
        return
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(text.sample())
    except OSError as why:
        typer.echo(f"{file} cannot be written: {why.strerror}", err=True)
        raise typer.Exit(2) from why


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of the configuration file, for editors."""
    from proxy.config import text

    typer.echo(json.dumps(text.schema(), indent=2))


@app.command()
def healthcheck(
    config: ConfigFile = None,
    admin: AdminAddress = None,
    ready: Annotated[bool, typer.Option("--ready", help="Ask /readyz, not /healthz")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer")] = 5.0,
) -> None:
    """Ask the running proxy's admin listener whether it is well; exit 0 if so, else 1."""
    # The upstream may have been a flag of `serve`; what it is does not matter here.
    settings = _settings(
        config, {"admin.address": admin, "upstream.url": "http://localhost"}, failure=1
    )
    raise typer.Exit(
        _ask(settings.admin.address.reachable, "/readyz" if ready else "/healthz", timeout)
    )


def _ask(address: tuple[str, int], path: str, timeout: float) -> int:
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection(*address, timeout=timeout)
    try:
        # the listener answers to localhost, but to the name in admin.address only if admin.hosts
        # lists it
        connection.request("GET", path, headers={"Host": "localhost"})
        answer = connection.getresponse()
        typer.echo(f"{answer.status} {answer.read(1000).decode(errors='replace')}".strip())
    except (OSError, HTTPException) as why:
        typer.echo(f"no answer from {address[0]} port {address[1]}: {why}", err=True)
        return 1
    finally:
        connection.close()
    return 0 if answer.status == 200 else 1


def _flags(
    upstream: str | None,
    listen: str | None,
    admin: str | None,
    data_dir: str | None,
    workers: str | None,
) -> dict[str, str | None]:
    return {
        "upstream.url": upstream,
        "listen.address": listen,
        "admin.address": admin,
        "storage.dir": data_dir,
        "listen.workers": workers,
    }


def _settings(config: Path | None, flags: dict[str, str | None], *, failure: int = 2) -> Settings:
    """The settings of all sources; tells all problems and leaves with `failure` if there are
    any.
    """
    from proxy.config import ConfigError, load

    try:
        return load(config, flags, os.environ)
    except ConfigError as why:
        _refuse(why.problems, failure)


def _startable(config: Path | None, flags: dict[str, str | None]) -> Settings:
    """The settings that `serve` can start with; tells all problems and leaves with 2 if there are
    any.
    """
    from proxy.config import unavailable

    settings = _settings(config, flags)
    if problems := unavailable(settings):
        _refuse(problems, 2)
    return settings


def _refuse(problems: list[Problem], code: int) -> NoReturn:
    from proxy.config import listed

    typer.echo(listed(problems), err=True)
    raise typer.Exit(code)


def _run(main: Coroutine[None, None, int]) -> int:
    """Run on uvloop where it is installed: there is none for Windows."""
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    try:
        import uvloop

        loop_factory = uvloop.new_event_loop
    except ImportError:
        pass
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main)
