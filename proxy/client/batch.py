"""Many exports: a list, the state that lets a later run continue, and a line for each of them."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import re
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from proxy.client.display import Display
from proxy.client.errors import CommandError, CorruptFile, ErrorResponse
from proxy.client.export import ExportOptions, complete
from proxy.client.files import safe_component
from proxy.client.locking import try_lock
from proxy.client.objects import Entry, Kind, pick
from proxy.client.vb365 import VB365, base, open_session, stop_session
from proxy.core.paths import Links
from proxy.core.text import NotUtf8, decoded

#: The export ended with a file, and its exit code.
_DONE = {0: "Success", 3: "Warning"}
_FAILED = "Failed"
EXIT_SOME_FAILED = 5
#: The job or its file no longer exists, or the key is one of another request (CONTRACT §8).
_NO_JOB = frozenset({404, 410, 422})
_PLACEHOLDER = re.compile(r"\{(\w*)\}")

#: The path of an export below its session, and its body.
Target = tuple[str, bytes | None]
#: Returns the export of an object of a session.
Request = Callable[[VB365, str, Entry], Awaitable[Target]]


@dataclass(frozen=True, slots=True)
class Row:
    """An object to export, and the file to write."""

    number: int
    name: str
    output: str


@dataclass(slots=True)
class Result:
    """What became of a row. `text` is the path of the file, or what went wrong."""

    status: str
    text: str


class State:
    """The file that remembers, between runs, the session, the jobs and the results. It is written
    before and after each step, as a whole, and used by one run at a time.
    """

    def __init__(self, path: Path | None, about: str) -> None:
        """Read the file, if there is one. Raises `CommandError` if it is of another list, or if
        another run uses it.
        """
        self._path = path
        self._about = about
        self.session: str | None = None
        self.rows: dict[str, dict[str, Any]] = {}
        self._lock = None if path is None else _locked(path)
        try:
            if path is not None and path.exists():
                self._read(path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another run use the file."""
        if self._lock is not None:
            os.close(self._lock)

    def _read(self, path: Path) -> None:
        try:
            document = json.loads(path.read_bytes())
            rows, about, session = document["rows"], document["about"], document["session"]
            valid = isinstance(rows, dict) and all(isinstance(each, dict) for each in rows.values())
            if not valid or not isinstance(session, str | None):
                raise ValueError("members")  # noqa: TRY301
        except OSError as error:
            raise CommandError(
                f"--state: {path} cannot be read: {error.strerror}", code=2
            ) from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CommandError(f"--state: {path} is not a file of this command", code=2) from error
        if about != self._about:
            raise CommandError(
                f"--state: {path} is of other exports ({about}). Use another file", code=2
            )
        self.session, self.rows = session, rows

    def note(self, row: Row, **members: Any) -> None:
        """Remember what is known of the row."""
        self.rows[row.name] = members
        self.write()

    def started(self, row: Row) -> dict[str, Any]:
        """Return the job of the row, or the key and the session of a kick-off whose response did
        not arrive.
        """
        known = self.rows.get(row.name, {})
        return {name: known[name] for name in ("job", "key", "session") if name in known}

    def write(self) -> None:
        """Write the file, so that it is never half of one."""
        if self._path is None:
            return
        document = {"about": self._about, "session": self.session, "rows": self.rows}
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        try:
            new.write_text(json.dumps(document, indent=1), encoding="utf-8")
            new.replace(self._path)
        except OSError as error:
            raise CommandError(
                f"--state: {self._path} cannot be written: {error.strerror}"
            ) from error

    @property
    def kept(self) -> bool:
        """Whether a later run can continue."""
        return self._path is not None


def _locked(path: Path) -> int:
    """Lock a file beside `path`, which is replaced by each write; return its descriptor."""
    beside = path.with_name(f"{path.name}.lock")
    try:
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise CommandError(
            f"--state: {beside} cannot be opened: {error.strerror}", code=2
        ) from error
    if not try_lock(descriptor, beside):
        os.close(descriptor)
        raise CommandError(f"--state: {path} is in use: another command uses it", code=2)
    return descriptor


class _Line(Display):
    """The progress of one of several exports: nothing but its last message."""

    last = ""

    def say(self, sentence: str) -> None:
        """Keep the message."""
        self.last = sentence

    def _step(self, *step: Any) -> None:
        """Do nothing."""


@dataclass(slots=True, kw_only=True)
class Batch:
    """The exports of one list, from one restore session."""

    vb365: VB365
    display: Display
    kind: Kind
    at: datetime
    organization: str | None
    session: str | None
    rows: Sequence[Row]
    request: Request
    state: State
    options: ExportOptions
    parallel: int
    results: dict[int, Result] = field(default_factory=dict)

    async def run(self) -> None:
        """Export all rows. The session is stopped at the end, unless it was given or a later run
        continues with it: after an interruption, or an error that did not end the job.
        """
        pending = [row for row in self.rows if not self._finished_before(row)]
        if not pending:
            return
        own = self.session is None
        session = self.session or await self._open()
        continues = False
        try:
            objects = await self.vb365.objects(session, self.kind)
            slots = asyncio.Semaphore(self.parallel)
            async with asyncio.TaskGroup() as tasks:
                for row in pending:
                    tasks.create_task(self._one(row, session, objects, slots))
            continues = self.state.kept and any("job" in self.state.started(row) for row in pending)
        except ExceptionGroup as group:  # for example, the state cannot be written
            raise group.exceptions[0] from None
        except asyncio.CancelledError:
            continues = self.state.kept
            raise
        finally:
            if continues:
                self.display.say("The exports continue. Run the same command again to get the rest")
            elif own:
                await stop_session(self.vb365, self.display, session)
                self.state.session = None
                self.state.write()

    async def _open(self) -> str:
        """Return the session of an interrupted run if it still works, else a new one."""
        known = self.state.session
        if known is not None and await self.vb365.works(known):
            return known
        session = await open_session(
            self.vb365, self.display, self.kind, self.at, self.organization
        )
        self.state.session = session
        self.state.write()
        return session

    def _finished_before(self, row: Row) -> bool:
        known = self.state.rows.get(row.name, {})
        file = known.get("file")
        done = known.get("status") in _DONE.values() and isinstance(file, str)
        if done and Path(str(file)).exists():
            self.results[row.number] = Result(str(known["status"]), str(file))
            return True
        return False

    async def _one(
        self, row: Row, session: str, objects: Sequence[Entry], slots: asyncio.Semaphore
    ) -> None:
        """Export a row and note the result. An error fails this row only; a later run continues its
        job, unless that is over.
        """
        async with slots:
            members = {}
            try:
                result = await self._export(row, session, objects)
            except (CommandError, OSError) as error:
                result = Result(_FAILED, str(error))
                if not _is_over(error):
                    members = self.state.started(row)
            self.results[row.number] = result
            members |= {"status": result.status}
            members |= {"file" if result.status in _DONE.values() else "error": result.text}
            self.state.note(row, **members)
            self._say(row, result)

    def _say(self, row: Row, result: Result) -> None:
        done = f"[{len(self.results)}/{len(self.rows)}]"
        first = result.text.splitlines()[0] if result.text else ""
        self.display.say(f"{done} {row.name}: {result.status}: {first}")

    async def _export(self, row: Row, session: str, objects: Sequence[Entry]) -> Result:
        joined = await self._continued(row)
        if joined is not None:
            return joined
        found = pick(self.kind, objects, row.name, "this restore session")
        path, body = await self.request(self.vb365, session, found)
        target = f"/{self.vb365.api}/{base(session)}/{path}"
        key = self._key(row, session)
        self.state.note(row, status="Starting", key=key, session=session)
        _, at = await self.vb365.proxy.kick_off(
            target, body, content_type="application/json", key=key, wait=True
        )
        self.state.note(row, status="Running", job=at.status)
        return await self._completed(row, at)

    def _key(self, row: Row, session: str) -> str:
        """That of a kick-off whose response did not arrive, so that it starts no second export."""
        known = self.state.started(row)
        key = known.get("key")
        same = known.get("session") == session and isinstance(key, str)
        return str(key) if same else str(uuid.uuid4())

    async def _continued(self, row: Row) -> Result | None:
        """The result of the job of an interrupted run; None if there is none, or it is over.

        Any other error fails the row: the job may go on.
        """
        status = self.state.rows.get(row.name, {}).get("job")
        if not isinstance(status, str):
            return None
        try:
            result = await self._completed(row, Links(status))
        except CommandError as error:
            if not _is_over(error):
                raise
            return None
        return result if result.status in _DONE.values() else None

    async def _completed(self, row: Row, at: Links) -> Result:
        line = _Line(Console(quiet=True))
        options = ExportOptions(
            output=row.output,
            segment=self.options.segment,
            release=self.options.release,
            cancel_on_interrupt=not self.state.kept and self.session is None,
        )
        outcome = await complete(self.vb365.proxy, line, at, options)
        if outcome.code in _DONE:
            return Result(_DONE[outcome.code], outcome.result)
        return Result(_FAILED, line.last)

    @property
    def exit_code(self) -> int:
        """0, 3 if some ended with a warning, 5 if some have no file."""
        statuses = [result.status for result in self.results.values()]
        if any(status not in _DONE.values() for status in statuses):
            return EXIT_SOME_FAILED
        return 3 if "Warning" in statuses else 0

    @property
    def summary(self) -> str:
        """How many of them have ended how."""
        statuses = [result.status for result in self.results.values()]
        counts = {each: statuses.count(each) for each in ("Success", "Warning", _FAILED)}
        words = [f"{count} {status}" for status, count in counts.items() if count]
        return f"{len(statuses)} exports: {', '.join(words) or 'none'}"


def _is_over(error: Exception) -> bool:
    """Whether there is no job, or none whose file can be used."""
    gone = isinstance(error, ErrorResponse) and error.status in _NO_JOB
    return gone or isinstance(error, CorruptFile)


def read_rows(
    path: Path, kind: Kind, output: str | None, default: str, values: dict[str, str]
) -> list[Row]:
    """Return the rows of a CSV file: its column with the name of the kind, or its first one if it
    has no heading. Lines that are empty or begin with # are skipped.

    `output` is a template of file names, or a directory, to which the name `default` is added.
    `values` are those of its placeholders beside `number` and the kind. Raises `CommandError`.
    """
    try:
        text = decoded(path.read_bytes())
    except OSError as error:
        raise CommandError(f"--from: {path} cannot be read: {error.strerror}", code=2) from error
    except NotUtf8 as error:
        raise CommandError(f"--from: {path} {error}: {error.fix}", code=2) from error
    lines = [
        [cell.strip() for cell in cells]
        for cells in csv.reader(io.StringIO(text))
        if cells and cells[0].strip() and not cells[0].startswith("#")
    ]
    column = 0
    if lines and kind.noun in [cell.casefold() for cell in lines[0]]:
        column = [cell.casefold() for cell in lines[0]].index(kind.noun)
        lines = lines[1:]
    names = [cells[column] if column < len(cells) else "" for cells in lines]
    names = list(dict.fromkeys(name for name in names if name))
    if not names:
        raise CommandError(f"--from: {path} names no {kind.plural}", code=2)
    template = output or default
    if not _PLACEHOLDER.search(template):
        template = str(Path(template) / default)
    rows = [
        Row(number, name, filled(template, values | {"number": str(number), kind.noun: name}))
        for number, name in enumerate(names, 1)
    ]
    _check_distinct(rows)
    return rows


def filled(template: str, values: dict[str, str]) -> str:
    """Replace the placeholders; a value is never more than a part of a name. Raises `CommandError`
    for an unknown placeholder.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            known = ", ".join(f"{{{name}}}" for name in values)
            raise CommandError(
                f"--output: {match[0]} is unknown; the placeholders are {known}", code=2
            )
        return safe_component(values[match[1]])

    return _PLACEHOLDER.sub(value, template)


def _check_distinct(rows: Sequence[Row]) -> None:
    """Raise `CommandError` if two rows have one file, on a system that ignores case too."""
    owners: dict[str, Row] = {}
    for row in rows:
        other = owners.setdefault(row.output.casefold(), row)
        if other is not row:
            raise CommandError(
                f"--output: {other.name} and {row.name} would both be written to {row.output}. "
                "Add {number}",
                code=2,
            )
