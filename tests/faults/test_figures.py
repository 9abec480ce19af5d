"""CONTRACT §16: after chaos, every figure of /api, of /metrics and of the log is the same."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.simulator import Simulator, SimulatorSettings
from tests.faults.chaos import Chaos
from tests.support.wire import ask

#: No export is evicted, and nothing is lost to a kill: counters are those of one process.
SETTINGS = {"LOG__LEVEL": "info", "LOG__FORMAT": "json", "STORAGE__MAX_BYTES": "1GiB"}


@dataclass
class Figures:
    """What each place says. Metrics are by the values of their labels, ordered by their names."""

    metrics: dict[str, Counter[tuple[str, ...]]] = field(default_factory=dict)
    status: Any = None
    rows: list[Any] = field(default_factory=list)
    history: list[Any] = field(default_factory=list)
    log: list[Any] = field(default_factory=list)

    async def read(self, admin: str) -> None:
        text = (await ask(admin, "GET", "/metrics")).body.decode()
        for family in text_string_to_metric_families(text):
            counts: Counter[tuple[str, ...]] = Counter()
            for sample in family.samples:
                if sample.name.removesuffix("_total") == family.name:
                    counts[tuple(value for _, value in sorted(sample.labels.items()))] = int(
                        sample.value
                    )
            self.metrics[family.name.removeprefix("vb365_proxy_")] = +counts
        self.status = (await ask(admin, "GET", "/api/status")).json()
        self.history = (await ask(admin, "GET", "/api/history")).json()["results"]
        total = 1
        while len(self.rows) < total:
            target = f"/api/jobs?limit=40&offset={len(self.rows)}&sort=created"
            page = (await ask(admin, "GET", target)).json()
            total = page["total"]
            self.rows += page["results"]

    def named(self, event: str) -> list[Any]:
        return [entry for entry in self.log if entry["event"] == event]


class WatchedChaos(Chaos):
    """Chaos of VB365 and of the callers alone, whose figures are read before the proxy is killed at
    the end, and once it has started again.
    """

    tidiness = 0.1

    def __init__(self, disk: Path, simulator: Simulator, *, seed: int) -> None:
        super().__init__(disk, simulator, seed=seed, small=False, **SETTINGS)
        self.figures, self.after = Figures(), Figures()

    def _injectors(self) -> list[tuple[str, float, float, Callable[[], Awaitable[None]]]]:
        return [each for each in super()._injectors() if "proxy" not in each[0]]

    async def _ensure_running(self) -> None:
        """It was never killed."""

    async def at_the_end(self) -> None:
        await self._read_settled()
        await self.process.kill()
        await self.process.start()
        await self.after.read(self.process.admin_url)

    async def _read_settled(self) -> None:
        async with asyncio.timeout(20):  # deliveries are recorded within a second
            while True:
                self.figures = Figures()
                await self.figures.read(self.process.admin_url)
                served = self.figures.metrics["bytes"]["served",]
                log = [json.loads(line) for line in self.process.lines if line.startswith("{")]
                used = self.figures.metrics["storage_bytes"]["used",]
                # files of cancelled and deleted exports are removed a moment later
                settled = used == self.figures.status["storage"]["usedBytes"]
                # the rows are read after the state: they may have deliveries that it has not
                settled = settled and self.figures.status["attention"] == _attention(
                    self.figures.rows
                )
                if settled and _delivered(self.figures, log) == served:
                    return
                await asyncio.sleep(0.2)


def _delivered(figures: Figures, log: list[Any]) -> int:
    """The bytes that the rows say were downloaded, and of deleted jobs what the log says."""
    kept = {row["id"] for row in figures.rows}
    gone = [
        entry for entry in log if entry["event"] == "job.delivered" and entry["job"] not in kept
    ]
    rows = sum(row["delivered"]["bytes"] for row in figures.rows)
    return int(rows + sum(entry["bytes"] for entry in gone))


def _attention(rows: list[Any]) -> dict[str, int]:
    """What an operator looks for, as the rows say it."""
    failed = sum(row["status"] == "Failed" for row in rows)
    return {"failedLastDay": failed, "notFetched": sum(map(_waits, rows))}


def _waits(row: Any) -> bool:
    """Whether the row shows a file of which not every byte was sent."""
    if row["result"] is None or row["result"]["state"] != "Available":
        return False
    sent = row["delivered"]
    return not sent["whole"] and not (sent["count"] and sent["bytes"] >= row["result"]["size"])


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("exports", "seconds"), [(60, 8), pytest.param(400, 90, marks=pytest.mark.slow)]
)
async def test_every_figure_is_the_same_everywhere(
    tmp_path: Path, exports: int, seconds: float
) -> None:
    """The long run is a part of `make chaos`."""
    simulator = Simulator(SimulatorSettings(records=100_000))
    await simulator.start()
    chaos = WatchedChaos(tmp_path, simulator, seed=5)
    try:
        report = await chaos.run(exports, seconds)
    finally:
        await chaos.process.kill()
        await simulator.stop()
    found = chaos.figures
    found.log = [json.loads(line) for line in chaos.process.lines if line.startswith("{")]
    deleted = {entry["job"] for entry in found.named("job.deleted")}
    dropped = {entry["job"] for entry in found.named("job.dropped")}
    ended = found.named("job.ended")
    assert report.outcomes["Success"] > 15
    assert report.outcomes["Failed"] > 0
    assert deleted, "a sum that has nothing to subtract proves less"

    # how many were accepted
    accepted = [entry["job"] for entry in found.named("job.accepted")]
    assert len(accepted) == len(set(accepted))
    assert set(accepted) - dropped - deleted == {row["id"] for row in found.rows}
    refused = sum(n for name, n in report.outcomes.items() if name.startswith("refused"))
    assert len(set(accepted) - dropped) == report.outcomes.total() - refused

    # how they ended
    by_log = Counter((entry["code"] or "", entry["outcome"]) for entry in ended)
    assert by_log == found.metrics["jobs_finished"]
    assert len(ended) == len(set(accepted) - dropped)
    by_status = Counter(entry["outcome"] for entry in ended)
    in_history: Counter[str] = Counter()
    for minute in found.history:
        in_history.update(minute["finished"])
    assert +in_history == by_status
    kept = Counter(entry["outcome"] for entry in ended if entry["job"] not in deleted)
    assert Counter(row["status"] for row in found.rows) == kept
    codes = Counter(row["error"]["code"] for row in found.rows if row["error"])
    assert codes == report.reasons
    assert found.status["jobs"] | {"maxRunning": 0, "maxQueued": 0} == dict.fromkeys(
        ("running", "queued", "suspended", "maxRunning", "maxQueued"), 0
    )
    assert not found.metrics["jobs"]
    assert found.status["attention"] == _attention(found.rows)

    # bytes
    sizes = {entry["job"]: entry["bytes"] for entry in ended if entry["outcome"] == "Success"}
    files = [row for row in found.rows if row["result"] and row["result"]["state"] == "Available"]
    assert {row["id"]: row["result"]["size"] for row in files}.items() <= sizes.items()
    assert found.status["storage"]["usedBytes"] == sum(row["result"]["size"] for row in files)
    assert found.metrics["storage_bytes"]["used",] == found.status["storage"]["usedBytes"]
    served = found.metrics["bytes"]["served",]
    assert served == sum(minute["servedBytes"] for minute in found.history)
    assert served == _delivered(found, found.log) >= report.bytes
    stored = found.metrics["bytes"]["stored",]
    assert stored == sum(minute["storedBytes"] for minute in found.history)
    # what was stored in vain, before a restart from zero or a failure, is in no file
    assert stored >= sum(sizes.values())

    check_what_a_kill_leaves(found, chaos.after)


def check_what_a_kill_leaves(before: Figures, after: Figures) -> None:
    """Rows, deliveries and storage are the same; counters and the history begin again."""
    assert after.rows == before.rows
    assert after.status["jobs"] == before.status["jobs"]
    assert after.status["attention"] == before.status["attention"]
    assert after.status["storage"]["usedBytes"] == before.status["storage"]["usedBytes"]
    assert after.metrics["storage_bytes"]["used",] == before.metrics["storage_bytes"]["used",]
    assert after.status["startedAt"] > before.status["startedAt"]
    for name in ("jobs_finished", "jobs", "http_requests"):
        assert not after.metrics[name]
    for flow in ("served", "stored", "client_in", "client_out"):
        assert not after.metrics["bytes"][flow,]
    assert not sum(minute["servedBytes"] + minute["storedBytes"] for minute in after.history)
    assert not any(count for minute in after.history for count in minute["finished"].values())
