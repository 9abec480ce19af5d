"""The commands `demo` and `simulate`, for which no VB365 is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from proxy.cli.loop import run_loop
from proxy.cli.options import EXIT_CODES

#: The panel of --help.
_PANEL = "Try it"
#: The default port of the demo's proxy, and of the simulator; README.md has it.
DEMO_PORT = 4443


def add_trial_commands(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(rich_help_panel=_PANEL, epilog=EXIT_CODES)(demo)
    app.command(rich_help_panel=_PANEL, epilog=EXIT_CODES)(simulate)


def demo(
    keep: Annotated[
        bool, typer.Option("--serve", help="Keep the proxy and the simulator running.")
    ] = False,
    port: Annotated[
        int,
        typer.Option(
            min=0,
            max=65534,
            help="Port of the proxy; its dashboard has the next one. 0 for any free ports.",
        ),
    ] = DEMO_PORT,
) -> None:
    """Run an asynchronous export against a VB365 simulator, step by step.

    With --serve, print what to paste into another terminal to try more.
    """
    from proxy.cli.demo import run

    raise typer.Exit(run(port, keep=keep))


def _size(text: str) -> float:
    from proxy.config import scalars

    return _parsed(scalars.parse_size, text)


def _duration(text: str) -> float:
    from proxy.config import scalars

    return _parsed(scalars.parse_duration, text)


def _parsed(parse: Callable[[str], float], text: str) -> float:
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} {error}") from error


Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[
    int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free port.")
]
Size = Annotated[
    int | None,
    typer.Option(parser=_size, metavar="SIZE", help="Size of an exported file (default: 1MiB)."),
]
Generate = Annotated[
    float | None,
    typer.Option(
        parser=_duration,
        metavar="DURATION",
        help="How long the generation of a file takes (default: 0s).",
    ),
]
Rate = Annotated[
    int | None,
    typer.Option(
        parser=_size, metavar="SIZE", help="Bytes per second of a transfer (default: no limit)."
    ),
]
Tls = Annotated[bool, typer.Option("--tls", help="Serve https with a new self-signed certificate.")]
Faults = Annotated[
    list[str] | None,
    typer.Option(
        "--fault",
        metavar="NAME[=VALUE],…",
        help="A fault, such as outlook_missing,path=Pst (docs/simulator.md). Repeatable.",
    ),
]
ScenarioFile = Annotated[
    Path | None,
    typer.Option("--scenario", metavar="FILE", help="TOML file with settings, users and faults."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print no line per request.")]


def simulate(
    host: Host = "127.0.0.1",
    port: Port = DEMO_PORT,
    size: Size = None,
    generate: Generate = None,
    rate: Rate = None,
    tls: Tls = False,
    faults: Faults = None,
    scenario: ScenarioFile = None,
    quiet: Quiet = False,
) -> None:
    """Run a VB365 simulator for demos, tests and development."""
    from dataclasses import replace

    from proxy.cli.scenario import Scenario, ScenarioError
    from proxy.cli.simulate import run

    wanted = Scenario()
    if scenario is not None:
        wanted.read(scenario)
    for text in faults or ():
        wanted.add_fault(text)
    try:
        wanted.check()
    except ScenarioError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    options = {"size": size, "generate": generate, "rate": rate}
    given = {name: value for name, value in options.items() if value is not None}
    wanted.settings = replace(wanted.settings, **given)  # type: ignore[arg-type]
    raise typer.Exit(run_loop(run(wanted, host, port, tls=tls, quiet=quiet)))
