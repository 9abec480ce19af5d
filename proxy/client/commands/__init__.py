"""The client's command line (CONTRACT §15). Only the result goes to stdout; progress and errors go
to stderr.
"""

from __future__ import annotations

import typer

from proxy.client.commands import browse
from proxy.client.commands.export import export_app
from proxy.client.commands.jobs import jobs_app
from proxy.client.commands.login import login, logout
from proxy.client.commands.options import CONTEXT, FEW_EXIT_CODES, explain_exit_codes

client_app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings=CONTEXT,
    add_completion=False,
)
client_app.command("login")(login)
client_app.command("logout")(logout)
client_app.add_typer(export_app, name="export")
client_app.add_typer(jobs_app, name="jobs")
browse.add_to(client_app)
explain_exit_codes(client_app, FEW_EXIT_CODES)
