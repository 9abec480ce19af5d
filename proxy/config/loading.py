"""Where settings come from: flags > environment > secret files > TOML > defaults (CONTRACT §15).

Every source yields what it holds; the last word on a setting wins; then all of it is checked, so
that all problems are told at once, each with its place. An empty value is no value: the next source
has the say.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from proxy.config.directory import shared
from proxy.config.settings import PREFIX, SECTIONS, Section, Settings
from proxy.config.written import read_text
from proxy.core.text import NotUtf8, visible

#: Variables with our prefix that are no settings.
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
SECRETS_VARIABLE = f"{PREFIX}SECRETS_DIR"
#: Where container platforms put secrets; read if it is there and SECRETS_VARIABLE names nothing
#: else.
SECRETS_DIR = "/run/secrets"

#: The flags of `serve`, by the setting that each one is.
FLAGS = {
    "upstream.url": "--upstream",
    "listen.address": "--listen",
    "admin.address": "--admin",
    "storage.dir": "--data-dir",
    "listen.workers": "--workers",
}

#: Kubernetes tells a pod of a service named vb365-proxy in variables like these; they are not meant
#: for us.
_KUBERNETES = re.compile(
    PREFIX + r"(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?)"
)

_NAMES = {f"{section}.{key}" for section, kind in SECTIONS.items() for key in kind.model_fields}
_SECRET = {"admin.token", "secrets.key", "webhooks.secret"}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where it stands, which setting, what is wrong and how to mend it."""

    source: str
    key: str
    problem: str
    hint: str

    def __str__(self) -> str:
        place = f"{self.source}: {self.key}" if self.key else self.source
        return f"{visible(f'{place} {self.problem}')}\n    {visible(self.hint)}"


class ConfigError(Exception):
    """The configuration cannot be used; `problems` are all of them."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class _Found:
    """A value as it stands in a source; `name` is `section.key`, perhaps of no setting that
    exists.
    """

    name: str
    value: Any
    source: str


def load(
    config_file: Path | None, flags: Mapping[str, str | None], environ: Mapping[str, str]
) -> Settings:
    """The settings from all sources. `flags` are keyed like `FLAGS` ("upstream.url"); None is a
    flag not given.

    Raises `ConfigError` with every problem of every source.
    """
    problems: list[Problem] = []
    found: dict[str, _Found] = {}
    for item in _collect(config_file, flags, environ, problems.append):
        if item.name not in _NAMES:
            problems.append(_unknown(item))
        elif item.value != "":
            found[item.name] = item
    sections: dict[str, Section] = {}
    for name, kind in SECTIONS.items():
        try:
            values = {
                f.name.partition(".")[2]: f.value
                for f in found.values()
                if f.name.startswith(f"{name}.")
            }
            sections[name] = kind.model_validate(values, context=True)
        except ValidationError as errors:
            problems += [
                _problem(f"{name}.{'.'.join(map(str, e['loc']))}", e, found)
                for e in errors.errors()
            ]
    if problems:
        raise ConfigError(problems)
    return Settings(**sections)  # type: ignore[arg-type]  # each section is of its own kind


def _collect(
    config_file: Path | None,
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    report: Callable[[Problem], None],
) -> Iterator[_Found]:
    """What all sources hold, the weakest first."""
    if config_file is not None:
        yield from _from_toml(config_file, report)
    yield from _from_secret_files(environ, report)
    yield from _from_environment(environ)
    for name, value in flags.items():
        if value is not None:
            yield _Found(name, value, f"flag {FLAGS.get(name, name)}")


def _from_toml(path: Path, report: Callable[[Problem], None]) -> Iterator[_Found]:
    toml = ""
    try:
        toml = read_text(path)
        tables = tomllib.loads(toml)
    except OSError as why:
        report(
            Problem(
                str(path),
                "",
                f"cannot be read ({why.strerror})",
                "Name a file that this user may read.",
            )
        )
        return
    except NotUtf8 as why:
        report(Problem(str(path), "", str(why), _sentence(why.fix)))
        return
    except ValueError as why:
        report(Problem(str(path), "", f"is not TOML: {why}", _toml_hint(toml, str(why))))
        return
    for section, table in tables.items():
        if isinstance(table, dict):
            yield from (
                _Found(f"{section}.{key}", value, str(path)) for key, value in table.items()
            )
        else:
            yield _Found(section, table, str(path))


def _toml_hint(toml: str, error: str) -> str:
    """How to fix a TOML file that the parser refused with `error`; of the line only characters that
    are not printable are repeated, because the rest may be a secret.
    """
    line = re.search(r"\(at line (\d+), ", error)
    wrong = toml.replace("\r\n", "\n").split("\n")[int(line[1]) - 1] if line else ""
    if odd := sorted({visible(c) for c in wrong if not c.isprintable() and c != "\t"}):
        return f"Line {line and line[1]} holds {' '.join(odd)}: write that line again by hand."
    if "\\" in wrong:
        return (
            "Write a Windows path in 'single quotes' or with forward slashes: dir = 'D:\\exports'."
        )
    if "Invalid value" in error:
        return 'Write text in straight quotes, for example url = "https://vb365.example.com:4443".'
    return "`vb365-async-proxy config init` shows how it looks."


def _from_secret_files(
    environ: Mapping[str, str], report: Callable[[Problem], None]
) -> Iterator[_Found]:
    """Files named like the environment variables, in any case; other files are not ours."""
    directory = Path(environ.get(SECRETS_VARIABLE) or SECRETS_DIR)
    if not directory.is_dir():
        if environ.get(SECRETS_VARIABLE):
            report(
                Problem(
                    SECRETS_VARIABLE,
                    "",
                    f"names {directory}, no directory",
                    "Name the one with the secrets.",
                )
            )
        return
    for path in sorted(directory.iterdir()):
        if path.name.upper().startswith(PREFIX):
            try:
                yield _Found(_setting(path.name), read_text(path).strip(), str(path))
            except NotUtf8 as why:
                report(Problem(str(path), "", str(why), _sentence(why.fix)))
            except OSError as why:
                report(
                    Problem(
                        str(path), "", f"cannot be read ({why.strerror})", "Let this user read it."
                    )
                )


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Found]:
    for variable, value in environ.items():
        foreign = variable in {CONFIG_VARIABLE, SECRETS_VARIABLE} or _KUBERNETES.fullmatch(variable)
        if variable.startswith(PREFIX) and not foreign:
            yield _Found(_setting(variable), value, f"environment variable {variable}")


def _setting(variable: str) -> str:
    return variable[len(PREFIX) :].lower().replace("__", ".", 1)


def _unknown(item: _Found) -> Problem:
    near = difflib.get_close_matches(item.name.replace("_", "."), _NAMES, n=1, cutoff=0.7)
    near = near or difflib.get_close_matches(item.name, _NAMES, n=1, cutoff=0.6)
    hint = (
        f"Did you mean {near[0]}?"
        if near
        else "`vb365-async-proxy config init` shows all settings."
    )
    return Problem(item.source, item.name, "is no setting", hint)


def _problem(name: str, error: Any, found: Mapping[str, _Found]) -> Problem:
    """The problem that pydantic's `error` tells; the value is shown unless it is, or may hold, a
    secret.
    """
    item = found.get(name)
    if error["type"] == "missing":
        flag, variable = FLAGS[name], PREFIX + name.upper().replace(".", "__")
        section, _, key = name.partition(".")
        return Problem(
            "configuration",
            name,
            "is required",
            f"Set {flag}, {variable}, or {key} under [{section}].",
        )
    told = error.get("ctx", {})
    shown = (
        f"= {_show(item.value)} "
        if item and name not in _SECRET and "@" not in str(item.value)
        else ""
    )
    hint = told.get("hint", "")
    return Problem(
        item.source if item else "configuration",
        name,
        shown + told.get("problem", error["msg"]),
        _sentence(hint) if hint else "`vb365-async-proxy config init` shows how it is written.",
    )


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _show(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def _writable(directory: Path) -> bool:
    """True when `directory` can be written to, or made."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


#: What the schema knows and this version cannot do yet: setting, "is it asked for", what to write
#: meanwhile.
NOT_YET: tuple[tuple[str, Callable[[Settings], bool], str], ...] = (
    ("listen.workers", lambda s: s.listen.workers > 1, "Leave it at 1."),
    ("exports.rescue_sync", lambda s: s.exports.rescue_sync, "Leave it at false."),
    ("storage.jobs", lambda s: s.storage.jobs != "disk", 'Leave it at "disk".'),
    ("storage.artifacts", lambda s: s.storage.artifacts != "file", 'Leave it at "file".'),
    ("webhooks.urls", lambda s: bool(s.webhooks.urls), "Leave them out."),
)


def unavailable(settings: Settings) -> list[Problem]:
    """What `serve` cannot do with these settings on this machine, in this version; empty when it
    can start.
    """
    problems = [
        Problem("configuration", name, "asks for what is not in this version", hint)
        for name, asked, hint in NOT_YET
        if asked(settings)
    ]
    directory = settings.storage.dir
    if not _writable(directory):
        hint = "Name one with --data-dir, or let this user write there."
        problems.append(
            Problem("configuration", "storage.dir", f"= {directory} cannot be written to", hint)
        )
    elif found := shared(directory):
        how, command = found
        problems.append(
            Problem("configuration", "storage.dir", f"= {directory} {how}", f"Run: {command}")
        )
    return problems


def listed(problems: Iterable[Problem]) -> str:
    """Problems as text for people, with their number."""
    lines = [f"  {problem}" for problem in problems]
    return (
        f"{len(lines)} problem{'s' if len(lines) != 1 else ''} in the configuration:\n"
        + "\n".join(lines)
    )
