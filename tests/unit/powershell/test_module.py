"""The PowerShell module, checked by the grammar of the language: no PowerShell runs here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import tree_sitter_powershell
from tree_sitter import Language, Node, Parser

PLACE = Path(__file__).parents[3] / "clients" / "powershell"
MODULE, MANIFEST = PLACE / "VB365Async.psm1", PLACE / "VB365Async.psd1"
PARSER = Parser(Language(tree_sitter_powershell.language()))


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from nodes(child)


def functions() -> dict[str, str]:
    """The text of each function of the module, by name."""
    return {
        node.children[1].text.decode(): node.text.decode()
        for node in nodes(PARSER.parse(MODULE.read_bytes()).root_node)
        if node.type == "function_statement" and node.text and node.children[1].text
    }


def quoted(text: str) -> list[str]:
    return sorted(re.findall(r"'(\w+-VB365Async\w*)'", text))


@pytest.mark.parametrize("path", [MODULE, MANIFEST], ids=lambda path: path.name)
def test_the_grammar_accepts_the_file(path: Path) -> None:
    root = PARSER.parse(path.read_bytes()).root_node
    wrong = [node.start_point for node in nodes(root) if node.is_error or node.is_missing]
    assert wrong == []


@pytest.mark.parametrize("path", [MODULE, MANIFEST], ids=lambda path: path.name)
def test_windows_powershell_can_read_the_file(path: Path) -> None:
    """5.1 reads a file without a byte order mark as ANSI, and has no operators of PowerShell 7."""
    assert path.read_bytes().isascii()
    code = re.sub(r"<#.*?#>|#[^\n]*|'[^'\n]*'", "", path.read_text(), flags=re.DOTALL)
    assert re.findall(r"\?\?|&&|\|\||\?\.|-Parallel\b|\$\w+ \? ", code) == []


def test_what_is_exported_is_declared_and_has_help() -> None:
    exported = sorted(name for name in functions() if "-VB365Async" in name)
    assert quoted(MODULE.read_text().partition("Export-ModuleMember")[2]) == exported
    assert quoted(MANIFEST.read_text()) == exported
    for name in exported:
        text = functions()[name]
        assert ".SYNOPSIS" in text, name
        declared = set(
            re.findall(r"\[\w+\] \$(\w+)(?: = [^\n]+?)?,?\n", text.partition("param(")[2])
        )
        documented = set(re.findall(r"\.PARAMETER (\w+)", text))
        assert documented <= declared | {"Job"}, name


def test_every_function_that_is_called_exists() -> None:
    """The verbs of the module's own functions and of the cmdlets that 5.1 has."""
    known = {
        *("Add-Member", "Add-Type", "ConvertFrom-Json", "ConvertTo-Json", "Export-ModuleMember"),
        *("ForEach-Object", "Get-FileHash", "Get-Item", "Move-Item", "New-Item", "New-Object"),
        *("Remove-Item", "Set-StrictMode", "Start-Sleep", "Test-Path", "Where-Object", "Join-Path"),
        *("Write-Error", "Write-Progress", "Write-Verbose", "Write-Warning"),
    }
    called = {
        node.text.decode()
        for node in nodes(PARSER.parse(MODULE.read_bytes()).root_node)
        if node.type == "command_name" and node.text
    }
    assert called - known - functions().keys() == set()
    assert functions().keys() - called == {name for name in functions() if "-VB365Async" in name}
