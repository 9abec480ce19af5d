"""Runs the proxy until a signal stops it (CONTRACT §15)."""

from __future__ import annotations

import asyncio
import platform
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

import structlog

import proxy
from proxy import app, logs
from proxy.cli import collector
from proxy.cli.late import warned
from proxy.cli.leaving import leave_within
from proxy.cli.loop import run_loop
from proxy.config.addresses import HostPort
from proxy.config.loading import ConfigError, Problem
from proxy.config.settings import Settings
from proxy.net.notify import READY, STOPPING, notify
from proxy.net.seat import Seat
from proxy.ports import StoreUnavailable

log = structlog.get_logger(__name__)

#: Seconds between two updates of the status that the service manager shows.
_STATUS_PAUSE = 3.0


async def run(
    settings: Settings,
    reread: Callable[[], Settings],
    seat: Seat | None = None,
    *,
    config: Path | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT, as one of several workers if there is a `seat`. Return the
    exit code.

    `reread` loads the configuration again on SIGHUP, of which only the log level is applied. It
    raises `ConfigError`. `config` is the configuration file.
    """
    _notify(seat, status="starting")
    try:
        with collector.paused(), warned(settings, partial(_warn_late, seat)):
            leave = partial(leave_within, app.STOP_TIMEOUT)
            running = await app.start(settings, seat=seat, failing=leave)
    except app.StartFailed as why:
        _notify(seat, status=str(why))
        _not_started(settings, why)
        return 1
    stopped = asyncio.Event()
    if seat is not None:
        asyncio.get_running_loop().add_reader(seat.alive, stopped.set)

    def reload() -> None:
        running.reload_certificate()
        try:
            level = reread().log.level
        except ConfigError as why:
            log.warning("configuration not reloaded", reason=str(why))
            return
        logs.set_level(level)
        log.info("config.reloaded", level=level)

    _handle_signals(stopped.set, reload)
    if seat is None:
        logs.say(f"listening on {running.url}")  # CONTRACT §15: the ready line
        log.info("started", **_about(settings, config), admin=running.admin_url, **running.found)
        notify(READY, status=f"listening on {running.url} in front of {settings.upstream.url}")
    else:
        seat.report(running.url, running.admin_url, running.found)
    reporting = asyncio.create_task(_report(seat, lambda: running.status))
    await stopped.wait()
    leave_within(app.STOP_TIMEOUT)
    reporting.cancel()
    if seat is None:
        log.info("stopping")
    limit = f"{app.DRAIN_TIMEOUT:.0f} s"
    _notify(seat, STOPPING, status=f"stopping: requests in flight have {limit} to finish")
    await running.stop()
    if seat is None:
        log.info("stopped")
    return 0


def run_in_loop(settings: Settings, serving: Coroutine[None, None, int]) -> int:
    """Run `run(settings, …)` in an event loop, and return the exit code."""
    try:
        return run_loop(serving)
    except StoreUnavailable as why:  # no thread or descriptor, before it began
        serving.close()
        _not_started(settings, app.StartFailed(str(why)))
        return 1


def run_workers(
    settings: Settings, work: Callable[[Seat], int], *, config: Path | None = None
) -> int:
    """Run `listen.workers` processes until SIGTERM or SIGINT. Return the exit code. `config` is the
    configuration file.
    """
    from proxy import workers

    try:
        return workers.run(settings, work, _about(settings, config))
    except app.StartFailed as why:
        notify(status=str(why))
        _not_started(settings, why)
        return 1


def open_log(settings: Settings) -> bool:
    """Configure the log, and return whether that was possible; otherwise say why not."""
    log = settings.log
    rotation = logs.Rotation(log.max_size, log.keep)
    try:
        logs.configure(log.format, log.level, file=log.file, audit=log.audit, rotation=rotation)
    except OSError as why:
        logs.configure(log.format, log.level)
        _not_started(settings, app.StartFailed(f"log: {why.filename}: {why.strerror}"))
        return False
    sys.excepthook = _log_uncaught
    return True


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Log the error that ends the process, so that it has the format of the log, and is in its
    file.
    """
    log.critical("ended by an error", exc_info=(kind, error, trace))
    logs.close()


def log_problems(problems: Sequence[Problem]) -> None:
    """Log in JSON what is wrong with the configuration, to stderr."""
    logs.configure("json", "error")
    for each in problems:
        name = f"{each.key} " if each.key else ""
        reason = f"{each.source}: {name}{each.problem}"
        log.error("not started", reason=reason, hint=each.hint)


def _not_started(settings: Settings, why: app.StartFailed) -> None:
    """Say on stderr why the proxy does not start: as JSON if the log is."""
    if settings.log.format == "json":
        log.error("not started", reason=str(why))
    if settings.log.format != "json" or settings.log.file is not None:
        logs.say(f"vb365-async-proxy: {why}")  # for the person at the terminal


def warn(settings: Settings) -> None:
    """Log what is allowed but rarely meant."""
    listen = settings.listen
    if listen.tls_certificate is None and not listen.address.loopback:
        log.warning(
            "clients connect over plain http: passwords and files can be read on the network",
            listen=str(listen.address),
            hint="Set listen.tls_certificate, unless a load balancer in front ends TLS.",
        )
    upstream = settings.upstream
    if upstream.url.startswith("https:") and not upstream.verify:
        log.warning(
            "VB365's certificate is not verified: passwords and files can be read on the network",
            upstream=upstream.url,
            hint="Set upstream.fingerprint or upstream.ca_file, and remove upstream.verify.",
        )
    _warn_of_webhooks(settings)


def _warn_of_webhooks(settings: Settings) -> None:
    for url in settings.webhooks.urls:
        split = urlsplit(url)
        if split.scheme == "http" and not HostPort(split.hostname or "", 0).loopback:
            log.warning(
                "notifications are sent over plain http: they can be read on the network",
                receiver=f"http://{split.netloc}",  # the path may be the receiver's only protection
                hint="Use https in webhooks.urls.",
            )
    if settings.webhooks.urls and settings.public.url is None:
        log.warning(
            "the links in notifications have the address that the proxy listens at",
            listen=str(settings.listen.address),
            hint="Set public.url to the address that clients use.",
        )


def _about(settings: Settings, config: Path | None) -> dict[str, object]:
    """What the start logs of the program and its configuration."""
    return {
        "version": proxy.__version__,
        "python": platform.python_version(),
        "config": None if config is None else str(config),
        "data_dir": str(settings.storage.dir),
        "upstream": settings.upstream.url,
        "listen": str(settings.listen.address),
        "tls": settings.listen.tls_certificate is not None,
        "workers": settings.listen.workers,
    }


async def _report(seat: Seat | None, status: Callable[[], str]) -> None:
    """Notify the service manager of each change of the status, at most every few seconds."""
    last = ""
    while True:
        await asyncio.sleep(_STATUS_PAUSE)
        if (now := status()) != last:
            last = now
            if seat is None:
                notify(status=now)
            elif seat.first:
                seat.show(now)


def _warn_late(seat: Seat | None, text: str) -> None:
    log.warning(text)
    _notify(seat, status=text)


def _notify(seat: Seat | None, *states: str, status: str) -> None:
    """Notify the service manager, unless the supervisor of the workers does."""
    if seat is None:
        notify(*states, status=status)


def _handle_signals(stop: Callable[[], None], reload: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    if sys.platform == "win32":
        signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(stop))
        signal.signal(signal.SIGBREAK, lambda *_: loop.call_soon_threadsafe(stop))
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, reload)
