"""The renewal of the proxy's own certificate while it serves (CONTRACT §15 SIGHUP)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import structlog

from proxy.net.tls import ServerCertificate, TlsError

log = structlog.get_logger(__name__)

#: Seconds between looks at the certificate's files.
_WATCH_FILES = 5.0


def reload(certificate: ServerCertificate) -> None:
    """Show the files' certificate from now on; one that cannot be used leaves the old one in
    place.
    """
    try:
        certificate.reload()
    except TlsError as why:
        log.error("the new certificate is not usable, the old one stays", reason=str(why))  # noqa: TRY400
        return
    log.info("certificate reloaded")
    _warn_of_dates(certificate)


def _warn_of_dates(certificate: ServerCertificate) -> None:
    warning = certificate.warning(datetime.now(UTC))
    if warning is not None:
        log.warning("certificate", reason=warning)


async def watch(certificate: ServerCertificate) -> None:
    """Reload the certificate when its files change."""
    _warn_of_dates(certificate)
    while True:
        await asyncio.sleep(_WATCH_FILES)
        if await asyncio.to_thread(certificate.changed):
            await asyncio.to_thread(reload, certificate)
