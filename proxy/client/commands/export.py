"""The commands `export …`: from what is in VB365 to a verified file."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from proxy.client.commands import named
from proxy.client.commands.options import (
    CONTEXT,
    EXIT_CODES,
    Chosen,
    DefaultCommand,
    with_groups,
)
from proxy.client.commands.running import exit_on_error, run
from proxy.client.connection import Connection, Resolved
from proxy.client.display import Display
from proxy.client.errors import CommandError
from proxy.client.export import Outcome, export
from proxy.client.proxy import Proxy
from proxy.core.text import UTF_16, NotUtf8

#: The path of an export of any API version, below the address of the proxy.
_EXPORT = re.compile(r"(?i)/+v\d+/+(?:restoresessions|reports)/")


class _UrlByDefault(DefaultCommand):
    """`export URL` and `export --path PATH` mean `export url …`."""

    default = "url"


export_app = typer.Typer(
    cls=_UrlByDefault, no_args_is_help=True, context_settings=CONTEXT, epilog=EXIT_CODES
)


@export_app.callback()
def _export() -> None:
    """Start an export, follow it, download the file and verify it.

    For example: export mailbox bob@contoso.com --output exports/
    """


@export_app.command("url", epilog=EXIT_CODES)
@with_groups
def export_url(
    chosen: Chosen,
    connection: Connection,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="URL", help="URL or path of the export: /v8/RestoreSessions/…/exportToPst."
        ),
    ] = None,
    path: Annotated[
        str | None, typer.Option(metavar="PATH", help="The path of the export, instead of its URL.")
    ] = None,
    body: Annotated[
        str | None, typer.Option(help="Request body: a file, - for stdin, or JSON text.")
    ] = None,
    content_type: Annotated[str, typer.Option(help="Media type of the body.")] = "application/json",
) -> None:
    """Start the export with this URL, download the file, verify it and print its path."""
    with exit_on_error(connection.progress):
        connection, path = _target(connection, target, path)
        content = _body(body, content_type)
        version = _version(path)
    connection = replace(connection, api=version or connection.api)

    async def work(proxy: Proxy, display: Display, resolved: Resolved) -> Outcome:
        options = chosen.options(resolved.segment)
        return await export(proxy, display, path, content, content_type, chosen.key, options)

    run(connection, work)


named.add_to(export_app)


def _target(connection: Connection, url: str | None, path: str | None) -> tuple[Connection, str]:
    """Return the connection and the path of the export. An absolute URL has the address too."""
    if (url is None) == (path is None):
        raise CommandError("Give the URL of the export, or --path, and not both", code=2)
    if path is not None:
        return connection, path
    target = url or ""
    if not target.startswith(("http://", "https://")):
        if not target.startswith("/"):
            raise CommandError(
                f"{target!r} is neither the URL of an export nor one of: mailbox, onedrive, site, "
                "team, url. Options follow that word",
                code=2,
            )
        return connection, target
    found = _EXPORT.search(target, target.index("://") + 3)
    if found is None:
        raise CommandError(f"{target} is not the URL of an export", code=2)
    return replace(connection, url=target[: found.start()]), target[found.start() :]


def _body(given: str | None, content_type: str) -> bytes | None:
    """Return the bytes to send. They are not parsed, because bodies in use are not strict JSON.

    Raises `CommandError` for an unreadable file, and for JSON in UTF-16, which VB365 does not
    support (RFC 8259 §8.1).
    """
    if given is None:
        return None
    if given.lstrip()[:1] in ("{", "["):
        return given.encode(errors="surrogateescape")
    path = Path(given.removeprefix("@"))
    try:
        body = sys.stdin.buffer.read() if given == "-" else path.read_bytes()
    except OSError as error:
        raise CommandError(f"--body: {path} cannot be read: {error.strerror}", code=2) from error
    if "json" in content_type.lower() and body.startswith(UTF_16):
        raise CommandError(
            f"--body: {'stdin' if given == '-' else path} is UTF-16: {NotUtf8.fix}", code=2
        )
    return body


def _version(path: str) -> str | None:
    """Return the API version in the path, to log in with.

    Raises `CommandError` if the path is not valid in a request line.
    """
    if not re.fullmatch(r"/[!-~]*", path) or "#" in path:
        raise CommandError(
            "--path must begin with / and be percent-encoded",
            code=2,
        )
    match = re.match(r"/+(v\d+)/", path, re.IGNORECASE)
    return match[1] if match else None
