"""The proxy and its peers, each as one process on one core."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from benchmarks.machine import LOAD, Program, certificate, free_port, running, tool

DOCUMENT = '{"value":"' + "x" * 1012 + '"}'
_NGINX = """
daemon off; master_process off; worker_processes 1; pid {place}/nginx.pid; error_log {place}/error.log; user root;
events {{ worker_connections 8192; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_timeout 600; keepalive_requests 1000000000;
  default_type application/octet-stream; client_body_temp_path {place}/body; proxy_temp_path {place}/temp;
  {outer}
  server {{
    listen 127.0.0.1:{port}{tls} backlog=2048; ssl_certificate {chain}; ssl_certificate_key {key};
    {inner}
  }}
}}
"""
_FORWARDING = """
    location / {{
      proxy_pass {scheme}://u; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
      proxy_max_temp_file_size 0; proxy_ssl_verify off; proxy_ssl_session_reuse on;
    }}
"""
_SERVING = """
    location /files/ {{ alias {files}/; }}
    location ~ /exportToPst$ {{ error_page 405 =200 /files/big; return 405; }}
    location / {{ default_type application/json; return 200 '{document}'; }}
"""
_HAPROXY = """
global
  nbthread 1
  maxconn 8192
  tune.ssl.default-dh-param 2048
defaults
  mode http
  timeout connect 10s
  timeout client 600s
  timeout server 600s
  http-reuse always
frontend f
  bind 127.0.0.1:{port} {bind}
  default_backend b
backend b
  server u 127.0.0.1:{upstream} {server}
"""


@dataclass(frozen=True)
class Lab:
    """A directory for everything, with a certificate."""

    place: Path
    chain: Path
    key: Path

    @classmethod
    def at(cls, place: Path) -> Lab:
        return cls(place, *certificate(place))

    def room(self, name: str) -> Path:
        """A fresh directory."""
        room = self.place / f"{name}-{sum(1 for _ in self.place.iterdir())}"
        room.mkdir()
        return room

    def upstream(self, files: Path, *, tls: bool) -> AbstractContextManager[Program]:
        """nginx on the load's core: a 1 KiB document everywhere, `files`/big at /files/big and for every export."""
        return self._nginx("upstream", tls, "", _SERVING.format(files=files, document=DOCUMENT), LOAD)

    def files(self, files: Path, *, tls: bool) -> AbstractContextManager[Program]:
        """nginx under test, serving files."""
        return self._nginx("files", tls, "", _SERVING.format(files=files, document=DOCUMENT))

    def silent(self, *, tls: bool) -> AbstractContextManager[Program]:
        """The upstream of `benchmarks.silent`."""
        port = free_port()
        pair = [str(self.chain), str(self.key)] if tls else []
        command = [sys.executable, "-m", "benchmarks.silent", str(port), *pair]
        return running(command, port, log=self.place / "silent.log", core=LOAD)

    def nginx(self, upstream: int, *, tls: bool, tls_upstream: bool) -> AbstractContextManager[Program]:
        """nginx as a proxy."""
        outer = f"upstream u {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 1000000000; }}"
        return self._nginx("nginx", tls, outer, _FORWARDING.format(scheme="https" if tls_upstream else "http"))

    @contextmanager
    def _nginx(self, name: str, tls: bool, outer: str, inner: str, core: int = 0) -> Iterator[Program]:
        room, port = self.room(name), free_port()
        facts = {"tls": " ssl" if tls else "", "chain": self.chain, "key": self.key, "outer": outer, "inner": inner}
        config = room / "nginx.conf"
        config.write_text(_NGINX.format(place=room, port=port, **facts))
        with running([tool("nginx"), "-c", str(config)], port, log=room / "log", core=core) as program:
            yield program

    @contextmanager
    def haproxy(self, upstream: int, *, tls: bool, tls_upstream: bool) -> Iterator[Program]:
        """HAProxy as a proxy."""
        room, port = self.room("haproxy"), free_port()
        bind = f"ssl crt {self.place / 'both.pem'}" if tls else ""
        server = "ssl verify none" if tls_upstream else ""
        config = room / "haproxy.cfg"
        config.write_text(_HAPROXY.format(port=port, bind=bind, upstream=upstream, server=server))
        with running([tool("haproxy"), "-db", "-f", str(config)], port, log=room / "log") as program:
            yield program

    @contextmanager
    def naive(self, upstream: int) -> Iterator[Program]:
        """The naive aiohttp proxy, http only."""
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.naive", str(port), f"http://127.0.0.1:{upstream}"]
        with running(command, port, log=self.place / "naive.log") as program:
            yield program

    @contextmanager
    def ours(
        self,
        upstream: int,
        *,
        tls: bool = False,
        tls_upstream: bool = False,
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> Iterator[Program]:
        """`vb365-async-proxy serve`; `more` are settings as environment variables name them, without the prefix."""
        room, port = self.room("ours"), free_port()
        settings = {
            "UPSTREAM__URL": f"{'https' if tls_upstream else 'http'}://127.0.0.1:{upstream}",
            "LISTEN__ADDRESS": f"127.0.0.1:{port}",
            "ADMIN__ADDRESS": f"127.0.0.1:{free_port()}",
            "STORAGE__DIR": str(room / "data"),
            "STORAGE__MIN_FREE": "1MiB",
            "EXPORTS__WATCH_EVENTS": "false",
            **({"UPSTREAM__VERIFY": "false"} if tls_upstream else {}),
            **({"LISTEN__TLS_CERTIFICATE": str(self.chain), "LISTEN__TLS_KEY": str(self.key)} if tls else {}),
            **more,
        }
        environ = {f"VB365_PROXY_{name}": value for name, value in settings.items()}
        command = [sys.executable, "-m", "proxy", "serve"]
        with running(command, port, log=room / "log", environ=environ) as program:
            yield program
