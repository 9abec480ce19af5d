"""How many bytes of a partial file are on the disk for certain. Everything here blocks.

Until a file is synced, the system writes its bytes to the disk in any order. After a power loss it
may be as long as it was, with zeros in place of some of its last bytes; on a shared volume also
when the machine of its writer is lost. An ETag does not show that, and the overlap that CONTRACT
§10 compares shows it only within the overlap.

Therefore an extended attribute names the boot of the machine that writes the file, until the whole
file is synced. Under another boot, and on file systems without such attributes, the bytes that may
not have been synced are not used. On systems without them all bytes are.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

#: A writer syncs before more bytes than these are not synced; see `spool`.
UNSYNCED: Final = 64 << 20
_NAME: Final = "user.vb365-async-proxy.unsynced"
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
#: In place of a boot: a sync has failed, and the system may have dropped any bytes.
_LOST: Final = b"lost"


@cache
def _boot() -> bytes:
    return _BOOT.read_bytes().strip()


if sys.platform == "linux":

    def begin(descriptor: int) -> None:
        """Note that this machine writes the file, which may have bytes that are not synced."""
        with suppress(OSError):
            os.setxattr(descriptor, _NAME, _boot())

    def end(descriptor: int) -> None:
        """Note that the whole file is synced."""
        with suppress(OSError):
            os.removexattr(descriptor, _NAME)

    def doubt(descriptor: int) -> None:
        """Note that a sync of the file has failed."""
        with suppress(OSError):
            os.setxattr(descriptor, _NAME, _LOST)

    def certain(descriptor: int) -> int:
        """The number of the first bytes that are on the disk, or in the memory of this machine."""
        size = os.fstat(descriptor).st_size
        try:
            writer = os.getxattr(descriptor, _NAME)
            if writer == _LOST:
                return 0
            known = writer == _boot()
        except OSError as why:
            known = why.errno == errno.ENODATA  # it is synced; all else says nothing about it
        return size if known else max(0, size - UNSYNCED)

else:

    def begin(descriptor: int) -> None:
        """Do nothing."""

    def end(descriptor: int) -> None:
        """Do nothing."""

    def doubt(descriptor: int) -> None:
        """Do nothing."""

    def certain(descriptor: int) -> int:
        """The size of the file."""
        return os.fstat(descriptor).st_size
