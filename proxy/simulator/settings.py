"""How a stand-in is set up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who can log in: `tenant` names the organisation; an operator sees every organisation and session."""

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
    """Every default of the stand-in; faults change single answers (`faults.Fault`).

    `versions` are the API versions served. `size` (bytes), `seed` and `generate` (silent seconds before the head) are
    those of every export that no fault changes; `rate` in bytes per second (None: as fast as it goes).
    `objects` is the number of members of each collection; with `strict` unknown ids are 404, without it every id
    exists. `token` is "opaque" or "jwt"; `token_lifetime` in seconds. With `antiforgery` a token needs its cookie
    unless it was asked for with `disable_antiforgery_token=true`, as at a real server; off by default, because v6
    clients cannot ask. `foreign_session` is the status for another user's session (403 or 404), `stopped_session`
    for what is below a stopped one. `session_idle`: seconds after which an unused session stops by itself (None:
    never). `utc_offset`, in minutes, is the server's own: its times carry it. `records` bounds what is kept of
    requests and deliveries, `files` the temporary folder.
    """

    versions: tuple[int, ...] = (5, 6, 7, 8)
    users: tuple[User, ...] = USERS
    size: int = 1024 * 1024
    seed: int = 0
    generate: float = 0.0
    rate: float | None = None
    objects: int = 3
    strict: bool = True
    token: str = "opaque"  # noqa: S105  # a form of token, not one
    token_lifetime: float = 3600.0
    antiforgery: bool = False
    foreign_session: int = 403
    stopped_session: int = 404
    session_idle: float | None = None
    utc_offset: int = 120
    records: int = 2_000
    files: int = 1_000

    def user(self, name: str) -> User:
        """The user of that name. Raises KeyError."""
        return {user.name: user for user in self.users}[name]
