"""CONTRACT §15: the events of the log, as docs/operations.md lists them."""

from __future__ import annotations

import ast
import asyncio
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

from proxy import __version__
from proxy.cli.serve import warn
from proxy.config import load
from proxy.core.job import Phase
from proxy.ports import StoreUnavailable
from proxy.stores.availability import Availability
from tests.contract.conftest import MakeStage
from tests.support.harness import SUSPEND_TTL, new_world
from tests.support.log_lines import check_documented, documented, logged
from tests.support.process import ROOT, DidNotStart, ProxyProcess

PACKAGE = Path(__file__).parents[2] / "proxy"


def names_in_code() -> set[str]:
    """The names that the code logs: literals without a space, of the proxy, not of its clients."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if {"simulator", "client"} & set(path.parts):
            continue
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and node.args:
                first = node.args[0]
                function = ast.unparse(node.func)
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    logs = re.fullmatch(r"_?log\.\w+|_log|JobEvent|DirectEvent", function)
                    if logs and re.fullmatch(r"[a-z_.]+", first.value):
                        found.add(first.value)
    return found


def test_the_table_has_the_events_of_the_code_and_no_others() -> None:
    assert set(documented()) == names_in_code()


async def test_the_events_of_an_export_from_its_kickoff_to_its_deletion(
    make_stage: MakeStage,
) -> None:
    """Times add up, the digest is that of the file, and the caller is a hash."""
    with logged() as log:
        stage = await make_stage()
        status = await stage.done()
        await stage.get(status + "/result")
        await stage.get(status + "/result", Range="bytes=0-99")
        await stage.ask("HEAD", status + "/result")
        await stage.ask("DELETE", status + "/result")
        await stage.ask("DELETE", status + "/result")
        await stage.ask("DELETE", status)
        await stage.ask("DELETE", status)
        await stage.get(status)
    check_documented(log.entries)
    of_jobs = [entry for entry in log.entries if entry["event"].startswith("job.")]
    assert [entry["event"].removeprefix("job.") for entry in of_jobs] == [
        *("accepted", "started", "first_byte", "ended"),
        *("delivered", "delivered", "released", "deleted"),
    ]
    job = status.rpartition("/")[2]
    path = stage.export.split("/")
    for entry in of_jobs:
        assert (entry["job"], entry["session"]) == (job, stage.session)
        assert entry["export"] == " ".join([path[-1], "/".join(path[4:-1])])
        assert re.fullmatch("[0-9a-f]{8}", entry["caller"])
    (ended,) = log.named("job.ended")
    content = stage.file()
    digest = hashlib.sha256(content).hexdigest()
    assert (ended["outcome"], ended["bytes"], ended["sha256"]) == ("Success", len(content), digest)
    assert (ended["code"], ended["status"], ended["message"]) == (None, None, None)
    assert ended["attempts"] == 1
    assert ended["level"] == "info"
    spent = [ended[f"seconds_{name}"] for name in ("queued", "generating", "transferring")]
    assert all(seconds >= 0 for seconds in spent)
    whole, part = log.named("job.delivered")
    assert (whole["status"], whole["bytes"], whole["whole"]) == (200, len(content), True)
    assert (part["status"], part["bytes"], part["whole"]) == (206, 100, False)
    assert whole["sha256"] == digest
    (refused,) = log.named("request.refused")
    assert (refused["problem"], refused["status"], refused["path"]) == ("job-deleted", 404, status)


async def test_a_failed_export_is_logged_with_vb365s_own_message(make_stage: MakeStage) -> None:
    stage = await make_stage()
    stage.fault(outlook_missing=True)
    with logged() as log:
        document = (await stage.finished(await stage.begun(stage.export))).json()
    check_documented(log.entries)
    (ended,) = log.named("job.ended")
    assert (ended["outcome"], ended["code"], ended["status"]) == ("Failed", "UpstreamError", 500)
    assert ended["message"] == document["error"]["message"]
    assert "Outlook" in ended["message"]
    assert ended["level"] == "warning"


async def test_a_cancelled_export_and_the_one_that_waits_for_its_slot(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage(EXPORTS__MAX_RUNNING="1", EXPORTS__CANCEL_HOLD="0s")
    stage.fault(hold=True, count=1)
    with logged() as log:
        first = await stage.begun(stage.export)
        await stage.held()
        second = await stage.begun(stage.path_of("items/save"))
        await stage.ask("POST", first + "/cancel")
        await stage.ask("POST", first + "/cancel")
        assert (await stage.finished(first)).json()["status"] == "Cancelled"
        await stage.finished(second)
    check_documented(log.entries)
    (queued,) = log.named("job.queued")
    assert (queued["job"], queued["running"], queued["waiting"]) == (second.split("/")[-1], 1, 1)
    (cancelled,) = log.named("job.cancelled")
    assert cancelled["job"] == first.split("/")[-1]
    ends = {entry["job"]: entry["outcome"] for entry in log.named("job.ended")}
    assert ends == {first.split("/")[-1]: "Cancelled", second.split("/")[-1]: "Success"}


async def test_a_kickoff_that_vb365_refuses_is_logged_as_dropped(make_stage: MakeStage) -> None:
    stage = await make_stage(EXPORTS__GRACE="10s")
    stage.fault(outlook_missing=True)
    with logged() as log:
        assert (await stage.kickoff(stage.export)).status == 500
    check_documented(log.entries)
    names = [name for name in log.names if name.startswith("job.")]
    assert names == ["job.accepted", "job.started", "job.dropped"]
    assert log.named("job.dropped")[0]["status"] == 500


async def test_deleting_a_running_job_ends_it(make_stage: MakeStage) -> None:
    """Each accepted job has one end in the log."""
    stage = await make_stage()
    stage.fault(hold=True)
    with logged() as log:
        status = await stage.begun(stage.export)
        await stage.until(status, lambda document: document["phase"] == "Generating")
        assert (await stage.ask("DELETE", status)).status == 204
        stage.simulator.release()
    names = [name for name in log.names if name.startswith("job.")]
    assert names == ["job.accepted", "job.started", "job.ended", "job.deleted"]
    assert log.named("job.ended")[0]["outcome"] == "Cancelled"
    assert log.named("job.deleted")[0]["export"] == log.named("job.accepted")[0]["export"]


async def test_suspension_resumption_expiry_and_the_end_of_a_forgotten_job() -> None:
    async with new_world() as world:
        world.upstream.plan.extend(["cut", "401"])
        with logged() as log:
            job, _ = await world.submit()
            await world.quiet()
            assert await world.phase(job) is Phase.SUSPENDED
            await world.resume(job)
            await world.quiet()
            world.clock += 200
            await world.sweep()
            world.upstream.plan.extend(["cut", "401"])
            left, _ = await world.submit()
            await world.quiet()
            world.clock += SUSPEND_TTL
            await world.sweep()
        check_documented(log.entries)
        mine = [
            entry["event"].removeprefix("job.") for entry in log.entries if entry.get("job") == job
        ]
        assert [name for name in mine if " " not in name] == [
            *("accepted", "started", "first_byte", "suspended"),
            *("resumed", "started", "first_byte", "ended", "expired"),
        ]
        (again,) = [entry for entry in log.named("job.started") if entry["offset"]]
        assert again["attempt"] == 1
        ends = {entry["job"]: entry["code"] for entry in log.named("job.ended")}
        assert ends == {job: None, left: "Interrupted"}


async def test_a_job_store_that_fails_is_logged_once_per_change() -> None:
    moments = iter([10.0, 12.5])
    store = Availability("jobs", seconds=lambda: next(moments))
    with logged() as log:
        store.worked()
        store.failed(StoreUnavailable("disk I/O error"))
        store.failed(StoreUnavailable("disk I/O error"))
        store.worked()
        store.worked()
    check_documented(log.entries)
    assert log.names == ["store.down", "store.up"]
    down, up = log.entries
    assert (down["cause"], up["seconds_down"]) == ("disk I/O error", 2.5)


async def test_the_audit_says_who_exported_fetched_and_deleted_what(
    make_stage: MakeStage, tmp_path: Path
) -> None:
    stage = await make_stage()
    path = tmp_path / "audit.jsonl"
    with logged("error", audit=path) as log:
        status = await stage.done(X_Request_Id="kickoff")
        await stage.get(status + "/result")
        await stage.ask("DELETE", status)
    assert log.names == []
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    check_documented(entries)
    names = [entry["event"] for entry in entries]
    assert names == ["job.accepted", "job.delivered", "job.deleted"]
    content = stage.file()
    for entry in entries:
        assert (entry["job"], entry["client"]) == (status.rpartition("/")[2], "127.0.0.1")
        assert re.fullmatch("[0-9a-f]{8}", entry["caller"])
    assert entries[0]["request_id"] == "kickoff"
    assert {entry["sha256"] for entry in entries[1:]} == {hashlib.sha256(content).hexdigest()}
    assert {entry["bytes"] for entry in entries[1:]} == {len(content)}


@pytest.mark.parametrize("format", ["json", "console"])
async def test_why_the_proxy_does_not_start_has_the_format_of_the_log(
    tmp_path: Path, format: str
) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "owner.key").write_bytes(b"damaged")
    proxy = ProxyProcess(
        tmp_path / "data", "http://127.0.0.1:9", descriptors=None, LOG__FORMAT=format
    )
    with pytest.raises(DidNotStart, match=r"owner\.key"):
        await proxy.start()
    if format == "json":
        assert [json.loads(line)["event"] for line in proxy.lines][-1] == "not started"
    else:
        assert proxy.lines[-1].startswith("vb365-async-proxy: ")


async def test_a_log_file_that_cannot_be_opened_prevents_the_start(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "log"
    proxy = ProxyProcess(
        tmp_path / "data", "http://127.0.0.1:9", descriptors=None, LOG__FILE=str(path)
    )
    with pytest.raises(DidNotStart, match="No such file or directory"):
        await proxy.start()


async def test_errors_in_the_configuration_are_json_if_the_log_is(tmp_path: Path) -> None:
    """All of them, one for each line, also if the format is in the configuration file."""
    file = tmp_path / "proxy.toml"
    file.write_text('[log]\nformat = "json"\n[listen]\nworkers = 0\n', encoding="utf-8")
    settings = {"CONFIG": str(file), "EXPORTS__GRACE": "soon"}
    proxy = ProxyProcess(tmp_path / "data", "http://127.0.0.1:9", descriptors=None, **settings)
    with pytest.raises(DidNotStart):
        await proxy.start()
    entries = [json.loads(line) for line in proxy.lines]
    assert [(entry["event"], entry["level"]) for entry in entries] == [("not started", "error")] * 2
    reasons = "\n".join(entry["reason"] for entry in entries)
    assert f"{file}: listen.workers = 0 " in reasons
    assert 'environment variable VB365_PROXY_EXPORTS__GRACE: exports.grace = "soon" ' in reasons
    assert all(entry["hint"] for entry in entries)


def test_the_error_that_ends_the_process_is_in_the_log(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from proxy.cli.serve import open_log\n"
        "from proxy.config import load\n"
        "flags = {'upstream.url': 'http://127.0.0.1:9'}\n"
        "log = {'VB365_PROXY_LOG__FORMAT': 'json', 'VB365_PROXY_LOG__FILE': sys.argv[1]}\n"
        "open_log(load(None, flags, log))\n"
        "raise RuntimeError('for no reason')\n"
    )
    path = tmp_path / "log"
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, cwd=ROOT, check=False
    )
    (entry,) = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert (done.returncode, entry["level"]) == (1, "critical")
    assert entry["exception"][0]["exc_value"] == "for no reason"


@pytest.mark.parametrize(
    ("address", "tls", "warned"),
    [
        ("127.0.0.1:4443", False, False),
        ("[::1]:4443", False, False),
        ("192.0.2.1:4443", False, True),
        ("[::]:4443", False, True),
        ("192.0.2.1:4443", True, False),
    ],
)
def test_a_start_warns_about_plain_http_on_a_network(
    tmp_path: Path, address: str, tls: bool, warned: bool
) -> None:
    environ = {}
    if tls:
        pair = tmp_path / "pair.pem"
        trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pair)
        environ = {f"VB365_PROXY_LISTEN__TLS_{name}": str(pair) for name in ("CERTIFICATE", "KEY")}
    with logged() as log:
        warn(load(None, {"upstream.url": "http://127.0.0.1:9", "listen.address": address}, environ))
    assert [("plain http" in name) for name in log.names] == [True] * warned


@pytest.mark.parametrize(
    ("url", "public", "warned"),
    [
        ("https://192.0.2.1/s3cret", True, []),
        ("http://127.0.0.2:8080/s3cret", True, []),
        ("http://localhost/s3cret", True, []),
        ("http://[::1]:8080/s3cret", True, []),
        ("HTTP://Hooks.Example.com:8080/s3cret", True, ["plain http"]),
        ("http://[2001:db8::1]/s3cret", True, ["plain http"]),
        ("https://192.0.2.1/s3cret", False, ["links"]),
        ("http://192.0.2.1/s3cret", False, ["plain http", "links"]),
        ("", False, []),
    ],
)
def test_a_start_warns_about_webhooks_that_can_be_read_or_have_no_useful_links(
    url: str, public: bool, warned: list[str]
) -> None:
    """The path of a receiver is not shown."""
    environ = {
        "VB365_PROXY_WEBHOOKS__URLS": url,
        "VB365_PROXY_WEBHOOKS__SECRETS": "whsec_" + "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    } | ({"VB365_PROXY_PUBLIC__URL": "https://proxy.example.com"} if public else {})
    flags = {"upstream.url": "http://127.0.0.1:9", "listen.address": "127.0.0.1:4443"}
    with logged() as log:
        warn(load(None, flags, environ))
    assert len(log.names) == len(warned)
    assert all(word in name for word, name in zip(warned, log.names, strict=True))
    assert "s3cret" not in log.getvalue()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_start_warns_once_that_vb365s_certificate_is_not_verified(
    tmp_path: Path, workers: str
) -> None:
    settings = {"LOG__FORMAT": "json", "UPSTREAM__VERIFY": "false", "LISTEN__WORKERS": workers}
    proxy = ProxyProcess(tmp_path / "data", "https://127.0.0.1:9", descriptors=None, **settings)
    await proxy.start()
    await proxy.stop()
    warned = [each for each in entries_of(proxy) if "not verified" in each["event"]]
    assert [(each["level"], each["upstream"]) for each in warned] == [
        ("warning", "https://127.0.0.1:9")
    ]


async def test_a_start_warns_about_too_little_free_space(make_stage: MakeStage) -> None:
    with logged() as log:
        await make_stage(STORAGE__MIN_FREE="900TiB")
    (warned,) = [each for each in log.entries if "not enough space" in each["event"]]
    assert warned["level"] == "warning"
    assert "storage.min_free is 900 TiB" in warned["reason"]
    with logged() as log:
        await make_stage(data="other")
    assert not [name for name in log.names if "not enough space" in name]


def entries_of(proxy: ProxyProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in proxy.lines if line.startswith("{")]


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_start_reload_and_stop(tmp_path: Path, workers: str) -> None:
    settings = {"LOG__FORMAT": "json", "LOG__LEVEL": "info", "LISTEN__WORKERS": workers}
    proxy = ProxyProcess(tmp_path / "data", "http://127.0.0.1:9", descriptors=None, **settings)
    await proxy.start()
    os.kill(proxy.pid, signal.SIGHUP)
    async with asyncio.timeout(20):
        while "config.reloaded" not in str(proxy.lines):  # noqa: ASYNC110  # another process writes
            await asyncio.sleep(0.01)
    assert await proxy.stop() == 0
    entries = entries_of(proxy)
    check_documented(entries)
    (started,) = [entry for entry in entries if entry["event"] == "started"]
    assert started["version"] == __version__
    assert started["data_dir"] == str(tmp_path / "data")
    assert (started["tls"], started["workers"], started["config"]) == (False, int(workers), None)
    assert (started["jobs"], started["suspended"]) == (0, 0)
    assert started["free"] > 0
    reloaded = [entry["level"] for entry in entries if entry["event"] == "config.reloaded"]
    assert reloaded == ["info"] * len(reloaded)
    assert [entry["event"] for entry in entries][-1] == "stopped"
