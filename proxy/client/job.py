"""The job document as the client reads it (CONTRACT §5)."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from proxy.client.faults import EXIT, Fault
from proxy.core.job import Phase, ResultState, Status


class Job:
    """A job at one moment. `document` is all the server said; the properties are what the client
    acts on.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        try:
            self.id = str(document["id"])
            self.status = Status(document["status"])
            self.phase = str(document["phase"])
            self._progress: dict[str, Any] = document.get("progress") or {}
            self._result: dict[str, Any] = document.get("result") or {}
            self._error: dict[str, Any] = document.get("error") or {}
        except (KeyError, ValueError, TypeError) as why:
            raise Fault(
                f"The server answered with what is no job document ({why!r}): is --url the proxy's?"
            ) from why

    @property
    def ended(self) -> bool:
        """True when the status can no longer change."""
        return self.status is not Status.RUNNING

    @property
    def exit_code(self) -> int:
        """CONTRACT §15: what the command returns for this outcome."""
        return EXIT[self.status]

    @property
    def transferring(self) -> bool:
        """True while VB365 sends the file to the proxy."""
        return self.phase == Phase.TRANSFERRING

    @property
    def available(self) -> bool:
        """True when there is a file to fetch."""
        return self._result.get("state") == ResultState.AVAILABLE

    @property
    def result_state(self) -> str:
        """What became of the file; "none" when there never was one."""
        return str(self._result.get("state") or "none")

    @property
    def title(self) -> str:
        """The export's verb."""
        return str(self.document.get("title") or "export")

    @property
    def received(self) -> int:
        """Bytes of the file that the proxy holds."""
        return int(self._progress.get("bytesReceived") or 0)

    @property
    def size(self) -> int | None:
        """Bytes of the whole file, None while unknown."""
        return self._progress.get("bytesTotal") or self._result.get("size")

    @property
    def rate(self) -> float | None:
        """Bytes per second from VB365 to the proxy."""
        return self._progress.get("bytesPerSecond")

    @property
    def seconds_left(self) -> float | None:
        """Until VB365 has sent the whole file, as the proxy reckons."""
        return self._progress.get("secondsRemaining")

    @property
    def file_name(self) -> str | None:
        """The name VB365 gave the file."""
        return self._result.get("fileName")

    @property
    def format(self) -> str | None:
        """Pst, Zip, Msg or Other, as told by the first bytes."""
        return self._result.get("format")

    @property
    def digest(self) -> bytes | None:
        """The file's SHA-256, None while unknown."""
        return decode_digest((self._result.get("digest") or {}).get("sha-256"))

    @property
    def outcome(self) -> str:
        """One sentence on a job that has ended without a file."""
        said = self._error.get("message") or self.document.get("message") or ""
        code = f" ({self._error['code']})" if self._error.get("code") else ""
        sentence = f"The export ended {self.status}{code}: {said}"
        if not self._error.get("retryable"):
            return sentence
        return (
            f"{sentence}{'' if sentence.endswith(('.', '!', '?', '…')) else '.'} Another "
            "try may succeed."
        )


def decode_digest(text: object) -> bytes | None:
    """32 bytes from base64, None from anything else."""
    if not isinstance(text, str):
        return None
    try:
        digest = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    return digest if len(digest) == 32 else None
