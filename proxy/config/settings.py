"""The settings (CONTRACT §15), each with its default.

The docstring below a setting is its documentation: config/proxy.toml and the tables of
docs/configuration.md are generated from it.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from proxy.config.addresses import (
    Address,
    ArtifactsUrl,
    Authority,
    BaseUrl,
    HostPort,
    JobsUrl,
    Names,
    Networks,
    Origin,
    WebhookUrls,
)
from proxy.config.paths import Directory, FilePath, NewFile
from proxy.config.scalars import (
    Count,
    Duration,
    LogFormat,
    LogLevel,
    Positive,
    Segment,
    Size,
    Switch,
    Timeout,
)
from proxy.config.secret_values import Fingerprint, KeyFile, Keys, Secret, Token, split_keys
from proxy.config.syntax import invalid, read_text

#: The prefix of every environment variable that is a setting.
PREFIX = "VB365_PROXY_"

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
_MIB, _GIB = 1 << 20, 1 << 30


class Section(BaseModel):
    """A table of the configuration file; immutable."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )


class Listen(Section):
    """Where clients connect."""

    address: Address = HostPort("0.0.0.0", 4443)  # noqa: S104  # a reverse proxy is there to be reached
    """HOST:PORT to listen on; [::]:4443 for IPv6, port 0 for any free port."""
    tls_certificate: FilePath | None = None
    """PEM file with the certificate chain. The proxy serves https if this and tls_key are set."""
    tls_key: FilePath | None = Field(default=None, validate_default=True)
    """PEM file with the private key of tls_certificate, not encrypted."""
    head_timeout: Timeout = 60.0
    """Time limit for the head of a request, and for each further part of its body, to arrive."""
    handshake_timeout: Timeout = 10.0
    """Time limit for a TLS handshake."""
    idle_timeout: Timeout = 150.0
    """How long an idle connection is kept open. Keep it longer than a load balancer in front of the
    proxy does.
    """
    max_connections: Count = 10_000
    """Maximum number of open client connections, unfinished TLS handshakes included; further ones
    get 503. 0 = limited only by the file descriptors of the process.
    """
    workers: Positive = 1
    """Number of processes that listen on the address and behave as one proxy; not on Windows. Use
    as many as the machine has cores. max_connections and upstream.pool are divided among them.
    """

    @field_validator("tls_key")
    @classmethod
    def _complete_pair(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        if "tls_certificate" not in info.data:
            return key  # the certificate is invalid, which is reported already
        certificate = info.data["tls_certificate"]
        if (certificate is None) != (key is None):
            raise invalid("and listen.tls_certificate must be set together", "set both or neither")
        if certificate is not None:
            _check_pair(certificate, key)
        return key


def _check_pair(certificate: Path, key: Path | None) -> None:
    # Imported here because it loads libraries that only TLS needs.
    from proxy.net.tls import ServerCertificate, TlsError

    try:
        ServerCertificate(certificate, key)
    except TlsError as error:
        hint = "name the PEM files of a certificate chain and of its key"
        raise invalid(f"cannot be used: {error}", hint) from error


class Upstream(Section):
    """The VB365 server behind the proxy."""

    url: Origin
    """Required. Scheme, host and port of VB365's REST API, for example `https://vb365.example.com:4443`."""
    host: Authority | None = None
    """Host field of the proxy's own requests to VB365. Default: host and port of upstream.url. Set
    it if a server in front of VB365 selects VB365 by another Host: its responses decide about
    access.
    """
    ca_file: FilePath | None = None
    """PEM file with the CA certificates that verify VB365's certificate. Default: the system's."""
    fingerprint: Fingerprint | None = None
    """SHA-256 fingerprint (hex, colons allowed) of the only certificate to trust, self-signed or
    not. `openssl x509 -noout -fingerprint -sha256` prints it.
    """
    verify: Switch = Field(default=True, validate_default=True)
    """false accepts any certificate: anyone between the proxy and VB365 can then read passwords."""
    preserve_host: Switch = True
    """true forwards the client's Host field; false sends the upstream's own."""
    check_timeout: Timeout = 5.0
    """Time limit of the proxy's own requests to VB365: access checks, events, readiness."""
    forwarded: Switch = False
    """Add X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host and Via to requests to VB365."""
    connect_timeout: Timeout = 10.0
    """Time limit for connecting to VB365, TLS handshake included."""
    pool: Count = 0
    """Maximum number of connections to VB365 for ordinary requests. 0 = no limit."""

    @field_validator("ca_file")
    @classmethod
    def _valid_authorities(cls, ca_file: Path | None) -> Path | None:
        from proxy.net.tls import TlsError, upstream_context

        try:
            upstream_context(ca_file=ca_file)
        except TlsError as error:
            raise invalid(f"cannot be used: {error}", "name a file of CA certificates") from error
        return ca_file

    @field_validator("verify")
    @classmethod
    def _one_kind_of_trust(cls, verify: bool, info: ValidationInfo) -> bool:
        kinds = [
            f"upstream.{name}"
            for name in ("ca_file", "fingerprint")
            if info.data.get(name) is not None
        ]
        kinds += [] if verify else ["upstream.verify = false"]
        if len(kinds) > 1:
            problem = f"conflicts: {' and '.join(kinds)} are different ways to trust a certificate"
            raise invalid(problem, "keep one of them")
        if kinds and info.data.get("url", "").startswith("http:"):
            problem = f"conflicts: {kinds[0]} is for https, and upstream.url is http:"
            raise invalid(problem, f"write https: in upstream.url, or remove {kinds[0]}")
        return verify


class Exports(Section):
    """Asynchronous exports."""

    max_running: Positive = 4
    """Maximum number of exports that VB365 works on at the same time; others wait as Queued."""
    max_running_per_caller: Count = 0
    """Maximum number of these for one caller. 0 = no limit."""
    max_queued: Count = 1000
    """Maximum number of exports that wait; further kick-offs get 503."""
    max_per_caller: Positive = 50
    """Maximum number of unfinished exports of one caller; further kick-offs get 429."""
    grace: Duration = 2.0
    """How long the response to a kick-off is held back. If VB365 reports an error in this time, the
    client gets that error instead of a job.
    """
    max_wait: Duration = 45.0
    """Upper limit of `Prefer: wait`. Keep it below the timeouts of load balancers."""
    preflight: Switch = True
    """Request the exported resource from VB365 first, so that 401, 403 and 404 are returned at
    once.
    """
    preflight_timeout: Timeout = 5.0
    """Time limit for the preflight request; the kick-off continues without its result."""
    max_request_body: Size = 16 * _MIB
    """Maximum size of the body of a kick-off; larger ones get 413."""
    body_memory: Size = 64 * _MIB
    """Memory for the bodies of all kick-offs that are being received; a kick-off that needs more
    gets 503.
    """
    generate_timeout: Timeout = 24 * _HOUR
    """How long VB365 may send nothing while it generates the file."""
    stall_timeout: Timeout = 10 * _MINUTE
    """How long VB365 may send nothing in the middle of the file."""
    attempts: Positive = 3
    """Maximum number of generations, and of consecutive requests without a new byte, before a job
    is Failed.
    """
    suspend_ttl: Timeout = 1 * _HOUR
    """How long an interrupted job waits for the next call of a caller who may see it, before it is
    Failed.
    """
    cancel_hold: Duration = 2 * _MINUTE
    """How long an export that was cancelled while VB365 generated its file still counts as running,
    since VB365 may continue to work on it.
    """
    max_records_per_caller: Positive = 1000
    """Maximum number of job records of one caller. The oldest ended ones without a file are removed
    first.
    """
    result_ttl: Timeout = 24 * _HOUR
    """How long a file can be downloaded after its export ended."""
    record_ttl: Timeout = 7 * _DAY
    """How long the record of a job is kept after its file is removed."""
    watch_events: Switch = True
    """Read the restore session's events to distinguish Warning from Success."""
    reports: Switch = False
    """Also intercept `POST /v{N}/Reports/Generate…`."""
    rescue_sync: Switch = False
    """Run synchronous exports as jobs too, and let a retry after a timeout join them. Not supported
    in this version.
    """
    rescue_ttl: Timeout = 1 * _HOUR
    """How long such an export can be joined after it ended. Not used in this version."""


class Storage(Section):
    """Jobs and files."""

    dir: Directory = Path("/var/lib/vb365-async-proxy")
    """Directory for jobs, files and the owner key. No other program may write to it."""
    jobs: JobsUrl = Field(default="disk", repr=False)
    """Where job records are stored: disk, or redis://host:6379/0 (rediss:// for TLS, unix:///path,
    redis+sentinel://host,host/service; ?prefix= for several clusters). Proxies with the same shared
    store are replicas of one another.
    """
    artifacts: ArtifactsUrl = "file"
    """Where files are stored: file, or s3://bucket/prefix, az://… or gs://…. With a shared
    storage.jobs, file means that storage.dir is one volume that all replicas mount.
    """
    min_free: Size = 5 * _GIB
    """Free disk space below which kick-offs get 503."""
    max_records: Positive = 20_000
    """Maximum number of job records. The oldest ended ones without a file are removed first."""
    max_bytes: Size | None = None
    """Maximum number of bytes of all files, including the announced rest of unfinished ones.
    Default: limited only by the disk.
    """


class Access(Section):
    """Access to jobs."""

    cache: Duration = 60.0
    """How long VB365's response that a credential may see a restore session is reused."""


class Secrets(Section):
    """Encryption of stored credentials. Without a key, credentials are kept in memory only."""

    key: Keys | None = None
    """Fernet keys, separated by commas, the newest first. With a key, credentials are stored
    encrypted and interrupted jobs resume by themselves after a restart.
    """
    key_file: KeyFile | None = Field(default=None, validate_default=True)
    """File with the keys, instead of secrets.key."""

    @field_validator("key_file")
    @classmethod
    def _one_source(cls, key_file: Path | None, info: ValidationInfo) -> Path | None:
        if key_file is not None and info.data.get("key") is not None:
            raise invalid("and secrets.key cannot be set together", "keep one of them")
        return key_file

    @property
    def keys(self) -> tuple[SecretStr, ...]:
        """The keys; the first one encrypts, all of them decrypt.

        `key_file` is read at each call, so that keys can be rotated. Raises OSError and `NotUtf8`.
        """
        text = read_text(self.key_file) if self.key_file else ""
        text = self.key.get_secret_value() if self.key else text
        return tuple(SecretStr(key) for key in split_keys(text) if key)


class Public(Section):
    """The proxy's address as clients see it."""

    url: BaseUrl | None = None
    """Base of the URLs in responses, with a path prefix if there is one. Default: taken from the
    request.
    """
    trusted_proxies: Networks = ()
    """Addresses and CIDR ranges of load balancers whose Forwarded and X-Forwarded-* fields are
    used.
    """
    segment: Segment = "_async"
    """Path segment of the proxy's own resources."""


class Admin(Section):
    """The admin listener: health checks."""

    address: Address = HostPort("127.0.0.1", 9465)
    """HOST:PORT to listen on. An address other than loopback requires a token."""
    token: Token | None = Field(default=None, validate_default=True)
    """Bearer token that requests must send, except for /healthz and /readyz."""
    hosts: Names = ()
    """Host names to accept in requests, in addition to IP addresses and localhost."""

    @field_validator("token")
    @classmethod
    def _protected(cls, token: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        address = info.data.get("address")
        if token is None and address is not None and not address.loopback:
            problem = f"is required because admin.address {address} is not a loopback address"
            hint = f"set {PREFIX}ADMIN__TOKEN, or a secret file, or listen on 127.0.0.1"
            raise invalid(problem, hint)
        return token


class Log(Section):
    """The log, on stderr or in a file, and the audit file."""

    format: LogFormat = "console"
    """console for people, json for machines."""
    level: LogLevel = "info"
    """debug, info, warning or error."""
    file: NewFile | None = None
    """File to log to, in place of stderr."""
    audit: NewFile | None = None
    """File with a line of JSON for each export that is accepted, refused by VB365, delivered,
    cancelled or deleted: who, what, when. Each line is synced to disk.
    """
    max_size: Size = 64 * _MIB
    """Size above which log.file and log.audit are replaced; the old ones end with .1, .2 and so
    on.
    """
    keep: Positive = 5
    """Number of old files that are kept, of each."""


class Cluster(Section):
    """Replicas that share storage.jobs."""

    heartbeat: Timeout = 10.0
    """How often a replica renews its lease."""
    lease: Timeout = 30.0
    """How long after the last renewal others take over the jobs of a replica. At least twice
    cluster.heartbeat.
    """


class Webhooks(Section):
    """Notifications of ended jobs (Standard Webhooks). Not supported in this version."""

    urls: WebhookUrls = ()
    """URLs to post to."""
    secret: Secret | None = Field(default=None, validate_default=True)
    """Secret to sign notifications with (whsec_…)."""

    @field_validator("secret")
    @classmethod
    def _signed(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if secret is None and info.data.get("urls"):
            problem = "is required because webhooks.urls is set"
            raise invalid(problem, "set the secret that receivers verify signatures with")
        return secret


class Settings(BaseModel):
    """All settings; immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: Listen = Listen()
    upstream: Upstream
    exports: Exports = Exports()
    storage: Storage = Storage()
    access: Access = Access()
    secrets: Secrets = Secrets()
    public: Public = Public()
    cluster: Cluster = Cluster()
    admin: Admin = Admin()
    log: Log = Log()
    webhooks: Webhooks = Webhooks()


#: Sections by name, in the order of CONTRACT §15.
SECTIONS: dict[str, type[Section]] = {
    name: kind
    for name, field in Settings.model_fields.items()
    if isinstance(kind := field.annotation, type)
}
