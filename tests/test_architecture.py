"""The plan of the house, checked: who may know whom, what stays pure, how large a room may grow."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import aiohttp.http_parser
import pytest

HOUSE = Path(__file__).parents[1] / "proxy"
FILES = sorted(HOUSE.rglob("*.py"))

#: From the ground up: a room may import rooms of the floors below its own, and itself.
FLOORS = (
    "core",
    "ports",
    "budget buffered clock credentials deadline descriptors limits logs meter notify sockets tls",
    "inbox lingering connection exchange renewal",
    "connections reading",
    "upstream relay access stores",
    "events runs safe slots space",
    "replies reception admission",
    "continuation",
    "transfer reconcile sweeper",
    "runner",
    "answers",
    "download intake",
    "gateway resources admin",
    "service lane",
    "link",
    "clients",
    "frontdoor",
    "listener",
    "app",
)
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms.split()}
#: Rooms with rules of their own: what they may import, all of it.
APART = {
    "config": {"core", "tls"},
    "client": {"core"},
    "simulator": {"core"},
    "simulate": {"simulator"},
    "demo": {"simulator"},
    "__main__": {"app", "client", "config", "demo", "logs", "simulate", "simulator"},
}
#: core imports none of these: no I/O, no clock, no chance.
IMPURE = {"asyncio", "aiohttp", "os", "time", "random", "logging"}
IMPURE |= {"io", "pathlib", "secrets", "socket", "ssl", "structlog", "subprocess", "tempfile", "threading"}

MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 60
LARGER = {"core/jobs.py": "the events, the table and its effects are one noun: what a job is"}


def room(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """The dotted names of the modules that the file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def allowed(importer: str, imported: str) -> bool:
    if imported in {importer, "__version__", "__init__"} or importer == "__init__":
        return True
    if importer in APART:
        return imported in APART[importer]
    if imported == "config":  # CONTRACT's settings are known to the composition root and the command line only
        return importer == "app"
    return imported in FLOOR and FLOOR[imported] < FLOOR[importer]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_imports_go_one_way(path: Path) -> None:
    assert room(path) in {*FLOOR, *APART, "__init__"}, f"give {room(path)} a place in FLOORS or APART"
    own = {name.split(".")[1] for name in imports(path) if name.startswith("proxy.")}
    wrong = sorted(name for name in own if not allowed(room(path), name))
    assert not wrong, f"{room(path)} must not know {', '.join(wrong)}"


@pytest.mark.parametrize("path", sorted((HOUSE / "core").glob("*.py")), ids=lambda path: path.name)
def test_core_is_pure(path: Path) -> None:
    """The rules are functions of their arguments: no I/O, clock, chance or log."""
    assert {name.partition(".")[0] for name in imports(path)} & IMPURE == set()


def test_no_file_is_too_long() -> None:
    """Over 400 lines: which one noun does this file know?"""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    names = {str(path.relative_to(HOUSE)): length for path, length in lengths.items() if length > MOST_LINES}
    assert {name: length for name, length in names.items() if name not in LARGER} == {}


def test_no_function_is_too_long() -> None:
    """Over 60 lines: a sign to stop and look."""
    long = [
        f"{path.relative_to(HOUSE)}: {node.name}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= MOST_LINES_OF_A_FUNCTION
    ]
    assert long == []


def test_the_c_parser_of_aiohttp_is_in_use() -> None:
    """Its pure Python stand-in is another grammar, and slow: AIOHTTP_NO_EXTENSIONS must be unset."""
    assert aiohttp.http_parser.HttpRequestParser is not aiohttp.http_parser.HttpRequestParserPy
    assert aiohttp.http_parser.HttpResponseParser is not aiohttp.http_parser.HttpResponseParserPy
