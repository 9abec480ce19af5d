"""The proxy, its peers and the upstreams, each one process on one core."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from benchmarks.processes import (
    LOAD_CORE,
    TESTED_CORE,
    Program,
    create_certificate,
    find_program,
    free_port,
    running,
)

#: The command of the proxy.
PROXY = (sys.executable, "-m", "proxy", "serve")
#: 1 KiB of JSON.
_DOCUMENT = '{"value":"' + "x" * 1012 + '"}'
_NGINX = """
daemon off; master_process off; worker_processes 1; user root;
pid {directory}/nginx.pid; error_log {directory}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; sendfile on; tcp_nopush on; default_type application/octet-stream;
  keepalive_timeout 600; keepalive_requests 1000000000;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/temp;
  {upstreams}
  server {{
    listen 127.0.0.1:{port}{tls} backlog=2048;
    ssl_certificate {chain}; ssl_certificate_key {key};
    {locations}
  }}
}}
"""
_PROXY_LOCATION = """
    location / {{
      proxy_pass {scheme}://u; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_set_header Host $http_host;
      proxy_max_temp_file_size 0; proxy_ssl_verify off; proxy_ssl_session_reuse on;
    }}
"""
_FILE_LOCATIONS = """
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
class Servers:
    """Starts servers with their files in `directory` and a certificate for localhost."""

    directory: Path
    chain: Path
    key: Path

    @classmethod
    def create(cls, directory: Path) -> Servers:
        """Create the certificate in the directory. Raises `MissingProgram` without openssl."""
        return cls(directory, *create_certificate(directory))

    def new_directory(self, name: str) -> Path:
        """Create a directory with a unique name."""
        created = self.directory / f"{name}-{sum(1 for _ in self.directory.iterdir())}"
        created.mkdir()
        return created

    def upstream(self, files: Path, *, tls: bool) -> AbstractContextManager[Program]:
        """Run nginx as the upstream, on the core of the load.

        It serves `files` below /files/, the file `files`/big as the response to every export, and a
        1 KiB document for any other request.
        """
        locations = _FILE_LOCATIONS.format(files=files, document=_DOCUMENT)
        return self._nginx("upstream", tls, locations, cores=(LOAD_CORE,))

    def nginx_files(self, files: Path, *, tls: bool) -> AbstractContextManager[Program]:
        """Run nginx as a file server under test; it serves the same as `upstream`."""
        locations = _FILE_LOCATIONS.format(files=files, document=_DOCUMENT)
        return self._nginx("files", tls, locations)

    def silent_upstream(self, *, tls: bool) -> AbstractContextManager[Program]:
        """Run `benchmarks.silent_upstream`, on the core of the load."""
        port = free_port()
        certificate = [str(self.chain), str(self.key)] if tls else []
        command = [sys.executable, "-m", "benchmarks.silent_upstream", str(port), *certificate]
        return running(command, port, log=self.directory / "silent.log", cores=(LOAD_CORE,))

    def nginx(
        self, upstream: int, *, tls: bool, tls_upstream: bool
    ) -> AbstractContextManager[Program]:
        """Run nginx as a proxy in front of the upstream port."""
        keepalive = "keepalive 128; keepalive_requests 1000000000;"
        upstreams = f"upstream u {{ server 127.0.0.1:{upstream}; {keepalive} }}"
        location = _PROXY_LOCATION.format(scheme="https" if tls_upstream else "http")
        return self._nginx("nginx", tls, location, upstreams=upstreams)

    @contextmanager
    def _nginx(
        self,
        name: str,
        tls: bool,
        locations: str,
        *,
        upstreams: str = "",
        cores: Sequence[int] = (TESTED_CORE,),
    ) -> Iterator[Program]:
        directory, port = self.new_directory(name), free_port()
        config = directory / "nginx.conf"
        config.write_text(
            _NGINX.format(
                directory=directory,
                port=port,
                tls=" ssl" if tls else "",
                chain=self.chain,
                key=self.key,
                upstreams=upstreams,
                locations=locations,
            )
        )
        command = [find_program("nginx"), "-c", str(config)]
        with running(command, port, log=directory / "log", cores=cores) as program:
            yield program

    @contextmanager
    def haproxy(self, upstream: int, *, tls: bool, tls_upstream: bool) -> Iterator[Program]:
        """Run HAProxy as a proxy in front of the upstream port."""
        directory, port = self.new_directory("haproxy"), free_port()
        bind = f"ssl crt {self.directory / 'both.pem'}" if tls else ""
        server = "ssl verify none" if tls_upstream else ""
        config = directory / "haproxy.cfg"
        config.write_text(_HAPROXY.format(port=port, bind=bind, upstream=upstream, server=server))
        command = [find_program("haproxy"), "-db", "-f", str(config)]
        with running(command, port, log=directory / "log") as program:
            yield program

    @contextmanager
    def naive_proxy(self, upstream: int) -> Iterator[Program]:
        """Run `benchmarks.naive_proxy` in front of the upstream port, without TLS."""
        port = free_port()
        url = f"http://127.0.0.1:{upstream}"
        command = [sys.executable, "-m", "benchmarks.naive_proxy", str(port), url]
        with running(command, port, log=self.directory / "naive.log") as program:
            yield program

    @contextmanager
    def proxy(
        self,
        upstream: int,
        *,
        tls: bool = False,
        tls_upstream: bool = False,
        settings: Mapping[str, str] = MappingProxyType({}),
        environ: Mapping[str, str] = MappingProxyType({}),
        cores: Sequence[int] = (TESTED_CORE,),
    ) -> Iterator[Program]:
        """Run `vb365-async-proxy serve` in front of the upstream port.

        `settings` are environment variables without the prefix VB365_PROXY_, `environ` others.
        """
        directory, port = self.new_directory("proxy"), free_port()
        variables = self.variables(
            directory, port, upstream, tls=tls, tls_upstream=tls_upstream, settings=settings
        )
        with running(
            PROXY, port, log=directory / "log", cores=cores, environ={**variables, **environ}
        ) as program:
            yield program

    def variables(
        self,
        directory: Path,
        port: int,
        upstream: int,
        *,
        tls: bool = False,
        tls_upstream: bool = False,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> dict[str, str]:
        """Return the environment variables of a proxy that listens on the port, with its data in
        `directory`.
        """
        values = {
            "UPSTREAM__URL": f"{'https' if tls_upstream else 'http'}://127.0.0.1:{upstream}",
            "LISTEN__ADDRESS": f"127.0.0.1:{port}",
            "ADMIN__ADDRESS": f"127.0.0.1:{free_port()}",
            "STORAGE__DIR": str(directory / "data"),
            "STORAGE__MIN_FREE": "1MiB",
            "EXPORTS__WATCH_EVENTS": "false",
        }
        if tls_upstream:
            values["UPSTREAM__VERIFY"] = "false"
        if tls:
            values["LISTEN__TLS_CERTIFICATE"] = str(self.chain)
            values["LISTEN__TLS_KEY"] = str(self.key)
        values |= settings
        return {f"VB365_PROXY_{name}": value for name, value in values.items()}
