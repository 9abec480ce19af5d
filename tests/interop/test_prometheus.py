"""Prometheus reads the metrics; its own tools check the alerts, and every name in them exists."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.admin.metrics import COUNTERS, GAUGES, HISTOGRAMS, PREFIX
from proxy.simulator import Simulator, SimulatorSettings
from tests.support.object_stores import free_ports
from tests.support.process import served
from tests.support.wire import ask

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "config" / "alerts.yml"
DASHBOARD = ROOT / "config" / "grafana.json"
TOKEN = "t" * 32

#: What each alert fires on: series with values per minute, and the minute at which it has fired.
#: Up to minute 5 nothing is wrong.
FIRES: dict[str, tuple[dict[str, str], int]] = {
    "VB365ProxyDown": ({'up{job="vb365-async-proxy"}': "1x5 0x20"}, 10),
    "VB365Down": ({"upstream_up": "1x5 0x20"}, 10),
    "VB365ProxyStoreDown": ({'check_success{check="jobs"}': "1x5 0x20"}, 10),
    "VB365ProxyStorageFull": ({'check_success{check="space"}': "1x5 0x20"}, 15),
    "VB365ProxyStorageLow": (
        {
            'storage_bytes{kind="free"}': "50x5 5x60",
            'storage_bytes{kind="limit"}': "100x65",
        },
        40,
    ),
    "VB365ProxyStorageFillsUp": ({'storage_bytes{kind="free"}': "99999x5 99999-100x400"}, 400),
    "VB365ProxyQueueOld": ({"jobs_oldest_age_seconds": "0x5 20000x30"}, 20),
    "VB365ProxyExportsFail": (
        {
            'jobs_finished_total{status="Success", code=""}': "10x60",
            'jobs_finished_total{status="Failed", code="UpstreamError"}': "0x5 0+1x55",
        },
        20,
    ),
    "VB365ProxyUpstreamFailures": (
        {'upstream_failures_total{kind="reset"}': "0x5 0+60x60"},
        40,
    ),
    "VB365ProxyErrors": (
        {
            'http_requests_total{lane="relay", code="200"}': "0+100x60",
            'http_requests_total{lane="relay", code="502"}': "0x5 0+100x55",
        },
        50,
    ),
    "VB365ProxyCertificateExpires": (
        {'certificate_not_after_seconds{whose="own"}': "99999999x5 1000000x20"},
        10,
    ),
    "VB365ProxyEventLoopSlow": (
        {
            'event_loop_lag_seconds_bucket{le="0.5"}': "0+60x5 360x60",
            'event_loop_lag_seconds_bucket{le="1.0"}': "0+60x65",
            'event_loop_lag_seconds_bucket{le="+Inf"}': "0+60x65",
        },
        50,
    ),
    "VB365ProxyWebhooksWait": ({"webhook_backlog": "0x5 3x90"}, 80),
    "VB365ProxyWebhooksLost": (
        {'webhook_deliveries_total{outcome="given_up"}': "0x5 2x60"},
        10,
    ),
}


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def rules() -> list[Any]:
    [group] = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return list(group["rules"])


def names() -> set[str]:
    """All names of samples."""
    found = {PREFIX + family.name for family in (*GAUGES, *COUNTERS)}
    for family in HISTOGRAMS:
        found |= {f"{PREFIX}{family.name}_{end}" for end in ("bucket", "sum", "count")}
    return found


def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", str(ALERTS))


def test_each_alert_says_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert len(rule["annotations"]["description"]) > 80
        assert rule["annotations"]["summary"].endswith(".")


def test_each_alert_has_a_test_and_a_line_in_the_operations_guide() -> None:
    alerts = [rule["alert"] for rule in rules()]
    assert set(alerts) == set(FIRES)
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(VB365\w+)` \|", text, re.MULTILINE) == alerts


@pytest.mark.parametrize("alert", FIRES)
def test_an_alert_fires_when_it_should(alert: str, tmp_path: Path) -> None:
    series, minute = FIRES[alert]
    expression = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
    full = [
        {
            "series": (name if name.startswith("up") and "{job" in name else PREFIX + name),
            "values": values,
        }
        for name, values in series.items()
    ]
    for each in full:
        common = 'instance="a"' if "job=" in each["series"] else 'job="p", instance="a"'
        if "{" not in each["series"]:
            each["series"] += "{}"
        head, _, labels = each["series"].partition("{")
        each["series"] = f"{head}{{{common}, {labels}".replace(", }", "}")
    test = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": full,
                "promql_expr_test": [
                    {"expr": expression, "eval_time": "5m", "exp_samples": []},
                    {
                        "expr": expression,
                        "eval_time": f"{minute}m",
                        "exp_samples": [{"labels": "{}", "value": 1}],
                    },
                ],
            }
        ],
    }
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump(test), encoding="utf-8")
    promtool("test", "rules", str(path))


@pytest.mark.parametrize("path", [ALERTS, DASHBOARD], ids=lambda path: path.name)
def test_every_metric_that_is_named_exists(path: Path) -> None:
    used = set(re.findall(rf"{PREFIX}\w+", path.read_text(encoding="utf-8")))
    assert used
    assert used <= names()


def test_the_dashboard_has_a_panel_for_every_metric_that_an_operator_needs() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert all(panel["title"] and panel["targets"] for panel in panels)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    text = json.dumps(dashboard)
    for family in (*GAUGES, *COUNTERS, *HISTOGRAMS):
        assert PREFIX + family.name in text, family.name


@contextlib.asynccontextmanager
async def prometheus(directory: Path, target: str) -> AsyncIterator[str]:
    """A Prometheus that scrapes `target` every second, on loopback."""
    [port] = free_ports(1)
    scrape = {
        "job_name": "vb365-async-proxy",
        "scrape_interval": "1s",
        "static_configs": [{"targets": [target.removeprefix("http://")]}],
        "authorization": {"credentials": TOKEN},
    }
    config = directory / "prometheus.yml"
    config.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "scrape_configs": [scrape]}))
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def query(url: str, expression: str) -> list[Any]:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        response = await ask(url, "GET", f"/api/v1/query?query={expression}")
        if response.status == 200:
            return list(response.json()["data"]["result"])
    return []


async def test_prometheus_scrapes_a_running_proxy(tmp_path: Path) -> None:
    simulator = Simulator(SimulatorSettings(size=1000))
    await simulator.start()
    try:
        async with served(simulator.url, tmp_path / "data", ADMIN__TOKEN=TOKEN) as proxy:
            for _ in range(7):
                await ask(proxy.url, "GET", "/v8/RestoreSessions", simulator.login())
            async with (
                asyncio.timeout(60),
                prometheus(tmp_path, proxy.admin_url) as url,
            ):
                wanted = f'{PREFIX}http_requests_total{{lane="relay",code="200"}}'
                while not (found := await query(url, wanted)):  # noqa: ASYNC110  # it polls too
                    await asyncio.sleep(0.2)
                assert found[0]["value"][1] == "7"
                assert found[0]["metric"]["job"] == "vb365-async-proxy"
                [up] = await query(url, "up")
                assert up["value"][1] == "1"
                assert (await query(url, f"{PREFIX}upstream_up"))[0]["value"][1] == "1"
    finally:
        await simulator.stop()
