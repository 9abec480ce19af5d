"""`config check --connect`: what `doctor` finds, as errors and warnings."""

from __future__ import annotations

import asyncio

import typer

from proxy.cli.diagnosis.findings import State, has_failed
from proxy.cli.diagnosis.server import Configuration, examine
from proxy.cli.options import Sources
from proxy.config import Settings, format_problems


def check_all(sources: Sources) -> Settings:
    """Return the settings if nothing prevents `serve` from working; warnings are on stderr. Else
    print all errors and exit.
    """
    configuration = Configuration.of(sources.config, sources.flags)
    findings = asyncio.run(examine(configuration))
    if configuration.problems:
        typer.echo(format_problems(configuration.problems), err=True)
    for each in findings:
        if each.state is State.WARNING:
            typer.echo(f"Warning: {each}", err=True)
        elif each.state is State.FAILED and each.check != "configuration":
            typer.echo(str(each), err=True)
    if has_failed(findings):
        raise typer.Exit(2 if configuration.problems else 1)
    return configuration.settings
