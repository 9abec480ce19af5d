"""Reloads the proxy's own certificate while it serves (CONTRACT §15 SIGHUP)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from proxy.net.tls import ServerCertificate, TlsError

log = structlog.get_logger(__name__)

#: Seconds between checks of the certificate's files.
_INTERVAL = 5.0


def reload(certificate: ServerCertificate, now: Callable[[], float]) -> None:
    """Use the files' certificate for new connections, or keep the old one if it is not usable.

    `now` returns Unix seconds.
    """
    try:
        certificate.reload()
    except TlsError as why:
        log.error("certificate not reloaded, the old one stays in use", reason=str(why))  # noqa: TRY400
        return
    log.info("certificate reloaded")
    _warn_of_dates(certificate, now)


def _warn_of_dates(certificate: ServerCertificate, now: Callable[[], float]) -> None:
    warning = certificate.warning(datetime.fromtimestamp(now(), UTC))
    if warning is not None:
        log.warning("problem with the certificate", reason=warning)


async def watch(certificate: ServerCertificate, now: Callable[[], float]) -> None:
    """Reload the certificate whenever its files change. `now` returns Unix seconds."""
    _warn_of_dates(certificate, now)
    while True:
        await asyncio.sleep(_INTERVAL)
        if await asyncio.to_thread(certificate.changed):
            await asyncio.to_thread(reload, certificate, now)
