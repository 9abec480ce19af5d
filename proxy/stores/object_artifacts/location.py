"""Where the bucket is: the value of `storage.artifacts` (CONTRACT §15, §18).

`s3://bucket/prefix`, `az://container/prefix` or `gs://bucket/prefix`, with options as its query.
What the URL does not say comes from the environment, as the tools of these services know it.
Credentials never come from the URL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from proxy.stores.object_artifacts.aws_profile import from_profile
from proxy.stores.object_artifacts.bucket import Bucket

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

_CONNECT = timedelta(seconds=2)
#: Time of a request, and of a request with its repetitions, for few and for many bytes.
_CONTROL, _CONTROL_ALL = timedelta(seconds=5), timedelta(seconds=8)
_DATA, _DATA_ALL = timedelta(seconds=60), timedelta(seconds=30)
_BACKOFF, _LONGEST_BACKOFF = timedelta(milliseconds=100), timedelta(seconds=2)

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()=+@,:-]+(?:/[A-Za-z0-9!_.*'()=+@,:-]+)*")
_SECRET = re.compile(r"secret|access_?key|account_?key|token|sas|signature|password|sse_customer")
_ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


def _text(value: str) -> str:
    if not value:
        raise ValueError("must not be empty")
    return value


def _flag(value: str) -> bool:
    if value.lower() not in (*_TRUE, *_FALSE):
        raise ValueError("must be true or false")
    return value.lower() in _TRUE


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        valid = parts.hostname and parts.port != 0 and not parts.username  # a bad port raises
    except ValueError:
        valid = False
    if not valid or parts.scheme not in {"http", "https"}:
        raise ValueError("must be a URL such as https://s3.example.com:9000")
    return value.rstrip("/")


def _encryption(value: str) -> str:
    if value not in _ENCRYPTIONS:
        raise ValueError(f"must be one of {', '.join(_ENCRYPTIONS)}")
    return value


_Options = Mapping[str, Callable[[str], str | bool]]
_COMMON: _Options = {"allow_http": _flag, "ca_file": _text, "endpoint": _url}
_OPTIONS: Mapping[str, _Options] = {
    "s3": {
        **_COMMON,
        "region": _text,
        "path_style": _flag,
        "profile": _text,
        "server_side_encryption": _encryption,
        "sse_kms_key_id": _text,
        "bucket_key": _flag,
    },
    "az": {**_COMMON, "account": _text, "client_id": _text, "tenant_id": _text},
    "gs": {**_COMMON, "service_account": _text},
}
_WHERE_SECRETS_GO = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use a profile or a role",
    "az": "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, or use a managed identity",
    "gs": "GOOGLE_SERVICE_ACCOUNT_KEY, or set service_account to the path of the key file",
}


@dataclass(frozen=True, slots=True)
class Location:
    """A prefix in a bucket of the service `kind`: s3, az or gs."""

    kind: str
    bucket: str
    prefix: str
    options: Mapping[str, str | bool] = field(default_factory=dict)

    def __str__(self) -> str:
        """The location without secrets."""
        where = f"{self.kind}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")
        endpoint = self.options.get("endpoint")
        return f"{where} at {endpoint}" if endpoint else where

    @classmethod
    def parse(cls, url: str) -> Location:
        """The location that the URL names. Raises ValueError, which names the fix."""
        try:
            parts = urlsplit(url)
        except ValueError:
            raise _wrong("is not a URL") from None
        known = _OPTIONS.get(parts.scheme)
        if known is None:
            raise _wrong("must begin with s3://, az:// or gs://")
        if "@" in parts.netloc or parts.fragment:
            raise _wrong(f"must not have credentials or a fragment: {_hint(parts.scheme)}")
        if not _BUCKET.fullmatch(parts.netloc):
            raise _wrong(f"{parts.netloc!r} is not the name of a bucket")
        prefix = parts.path.strip("/")
        if prefix and (not _PREFIX.fullmatch(prefix) or {".", ".."} & set(prefix.split("/"))):
            raise _wrong(f"{prefix!r} is not a prefix of keys: use letters, digits, - _ . and /")
        options = _parsed(parts.scheme, parts.query, known)
        _check_encrypted(options)
        return cls(parts.scheme, parts.netloc, prefix, options)

    def connect(self) -> Bucket:
        """The bucket. Nothing is sent. Raises ValueError for options that contradict each other or
        a file that cannot be read.
        """
        return Bucket(
            str(self),
            self._store(_DATA, retries=3, all_=_DATA_ALL),
            self._store(_CONTROL, retries=2, all_=_CONTROL_ALL),
        )

    def _store(self, timeout: timedelta, *, retries: int, all_: timedelta) -> ObjectStore:
        retry: RetryConfig = {
            "max_retries": retries,
            "retry_timeout": all_,
            "backoff": {"init_backoff": _BACKOFF, "max_backoff": _LONGEST_BACKOFF, "base": 2},
        }
        build = {"s3": _s3, "az": _azure, "gs": _google}[self.kind]
        try:
            return build(self, {"client_options": self._client(timeout), "retry_config": retry})
        except BaseError as why:
            # the first line: what follows describes the values, secrets from the environment too
            raise _wrong(str(why).partition("\n")[0]) from None

    def _client(self, timeout: timedelta) -> ClientConfig:
        client: ClientConfig = {
            "allow_http": bool(self.options.get("allow_http", False)),
            "connect_timeout": _CONNECT,
            "timeout": timeout,
            "user_agent": "vb365-async-proxy",
        }
        ca_file = self.options.get("ca_file")
        if isinstance(ca_file, str):
            try:
                client["root_certificate"] = Path(ca_file).read_bytes()
            except OSError as why:
                raise _wrong(f"ca_file {ca_file}: {why.strerror}") from why
        return client


class BadLocation(ValueError):
    """The location cannot be used. The message names the setting and the fix; `fault` is the same
    without the setting.
    """

    def __init__(self, fault: str) -> None:
        super().__init__(f"storage.artifacts: {fault}")
        self.fault = fault


def _wrong(problem: str) -> BadLocation:
    return BadLocation(problem)


def _hint(kind: str) -> str:
    return f"set {_WHERE_SECRETS_GO[kind]}"


def _parsed(kind: str, query: str, known: _Options) -> dict[str, str | bool]:
    options: dict[str, str | bool] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if _SECRET.search(name.lower()):
            raise _wrong(f"{name} must not be in the URL: {_hint(kind)}")
        if name not in known:
            raise _wrong(f"{kind}:// has no option {name!r}; it has {', '.join(sorted(known))}")
        if name in options:
            raise _wrong(f"{name} is given twice")
        try:
            options[name] = known[name](value)
        except ValueError as why:
            raise _wrong(f"{name}={value!r} {why}") from None
    return options


def _check_encrypted(options: Mapping[str, str | bool]) -> None:
    endpoint = str(options.get("endpoint", ""))
    if endpoint.startswith("http:") and not options.get("allow_http"):
        raise _wrong(
            f"endpoint={endpoint!r} is not encrypted: use https, or add allow_http=true, which "
            "sends the files in clear text"
        )


def _given(options: Mapping[str, str | bool], **names: str) -> dict[str, Any]:
    """The options under the names that obstore has for them."""
    return {names[name]: value for name, value in options.items() if name in names}


def _s3(where: Location, common: dict[str, Any]) -> ObjectStore:
    options = dict(where.options)
    virtual = options.get("path_style") is False
    if virtual and "endpoint" in options:
        scheme, _, host = str(options["endpoint"]).partition("://")
        options["endpoint"] = f"{scheme}://{where.bucket}.{host}"
    config = _given(
        options,
        endpoint="endpoint",
        region="region",
        server_side_encryption="server_side_encryption",
        sse_kms_key_id="sse_kms_key_id",
        bucket_key="sse_bucket_key_enabled",
    )
    provider = from_profile(options.get("profile"))
    if provider is not None:
        config["credential_provider"] = provider
    return S3Store(
        where.bucket,
        prefix=where.prefix or None,
        virtual_hosted_style_request=virtual,
        **common,
        **config,
    )


def _azure(where: Location, common: dict[str, Any]) -> ObjectStore:
    config = _given(
        where.options,
        endpoint="endpoint",
        account="account_name",
        client_id="client_id",
        tenant_id="tenant_id",
    )
    return AzureStore(where.bucket, prefix=where.prefix or None, **common, **config)


def _google(where: Location, common: dict[str, Any]) -> ObjectStore:
    config = _given(where.options, endpoint="base_url", service_account="service_account")
    return GCSStore(where.bucket, prefix=where.prefix or None, **common, **config)
