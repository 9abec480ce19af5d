"""The architecture, checked: which package may import which, what stays pure, how long a file may
grow.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib
import os
import re
import sys
import warnings
from collections.abc import Iterator
from importlib import machinery
from pathlib import Path
from types import ModuleType

import aiohttp.http_parser
import pytest

import proxy

PACKAGE = Path(__file__).parents[1] / "proxy"
FILES = sorted(PACKAGE.rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))

#: Lowest first: a package imports from lower layers and from itself.
LAYERS = (
    {"core"},
    {"ports", "net", "logs", "clock"},
    {"downstream", "upstream", "stores", "telemetry"},
    {"relay", "jobs"},
    {"api", "admin", "rescue", "webhooks"},
    {"parts"},
    {"app"},
    {"workers"},
    {"cli"},
)
LAYER = {name: height for height, names in enumerate(LAYERS) for name in names}
#: The resources know requests and responses, never the connection that carries them.
STRANGERS = {
    ("api", "downstream"),
    ("admin", "downstream"),
    ("jobs", "downstream"),
    ("webhooks", "downstream"),
}
#: Packages beside the layers, with everything that they may import.
APART = {
    "config": {"core", "net"},
    "client": {"core"},
    "simulator": set(),
    "__main__": {"cli"},
}
#: Packages that only these may import.
KNOWN_TO = {
    "config": {"parts", "app", "workers", "cli"},
    "client": {"cli"},
    "simulator": {"cli"},
    "__main__": set(),
}
#: Third-party libraries, and the packages that may import them. structlog and typing helpers are
#: free.
LIBRARIES = {
    "aiohttp": {"downstream", "api", "admin", "webhooks", "app", "client", "simulator"},
    "diskcache": {"stores"},
    "redis": {"stores"},
    "obstore": {"stores"},
    "cryptography": {"jobs", "cli"},
    "prometheus_client": {"admin"},
    "typer": {"cli", "client"},
    "rich": {"cli", "client"},
    "pydantic": {"config"},
    "pydantic_core": {"config"},
    "uvloop": {"cli"},
    "opentelemetry": {"telemetry"},
}
#: The top level of proxy/ holds packages; a file there is one of these.
TOP_LEVEL = {
    "__init__",
    "__main__",
    "app",
    "clock",
    "workers",
}
#: core imports none of these: no I/O, no clock, no randomness.
IMPURE = {"asyncio", "aiohttp", "os", "time", "random", "logging"}
IMPURE |= {
    "io",
    "pathlib",
    "secrets",
    "socket",
    "ssl",
    "structlog",
    "subprocess",
    "tempfile",
    "threading",
}

MAX_LINES, MAX_FUNCTION_LINES = 400, 60


def package(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module(path: Path) -> str:
    parts = ("proxy", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def nodes(path: Path) -> tuple[ast.stmt, ...]:
    """The imports and functions of the file, anywhere in it."""
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return tuple(node for node in statements(tree) if isinstance(node, kinds))


def statements(node: ast.AST) -> Iterator[ast.stmt]:
    """The statements below this one; expressions, which have none, are not searched."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        for each in getattr(node, name, ()):
            if isinstance(each, ast.stmt):
                yield each
            yield from statements(each)


def imports(path: Path) -> Iterator[str]:
    """The dotted names that the file imports, anywhere in it, `TYPE_CHECKING` blocks included."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def allowed(importer: str, imported: str) -> bool:
    if imported in {importer, "__version__"} or importer == "__init__":
        return True
    if imported in KNOWN_TO:
        return importer in KNOWN_TO[imported]
    if importer in APART:
        return imported in APART[importer]
    return (importer, imported) not in STRANGERS and LAYER[imported] < LAYER[importer]


@each_file
def test_imports_go_one_way(path: Path) -> None:
    own = {name.split(".")[1] for name in imports(path) if name.startswith("proxy.")}
    wrong = sorted(name for name in own if not allowed(package(path), name))
    assert not wrong, f"{package(path)} must not import {', '.join(wrong)}"


@each_file
def test_libraries_are_imported_where_they_belong(path: Path) -> None:
    used = {name.partition(".")[0] for name in imports(path)}
    wrong = sorted(name for name in used & LIBRARIES.keys() if package(path) not in LIBRARIES[name])
    assert not wrong, f"{package(path)} must not import {', '.join(wrong)}"


def graph() -> dict[str, set[str]]:
    """The files that each file imports, as modules."""
    modules = {module(path): path for path in FILES}
    return {name: set(_targets(path, modules)) - {name} for name, path in modules.items()}


def test_imports_have_no_circle() -> None:
    graphlib.TopologicalSorter(graph()).prepare()


def _targets(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    for name in imports(path):
        if name in modules:
            yield name
        elif name.rpartition(".")[0] in modules:
            yield name.rpartition(".")[0]


def test_the_top_level_holds_packages() -> None:
    """A new file belongs into a package, or its place here is a decision."""
    assert {path.stem for path in PACKAGE.glob("*.py")} == TOP_LEVEL
    assert len(TOP_LEVEL) <= 10


def test_every_package_has_a_layer_and_is_in_the_map() -> None:
    """The docstring of `proxy` lists the packages."""
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages <= LAYER.keys() | APART.keys()
    assert proxy.__doc__ is not None
    assert packages - set(re.findall(r"[a-z]+", proxy.__doc__)) == set()


@pytest.mark.timeout(300)  # seconds of CPU time, on a machine that may be busy
def test_each_file_can_be_imported_alone(tmp_path: Path) -> None:
    """With warnings as errors: no file needs what another has imported.

    The files follow in the order of their imports. In a new process, each is executed while only
    the files that it imports, directly or not, are loaded.
    """
    if not hasattr(os, "fork"):
        pytest.skip("no fork: whether each file imports what it needs is not tested")
    order = list(graphlib.TopologicalSorter(graph()).static_order())
    for each in order:  # third-party libraries are loaded without the filter for warnings
        importlib.import_module(each)
    failures = tmp_path / "failures"
    with warnings.catch_warnings():
        # Python 3.12 warns of fork beside threads; the child only imports
        warnings.simplefilter("ignore")
        child = os.fork()
    if not child:
        try:
            failures.write_text("".join(_not_importable_alone(order, graph())), encoding="utf-8")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert failures.read_text(encoding="utf-8") == ""


def _not_importable_alone(order: list[str], imported: dict[str, set[str]]) -> Iterator[str]:
    # A package that imports its files is executed with each of them, but compiled only once.
    compiled = functools.cache(machinery.SourceFileLoader.get_code)
    machinery.SourceFileLoader.get_code = compiled  # type: ignore[method-assign]
    needs: dict[str, set[str]] = {}
    loaded: dict[str, ModuleType] = {}
    for name in order:
        parents = {name.rsplit(".", count)[0] for count in range(1, name.count(".") + 1)}
        direct = (imported[name] | parents) - {name}
        needs[name] = direct.union(*(needs[each] for each in direct if each in needs))
        for known in [each for each in sys.modules if each.split(".")[0] == "proxy"]:
            del sys.modules[known]
        for each, found in loaded.items():
            parent, _, leaf = each.rpartition(".")
            if each in needs[name]:
                sys.modules[each] = found
                vars(loaded.get(parent, found))[leaf] = found
            else:
                vars(loaded.get(parent, found)).pop(leaf, None)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                loaded[name] = importlib.import_module(name)
        except Exception as why:  # noqa: BLE001  # whatever stops it is the finding
            yield f"{name}: {why!r}\n"


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "core").rglob("*.py")), ids=lambda path: path.name
)
def test_core_is_pure(path: Path) -> None:
    """The rules are functions of their arguments: no I/O, clock, randomness or log."""
    assert {name.partition(".")[0] for name in imports(path)} & IMPURE == set()


def test_no_file_is_too_long() -> None:
    """A file that is too long contains more than one thing."""
    lengths = {
        str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines())
        for path in FILES
    }
    assert {name: count for name, count in lengths.items() if count > MAX_LINES} == {}


def test_no_function_is_too_long() -> None:
    """A function over 60 lines: a sign to stop and look."""
    long = [
        f"{path.relative_to(PACKAGE)}: {node.name}"
        for path in FILES
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []


def test_the_c_parser_of_aiohttp_is_in_use() -> None:
    """The pure Python parser has another grammar and is slow: AIOHTTP_NO_EXTENSIONS must be
    unset.
    """
    assert aiohttp.http_parser.HttpRequestParser is not aiohttp.http_parser.HttpRequestParserPy
    assert aiohttp.http_parser.HttpResponseParser is not aiohttp.http_parser.HttpResponseParserPy
