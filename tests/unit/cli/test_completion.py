"""The completion of the command line in shells."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from proxy.cli.main import app
from tests.support.commands import finished

#: The beginning of an option of a command that is loaded when it is used.
_WORDS = ("vb365-async-proxy", "export", "mailbox", "--se")
_LINE = " ".join(_WORDS)
#: How each shell shows what can follow `_LINE`, after its script. In zsh, the functions of its
#: completion system are replaced by ones that show their arguments.
_SHOWN = {
    "bash": f"""
COMP_WORDS=({_LINE}) COMP_CWORD=3
_vb365_async_proxy_completion vb365-async-proxy
printf '%s\\n' "${{COMPREPLY[@]}}"
""",
    "zsh": f"""
words=({_LINE}) CURRENT=4
_arguments() {{ print -r -- "$@" }}
_vb365_async_proxy_completion
""",
    "fish": f"complete --do-complete '{_LINE}'",
}
_BEFORE = {"zsh": "compdef() { }\n"}


def _script(shell: str) -> str:
    result = CliRunner().invoke(app, ["completion", shell], prog_name="vb365-async-proxy")
    assert result.exit_code == 0
    return result.stdout


def _run_in(shell: str) -> Any:
    missing = shutil.which(shell) is None
    return pytest.param(
        shell,
        marks=pytest.mark.skipif(
            missing, reason=f"{shell} is not installed: completion in it is not tested"
        ),
    )


@pytest.mark.parametrize("shell", [_run_in("bash"), _run_in("zsh"), _run_in("fish")])
def test_the_script_completes_in_the_shell(shell: str, tmp_path: Path) -> None:
    """Options, with their descriptions where the shell shows them."""
    file = tmp_path / "script"
    file.write_text(_BEFORE.get(shell, "") + _script(shell) + _SHOWN[shell])
    commands = str(Path(sys.executable).parent)
    path = os.pathsep.join((commands, os.environ["PATH"]))
    environment = {"PATH": path, "HOME": str(tmp_path), "NO_COLOR": "1"}
    done = finished(str(file), program=(shell,), env=environment, check=True)
    assert "--session" in done.stdout
    assert "--segment" in done.stdout
    assert "--url" not in done.stdout
    assert ("Use this restore session." in done.stdout) == (shell != "bash")
    assert done.stderr == ""


def test_the_script_of_powershell_registers_the_command() -> None:
    """It is not run: the tests have no PowerShell."""
    script = _script("powershell")
    assert "Register-ArgumentCompleter -Native -CommandName vb365-async-proxy" in script
    assert '_VB365_ASYNC_PROXY_COMPLETE = "complete_powershell"' in script


def test_another_shell_has_no_script() -> None:
    result = CliRunner().invoke(app, ["completion", "csh"])
    assert result.exit_code == 2
    assert "powershell" in result.output


@pytest.mark.parametrize("shell", ["powershell", "pwsh"])
def test_powershell_gets_the_client_s_commands(shell: str) -> None:
    """Also below commands that are loaded when they are used."""
    line = "vb365-async-proxy export mail"
    words = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_WORD_TO_COMPLETE": "mail"}
    variable = "_VB365_ASYNC_PROXY_COMPLETE"
    done = finished(env={**os.environ, **words, variable: f"complete_{shell}"})
    assert "mailbox" in done.stdout, done.stderr
