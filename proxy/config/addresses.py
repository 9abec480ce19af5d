"""Addresses to listen on, host names, URLs, networks, and lists of them (CONTRACT §15)."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from proxy.config.syntax import MASK, TEXT_SCHEMA, Syntax, invalid, text
from proxy.core.http.authority import can_be_looked_up

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAX_PORT = 65535
_HOST_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_URL_EXAMPLE = "write for example https://vb365.example.com:4443"


class HostPort(NamedTuple):
    """An address to listen on. An IPv6 `host` has no brackets; port 0 is any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """True if only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    @property
    def reachable(self) -> tuple[str, int]:
        """Host and port to connect to from this machine: loopback for an unspecified address."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  # compared, not bound
        return host, self.port


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def _host_port(value: Any) -> HostPort:
    match = re.fullmatch(r"(?:\[([^\[\]]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})", text(value))
    valid = match and (_is_ipv6(match[1]) if match[1] else can_be_looked_up(match[2]))
    if not match or not valid or int(match[3]) > _MAX_PORT:
        hint = "write for example 0.0.0.0:4443, [::]:4443 or 127.0.0.1:0 (any free port)"
        raise invalid("is not HOST:PORT", hint)
    return HostPort(match[1] or match[2], int(match[3]))


def _host_of(url: str) -> str | None:
    try:
        split = urlsplit(url)
        host = None if split.port == 0 else split.hostname
    except ValueError:
        return None
    return host if host and can_be_looked_up(host) else None


def http_url(value: Any) -> SplitResult:
    """Parse an http(s) URL in printable ASCII without user name, query and fragment."""
    url = text(value)
    host = _host_of(url)
    printable = re.fullmatch(r"[!-~]+", url)
    if not printable or not host or not re.fullmatch(r"[A-Za-z0-9._:%-]+", host):
        raise invalid("is not a URL with a host", _URL_EXAMPLE)
    split = urlsplit(url)
    if split.scheme not in {"http", "https"}:
        hint = f"only http and https are supported; {_URL_EXAMPLE}"
        raise invalid(f"begins with {split.scheme}:", hint)
    if "@" in split.netloc:
        hint = "remove it: callers send their own credentials"
        raise invalid("contains a user name or password", hint)
    if split.query or split.fragment or url.endswith(("?", "#")):
        raise invalid("contains a query or a fragment", "remove everything from the ? or # on")
    return split


def _origin(value: Any) -> str:
    url = http_url(value)
    if url.path not in {"", "/"}:
        hint = f"remove {url.path}: the paths that clients request are forwarded unchanged"
        raise invalid("contains a path", hint)
    return f"{url.scheme}://{url.netloc.lower()}"


def _base_url(value: Any) -> str:
    url = http_url(value)
    path = url.path.rstrip("/")
    plain = re.fullmatch(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*", path)
    if not plain or re.search(r"/\.{1,2}(/|$)", path):
        hint = "write for example https://vb365.example.com/backup"
        raise invalid("contains a path that cannot be a prefix", hint)
    authority = url.netloc.lower()
    # the port that the scheme implies is left out of the URLs in responses (CONTRACT §13)
    default = {"http": ":80", "https": ":443"}[url.scheme]
    return f"{url.scheme}://{authority.removesuffix(default)}{path}"


def _authority(value: Any) -> str:
    authority = text(value).lower()
    pattern = rf"(?:\[([^\[\]]+)\]|{_HOST_NAME})(?::(\d{{1,5}}))?"
    match = re.fullmatch(pattern, authority, re.IGNORECASE)
    if not match or int(match[2] or 0) > _MAX_PORT or (match[1] and not _is_ipv6(match[1])):
        hint = "write a name or an address, with the port unless it is the default one"
        raise invalid("is not a host name", hint)
    return authority


def _host_name(value: Any) -> str:
    name = text(value).lower()
    if not re.fullmatch(_HOST_NAME, name, re.IGNORECASE):
        hint = "write names only, for example proxy.example.com"
        raise invalid(f"contains {value!r}, which is not a host name", hint)
    return name


def _network(value: Any) -> Network:
    try:
        return ipaddress.ip_network(text(value))
    except ValueError as error:
        hint = "write addresses and CIDR ranges, for example 10.0.0.7 or 10.1.0.0/16"
        raise invalid(f"contains {value!r}, which is not a network ({error})", hint) from None


def parse_list(value: Any, *, of: Callable[[Any], Any]) -> tuple[Any, ...]:
    """Parse a list. A string is a JSON array or has its items separated by commas."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else value.split(",")
        except (ValueError, RecursionError):
            raise invalid("is not a JSON array", 'write ["a", "b"] or a,b') from None
    if not isinstance(value, list | tuple):  # a default is a tuple
        raise invalid("is not a list", 'write ["a", "b"], or a,b in the environment')
    return tuple(of(item) for item in value)


def _show_list(values: tuple[Any, ...]) -> list[str]:
    return [str(value) for value in values]


def _store(value: Any, *, local: str, pattern: str, example: str) -> str:
    store = text(value)
    if store != local and not re.fullmatch(pattern, store):
        raise invalid("is not a supported store", f"write {local} or {example}")
    return store


def _show_store(value: str) -> str:
    return re.sub(r"//[^/]*@", f"//{MASK}@", value)


_jobs_store = partial(
    _store,
    local="disk",
    pattern=r"rediss?://[^/?\s]+(/\d+)?(\?\S*)?|rediss?\+sentinel://[^/?\s]+/\S+|unix://\S+",
    example="redis://host:6379/0, rediss:// for TLS, unix:///path or redis+sentinel://…",
)
_artifacts_store = partial(
    _store,
    local="file",
    pattern=r"(s3|az|gs)://[^/\s]+(/\S*)?",
    example="s3://bucket/prefix, az://… or gs://…",
)
LIST_SCHEMA = {"type": "array", "items": {"type": "string"}}
_ADDRESS_SCHEMA = {
    "type": "string",
    "pattern": r"^(|.+:\d{1,5})$",
    "examples": ["0.0.0.0:4443", "[::]:4443"],
}
_URL_SCHEMA = {"type": "string", "pattern": "^(|https?://.+)$"}

Address = Annotated[HostPort, Syntax(_host_port, str, _ADDRESS_SCHEMA)]
Origin = Annotated[str, Syntax(_origin, str, _URL_SCHEMA)]
BaseUrl = Annotated[str, Syntax(_base_url, str, _URL_SCHEMA)]
Authority = Annotated[str, Syntax(_authority, str, TEXT_SCHEMA)]
Names = Annotated[
    tuple[str, ...], Syntax(partial(parse_list, of=_host_name), _show_list, LIST_SCHEMA)
]
Networks = Annotated[
    tuple[Network, ...], Syntax(partial(parse_list, of=_network), _show_list, LIST_SCHEMA)
]
JobsUrl = Annotated[str, Syntax(_jobs_store, _show_store, TEXT_SCHEMA)]
ArtifactsUrl = Annotated[str, Syntax(_artifacts_store, _show_store, TEXT_SCHEMA)]
