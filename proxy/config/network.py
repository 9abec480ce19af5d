"""The settings of connections: where clients and operators connect, and where VB365 is."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from proxy.config.addresses import (
    Address,
    Authority,
    BaseUrl,
    HostPort,
    Names,
    Networks,
    Origin,
)
from proxy.config.paths import FilePath
from proxy.config.scalars import Count, Positive, Segment, Switch, Timeout
from proxy.config.secret_values import Fingerprint, Token
from proxy.config.section import PREFIX, Section
from proxy.config.syntax import invalid


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
    as many as the machine has cores. max_connections and upstream.pool are divided among them,
    exports.body_memory is shared.
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
    """Maximum number of connections to VB365 for ordinary requests. 0 = no limit. Clients without
    credentials can occupy all of a small number."""

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
    """The admin listener: health checks, metrics and the API."""

    address: Address = HostPort("127.0.0.1", 9465)
    """HOST:PORT to listen on. An address other than loopback requires a token."""
    token: Token | None = Field(default=None, validate_default=True)
    """Bearer token that requests must send, except for /healthz, /readyz and the login page."""
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
