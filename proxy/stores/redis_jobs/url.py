"""The address of a shared job store (CONTRACT §18)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

_FIELD: Final = "storage.jobs"
_PREFIX: Final = "vb365-async-proxy"
_PORTS: Final = {"redis": 6379, "rediss": 6379, "redis+sentinel": 26379, "rediss+sentinel": 26379}
_TLS_FILES: Final = ("ca_file", "cert_file", "key_file")
_EXAMPLES: Final = (
    "redis://host:6379/0, rediss://host:6379/0, unix:///run/redis.sock or "
    "redis+sentinel://host,host/service"
)


class BadUrl(ValueError):
    """The URL is not one of a shared store. The message names the setting, the fault and the fix,
    and never a password.
    """

    def __init__(self, fault: str, fix: str) -> None:
        super().__init__(f"{_FIELD} {fault}: {fix}")
        self.fault, self.fix = fault, fix


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where the store is. `hosts` are those of the server, or of its Sentinels if `service` is set;
    there are none if it listens at the Unix socket `path`. Every key begins with `prefix`. `files`
    are those for TLS, by the names of their parameters.
    """

    hosts: tuple[tuple[str, int], ...] = ()
    path: str | None = None
    service: str | None = None
    db: int = 0
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    prefix: str = f"{_PREFIX}:"
    tls: bool = False
    files: Mapping[str, Path] = field(default_factory=dict)

    def __str__(self) -> str:
        """The address for messages."""
        if self.path is not None:
            return f"unix://{self.path}"
        hosts = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        )
        scheme = "rediss" if self.tls else "redis"
        if self.service is not None:
            return f"{scheme}+sentinel://{hosts}/{self.service}"
        return f"{scheme}://{hosts}/{self.db}"


def parse_url(url: str) -> Location:
    """Parse the URL of a shared store. Raises `BadUrl`."""
    try:
        parts = urlsplit(url)
    except ValueError:  # its text may contain the password
        raise BadUrl("is not a URL", f"write {_EXAMPLES}") from None
    if re.search(r"\s", url) or "@" in parts.path + parts.query or parts.fragment:
        # never shown: a password with such a character looks like a host and a path
        raise BadUrl(
            "has a space, /, ?, # or @ in a wrong place", "write %20, %2F, %3F, %23 or %40"
        )
    query = _query(parts)
    if parts.scheme == "unix":
        return _unix(parts, query)
    if parts.scheme not in _PORTS:
        raise BadUrl(f"has the scheme {parts.scheme!r}", f"write {_EXAMPLES}")
    user, password = _credentials(parts)
    tls = parts.scheme.startswith("rediss")
    sentinel = parts.scheme.endswith("+sentinel")
    hosts = _hosts(parts, several=sentinel)
    segments = [unquote(each) for each in parts.path.strip("/").split("/") if each]
    service = None
    if sentinel:
        if not segments:
            raise BadUrl("names no service", "write redis+sentinel://host,host/service")
        service = segments.pop(0)
    if len(segments) > 1:
        raise BadUrl(
            f"has the path {parts.path!r}", "write the number of a database, for example /0"
        )
    if segments and "db" in query:
        raise BadUrl("names the database twice", "write /0 or ?db=0")
    return Location(
        hosts=hosts,
        service=service,
        db=_db(segments[0] if segments else query.pop("db", "0")),
        user=user,
        password=password,
        prefix=_prefix(query),
        tls=tls,
        files=_tls_files(query, tls=tls),
    )


def _unix(parts: SplitResult, query: dict[str, str]) -> Location:
    user, password = _credentials(parts)
    if parts.netloc.rpartition("@")[2] or len(parts.path) < 2:
        raise BadUrl("names no socket", "write unix:///run/redis/redis.sock, with three slashes")
    return Location(
        path=unquote(parts.path),
        db=_db(query.pop("db", "0")),
        user=user,
        password=password,
        prefix=_prefix(query),
        files=_tls_files(query, tls=False),
    )


def _query(parts: SplitResult) -> dict[str, str]:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    query = dict(pairs)
    known = {"prefix", "db", *_TLS_FILES}
    for name, _ in pairs:
        if name not in known:
            raise BadUrl(
                f"has the parameter {name!r}, which does not exist",
                f"the parameters are {', '.join(sorted(known))}",
            )
    if len(pairs) != len(query):
        raise BadUrl("has a parameter twice", "write each once")
    return query


def _credentials(parts: SplitResult) -> tuple[str | None, str | None]:
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    if user and not password:
        raise BadUrl("has a user without a password", "write redis://user:password@host")
    return unquote(user) or None, unquote(password) or None


def _hosts(parts: SplitResult, *, several: bool) -> tuple[tuple[str, int], ...]:
    named = parts.netloc.rpartition("@")[2].split(",")
    if len(named) > 1 and not several:
        raise BadUrl("names several hosts", "write redis+sentinel://host,host/service, or one host")
    return tuple(_host(each, _PORTS[parts.scheme]) for each in named)


def _host(authority: str, port: int) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]+))(?::(\d{1,5}))?", authority)
    if match is None or not 0 < int(match[3] or port) < 65536:
        raise BadUrl(f"has the host {authority!r}", "write host or host:port, IPv6 as [::1]:6379")
    return unquote(match[1] or match[2]), int(match[3] or port)


def _db(number: str) -> int:
    if not re.fullmatch(r"\d{1,5}", number):
        raise BadUrl(f"has the database {number!r}", "write its number, for example /0")
    return int(number)


def _prefix(query: dict[str, str]) -> str:
    prefix = query.pop("prefix", _PREFIX)
    if not re.fullmatch(r"[A-Za-z0-9._-][A-Za-z0-9._:-]{0,63}", prefix):
        raise BadUrl(
            f"has the prefix {prefix!r}", "write up to 64 letters, digits, dots, colons, - and _"
        )
    return prefix.rstrip(":") + ":"


def _tls_files(query: dict[str, str], *, tls: bool) -> dict[str, Path]:
    named = {name: Path(query[name]) for name in _TLS_FILES if query.get(name)}
    if named and not tls:
        raise BadUrl(f"has the parameter {next(iter(named))!r} without TLS", "write rediss://")
    if ("cert_file" in named) != ("key_file" in named):
        raise BadUrl("has one of cert_file and key_file", "write both")
    return named
