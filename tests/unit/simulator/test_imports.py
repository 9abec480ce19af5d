"""The simulator shares no code with the proxy and has no import cycles."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[3] / "proxy" / "simulator"


def imported_modules(path: Path) -> set[str]:
    """The modules of this project that the file imports, also under TYPE_CHECKING."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "proxy.simulator":
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return {name for name in found if name.partition(".")[0] == "proxy"}


MODULES = {
    f"proxy.simulator.{path.stem}": imported_modules(path)
    for path in PACKAGE.glob("*.py")
    if path.stem != "__init__"
}


def test_the_simulator_imports_no_other_package_than_core() -> None:
    imported = set().union(*MODULES.values(), imported_modules(PACKAGE / "__init__.py"))
    packages = {".".join(name.split(".")[:2]) for name in imported}
    assert packages <= {"proxy.simulator", "proxy.core"}


def test_no_module_imports_itself_through_others() -> None:
    remaining = {name: imports & MODULES.keys() for name, imports in MODULES.items()}
    while leaves := {name for name, imports in remaining.items() if not imports}:
        remaining = {
            name: imports - leaves for name, imports in remaining.items() if name not in leaves
        }
    assert remaining == {}
