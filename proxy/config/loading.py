"""Loading settings from flags > environment > secret files > TOML file > defaults (CONTRACT §15).

All sources are read, the strongest source of each setting wins, and then everything is validated,
so that all problems are reported at once. An empty value counts as not set.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from proxy.config.section import PREFIX, Section
from proxy.config.settings import SECTIONS, Settings
from proxy.config.syntax import read_text
from proxy.core.text import NotUtf8, visible

#: Variables with the prefix that are not settings.
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
SECRETS_VARIABLE = f"{PREFIX}SECRETS_DIR"
#: Where container platforms mount secrets. Used if it exists and SECRETS_VARIABLE is not set.
SECRETS_DIR = "/run/secrets"

#: The flags of `serve` by the setting that each of them sets.
FLAGS = {
    "upstream.url": "--upstream",
    "listen.address": "--listen",
    "admin.address": "--admin",
    "storage.dir": "--data-dir",
    "listen.workers": "--workers",
}

#: Variables that Kubernetes sets in every pod for a service that is named vb365-proxy.
_KUBERNETES = re.compile(
    PREFIX + r"(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?)"
)

_NAMES = {f"{section}.{key}" for section, kind in SECTIONS.items() for key in kind.model_fields}
_SECRET = {"admin.token", "secrets.key", "webhooks.secrets"}
#: Parts of other values that may be secret: a password in a URL, and what follows the authority in
#: a webhook's.
_SECRET_IN = {"webhooks.urls": r"[@?#]|(?<![:/])/."}


@dataclass(frozen=True, slots=True)
class Problem:
    """An error in the configuration: where it is, in which setting, what it is and a fix."""

    source: str
    key: str
    problem: str
    hint: str

    def __str__(self) -> str:
        place = f"{self.source}: {self.key}" if self.key else self.source
        return f"{visible(f'{place} {self.problem}')}\n    {visible(self.hint)}"


class ConfigError(Exception):
    """The configuration is invalid; `problems` has all errors, `valid` the sections without one."""

    def __init__(self, problems: list[Problem], valid: Mapping[str, Section]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems
        self.valid = valid


@dataclass(frozen=True, slots=True)
class _Item:
    """A value in a source. `name` is `section.key`, and may be unknown."""

    name: str
    value: Any
    source: str


Report = Callable[[Problem], None]
#: Returns what is wrong with a value that has the right syntax, and how to fix it; None if nothing.
Check = Callable[[str], tuple[str, str] | None]


def load(
    config_file: Path | None,
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    checks: Mapping[str, Check] | None = None,
) -> Settings:
    """Return the settings of all sources.

    `flags` has the keys of `FLAGS`, for example "upstream.url"; None is a flag that is not given.
    `checks` has checks of settings by name, for example "storage.jobs". Raises `ConfigError` with
    every problem of every source.
    """
    problems: list[Problem] = []
    items: dict[str, _Item] = {}
    for item in _collect(config_file, flags, environ, problems.append):
        if item.name not in _NAMES:
            problems.append(_unknown(item))
        elif item.value != "":
            items[item.name] = item
    sections: dict[str, Section] = {}
    for name, kind in SECTIONS.items():
        values = {
            item.name.partition(".")[2]: item.value
            for item in items.values()
            if item.name.startswith(f"{name}.")
        }
        try:
            sections[name] = kind.model_validate(values, context=True)
        except ValidationError as invalid:
            problems += [
                _problem(f"{name}.{'.'.join(map(str, error['loc']))}", error, items)
                for error in invalid.errors()
            ]
    for problem in _checked(items, checks or {}, {problem.key for problem in problems}):
        problems.append(problem)
        sections.pop(problem.key.partition(".")[0], None)
    if problems:
        raise ConfigError(problems, sections)
    return Settings(**sections)  # type: ignore[arg-type]  # each section has its own type


def _checked(
    items: Mapping[str, _Item], checks: Mapping[str, Check], bad: set[str]
) -> Iterator[Problem]:
    """Yield what the checks find in settings that are not `bad` already."""
    for name, check in checks.items():
        item = items.get(name)
        if item is not None and name not in bad and (found := check(str(item.value).strip())):
            yield Problem(item.source, name, *found)


def logs_json(
    config_file: Path | None, flags: Mapping[str, str | None], environ: Mapping[str, str]
) -> bool:
    """Whether the sources, which may be invalid, say that `log.format` is json."""
    values = [
        item.value
        for item in _collect(config_file, flags, environ, lambda problem: None)
        if item.name == "log.format" and item.value != ""
    ]
    return values[-1:] == ["json"]


def _collect(
    config_file: Path | None,
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    report: Report,
) -> Iterator[_Item]:
    """Yield the values of all sources, the weakest source first."""
    if config_file is not None:
        yield from _from_toml(config_file, report)
    yield from _from_secret_files(environ, report)
    yield from _from_environment(environ)
    for name, value in flags.items():
        if value is not None:
            yield _Item(name, value, f"flag {FLAGS.get(name, name)}")


def _from_toml(path: Path, report: Report) -> Iterator[_Item]:
    toml = _read(path, "Name a file that this user can read.", report)
    if toml is None:
        return
    try:
        tables = tomllib.loads(toml)
    except (ValueError, RecursionError) as error:
        report(Problem(str(path), "", f"is not TOML: {error}", _toml_hint(toml, str(error))))
        return
    for section, table in tables.items():
        if isinstance(table, dict):
            yield from (_Item(f"{section}.{key}", value, str(path)) for key, value in table.items())
        else:
            yield _Item(section, table, str(path))


def _read(path: Path, hint: str, report: Report) -> str | None:
    """Return the text of a file, or report the problem and return None."""
    try:
        return read_text(path)
    except NotUtf8 as error:
        report(Problem(str(path), "", str(error), _sentence(error.fix)))
    except OSError as error:
        report(Problem(str(path), "", f"cannot be read ({error.strerror})", hint))
    return None


def _toml_hint(toml: str, error: str) -> str:
    """Return how to fix a TOML file that the parser rejected with `error`.

    Of the line, only characters that are not printable are shown: the rest may be a secret.
    """
    match = re.search(r"\(at line (\d+), ", error)
    line = toml.replace("\r\n", "\n").split("\n")[int(match[1]) - 1] if match else ""
    if odd := sorted({visible(c) for c in line if not c.isprintable() and c != "\t"}):
        return f"Line {match and match[1]} contains {' '.join(odd)}: type that line again."
    if "\\" in line:
        return (
            "Write a Windows path in 'single quotes' or with forward slashes: dir = 'D:\\exports'."
        )
    if "Invalid value" in error:
        return 'Write text in straight quotes, for example url = "https://vb365.example.com:4443".'
    return "See `vb365-async-proxy config init` for an example."


def _from_secret_files(environ: Mapping[str, str], report: Report) -> Iterator[_Item]:
    """Yield the files that are named like environment variables, in any case; ignore others."""
    directory = Path(environ.get(SECRETS_VARIABLE) or SECRETS_DIR)
    if not directory.is_dir():
        if environ.get(SECRETS_VARIABLE):
            hint = "Name the directory with the secrets."
            report(Problem(SECRETS_VARIABLE, "", f"names {directory}, which is no directory", hint))
        return
    for path in sorted(directory.iterdir()):
        if path.name.upper().startswith(PREFIX):
            value = _read(path, "Allow this user to read it.", report)
            if value is not None:
                yield _Item(_setting(path.name), value.strip(), str(path))


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Item]:
    for variable, value in environ.items():
        other = variable in {CONFIG_VARIABLE, SECRETS_VARIABLE} or _KUBERNETES.fullmatch(variable)
        if variable.startswith(PREFIX) and not other:
            yield _Item(_setting(variable), value, f"environment variable {variable}")


def _setting(variable: str) -> str:
    return variable[len(PREFIX) :].lower().replace("__", ".", 1)


def _unknown(item: _Item) -> Problem:
    similar = difflib.get_close_matches(item.name.replace("_", "."), _NAMES, n=1, cutoff=0.7)
    similar = similar or difflib.get_close_matches(item.name, _NAMES, n=1, cutoff=0.6)
    hint = (
        f"Did you mean {similar[0]}?"
        if similar
        else "See `vb365-async-proxy config init` for all settings."
    )
    return Problem(item.source, item.name, "is not a known setting", hint)


def _problem(name: str, error: Any, items: Mapping[str, _Item]) -> Problem:
    """Convert an error of pydantic. The value is shown unless it is, or may contain, a secret."""
    item = items.get(name)
    if error["type"] == "missing":
        section, _, key = name.partition(".")
        variable = PREFIX + name.upper().replace(".", "__")
        hint = f"Set {FLAGS[name]}, {variable}, or {key} under [{section}]."
        return Problem("configuration", name, "is required", hint)
    context = error.get("ctx", {})
    secret = name in _SECRET or (item and re.search(_SECRET_IN.get(name, "@"), str(item.value)))
    value = f"= {_show(item.value)} " if item and not secret else ""
    hint = context.get("hint", "")
    return Problem(
        item.source if item else "configuration",
        name,
        value + context.get("problem", error["msg"]),
        _sentence(hint) if hint else "See `vb365-async-proxy config init` for its syntax.",
    )


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _show(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def format_problems(problems: Iterable[Problem]) -> str:
    """Return the problems as text for people, below a line with their number."""
    lines = [f"  {problem}" for problem in problems]
    plural = "" if len(lines) == 1 else "s"
    return "\n".join([f"{len(lines)} problem{plural} in the configuration:", *lines])
