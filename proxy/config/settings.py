"""The settings (CONTRACT §15), each with its default.

The docstring below a setting is its documentation: config/proxy.toml and the tables of
docs/configuration.md are generated from it. `config.network` holds the sections of connections.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from proxy.config.addresses import ArtifactsUrl, JobsUrl
from proxy.config.network import Admin, Listen, Public, Upstream
from proxy.config.paths import Directory, NewFile
from proxy.config.scalars import (
    Count,
    Duration,
    LogFormat,
    LogLevel,
    Positive,
    Size,
    Switch,
    Timeout,
)
from proxy.config.secret_values import KeyFile, Keys, split_keys
from proxy.config.section import Section
from proxy.config.syntax import invalid, read_text
from proxy.config.webhooks import Webhooks

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
_MIB, _GIB = 1 << 20, 1 << 30


class Exports(Section):
    """Asynchronous exports."""

    max_running: Positive = 4
    """Maximum number of exports that VB365 works on at the same time; others wait as Queued."""
    max_running_per_caller: Count = 0
    """Maximum number of these for one caller. 0 = no limit."""
    max_queued: Count = 1000
    """Maximum number of exports that wait; further kick-offs get 503. At most a quarter of them may
    be of callers that VB365 has never accepted.
    """
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
    gets 503. Also how much the bodies of exports that wait may take in the store, of callers that
    VB365 has never accepted.
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
    Failed. Ten minutes at most if VB365 answered 401 and has never accepted its caller.
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
    """Run synchronous exports as jobs too, and let a retry after a timeout join them: see
    [rescue](rescue.md).
    """
    rescue_ttl: Timeout = 1 * _HOUR
    """How long such an export can be joined after it ended."""


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
    It cannot be changed while exports have files in the old place.
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
    access: Switch = True
    """Log each request: client, method, path, status, bytes, seconds, and how it ended."""
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
