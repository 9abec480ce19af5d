"""Faults and scenarios as people write them: `simulate --fault` and `simulate --scenario`.

docs/simulator.md describes the syntax.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from proxy.core.text import NotUtf8, decoded, visible
from proxy.simulator import faults
from proxy.simulator.faults import Fault
from proxy.simulator.settings import SimulatorSettings, User

#: The members that a text with a unit may set, in seconds and in bytes.
_DURATIONS = ("latency", "generate", "stall", "token_lifetime", "session_idle")
_SIZES = ("size", "rate", "cut_at", "stall_at", "stop_session_at")
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIGNED = ("lie", "utc_offset")
_STATUSES = ("status", "stopped_session")
_LOWEST_STATUS, _HIGHEST_STATUS = 200, 599
_CHOICES = faults.CHOICES | {
    "token": ("opaque", "jwt"),
    "foreign_session": (403, 404),
    "versions": (5, 6, 7, 8),
}
_SELECTORS = tuple(name for name in faults.TYPES if name not in faults.EFFECTS)
#: The parts of a scenario file.
_PARTS = ("simulator", "user", "fault")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong in a fault or scenario: where, which member and value, and how to fix it."""

    place: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{visible(f'{self.place}: {self.what}')}\n    {visible(self.fix)}"


class ScenarioError(ValueError):
    """A fault or a scenario is not valid; `problems` has all errors."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@dataclass(slots=True)
class Scenario:
    """Settings and faults. `problems` collects what is wrong with them."""

    settings: SimulatorSettings = field(default_factory=SimulatorSettings)
    faults: list[Fault] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def read(self, path: Path) -> None:
        """Add what the TOML file says."""
        try:
            document = tomllib.loads(decoded(path.read_bytes()))
        except OSError as error:
            self._add(str(path), f"cannot be read: {error.strerror}", "name a readable file")
        except NotUtf8 as error:
            self._add(str(path), str(error), error.fix)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            self._add(str(path), f"is not TOML: {error}", "docs/simulator.md has an example")
        else:
            self._take(str(path), document)

    def add_fault(self, text: str) -> None:
        """Add the fault of a `--fault` option: `name,name=value,…` or a JSON object."""
        place = f"--fault {text!r}"
        if text.lstrip().startswith("{"):
            try:
                members = json.loads(text)
            except (ValueError, RecursionError) as error:
                self._add(place, f"is not JSON: {error}", 'write {"name": value, …}')
                return
        else:
            words = [word.strip() for word in text.split(",")]
            members = {
                name.strip(): value.strip() if equals else True
                for name, equals, value in (word.partition("=") for word in words)
            }
            if len(members) < len(words):
                self._add(place, "names a member twice", "write each name once")
                return
        self._take_fault(place, members)

    def check(self) -> None:
        """Raise `ScenarioError` if there is a problem."""
        if self.problems:
            raise ScenarioError(self.problems)

    def _add(self, place: str, what: str, fix: str) -> None:
        self.problems.append(Problem(place, what, fix))

    def _take(self, place: str, document: dict[str, Any]) -> None:
        for name in document.keys() - set(_PARTS):
            self._add(place, f"has no part {name!r}", "write [simulator], [[user]] or [[fault]]")
        settings = document.get("simulator", {})
        if isinstance(settings, dict):
            types = {key: kind for key, kind in _types(SimulatorSettings) if key != "users"}
            found = self._members(f"{place}: [simulator]", settings, types)
            self.settings = replace(self.settings, **found)
        else:
            self._add(place, f"simulator = {settings!r} is not a table", "write [simulator]")
        users = [
            self._members(at, user, dict(_types(User)), required=("name", "password"))
            for at, user in self._tables(place, "user", document)
        ]
        if users and not self.problems:
            self.settings = replace(self.settings, users=tuple(User(**user) for user in users))
        for at, fault in self._tables(place, "fault", document):
            self._take_fault(at, fault)

    def _tables(
        self, place: str, name: str, document: dict[str, Any]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the tables of an array with their places."""
        tables = document.get(name, [])
        if not (isinstance(tables, list) and all(isinstance(table, dict) for table in tables)):
            self._add(place, f"{name} = {tables!r} is not a list of tables", f"write [[{name}]]")
            return
        for number, table in enumerate(tables, 1):
            yield f"{place}: {name} {number}", table

    def _take_fault(self, place: str, members: Mapping[str, Any]) -> None:
        before = len(self.problems)
        found = self._members(place, members, faults.TYPES)
        if len(self.problems) > before:
            return
        if not found.keys() & set(faults.EFFECTS):
            self._add(place, "has no effect", f"name at least one of {_listed(faults.EFFECTS)}")
            return
        for name, needed in (("cut", "cut_at"), ("stall", "stall_at")):
            if name in found and needed not in found:
                self._add(place, f"{name} needs {needed}", f"add {needed}, a count of bytes")
                return
        self.faults.append(Fault(**found))

    def _members(
        self,
        place: str,
        members: Mapping[str, Any],
        types: Mapping[str, Any],
        *,
        required: Iterable[str] = (),
    ) -> dict[str, Any]:
        """Return the members with their values parsed; report those that are not valid."""
        found: dict[str, Any] = {}
        for name, value in members.items():
            if name not in types:
                self._add(place, f"{name!r} is not known", _suggestion(name, types))
                continue
            try:
                found[name] = _value(name, value, types[name])
            except ValueError as expected:
                self._add(place, f"{name} = {_shown(value)} is not valid", f"write {expected}")
        for name in required:
            if name not in members:
                self._add(place, f"has no {name}", f'add {name} = "…"')
        return found


def _types(kind: type) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(kind)
    return ((member.name, hints[member.name]) for member in fields(kind))


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _suggestion(name: str, types: Mapping[str, Any]) -> str:
    close = get_close_matches(name, types, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    if types is faults.TYPES:
        return (
            f"{hint}The faults are {_listed(faults.EFFECTS)}; {_listed(_SELECTORS)} select requests"
        )
    return f"{hint}The names are {_listed(types)}"


def _value(name: str, value: Any, kind: Any) -> Any:
    """Return the value of a member. Raises ValueError, whose text is what to write instead."""
    if name == "versions":
        return _versions(value)
    if name in _CHOICES:
        return _choice(_CHOICES[name], value)
    if name in _DURATIONS:
        return _quantity(value, _SECONDS, "a duration, for example 3s, 250ms or 2m")
    if name in _SIZES:
        size = _quantity(value, _BYTES, "a size, for example 64MiB or 1000 (bytes)")
        return size if name == "rate" else int(size)
    found = _PARSERS[_plain(kind)](value)
    if isinstance(found, int) and found < 0 and name not in _SIGNED:
        raise ValueError("a whole number that is not negative")
    if name in _STATUSES and not _LOWEST_STATUS <= found <= _HIGHEST_STATUS:
        raise ValueError(f"a status from {_LOWEST_STATUS} to {_HIGHEST_STATUS}")
    return found


def _plain(kind: Any) -> Any:
    """The type of a member without `None` and without what a list or dict contains."""
    kinds = [each for each in get_args(kind) if each is not type(None)] if get_args(kind) else []
    only = kinds[0] if get_origin(kind) not in (dict, list, tuple) and kinds else kind
    return get_origin(only) or only


def _quantity(value: Any, units: Mapping[str, float], expected: str) -> float:
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) ?([A-Za-z]*)", str(value))
    if match is None or match[2] not in units:
        raise ValueError(expected)
    return float(match[1]) * units[match[2]]


def _choice(choices: tuple[Any, ...], value: Any) -> Any:
    for choice in choices:
        if str(choice) == str(value):
            return choice
    *most, last = map(str, choices)
    raise ValueError(f"{', '.join(most)} or {last}")


def _versions(value: Any) -> tuple[int, ...]:
    known = _CHOICES["versions"]
    if not (isinstance(value, list) and value and all(each in known for each in value)):
        raise ValueError("a list of 5, 6, 7 and 8")
    return tuple(value)


def _switch(value: Any) -> bool:
    found = {"true": True, "false": False}.get(str(value).lower())
    if found is None:
        raise ValueError("true or false")
    return found


def _count(value: Any) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"-?\d{1,15}", str(value)):
        raise ValueError("a whole number")
    return int(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError('text in quotes: "…"')  # noqa: TRY004  # malformed input is always ValueError
    return value


def _fields(value: Any) -> dict[str, str | None]:
    if not isinstance(value, dict) or not all(
        isinstance(each, str | None) for each in value.values()
    ):
        raise ValueError('names and values, for example { Retry-After = "5" }')
    return value


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError('a list of texts, for example ["a=1"]')
    return value


_PARSERS: dict[type, Callable[[Any], Any]] = {
    bool: _switch,
    int: _count,
    str: _text,
    dict: _fields,
    list: _texts,
}
