"""docs/threat-model.md names only tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")


def named_in(file: Path) -> set[str]:
    if not file.is_file():
        return set()
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        node.name
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, kinds)
    }


def test_every_named_test_exists() -> None:
    """Each `tests/file.py::name` is a test."""
    proofs = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", DOCUMENT)
    assert len(proofs) > 30
    missing = [f"{file}::{name}" for file, name in proofs if name not in named_in(ROOT / file)]
    assert missing == []


def test_every_promise_names_a_test() -> None:
    """Each line of the promises ends with at least one test."""
    promises = DOCUMENT.partition("\n## Promises")[2].partition("\n## ")[0]
    lines = [line for line in promises.splitlines() if line.startswith("- ")]
    assert len(lines) > 20
    assert [line for line in lines if not re.search(r"`tests/[\w/]+\.py::test_\w+`$", line)] == []
