"""The command `completion`: the script with which a shell completes this command."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from typer.completion import show_callback


class Shell(StrEnum):
    """The shells that have a script."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    POWERSHELL = "powershell"


def completion(
    context: typer.Context,
    shell: Annotated[Shell, typer.Argument(help="The shell that is to complete.")],
) -> None:
    """Print a script with which a shell completes commands, options and their values.

    For the current session, in bash or zsh: source <(vb365-async-proxy completion SHELL)

    In fish: vb365-async-proxy completion fish | source

    In PowerShell: vb365-async-proxy completion powershell | Out-String | Invoke-Expression

    For later ones, add this line to ~/.bashrc, to ~/.zshrc after compinit, to
    ~/.config/fish/config.fish or to $PROFILE.
    """
    show_callback(context, context.command.params[0], str(shell))
