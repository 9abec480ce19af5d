"""Reads a job database that may be damaged or forged: which rows are valid, which are not, and
whether the file is sound.

It uses plain SQLite on the one table of diskcache 5.6.3, never unpickles and never follows a file
name. Everything here blocks.
"""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from diskcache.core import DEFAULT_SETTINGS, METADATA

from proxy.core.job import Job
from proxy.core.job_codec import decode
from proxy.stores.durable import sync_directory, write_file

#: Seconds to wait for another program that has locked the database, such as a backup.
PATIENCE = 10
RECORD = "job:"
BODY = "body:"

#: Rows of the one form that this store writes. Bodies are not read: they may be many and large.
_ROWS = """
    SELECT rowid, key, iif(substr(key, 1, 5) = 'body:', NULL, value),
        typeof(key) = 'text' AND raw = 1 AND mode = 1 AND filename IS NULL AND expire_time IS NULL
            AND typeof(value) = 'blob'
    FROM Cache NOT INDEXED WHERE rowid {} ? ORDER BY rowid {}
"""
#: diskcache turns every row of its Settings into an attribute or a PRAGMA.
_SETTINGS = DEFAULT_SETTINGS.keys() | METADATA.keys()
_Row = tuple[int, object, object, int]


@dataclass(slots=True)
class Scan:
    """`trouble` is the reason why the file as a whole is not sound; `rejected` holds rowid and
    reason of each bad row.
    """

    trouble: str | None = None
    jobs: dict[str, Job] = field(default_factory=dict)
    bodies: dict[str, int] = field(default_factory=dict)
    rejected: list[tuple[int, str]] = field(default_factory=list)


def scan(file: Path) -> Scan:
    """Read everything that is readable in the database. Raises `sqlite3.Error` if the disk fails,
    but not for a damaged file.
    """
    if not file.exists() or file.stat().st_size == 0:
        return Scan(trouble=f"{file.name} is missing or empty")
    found = Scan()
    with closing(_connect(file)) as connection:
        found.trouble = _trouble(connection, file)
        for row in _rows(connection, found):
            _sort(row, found)
    _match(found)
    return found


def _connect(file: Path) -> sqlite3.Connection:
    """A connection that returns text as bytes and does not create the file."""
    connection = sqlite3.connect(
        f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=PATIENCE, isolation_level=None
    )
    connection.text_factory = bytes
    return connection


def _trouble(connection: sqlite3.Connection, file: Path) -> str | None:
    try:
        # SQLite reads a truncated last page as if zeros followed. A crash during a checkpoint may
        # leave such a page too; another checkpoint completes it.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if file.stat().st_size % connection.execute("PRAGMA page_size").fetchone()[0]:
            return "the file is truncated"
        verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        connection.execute(_ROWS.format(">", "ASC"), (0,)).close()
        foreign = [
            key
            for (key,) in connection.execute("SELECT key FROM Settings")
            if key.decode() not in _SETTINGS
        ]
    except (sqlite3.Error, UnicodeDecodeError) as why:
        return _damage(why)
    if foreign:
        return "it has settings that diskcache does not know"
    return None if verdict == b"ok" else str(verdict, "utf-8", "replace")


def _damage(why: sqlite3.Error | UnicodeDecodeError) -> str:
    """Return what is wrong with the file. A lock, a full or a failing disk is raised again."""
    code = getattr(why, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
        raise why
    return str(why)


def _rows(connection: sqlite3.Connection, found: Scan) -> Iterator[_Row]:
    """All rows. Of a damaged table, those before the first bad page and those after the last."""
    seen = 0
    try:
        for row in connection.execute(_ROWS.format(">", "ASC"), (0,)):
            yield row
            seen = row[0]
        return
    except sqlite3.Error as why:
        found.trouble = found.trouble or _damage(why)
    try:
        yield from connection.execute(_ROWS.format(">", "DESC"), (seen,))
    except sqlite3.Error as why:
        found.trouble = found.trouble or _damage(why)


def _sort(row: _Row, found: Scan) -> None:
    rowid, key, value, plain = row
    name = key.decode("utf-8", "replace") if isinstance(key, bytes) else ""
    if not plain:
        found.rejected.append((rowid, "it does not have the form of a row of this store"))
    elif name.startswith(BODY):
        found.bodies[name.removeprefix(BODY)] = rowid
    else:
        _sort_record(rowid, name, value, found)


def _sort_record(rowid: int, name: str, value: object, found: Scan) -> None:
    try:
        job = decode(value if isinstance(value, bytes) else b"")
    except ValueError as why:
        found.rejected.append((rowid, f"{name} is unreadable: {why}"))
        return
    if name != f"{RECORD}{job.id}" or not _sound(job):
        found.rejected.append((rowid, f"{name} does not hold that job"))
        return
    found.jobs[job.id] = job


def _sound(job: Job) -> bool:
    """Check the types that the index relies on; `decode` does not."""
    request = job.request
    keys = (request.idempotency_key or "", request.fingerprint)
    texts = (job.id, *job.owners, request.session or "", *keys)
    times = (job.ended, job.expires, job.suspended)
    return (
        all(isinstance(text, str) for text in texts)
        and isinstance(job.version, int)
        and all(isinstance(time, int | float) for time in (job.created, job.updated))
        and all(time is None or isinstance(time, int | float) for time in times)
    )


def _match(found: Scan) -> None:
    """Reject bodies without a record."""
    for orphan in found.bodies.keys() - found.jobs.keys():
        found.rejected.append((found.bodies.pop(orphan), f"the body of job {orphan} has no record"))


def salvage(file: Path, found: Scan) -> Iterator[tuple[Job, bytes | None]]:
    """The jobs that the scan found, each with its body if that can be read."""
    if not found.bodies:
        yield from ((job, None) for job in found.jobs.values())
        return
    with closing(_connect(file)) as connection:
        for job in found.jobs.values():
            yield job, _body(connection, found.bodies.get(job.id))


def _body(connection: sqlite3.Connection, rowid: int | None) -> bytes | None:
    try:
        row = connection.execute(
            "SELECT value FROM Cache NOT INDEXED WHERE rowid = ?", (rowid,)
        ).fetchone()
    except sqlite3.Error as why:
        _damage(why)
        return None
    if row is None or not isinstance(row[0], bytes):
        return None
    # SQLite reads the missing part of a truncated page as zeros: half a request must not be sent
    return None if b"\0" in row[0] else row[0]


def quarantine(file: Path, rejected: list[tuple[int, str]], place: Path) -> None:
    """Move the rejected rows out of the database into `place`, one JSON line each, values in
    base64.
    """
    with closing(_connect(file)) as connection:
        lines = [_line(connection, rowid, why) for rowid, why in rejected]
        write_file(place, "".join(lines).encode())
        sync_directory(place.parent)
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "DELETE FROM Cache WHERE rowid = ?", [(rowid,) for rowid, _ in rejected]
        )
        connection.execute("COMMIT")


def _line(connection: sqlite3.Connection, rowid: int, why: str) -> str:
    query = "SELECT key, raw, mode, filename, expire_time, value FROM Cache WHERE rowid = ?"
    row = connection.execute(query, (rowid,)).fetchone()
    values = [base64.b64encode(item).decode() if isinstance(item, bytes) else item for item in row]
    return json.dumps({"why": why, "row": values}) + "\n"
