"""examples/compose: valid, and its commands, settings and health checks work in processes.

Docker is not run.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from tests.support.commands import COMMAND, PYTHON, ROOT, finished, listening, started

COMPOSE = ROOT / "examples" / "compose" / "compose.yml"
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def image_command(service: str) -> list[str]:
    """The words after the image's entry point: the command of the service, else the image's."""
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)
    (usual,) = re.findall(r"^CMD (.*)$", DOCKERFILE, re.MULTILINE)
    assert json.loads(entry) == ["vb365-async-proxy"]
    return shlex.split(SERVICES[service].get("command", "")) or json.loads(usual)


def request(url: str, data: Any = None, **fields: str) -> tuple[int, Any]:
    body = None if data is None else json.dumps(data).encode()
    headers = {"Content-Type": "application/json"} | fields
    asked = urllib.request.Request(url, body, headers)
    with urllib.request.urlopen(asked, timeout=20) as response:
        return response.status, response.read()


def test_the_file_is_valid() -> None:
    """Against the schema of the Compose specification."""
    command = [*PYTHON, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*command, str(COMPOSE)], check=True, timeout=60)


def test_every_service_has_the_same_image_and_is_bound_to_this_machine() -> None:
    assert {service["image"] for service in SERVICES.values()} == {"vb365-async-proxy"}
    assert all((COMPOSE.parent / each["build"]).resolve() == ROOT for each in SERVICES.values())
    assert SERVICES["proxy"]["ports"] == ["127.0.0.1:4443:4443", "127.0.0.1:9465:9465"]
    assert SERVICES["proxy"]["volumes"] == ["proxy:/var/lib/vb365-async-proxy"]
    assert "VOLUME /var/lib/vb365-async-proxy" in DOCKERFILE


def test_the_services_start_and_export(tmp_path: Path) -> None:
    """With their commands and settings, but free ports on loopback and another directory."""
    environment = dict(SERVICES["proxy"]["environment"])
    assert environment["VB365_PROXY_UPSTREAM__URL"] == "http://vb365:4443"
    assert environment["VB365_PROXY_ADMIN__ADDRESS"] == "0.0.0.0:9465"
    quick = ("--host", "127.0.0.1", "--port", "0", "--generate", "0s", "--rate", "1GiB")
    with listening(*image_command("vb365"), *quick, "--size", "1MiB") as (_, vb365):
        environment |= {
            "VB365_PROXY_UPSTREAM__URL": vb365,
            "VB365_PROXY_ADMIN__ADDRESS": "127.0.0.1:0",
            "VB365_PROXY_LISTEN__ADDRESS": "127.0.0.1:0",
            "VB365_PROXY_STORAGE__DIR": str(tmp_path / "data"),
            "VB365_PROXY_STORAGE__MIN_FREE": "1MiB",
            "VB365_PROXY_LOG__FORMAT": "json",
        }
        check = SERVICES["vb365"]["healthcheck"]["test"]
        assert check[:2] == ["CMD", "python"]
        code = check[3].replace("http://127.0.0.1:4443", vb365)
        finished(check[2], code, program=PYTHON, check=True)
        with started(*image_command("proxy"), env=environment, program=COMMAND) as proxy:
            assert proxy.stderr is not None
            url = admin = ""
            while not (url and admin):
                line = proxy.stderr.readline()
                assert line, "it exited before it listened"
                url = line.split()[-1] if line.startswith("listening on ") else url
                admin = json.loads(line).get("admin", admin) if line.startswith("{") else admin
            export(url)
            token = environment["VB365_PROXY_ADMIN__TOKEN"]
            status, body = request(f"{admin}/api/jobs", Authorization=f"Bearer {token}")
            assert (status, body.count(b'"Success"') > 0) == (200, True)
            address = admin.removeprefix("http://")
            finished("healthcheck", "--admin", address, check=True)


def export(url: str) -> None:
    """Export the first mailbox; the job ends successfully."""
    form = b"grant_type=password&username=alice&password=secret-a"
    with urllib.request.urlopen(f"{url}/v8/token", form, timeout=20) as response:
        own = {"Authorization": f"Bearer {json.load(response)['access_token']}"}
    page = json.loads(request(f"{url}/v8/Organizations", **own)[1])
    explore = f"{url}/v8/Organizations/{page['results'][0]['id']}/explore"
    session = json.loads(request(explore, {"type": "vex"}, **own)[1])["id"]
    mailboxes = f"{url}/v8/RestoreSessions/{session}/organization/mailboxes"
    mailbox = json.loads(request(mailboxes, **own)[1])["results"][0]["id"]
    wanted = own | {"Prefer": "respond-async"}
    status, body = request(f"{mailboxes}/{mailbox}/exportToPst", {}, **wanted)
    assert status == 202
    job = json.loads(body)
    for _ in range(60):
        status, body = request(f"{url}/v8/_async/exports/{job['id']}", **own, Prefer="wait=5")
        if status == 200:
            break
    assert json.loads(body)["status"] == "Success"
