"""What an operator may set (CONTRACT §15): every setting with its default and its meaning.

The docstring below a setting is its documentation: config/proxy.toml and docs/configuration.md are
written from it.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from proxy.config.values import (
    Address,
    ArtifactsUrl,
    Authority,
    Base,
    Count,
    Directory,
    Duration,
    FilePath,
    Fingerprint,
    Hooks,
    HostPort,
    JobsUrl,
    KeyFile,
    Keys,
    LogFormat,
    LogLevel,
    Names,
    Networks,
    Origin,
    Positive,
    Secret,
    Segment,
    Size,
    Switch,
    Timeout,
    Token,
    split_keys,
)
from proxy.config.written import bad, read_text

#: How every environment variable of ours begins.
PREFIX = "VB365_PROXY_"

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
_MIB, _GIB = 1 << 20, 1 << 30


class Section(BaseModel):
    """A table of the configuration; frozen."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )


class Listen(Section):
    """Where clients connect."""

    address: Address = HostPort("0.0.0.0", 4443)  # noqa: S104  # a reverse proxy is there to be reached
    """HOST:PORT to listen on; [::]:4443 for IPv6, port 0 for any free one."""
    tls_certificate: FilePath | None = None
    """PEM file with the certificate chain; with tls_key the proxy speaks https, without them
    http.
    """
    tls_key: FilePath | None = Field(default=None, validate_default=True)
    """PEM file with the private key of tls_certificate, without a passphrase."""
    head_timeout: Timeout = 60.0
    """How long a request's head, or the next piece of its body, may take to arrive."""
    handshake_timeout: Timeout = 10.0
    """How long a TLS handshake may take."""
    idle_timeout: Timeout = 150.0
    """How long a connection is kept open for its next request; longer than the balancer in front
    keeps it.
    """
    max_connections: Count = 10_000
    """Client connections at a time, unfinished TLS handshakes included; further ones get 503. 0 =
    no limit but the one that the process's file descriptors set.
    """
    workers: Positive = 1
    """Processes that share the address."""

    @field_validator("tls_key")
    @classmethod
    def _pair(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        if "tls_certificate" not in info.data:
            return key  # the certificate has a problem of its own
        certificate = info.data["tls_certificate"]
        if (certificate is None) != (key is None):
            raise bad("belongs together with listen.tls_certificate", "set both, or neither")
        if certificate is not None:
            _check_pair(certificate, key)
        return key


def _check_pair(certificate: Path, key: Path | None) -> None:
    from proxy.net.tls import (
        ServerCertificate,
        TlsError,
    )  # here: only who serves TLS needs what it loads

    try:
        ServerCertificate(certificate, key)
    except TlsError as why:
        raise bad(
            f"cannot be served: {why}", "name the PEM files of a certificate chain and of its key"
        ) from why


class Upstream(Section):
    """The VB365 REST server behind the proxy."""

    url: Origin
    """Required: scheme, host and port of VB365's REST API, for example `https://vb365.example.com:4443`."""
    host: Authority | None = None
    """Host field of the proxy's own requests to VB365; without it the authority of upstream.url."""
    ca_file: FilePath | None = None
    """File with the authorities that VB365's certificate is trusted by, instead of the system's."""
    fingerprint: Fingerprint | None = None
    """SHA-256 fingerprint of VB365's certificate (hex, colons allowed): exactly this one is
    trusted, self-signed or not. `openssl x509 -noout -fingerprint -sha256` shows it.
    """
    verify: Switch = Field(default=True, validate_default=True)
    """false trusts any certificate: whoever stands between the proxy and VB365 can then read
    passwords.
    """
    preserve_host: Switch = True
    """Send the Host field as the client sent it; false sends the upstream's own."""
    check_timeout: Timeout = 5.0
    """How long VB365 may take to answer the proxy's own questions: who may see a job, session
    events, readiness.
    """
    forwarded: Switch = False
    """Append X-Forwarded-For, -Proto, -Host and Via to what VB365 gets."""
    connect_timeout: Timeout = 10.0
    """How long a connection to VB365 may take to be made, TLS included."""
    pool: Count = 0
    """Connections to VB365 at a time for ordinary requests. 0 = no limit."""

    @field_validator("ca_file")
    @classmethod
    def _authorities(cls, ca_file: Path | None) -> Path | None:
        from proxy.net.tls import TlsError, upstream_context

        try:
            upstream_context(ca_file=ca_file)
        except TlsError as why:
            raise bad(f"cannot be trusted by: {why}", "name a file of CA certificates") from why
        return ca_file

    @field_validator("verify")
    @classmethod
    def _one_trust(cls, verify: bool, info: ValidationInfo) -> bool:
        ways = [
            f"upstream.{name}"
            for name in ("ca_file", "fingerprint")
            if info.data.get(name) is not None
        ]
        ways += [] if verify else ["upstream.verify = false"]
        if len(ways) > 1:
            raise bad(
                f"contradicts: {' and '.join(ways)} are different ways to trust", "keep one of them"
            )
        if ways and info.data.get("url", "").startswith("http:"):
            raise bad(
                f"contradicts: {ways[0]} is about a certificate, and upstream.url is http:",
                "write https:",
            )
        return verify


class Exports(Section):
    """How asynchronous exports run."""

    max_running: Positive = 4
    """Exports that VB365 works on at the same time, over all replicas; more of them wait as
    Queued.
    """
    max_running_per_caller: Count = 0
    """Of those, exports of one caller. 0 = no limit."""
    max_queued: Count = 1000
    """Exports that may wait; further kick-offs get 503."""
    max_per_caller: Positive = 50
    """Exports of one caller that run or wait; further kick-offs get 429."""
    grace: Duration = 2.0
    """How long a kick-off is held so that an early error of VB365 is answered as it is, not as a
    job.
    """
    max_wait: Duration = 45.0
    """The longest `Prefer: wait` that is honoured; keep it below the time-outs of balancers."""
    preflight: Switch = True
    """Ask VB365 for the exported resource first, so that 401, 403 and 404 are answered at once."""
    preflight_timeout: Timeout = 5.0
    """How long that may take; a kick-off goes on without its answer."""
    max_request_body: Size = 16 * _MIB
    """The largest body of a kick-off; a larger one gets 413."""
    body_memory: Size = 64 * _MIB
    """Memory for the bodies of all kick-offs that are being received; a kick-off beyond it gets
    503.
    """
    generate_timeout: Timeout = 24 * _HOUR
    """How long VB365 may be silent while it makes the file."""
    stall_timeout: Timeout = 10 * _MINUTE
    """How long VB365 may be silent in the middle of the file."""
    attempts: Positive = 3
    """Generations from zero, and requests in a row that bring no new byte, before a job is
    Failed.
    """
    suspend_ttl: Timeout = 1 * _HOUR
    """How long an interrupted job waits for its owner's next call before it is Failed."""
    cancel_hold: Duration = 2 * _MINUTE
    """How long an export that was cancelled while VB365 generated its file still counts as running:
    VB365 may go on with the work.
    """
    max_records_per_caller: Positive = 1000
    """Jobs of one caller that are remembered; the oldest ended ones without a file are forgotten
    first.
    """
    result_ttl: Timeout = 24 * _HOUR
    """How long a file can be downloaded after its export ended."""
    record_ttl: Timeout = 7 * _DAY
    """How long a job is remembered after its file is gone."""
    watch_events: Switch = True
    """Look into the restore session's events to tell Warning from Success."""
    reports: Switch = False
    """Intercept `POST /v{N}/Reports/Generate…` as well."""
    rescue_sync: Switch = False
    """Run exports that did not ask for async as jobs too, and let a retry after a time-out join
    them.
    """
    rescue_ttl: Timeout = 1 * _HOUR
    """How long such an export can be joined after it ended."""


class Storage(Section):
    """Where jobs and files are kept."""

    dir: Directory = Path("/var/lib/vb365-async-proxy")
    """Directory of the proxy's own, for jobs, files and the owner key."""
    jobs: JobsUrl = Field(default="disk", repr=False)
    """disk, or redis://host:6379/0 (rediss:// over TLS) shared by all replicas."""
    artifacts: ArtifactsUrl = "file"
    """file, or s3://bucket/prefix, az://… or gs://… shared by all replicas."""
    min_free: Size = 5 * _GIB
    """Free space below which kick-offs get 503."""
    max_records: Positive = 20_000
    """Jobs that are remembered; the oldest ended ones without a file are forgotten first."""
    max_bytes: Size | None = None
    """The most bytes that may be stored and announced together; without it the disk alone is the
    limit.
    """


class Access(Section):
    """Who may see a job."""

    cache: Duration = 60.0
    """How long VB365's answer that a credential may see a session is believed."""


class Secrets(Section):
    """Credentials at rest; without a key they live in memory only."""

    key: Keys | None = None
    """Fernet keys, separated by commas, the newest first: credentials are kept sealed, and jobs
    resume unattended after a restart.
    """
    key_file: KeyFile | None = Field(default=None, validate_default=True)
    """File that holds them instead."""

    @field_validator("key_file")
    @classmethod
    def _one_place(cls, key_file: Path | None, info: ValidationInfo) -> Path | None:
        if key_file is not None and info.data.get("key") is not None:
            raise bad("is set beside secrets.key", "keep one of them")
        return key_file

    @property
    def keys(self) -> tuple[SecretStr, ...]:
        """The keys, the sealing one first; `key_file` is read each time: keys rotate. Raises
        OSError, `NotUtf8`.
        """
        text = read_text(self.key_file) if self.key_file else ""
        text = self.key.get_secret_value() if self.key else text
        return tuple(SecretStr(key) for key in split_keys(text) if key)


class Public(Section):
    """How clients reach the proxy, where that is not what it sees itself."""

    url: Base | None = None
    """Base of the absolute URLs in answers, with a path prefix if there is one."""
    trusted_proxies: Networks = ()
    """Addresses and CIDR ranges of the balancers whose Forwarded and X-Forwarded-* fields are
    believed.
    """
    segment: Segment = "_async"
    """Path segment of the proxy's own resources."""


class Admin(Section):
    """The operator's listener: health, metrics, dashboard."""

    address: Address = HostPort("127.0.0.1", 9465)
    """HOST:PORT to listen on; an address that is not loopback needs a token."""
    token: Token | None = Field(default=None, validate_default=True)
    """Bearer token, asked for on everything but /healthz and /readyz once it is set."""
    hosts: Names = ()
    """Host names that the listener answers to, beside IP addresses and localhost."""

    @field_validator("token")
    @classmethod
    def _guarded(cls, token: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        address = info.data.get("address")
        if token is None and address is not None and not address.loopback:
            hint = f"set one, best as {PREFIX}ADMIN__TOKEN or a secret file, or listen on 127.0.0.1"
            raise bad(f"is missing, and admin.address {address} can be reached from outside", hint)
        return token


class Log(Section):
    """What is written to stderr."""

    format: LogFormat = "console"
    """console for people, json for machines."""
    level: LogLevel = "info"
    """debug, info, warning or error."""


class Webhooks(Section):
    """Calls to others when a job has ended (Standard Webhooks)."""

    urls: Hooks = ()
    """Where to post."""
    secret: Secret | None = Field(default=None, validate_default=True)
    """Signing secret (whsec_…)."""

    @field_validator("secret")
    @classmethod
    def _signed(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if secret is None and info.data.get("urls"):
            raise bad(
                "is missing, and webhooks.urls are set",
                "set the secret that receivers check signatures with",
            )
        return secret


class Settings(BaseModel):
    """The whole configuration of vb365-async-proxy; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: Listen = Listen()
    upstream: Upstream
    exports: Exports = Exports()
    storage: Storage = Storage()
    access: Access = Access()
    secrets: Secrets = Secrets()
    public: Public = Public()
    admin: Admin = Admin()
    log: Log = Log()
    webhooks: Webhooks = Webhooks()


#: Sections by name, in the order of CONTRACT §15.
SECTIONS: dict[str, type[Section]] = {
    name: kind
    for name, field in Settings.model_fields.items()
    if isinstance(kind := field.annotation, type)
}
