"""nginx and HAProxy with the shipped configuration: only ports, paths and, where a test says so,
time-outs differ.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import trustme

CONFIG = Path(__file__).parents[3] / "config"
PROGRAMS = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
LIMIT = 20

#: The ports of the three variants in the shipped files.
THROUGH, SPLIT, PREFIX = 443, 8443, 9443

#: nginx as Debian sets it up, and the shortest way to put it in front of something: every other
#: setting is a default.
DEFAULT_NGINX = (
    "server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{proxy}; }} }}"
)


def program(name: str) -> str | None:
    return shutil.which(name, path=PROGRAMS)


@dataclass(frozen=True)
class Files:
    """Certificates for the balancer (`localhost`) and for VB365 (`vb365.internal`)."""

    authority: Path
    chain: Path
    key: Path
    both: Path

    @classmethod
    def write(cls, authority: trustme.CA, place: Path) -> Files:
        issued = authority.issue_cert(
            "localhost", "127.0.0.1", "vb365.internal", key_type=trustme.KeyType.ECDSA
        )
        files = cls(place / "ca.pem", place / "chain.pem", place / "key.pem", place / "both.pem")
        authority.cert_pem.write_to_path(str(files.authority))
        files.chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(files.key))
        files.both.write_bytes(files.chain.read_bytes() + files.key.read_bytes())
        return files


@dataclass(frozen=True)
class Plan:
    """What is put into a shipped configuration: where it listens, what stands behind it, which
    files it reads.
    """

    ports: Mapping[int, int]
    proxy: int
    vb365: int
    files: Files

    def nginx(self) -> dict[str, str]:
        return {
            **{
                f"listen {port} ssl": f"listen 127.0.0.1:{there} ssl"
                for port, there in self.ports.items()
            },
            "server 127.0.0.1:4443;": f"server 127.0.0.1:{self.proxy};",
            "server vb365.internal:4443;": f"server 127.0.0.1:{self.vb365};",
            "/etc/ssl/vb365/fullchain.pem": str(self.files.chain),
            "/etc/ssl/vb365/privkey.pem": str(self.files.key),
            "/etc/ssl/vb365/upstream-ca.pem": str(self.files.authority),
        }

    def haproxy(self) -> dict[str, str]:
        return {
            **{
                f"bind :{port} ssl": f"bind 127.0.0.1:{there} ssl"
                for port, there in self.ports.items()
            },
            "server proxy 127.0.0.1:4443": f"server proxy 127.0.0.1:{self.proxy}",
            "server vb365 vb365.internal:4443": f"server vb365 127.0.0.1:{self.vb365}",
            "/etc/haproxy/vb365.pem": str(self.files.both),
            "/etc/haproxy/upstream-ca.pem": str(self.files.authority),
        }


def filled(shipped: str, changes: Mapping[str, str]) -> str:
    """The shipped text with those pieces exchanged; each must be there."""
    for old, new in changes.items():
        assert old in shipped, f"the shipped configuration has no {old!r}"
        shipped = shipped.replace(old, new)
    return shipped


def nginx(site: str, place: Path) -> list[str]:
    """The command that runs nginx with `site` in an `http` that is else default."""
    user = "user root;" if os.getuid() == 0 else ""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {place}/{kind};" for kind in kinds)
    (place / "vb365.conf").write_text(site)
    (place / "nginx.conf").write_text(
        f"{user} daemon off; worker_processes 1; pid {place}/nginx.pid; error_log stderr "
        f"warn; events {{}}\n"
        f"http {{ access_log off; {temporary} include {place}/vb365.conf; }}\n"
    )
    return [
        str(program("nginx")),
        "-c",
        str(place / "nginx.conf"),
        "-p",
        str(place),
        "-e",
        "stderr",
    ]


def haproxy(configuration: str, place: Path) -> list[str]:
    (place / "haproxy.cfg").write_text(configuration)
    return [str(program("haproxy")), "-db", "-f", str(place / "haproxy.cfg")]


class Balancer:
    """A running balancer on loopback."""

    def __init__(self, ports: Mapping[int, int], log: Path) -> None:
        self.ports = ports
        self._log = log

    def url(self, variant: int = THROUGH) -> str:
        return f"https://localhost:{self.ports[variant]}"

    def output(self) -> str:
        """What it wrote to stderr so far."""
        return self._log.read_text(errors="replace")


def reserved() -> socket.socket:
    """A port that nobody else is given while the socket is open: bound, but not listening."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder


@contextlib.asynccontextmanager
async def balancing(
    name: str,
    place: Path,
    files: Files,
    *,
    proxy: int,
    vb365: int = 9,
    changes: Mapping[str, str] | None = None,
) -> AsyncIterator[Balancer]:
    """Run `name` with its shipped configuration; `changes` are further pieces of it to exchange."""
    with contextlib.ExitStack() as reservations:
        ports = {
            port: reservations.enter_context(reserved()).getsockname()[1]
            for port in (THROUGH, SPLIT, PREFIX)
        }
        plan = Plan(ports, proxy, vb365, files)
        wanted = plan.nginx() if name == "nginx" else plan.haproxy()
        shipped = (CONFIG / {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}[name]).read_text(
            encoding="utf-8"
        )
        text = filled(shipped, wanted | dict(changes or {}))
        command = nginx(text, place) if name == "nginx" else haproxy(text, place)
        async with running(command, ports, place) as balancer:
            yield balancer


@contextlib.asynccontextmanager
async def default_nginx(place: Path, proxy: int) -> AsyncIterator[Balancer]:
    """nginx with nothing set but where to listen and where to send: plain http."""
    with reserved() as holder:
        port = holder.getsockname()[1]
        command = nginx(DEFAULT_NGINX.format(port=port, proxy=proxy), place)
        async with running(command, {THROUGH: port}, place) as balancer:
            yield balancer


@contextlib.asynccontextmanager
async def running(
    command: list[str], ports: Mapping[int, int], place: Path
) -> AsyncIterator[Balancer]:
    log = place / "stderr"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=stderr, stderr=stderr
        )
    balancer = Balancer(ports, log)
    try:
        for port in ports.values():
            await _listening(port, process, balancer)
        yield balancer
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), LIMIT)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _listening(port: int, process: asyncio.subprocess.Process, balancer: Balancer) -> None:
    async with asyncio.timeout(LIMIT):
        while True:
            assert process.returncode is None, balancer.output()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return
