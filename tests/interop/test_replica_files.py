"""The shipped files for several replicas: valid for the programs that read them, and for the
proxy. tests/cluster runs replicas behind HAProxy with its file.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme
import yaml

from proxy.config import load, startup_problems
from tests.interop.balancers.balancer import CONFIG, Files, filled, program

COMPOSE = CONFIG / "compose.yml"
KUBERNETES = CONFIG / "kubernetes.yaml"
#: What an administrator adds, in a file of its own and in a secret.
GIVEN = {
    "VB365_PROXY_UPSTREAM__URL": "https://vb365.example.com:4443",
    "VB365_PROXY_ADMIN__TOKEN": "a" * 64,
}


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def assert_starts(environ: dict[str, str], tmp_path: Path) -> None:
    """The settings are valid, and `serve` would start with them."""
    environ = environ | {"VB365_PROXY_STORAGE__DIR": str(tmp_path / "data")}
    assert startup_problems(load(None, {}, environ)) == []


def kubernetes() -> dict[str, Any]:
    return {document["kind"]: document for document in documents(KUBERNETES)}


def test_the_settings_of_compose_are_valid(tmp_path: Path) -> None:
    service = documents(COMPOSE)[0]["services"]["proxy"]
    assert_starts(GIVEN | service["environment"], tmp_path)


def test_the_services_of_compose_are_those_that_the_settings_name() -> None:
    services = documents(COMPOSE)[0]["services"]
    assert set(services["proxy"]["depends_on"]) <= set(services)
    environment = services["proxy"]["environment"]
    jobs = urlsplit(environment["VB365_PROXY_STORAGE__JOBS"])
    artifacts = urlsplit(environment["VB365_PROXY_STORAGE__ARTIFACTS"])
    (endpoint,) = parse_qs(artifacts.query)["endpoint"]
    assert {jobs.hostname, urlsplit(endpoint).hostname} <= set(services)
    assert f"-bucket={artifacts.hostname}" in services["seaweedfs"]["command"]
    mounted = [volume.partition(":")[0] for volume in services["haproxy"]["volumes"]]
    assert "./haproxy-replicas.cfg" in mounted


def test_the_settings_for_kubernetes_are_valid(tmp_path: Path) -> None:
    secret = {"VB365_PROXY_STORAGE__JOBS": "rediss://user:password@valkey.example.com:6380/0"}
    environ = GIVEN | secret | kubernetes()["ConfigMap"]["data"]
    files = Files.write(trustme.CA(), tmp_path)
    mounted = {"CERTIFICATE": ("tls.crt", files.chain), "KEY": ("tls.key", files.key)}
    for name, (file, here) in mounted.items():
        assert environ[f"VB365_PROXY_LISTEN__TLS_{name}"] == f"/etc/vb365-async-proxy/tls/{file}"
        environ[f"VB365_PROXY_LISTEN__TLS_{name}"] = str(here)
    assert_starts(environ, tmp_path)


def test_the_parts_for_kubernetes_fit_each_other() -> None:
    parts = kubernetes()
    template = parts["Deployment"]["spec"]["template"]
    labels = template["metadata"]["labels"]
    for kind in ("Service", "PodDisruptionBudget"):
        selector = parts[kind]["spec"]["selector"]
        assert selector.get("matchLabels", selector).items() <= labels.items()
    (container,) = template["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in parts["Service"]["spec"]["ports"]} <= ports
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in template["spec"]["volumes"]}
    names = {parts["ConfigMap"]["metadata"]["name"]}
    assert {
        source["configMapRef"]["name"]
        for source in container["envFrom"]
        if "configMapRef" in source
    } == names


def test_kubernetes_accepts_its_file() -> None:
    """Against the published schemas, unknown members refused."""
    import kubernetes_validate

    for document in documents(KUBERNETES):
        kubernetes_validate.validate(document, "1.31", strict=True)


@pytest.mark.skipif(
    program("haproxy") is None,
    reason="haproxy is not installed: its file for replicas is not tested",
)
def test_haproxy_accepts_its_file(tmp_path: Path) -> None:
    files = Files.write(trustme.CA(), tmp_path)
    shipped = (CONFIG / "haproxy-replicas.cfg").read_text(encoding="utf-8")
    (tmp_path / "haproxy.cfg").write_text(
        filled(shipped, {"/etc/haproxy/vb365.pem": str(files.both)}), encoding="utf-8"
    )
    command = [str(program("haproxy")), "-c", "-f", str(tmp_path / "haproxy.cfg")]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr
