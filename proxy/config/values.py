"""How the values of the configuration are written, read and shown (CONTRACT §15).

Each kind of value is one `Written`: text from a file, the environment or a flag goes through its
`parse`, which answers with what is wrong and how to mend it; values that code hands over are taken
as they are.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr

from proxy.config.written import Written, bad, read_text
from proxy.config.written import text as _text
from proxy.core.text import NotUtf8

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Stands where a secret was set.
MASK = "********"


# Durations and sizes


_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_BYTES = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
_LONGEST = (
    3650 * 86400.0
)  # an end in more than ten years is a slip, and one in millennia overflows dates


def _quantity(value: Any, units: dict[str, Any]) -> float | None:
    match = (
        re.fullmatch(r"(\d{1,18}(?:\.\d{1,9})?)\s*([A-Za-z]+)", value.strip())
        if isinstance(value, str)
        else None
    )
    return float(match[1]) * units[match[2]] if match and match[2] in units else None


def parse_duration(value: Any, *, positive: bool = False) -> float:
    """Seconds of a text like 250ms or 24h. Raises ValueError, as every `parse` here does."""
    seconds = _quantity(value, _SECONDS)
    if seconds is None:
        raise bad(
            "is not a duration", "write a number and a unit, for example 250ms, 2s, 10m, 24h or 7d"
        )
    if seconds > _LONGEST:
        raise bad("is too long", "write at most 3650d")
    if positive and not seconds:
        raise bad("must be more than zero", "write for example 10s")
    return seconds


def parse_size(value: Any) -> int:
    """Bytes of a text like 16MiB."""
    size = _quantity(value, _BYTES)
    if size is None:
        raise bad("is not a size", "write a number and a unit, for example 512KiB, 16MiB or 5GiB")
    return int(size)


def _show_quantity(value: int, units: dict[str, int], *, unless_one: str = "") -> str:
    """The value in the largest unit that writes it as a whole number, else in the smallest."""
    for unit, worth in units.items():
        count, rest = divmod(value, worth)
        if count and not rest and not (count == 1 and unit in unless_one):
            return f"{count}{unit}"
    return f"{value / worth:.3f}".rstrip("0").rstrip(".") + unit


def show_duration(seconds: float) -> str:
    """Seconds as they are written in the configuration; 24h and 60s rather than 1d and 1m, as
    people say it.
    """
    microseconds = {unit: round(worth * 1e6) for unit, worth in _SECONDS.items()}
    return _show_quantity(round(seconds * 1e6), microseconds, unless_one="dm")


def show_size(size: int) -> str:
    """Bytes as they are written in the configuration: 16777216 is 16MiB."""
    return _show_quantity(size, _BYTES)


_DURATION_SCHEMA = {
    "type": "string",
    "pattern": r"^(|\d+(\.\d+)?\s*(ms|s|m|h|d))$",
    "examples": ["250ms", "24h"],
}
_SIZE_SCHEMA = {
    "type": "string",
    "pattern": r"^(|\d+(\.\d+)?\s*([KMGT]i)?B)$",
    "examples": ["16MiB", "5GiB"],
}

Duration = Annotated[float, Written(parse_duration, show_duration, _DURATION_SCHEMA)]
Timeout = Annotated[
    float, Written(partial(parse_duration, positive=True), show_duration, _DURATION_SCHEMA)
]
Size = Annotated[int, Written(parse_size, show_size, _SIZE_SCHEMA)]


# Numbers, switches, words


def _count(value: Any, *, least: int) -> int:
    digits = isinstance(value, str) and re.fullmatch(r"\d{1,9}", value.strip())
    number = int(value) if digits else value
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number < 10**9:
        raise bad(f"is not a whole number from {least} on", "write digits only")
    return number


def _switch(value: Any) -> bool:
    words = {
        "true": True,
        "yes": True,
        "on": True,
        "1": True,
        "false": False,
        "no": False,
        "off": False,
        "0": False,
    }
    switch = words.get(value.strip().lower()) if isinstance(value, str) else value
    if not isinstance(switch, bool):
        raise bad("is neither true nor false", "write true or false")
    return switch


def _word(value: Any, *, words: tuple[str, ...]) -> str:
    word = _text(value).lower()
    if word not in words:
        raise bad("is not known here", "write " + ", ".join(words[:-1]) + " or " + words[-1])
    return word


def _words(*words: str) -> Written:
    return Written(partial(_word, words=words), str, {"type": "string", "enum": list(words)})


def _segment(value: Any) -> str:
    segment = _text(value)
    if not re.fullmatch(r"_[A-Za-z0-9_-]+", segment):
        hint = "write an underscore, then letters, digits, - and _ only: no path of VB365 begins so"
        raise bad("is no segment of our own", hint)
    return segment


Count = Annotated[int, Written(partial(_count, least=0), int, {"type": "integer", "minimum": 0})]
Positive = Annotated[int, Written(partial(_count, least=1), int, {"type": "integer", "minimum": 1})]
Switch = Annotated[bool, Written(_switch, bool, {"type": "boolean"})]
LogFormat = Annotated[str, _words("console", "json")]
LogLevel = Annotated[str, _words("debug", "info", "warning", "error")]
Segment = Annotated[
    str, Written(_segment, str, {"type": "string", "pattern": "^(|_[A-Za-z0-9_-]+)$"})
]


# Addresses and URLs


class HostPort(NamedTuple):
    """Where to listen; an IPv6 `host` without its brackets, `port` 0 for any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """True when only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    @property
    def reachable(self) -> tuple[str, int]:
        """Where this machine reaches what listens here: an unspecified address is reached on
        loopback.
        """
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  # compared, not bound
        return host, self.port


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def _host_port(value: Any) -> HostPort:
    match = re.fullmatch(r"(?:\[([^\[\]]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})", _text(value))
    if not match or int(match[3]) > 65535 or (match[1] and not _is_ipv6(match[1])):
        raise bad(
            "is not HOST:PORT",
            "write for example 0.0.0.0:4443, [::]:4443 or 127.0.0.1:0 (any free port)",
        )
    return HostPort(match[1] or match[2], int(match[3]))


def _http_url(value: Any) -> SplitResult:
    """An http(s) URL without userinfo, query and fragment, on visible ASCII."""
    text, example = _text(value), "write for example https://vb365.example.com:4443"
    try:
        url = urlsplit(text)
        host = None if url.port == 0 else url.hostname
    except ValueError:
        host = None
    if (
        not re.fullmatch(r"[!-~]+", text)
        or not host
        or not re.fullmatch(r"[A-Za-z0-9._:%-]+", host)
    ):
        raise bad("is not a URL with a host", example)
    if url.scheme not in {"http", "https"}:
        raise bad(f"begins with {url.scheme}:", f"only http and https are spoken; {example}")
    if "@" in url.netloc:
        raise bad(
            "holds a user name or password", "leave it out: callers bring their own credentials"
        )
    if url.query or url.fragment or text.endswith(("?", "#")):
        raise bad("holds a query or a fragment", "leave out what follows the ? or #")
    return url


def _origin(value: Any) -> str:
    url = _http_url(value)
    if url.path not in {"", "/"}:
        hint = f"leave {url.path} out: the paths that clients ask for are forwarded as they are"
        raise bad("holds a path", hint)
    return f"{url.scheme}://{url.netloc.lower()}"


def _base(value: Any) -> str:
    url = _http_url(value)
    path = url.path.rstrip("/")
    if not re.fullmatch(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*", path) or re.search(
        r"/\.{1,2}(/|$)", path
    ):
        raise bad(
            "holds a path that cannot be a prefix",
            "write for example https://vb365.example.com/backup",
        )
    return f"{url.scheme}://{url.netloc.lower()}{path}"


_HOST_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"


def _authority(value: Any) -> str:
    text = _text(value).lower()
    match = re.fullmatch(rf"(?:\[([^\[\]]+)\]|{_HOST_NAME})(?::(\d{{1,5}}))?", text, re.IGNORECASE)
    if not match or int(match[2] or 0) > 65535 or (match[1] and not _is_ipv6(match[1])):
        raise bad(
            "is not a host name",
            "write a name or an address, with the port if it is not the default one",
        )
    return text


def _host_name(value: Any) -> str:
    text = _text(value).lower()
    if not re.fullmatch(_HOST_NAME, text, re.IGNORECASE):
        raise bad(
            f"holds {value!r}, which is not a host name",
            "write names only, for example proxy.example.com",
        )
    return text


def _hook(value: Any) -> str:
    text = _text(value)
    _http_url(text.partition("?")[0])
    return text


def _network(value: Any) -> Network:
    try:
        return ipaddress.ip_network(_text(value))
    except ValueError as why:
        raise bad(
            f"holds {value!r}, no network ({why})",
            "write addresses and CIDR ranges: 10.0.0.7, 10.1.0.0/16",
        ) from None


def _list(value: Any, *, of: Callable[[Any], Any]) -> tuple[Any, ...]:
    """A list; in the environment its items are separated by commas, or a JSON array."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else value.split(",")
        except ValueError:
            raise bad("is not a JSON array", 'write ["a", "b"], or a,b') from None
    if not isinstance(value, list):
        raise bad("is not a list", 'write ["a", "b"]; in the environment a,b does as well')
    return tuple(of(item) for item in value)


def _show_list(values: tuple[Any, ...]) -> list[str]:
    return [str(value) for value in values]


_LIST_SCHEMA = {"type": "array", "items": {"type": "string"}}
_ADDRESS_SCHEMA = {
    "type": "string",
    "pattern": r"^(|.+:\d{1,5})$",
    "examples": ["0.0.0.0:4443", "[::]:4443"],
}
_URL_SCHEMA = {"type": "string", "pattern": "^(|https?://.+)$"}

Address = Annotated[HostPort, Written(_host_port, str, _ADDRESS_SCHEMA)]
Origin = Annotated[str, Written(_origin, str, _URL_SCHEMA)]
Base = Annotated[str, Written(_base, str, _URL_SCHEMA)]
Authority = Annotated[str, Written(_authority, str, {"type": "string"})]
Names = Annotated[tuple[str, ...], Written(partial(_list, of=_host_name), _show_list, _LIST_SCHEMA)]
Networks = Annotated[
    tuple[Network, ...], Written(partial(_list, of=_network), _show_list, _LIST_SCHEMA)
]
Hooks = Annotated[tuple[str, ...], Written(partial(_list, of=_hook), _show_list, _LIST_SCHEMA)]


# Files, stores, secrets

#: TOML reads \\n and \\t of "C:\\new\\temp" as a line feed and a tab.
_BACKSLASHES = "write a Windows path in 'single quotes' or with forward slashes"


def _path(value: Any) -> Path:
    path = _text(value)
    if any(ord(character) < 0x20 for character in path):
        raise bad("holds a control character", _BACKSLASHES)
    return Path(path)


def _file(value: Any) -> Path:
    path = _path(value)
    try:
        with path.open("rb"):
            return path
    except OSError as why:
        raise bad(
            f"cannot be read ({why.strerror})", "name a file that this user may read"
        ) from None


def _directory(value: Any) -> Path:
    path = _path(value)
    if path.exists() and not path.is_dir():
        raise bad(
            "is not a directory",
            "name a directory of the proxy's own; it is made when it is missing",
        )
    return path


def _fingerprint(value: Any) -> str:
    digits = _text(value).replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        hint = (
            "write what `openssl x509 -noout -fingerprint -sha256` shows after the = of "
            "VB365's certificate"
        )
        raise bad("is not a SHA-256 fingerprint (64 hex digits)", hint)
    return digits


def _store(value: Any, *, word: str, pattern: str, hint: str) -> str:
    text = _text(value)
    if text != word and not re.fullmatch(pattern, text):
        raise bad("is no store", f"write {word} or {hint}")
    return text


def _show_store(value: str) -> str:
    return re.sub(r"//[^/]*@", f"//{MASK}@", value)


def _secret(value: Any) -> SecretStr:
    return SecretStr(_text(value))


def _token(value: Any) -> SecretStr:
    if not re.fullmatch(r"[!-~]+", _text(value)):
        raise bad(
            "is no bearer token",
            "write visible ASCII without spaces, for example what `openssl rand -hex 32` makes",
        )
    return _secret(value)


def split_keys(text: str) -> tuple[str, ...]:
    """The Fernet keys of a text, separated by commas or lines: the first seals, all of them
    open.
    """
    return tuple(re.split(r"[\s,]+", text.strip()))


def check_keys(text: str) -> None:
    """Raise unless `text` holds Fernet keys only."""
    for place, key in enumerate(split_keys(text), start=1):
        try:
            whole = len(base64.b64decode(key, altchars=b"-_", validate=True)) == 32
        except (binascii.Error, ValueError):
            whole = False
        if not whole:
            hint = (
                "write keys of `openssl rand -base64 32 | tr +/ -_`, separated by commas, "
                "the newest first"
            )
            raise bad(f"holds no Fernet key at place {place} (32 bytes in URL-safe base64)", hint)


def _keys(value: Any) -> SecretStr:
    check_keys(_text(value))
    return _secret(value)


def _key_file(value: Any) -> Path:
    path = _file(value)
    try:
        check_keys(read_text(path))
    except NotUtf8 as why:
        raise bad(str(why), why.fix) from None
    return path


def _mask(value: SecretStr) -> str:
    return MASK


_TEXT_SCHEMA = {"type": "string"}
_SECRET_SCHEMA = {"type": "string", "format": "password", "writeOnly": True}
_JOBS = partial(
    _store,
    word="disk",
    pattern=r"rediss?://[^/\s]+(/\d+)?",
    hint="redis://host:6379/0, or rediss:// over TLS",
)
_ARTIFACTS = partial(
    _store,
    word="file",
    pattern=r"(s3|az|gs)://[^/\s]+(/\S*)?",
    hint="s3://bucket/prefix, az://… or gs://…",
)

FilePath = Annotated[Path, Written(_file, str, _TEXT_SCHEMA)]
KeyFile = Annotated[Path, Written(_key_file, str, _TEXT_SCHEMA)]
Directory = Annotated[Path, Written(_directory, str, _TEXT_SCHEMA)]
Fingerprint = Annotated[str, Written(_fingerprint, str, _TEXT_SCHEMA)]
JobsUrl = Annotated[str, Written(_JOBS, _show_store, _TEXT_SCHEMA)]
ArtifactsUrl = Annotated[str, Written(_ARTIFACTS, _show_store, _TEXT_SCHEMA)]
Secret = Annotated[SecretStr, Written(_secret, _mask, _SECRET_SCHEMA)]
Token = Annotated[SecretStr, Written(_token, _mask, _SECRET_SCHEMA)]
Keys = Annotated[SecretStr, Written(_keys, _mask, _SECRET_SCHEMA)]
