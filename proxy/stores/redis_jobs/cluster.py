"""The identity of a cluster: its replicas share a prefix in the store, and nobody else uses it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from proxy.ports import StoreUnavailable
from proxy.ports.artifacts import GIVEN_UP

#: The number of this layout of keys and records.
FORMAT: Final = "2"


class WrongCluster(StoreUnavailable):
    """The prefix belongs to another cluster, or to another version. The message has the fix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What the replicas of a cluster have in common: fingerprints of the keys in `secrets.key`,
    none if it is not set, a description of the artifact store, and the id that it keeps.
    """

    secrets: frozenset[str]
    artifacts: str
    files: str | None = None

    def fields(self) -> tuple[str, ...]:
        """Names and values, as the store keeps them."""
        return (
            *("format", FORMAT, "secrets", _joined(self.secrets)),
            *("artifacts", self.artifacts, "created", str(int(time.time()))),
            *(() if self.files is None else ("files", self.files)),
        )


def _joined(fingerprints: Iterable[str]) -> str:
    return ",".join(sorted(fingerprints))


def agreed(identity: Identity, stored: Sequence[bytes], prefix: str) -> dict[str, str]:
    """Compare an identity with the stored fields. Returns the fields to store instead: fingerprints
    that changed, if a key is rotated with one that both sets have in common, and the files, if an
    operator has given them up. Raises `WrongCluster`. `parts.same_files` compares their id.
    """
    found = {
        name.decode(): value.decode(errors="replace")
        for name, value in zip(stored[::2], stored[1::2], strict=True)
    }
    if found.get("format") != FORMAT:
        raise WrongCluster(
            f"storage.jobs: the records under the prefix {prefix!r} have the format "
            f"{found.get('format')}, and this version writes {FORMAT}: run the same version on all "
            "replicas, or set another ?prefix="
        )
    changed = {}
    if identity.files is not None and found.get("files") != identity.files:
        changed["files"] = identity.files
    if found.get("artifacts") == GIVEN_UP:
        changed["artifacts"] = identity.artifacts
    elif found.get("artifacts") != identity.artifacts:
        raise WrongCluster(
            f"storage.jobs: the prefix {prefix!r} belongs to a cluster whose files are in "
            f"{found.get('artifacts')}, and storage.artifacts is {identity.artifacts}: set the "
            "same storage.artifacts on all replicas, or another ?prefix= for another cluster"
        )
    known = frozenset(found.get("secrets", "").split(",")) - {""}
    if known == identity.secrets and "secrets" in found:
        return changed
    if known & identity.secrets or "secrets" not in found:
        return changed | {"secrets": _joined(identity.secrets)}
    have = "have another secrets.key" if known else "have no secrets.key"
    raise WrongCluster(
        f"storage.jobs: the replicas that use the prefix {prefix!r} {have}: set the same on all "
        "replicas. To change it for all, add the new key beside the old one first; to set or "
        f"remove it, stop all replicas and delete the field with HDEL {prefix}cluster secrets"
    )
