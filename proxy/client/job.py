"""The job document as the client reads it (CONTRACT §5)."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from proxy.client.errors import EXIT_CODES, CommandError
from proxy.core.job import Phase, ResultState, Status

#: An id becomes part of file names.
_ID = re.compile(r"[0-9A-Za-z-]{1,64}")
#: More bytes, or seconds, than any export has.
_LARGEST = 1 << 60


class Job:
    """The state of a job: the document of the server and its members that the client uses.

    A member of another type than CONTRACT §5 says counts as absent.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        try:
            self.id = str(document["id"])
            self.status = Status(document["status"])
            self.phase = str(document["phase"])
            if not _ID.fullmatch(self.id):
                raise ValueError("id")  # noqa: TRY301
            self._progress = _object(document.get("progress"))
            self._result = _object(document.get("result"))
            self._error = _object(document.get("error"))
        except (KeyError, ValueError, TypeError) as error:
            raise CommandError(
                f"The response is not a job document ({error!r}): "
                "is --url the address of the proxy?"
            ) from error

    @property
    def ended(self) -> bool:
        """True if the status can no longer change."""
        return self.status is not Status.RUNNING

    @property
    def exit_code(self) -> int:
        """The exit code of the command for this outcome (CONTRACT §15)."""
        return EXIT_CODES[self.status]

    @property
    def transferring(self) -> bool:
        """True while VB365 sends the file to the proxy."""
        return self.phase == Phase.TRANSFERRING

    @property
    def available(self) -> bool:
        """True if the file can be downloaded."""
        return self._result.get("state") == ResultState.AVAILABLE

    @property
    def result_state(self) -> str:
        """The state of the file; "none" if there never was one."""
        return str(self._result.get("state") or "none")

    @property
    def title(self) -> str:
        """The name of the operation."""
        return str(self.document.get("title") or "export")

    @property
    def received(self) -> int:
        """Bytes of the file that the proxy has received."""
        return int(_number(self._progress.get("bytesReceived")) or 0)

    @property
    def size(self) -> int | None:
        """Size of the file in bytes, None while unknown."""
        size = _number(self._progress.get("bytesTotal")) or _number(self._result.get("size"))
        return None if size is None else int(size)

    @property
    def rate(self) -> float | None:
        """Bytes per second from VB365 to the proxy."""
        return _number(self._progress.get("bytesPerSecond"))

    @property
    def seconds_left(self) -> float | None:
        """Seconds until VB365 has sent the file, as the proxy estimates."""
        return _number(self._progress.get("secondsRemaining"))

    @property
    def file_name(self) -> str | None:
        """The name of the file."""
        return _text(self._result.get("fileName"))

    @property
    def format(self) -> str | None:
        """Pst, Zip, Msg or Other, as determined from the first bytes."""
        return _text(self._result.get("format"))

    @property
    def digest(self) -> bytes | None:
        """The SHA-256 of the file, None while unknown."""
        return decode_digest(_object(self._result.get("digest")).get("sha-256"))

    @property
    def outcome(self) -> str:
        """A message about a job that has ended without a file."""
        message = self._error.get("message") or self.document.get("message") or ""
        code = f" ({self._error['code']})" if self._error.get("code") else ""
        sentence = f"The export ended with {self.status}{code}: {message}"
        if not self._error.get("retryable"):
            return sentence
        return (
            f"{sentence}{'' if sentence.endswith(('.', '!', '?', '…')) else '.'} Another "
            "try may succeed."
        )


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> float | None:
    """Return a number from 0 to `_LARGEST`, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if 0 <= value <= _LARGEST else None


def decode_digest(text: object) -> bytes | None:
    """Return 32 bytes from base64, None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        digest = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    return digest if len(digest) == 32 else None
