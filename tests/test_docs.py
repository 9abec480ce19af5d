"""What the documents name exists: commands, flags, settings, links. The locks are complete."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from proxy.cli.doctor import doctor_app
from proxy.cli.main import app
from proxy.client import client_app
from proxy.config import text
from proxy.config.settings import SECTIONS
from proxy.core.errors import KINDS
from proxy.core.job import ErrorCode

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("config/**/*.md")])
#: Events of the log with the name of a section.
EVENTS = {"upstream.down", "upstream.up"}
SETTINGS = {f"{section}.{key}" for section, kind in SECTIONS.items() for key in kind.model_fields}
each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def code(document: Path) -> Iterator[str]:
    """The document's code: the lines of its fenced blocks, continued ones joined, and its inline
    code.
    """
    content = document.read_text(encoding="utf-8")
    for block in re.findall(r"^ *```.*?\n(.*?)^ *```", content, re.DOTALL | re.MULTILINE):
        yield from block.replace("\\\n", " ").splitlines()
    prose = re.sub(r"^ *```.*?^ *```", "", content, flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"`([^`\n]+)`", prose)


def tree(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    """Every command below this one, with its options."""
    yield (
        path,
        {
            option
            for parameter in command.params
            for option in parameter.opts + parameter.secondary_opts
        },
    )
    for name, below in getattr(command, "commands", {}).items():
        yield from tree(below, *path, name)


def commands() -> dict[tuple[str, ...], set[str]]:
    """The whole command line, including the client's commands."""
    own, client = typer.main.get_command(app), typer.main.get_command(client_app)
    doctor = typer.main.get_command(doctor_app)  # with the options of both
    return {
        path: options | {"--help"}
        for path, options in (*tree(own), *tree(client), *tree(doctor, "doctor"))
        if path or options
    }


def invocations(line: str) -> Iterator[list[str]]:
    """The words after `vb365-async-proxy` in a line of code, up to what a shell would end the
    command at.
    """
    for rest in re.findall(r"(?<![\w./:-])vb365-async-proxy((?:\s+[^\s|;&>#]+)*)", line):
        try:
            yield shlex.split(rest)
        except ValueError:  # a quote that goes on in the next line: the words are enough
            yield rest.split()


@each_document
def test_every_command_in_the_documents_exists(document: Path) -> None:
    """Each `vb365-async-proxy …` in code is a command, and its flags are that command's."""
    known = commands()
    for line in code(document):
        for words in invocations(line):
            names = [word for word in words if re.fullmatch(r"[a-z]+", word)]
            path = next(
                (tuple(names[:n]) for n in (2, 1) if tuple(names[:n]) in known and names[:n]), ()
            )
            plain = [word for word in words[:1] if re.fullmatch(r"[a-z]+", word)]
            assert path or not plain, f"{line!r}: there is no such command"
            flags = {word.partition("=")[0] for word in words if re.match(r"--\w", word)}
            assert flags <= known.get(path, {"--help", "--version"}), f"{line!r}: {flags}"


@each_document
def test_every_make_target_in_the_documents_exists(document: Path) -> None:
    targets = set(
        re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    for line in code(document):
        for target in re.findall(r"(?:^|[\s;&$(])make ([a-z-]+)", line):
            assert target in targets, f"{line!r}: there is no make {target}"


def recipe(target: str) -> str:
    """The commands of a make target, without those of the targets that it depends on."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    match = re.search(rf"^{target}:.*\n((?:\t.*\n?)*)", makefile, re.MULTILINE)
    assert match
    return match[1]


def test_make_check_installs_nothing_outside_the_virtual_environment() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^check: lint ", makefile, re.MULTILINE)
    assert re.search(r"^lint: install ", makefile, re.MULTILINE)
    assert "apt-get" not in recipe("check") + recipe("lint")
    (unit,) = re.findall(r"^UNIT := ((?:.*\\\n)*.*)", makefile, re.MULTILINE)
    for path in unit.replace("\\\n", " ").split():
        assert (ROOT / path).exists(), path


def test_make_clean_keeps_the_virtual_environment() -> None:
    assert "rm -rf .venv" not in recipe("clean")
    assert "rm -rf .venv" in recipe("distclean")


def rows(heading: str, columns: int) -> dict[str, list[str]]:
    """The rows of the tables below a heading of docs/operations.md, by the name in their first
    cell.
    """
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("| `")
    ]
    found = {row[0].strip("`"): row[1:] for row in cells if row[0].count("`") == 2}
    assert len(found) == len(cells)
    assert all(len(row) == columns and all(row) for row in found.values())
    return found


def test_every_error_code_has_something_to_do() -> None:
    """Of failed jobs and of problems (CONTRACT §5, §11), with the status of the latter."""
    found = rows("Error codes", 2)
    assert set(found) == {code.value for code in ErrorCode} | KINDS.keys()
    for name, kind in KINDS.items():
        assert str(kind.status) in found[name][0].split(", "), name


def test_every_alert_has_something_to_do() -> None:
    """The same severity as in config/alerts.yml, where each has a summary and a description."""
    groups = yaml.safe_load((ROOT / "config" / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    rules = {rule["alert"]: rule for group in groups for rule in group["rules"]}
    assert {name: row[0] for name, row in rows("Alerts", 2).items()} == {
        name: rule["labels"]["severity"] for name, rule in rules.items()
    }
    assert all(
        rule["annotations"]["summary"] and rule["annotations"]["description"]
        for rule in rules.values()
    )


def anchors(document: Path) -> set[str]:
    """The anchors that headings of a Markdown file make."""
    headings = re.findall(r"^#+ +(.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    content = re.sub(
        r"^ *```.*?^ *```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    for link in re.findall(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)", content):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), f"{link}: there is no such file"
        assert target.is_relative_to(ROOT), f"{link}: leads out of the project"
        assert not anchor or anchor in anchors(target), f"{link}: there is no such heading"


@each_document
def test_every_setting_in_the_documents_exists(document: Path) -> None:
    """Settings by name (`exports.grace`) and by variable (`VB365_PROXY_EXPORTS__GRACE`)."""
    sections = "|".join(SECTIONS)
    for line in code(document):
        for name in re.findall(rf"(?<![\w./-])((?:{sections})\.[a-z_]+)(?![\w./(-])", line):
            assert name in SETTINGS | EVENTS, f"{line!r}: there is not a known setting {name}"
        for section, key in re.findall(r"VB365_PROXY_([A-Z]+)__([A-Z_]+)", line):
            assert f"{section}.{key}".lower() in SETTINGS, f"{line!r}: there is no such setting"


def test_every_setting_is_documented() -> None:
    """docs/configuration.md holds the tables that the settings make: run `make docs` after a
    change.
    """
    documented = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert documented == text.with_tables(documented)
    for section, values in text.defaults().items():
        table = documented.partition(f"### `[{section}]`")[2].partition("###")[0]
        for key in values:
            assert f"| `{key}` |" in table, f"{section}.{key}"


# The picture of README.md


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours (WCAG 2.2, relative luminance)."""

    def luminance(colour: str) -> float:
        parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_text_of_the_picture_is_legible(scheme: str) -> None:
    """It has its own background, so that the page's does not matter: 4.5 to 1 at least."""
    picture = (ROOT / "docs" / "images" / "flow.svg").read_text(encoding="utf-8")
    assert "docs/images/flow.svg" in (ROOT / "README.md").read_text(encoding="utf-8")
    light, _, dark = picture.partition("prefers-color-scheme: dark")
    style = light if scheme == "light" else dark.partition("</style>")[0]
    fills = dict(re.findall(r"^ *\.?(\w+) { fill: (#\w{6});", style, re.MULTILINE))
    for front, behind in (("text", "page"), ("text", "peer"), ("bad", "page"), ("good", "page")):
        assert contrast(fills[front], fills[behind]) >= 4.5, (front, behind)


# The locked set-up


def pins(name: str) -> dict[str, str]:
    """Distribution and version of every pin in a requirements file."""
    content = (ROOT / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", content, re.MULTILINE))


LOCKS = ("requirements.lock", "requirements-runtime.lock", "requirements-build.lock")


@pytest.mark.parametrize(
    "name", ["constraints.txt", *LOCKS, "pyproject.toml", "Makefile", "Dockerfile"]
)
def test_no_registry_is_named(name: str) -> None:
    """The user decides which registry to install from."""
    content = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(
        r"--(extra-)?index-url|--find-links|file:/|/simple(/|$)", content, re.MULTILINE
    )
    if name in {"constraints.txt", *LOCKS}:
        assert not re.search(r"https?:", content)


def test_constraints_and_lock_pin_the_same_versions() -> None:
    assert pins("constraints.txt") == pins("requirements.lock")


def names(requirements: Iterable[str]) -> set[str]:
    return {
        re.split(r"[^A-Za-z0-9._-]", item)[0].lower().replace("_", "-") for item in requirements
    }


@pytest.mark.parametrize("name", LOCKS)
def test_every_dependency_is_pinned_with_hashes(name: str) -> None:
    """The whole set-up, what runs, and what builds: each has all that pyproject.toml asks for, in
    one version.
    """
    written = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = written["project"]
    extras = [item for extra in project["optional-dependencies"].values() for item in extra]
    wanted = {
        "requirements.lock": [*project["dependencies"], *extras],
        "requirements-runtime.lock": [
            *project["dependencies"],
            *project["optional-dependencies"]["cluster"],
        ],
        "requirements-build.lock": written["build-system"]["requires"],
    }[name]
    assert names(wanted) <= set(pins(name))
    assert pins(name).items() <= pins("constraints.txt").items()
    entries = re.split(r"\n(?=\S)", (ROOT / name).read_text(encoding="utf-8").strip())
    assert all("--hash=sha256:" in entry for entry in entries)


def test_what_runs_is_what_the_code_imports() -> None:
    """Every dependency is imported, and no development tool is among them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "proxy").rglob("*.py"))
    imported = set(re.findall(r"^\s*(?:import|from) (\w+)", code, re.MULTILINE))
    assert {name.replace("-", "_") for name in names(project["dependencies"])} <= imported
    assert not names(project["optional-dependencies"]["dev"]) & set(
        pins("requirements-runtime.lock")
    )


@pytest.mark.parametrize("name", ["Dockerfile", "README.md", "docs/deployment.md"])
def test_every_way_to_install_checks_the_hashes(name: str) -> None:
    """Packages come from a lock with hashes; the project itself brings none and builds with what is
    there.
    """
    content = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    installs = re.findall(r"pip (?:install|wheel) (.*)", content)
    assert installs
    for arguments in installs:
        hashed = "--require-hashes --no-deps -r requirements-" in arguments
        assert (
            hashed
            or "--no-deps --no-build-isolation" in arguments
            or "--no-deps --no-index" in arguments
        )
    assert {"requirements-runtime.lock", "requirements-build.lock"} <= set(
        re.findall(r"requirements-\w+\.lock", content)
    )


def test_the_base_image_is_named_by_its_digest() -> None:
    content = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^ARG PYTHON=python:3\.\d+-slim@sha256:[0-9a-f]{64}$", content, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", content, re.MULTILINE)) == {"${PYTHON}"}
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    assert all(f"!{copied}" in ignored for copied in re.findall(r"requirements-\w+\.lock", content))


def test_the_tools_that_only_lock_stay_out_of_the_product() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert not [item for item in project["dependencies"] if re.match(r"(uv|pip|hatchling)\b", item)]
