"""The options of `serve`, `config` and `healthcheck`, each defined once (CONTRACT §15)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

EXIT_CODES = "Exit codes: 0 success, 1 failed, 2 wrong configuration or command line."
HEALTH_EXIT_CODES = (
    "Exit codes: 0 healthy, 1 not healthy, no response or a wrong configuration, 2 wrong command "
    "line."
)

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="VB365_PROXY_CONFIG",
        metavar="FILE",
        help="Configuration file (TOML).",
        show_default=False,
    ),
]
UpstreamUrl = Annotated[
    str | None,
    typer.Option("--upstream", metavar="URL", help="Base URL of VB365's REST API."),
]
ListenAddress = Annotated[
    str | None,
    typer.Option("--listen", metavar="HOST:PORT", help="Address to serve clients on."),
]
AdminAddress = Annotated[
    str | None,
    typer.Option("--admin", metavar="HOST:PORT", help="Address of the admin listener."),
]
DataDir = Annotated[
    str | None,
    typer.Option("--data-dir", metavar="DIR", help="Directory for jobs and files."),
]
Workers = Annotated[
    str | None,
    typer.Option("--workers", metavar="N", help="Number of processes that share the address."),
]
ConfigOutput = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="File to create (default: stdout).", show_default=False),
]
Connect = Annotated[bool, typer.Option("--connect", help="Also try VB365, ports, disk and stores.")]
Ready = Annotated[bool, typer.Option("--ready", help="Check /readyz instead of /healthz.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Time limit in seconds.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The configuration file and the flags; each member is an option of the command line."""

    config: ConfigFile = None
    upstream: UpstreamUrl = None
    listen: ListenAddress = None
    admin: AdminAddress = None
    data_dir: DataDir = None
    workers: Workers = None

    @property
    def flags(self) -> dict[str, str | None]:
        """The flags by the setting that each of them sets; None for one that is not given."""
        from proxy.config import FLAGS

        members = {setting: flag.strip("-").replace("-", "_") for setting, flag in FLAGS.items()}
        return {setting: getattr(self, member) for setting, member in members.items()}


def with_sources(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` the members of `Sources` as options beside its own."""
    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    names = {each.name for each in own}

    def with_options(**options: Any) -> None:
        mine = {name: value for name, value in options.items() if name in names}
        command(Sources(**{n: v for n, v in options.items() if n not in names}), **mine)

    signature = inspect.signature(Sources, eval_str=True)
    parameters = [*own, *signature.parameters.values()]
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    with_options.__name__, with_options.__doc__ = command.__name__, command.__doc__
    with_options.__annotations__ = {each.name: each.annotation for each in parameters}
    with_options.__signature__ = signature.replace(  # type: ignore[attr-defined]  # read by inspect
        parameters=parameters, return_annotation=None
    )
    return with_options
