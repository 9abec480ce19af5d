"""The configuration of a simulator."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class User:
    """A user account of the organization `tenant`.

    An operator sees the organizations and restore sessions of all tenants.
    """

    name: str
    password: str
    tenant: str = "contoso"
    operator: bool = False


USERS = (
    User("alice", "secret-a"),
    User("bob", "secret-b"),
    User("carol", "secret-c", tenant="fabrikam"),
    User("operator", "secret-o", operator=True),
)


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """The behaviour of a simulator; a `faults.Fault` overrides parts of it for single requests.

    `versions`: the API versions served.
    `size`, `seed`: size in bytes and pattern seed of each exported file.
    `generate`: seconds of silence before the response to an export.
    `rate`: transfer rate of a file in bytes per second; None means unlimited.
    `objects`: the number of members of each collection.
    `strict`: whether an unknown object id is 404; if False, every id exists.
    `token`: "opaque" or "jwt".
    `token_lifetime`: lifetime of an access token in seconds.
    `antiforgery`: whether a token requires its antiforgery cookie unless it was requested with
    `disable_antiforgery_token=true`, as on a real server. The default is False, because v6 clients
    cannot send that parameter.
    `foreign_session`: the status for the restore session of another user, 403 or 404.
    `stopped_session`: the status for a resource of a stopped session.
    `session_idle`: seconds of inactivity after which a session stops; None means never.
    `utc_offset`: the server's UTC offset in minutes, which its timestamps carry.
    `records`: the number of requests, deliveries and session changes to keep.
    `files`: the number of generated files to keep in the simulated temporary folder.
    """

    versions: tuple[int, ...] = (5, 6, 7, 8)
    users: tuple[User, ...] = USERS
    size: int = 1024 * 1024
    seed: int = 0
    generate: float = 0.0
    rate: float | None = None
    objects: int = 3
    strict: bool = True
    token: str = "opaque"  # noqa: S105  # the token format, not a token
    token_lifetime: float = 3600.0
    antiforgery: bool = False
    foreign_session: int = 403
    stopped_session: int = 404
    session_idle: float | None = None
    utc_offset: int = 120
    records: int = 2_000
    files: int = 1_000

    def user(self, name: str) -> User:
        """Return the user with this name. Raises KeyError."""
        return {user.name: user for user in self.users}[name]
