"""CONTRACT §16 `/metrics`: its table, over the wire after real traffic."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from cryptography import x509
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus_text

from proxy import app
from proxy.core.job import ErrorCode, Phase
from tests.contract.conftest import SIZE, Clock, MakePlay, MakeRescue, MakeStage
from tests.support.exports import CONTENT, Slow
from tests.support.local_proxy import settings_of
from tests.support.loops import authority as authority
from tests.support.loops import localhost as localhost
from tests.support.tls_peers import server_side, write
from tests.support.upstreams import Scripted
from tests.support.wire import Message, Peer, ask, raw, request_bytes

CONTRACT = Path(__file__).parents[2] / "docs" / "contract.md"
PREFIX = "vb365_proxy_"
PROMETHEUS, OPENMETRICS = "text/plain;version=0.0.4", "application/openmetrics-text;version=1.0.0"
#: Values of labels that the table does not list.
OPEN = {"code", "version", "python"}

Value = Callable[..., float]


def table() -> list[Any]:
    """The rows of the contract: name, type, labels, and the values that the row lists."""
    section = CONTRACT.read_text(encoding="utf-8").partition("**`/metrics`**")[2]
    rows = re.findall(
        r"^\| `([a-z_]+)` \| (gauge|counter|histogram)[^|]*\|([^|]*)\|$", section, re.MULTILINE
    )
    assert len(rows) == 26, "a row that this pattern does not match is not tested"
    found = []
    for name, kind, text in rows:
        labels = re.findall(r"`([a-z]+)`", text)
        values = {
            label: set(re.findall(r"[A-Za-z_]+", listed))
            for label, listed in re.findall(
                r"`([a-z]+)` = ((?:[A-Za-z_]+(?:, (?![`])|(?=[;( |]|$)))+)", text
            )
        }
        found.append(pytest.param(name, kind, labels, values, id=name))
    return found


async def families(admin: str, accept: str = PROMETHEUS, **fields: str) -> dict[str, Metric]:
    response = await ask(admin, "GET", "/metrics", {"Accept": accept} | fields)
    assert response.status == 200, response
    parse = openmetrics if accept == OPENMETRICS else prometheus_text
    return {each.name: each for each in parse(response.body.decode())}


def value_of(found: dict[str, Metric], sample: str, **labels: str) -> float:
    """The sum of the samples with these labels."""
    return sum(
        each.value
        for family in found.values()
        for each in family.samples
        if each.name == PREFIX + sample and labels.items() <= each.labels.items()
    )


async def metrics(stage: Any) -> Value:
    found = await families(stage.running.admin_url)
    return lambda sample, **labels: value_of(found, sample, **labels)


async def counted(stage: Any, sample: str, **labels: str) -> Value:
    """The metrics once this sample is more than 0."""
    async with asyncio.timeout(20):
        while not (value := await metrics(stage))(sample, **labels):  # noqa: ASYNC110  # scrapes
            await asyncio.sleep(0.02)
    return value


@pytest.fixture(scope="module")
def shown() -> dict[str, bytes]:
    """The response after real traffic, once for all rows."""
    return {}


async def traffic(make_stage: MakeStage, shown: dict[str, bytes]) -> dict[str, Metric]:
    if not shown:
        stage = await make_stage()
        await stage.get("/v8/RestoreSessions?limit=1")
        status = await stage.done()
        await stage.get(status + "/result")
        response = await ask(stage.running.admin_url, "GET", "/metrics")
        shown["body"] = response.body
    return {each.name: each for each in prometheus_text(shown["body"].decode())}


@pytest.mark.parametrize(("name", "kind", "labels", "values"), table())
async def test_16_each_row_of_the_table_is_exact(
    make_stage: MakeStage,
    shown: dict[str, bytes],
    name: str,
    kind: str,
    labels: list[str],
    values: dict[str, set[str]],
) -> None:
    found = await traffic(make_stage, shown)
    family = found[PREFIX + name.removesuffix("_total")]
    assert family.type == kind
    assert name.endswith("_total") == (kind == "counter")
    if name == "certificate_not_after_seconds":
        return  # without TLS there is none; a test of its own follows
    assert family.samples
    for sample in family.samples:
        assert set(sample.labels) - {"le"} == set(labels)
    for label, listed in values.items():
        seen = {sample.labels[label] for sample in family.samples}
        assert seen <= listed
        if name != "http_requests_total" and label != "verb":
            assert seen == listed


async def test_16_no_metric_is_missing_in_the_table(
    make_stage: MakeStage, shown: dict[str, bytes]
) -> None:
    found = await traffic(make_stage, shown)
    listed = {PREFIX + row.values[0].removesuffix("_total") for row in table()}
    assert set(found) == listed


async def test_16_values_of_labels_are_few_and_name_nobody(
    make_stage: MakeStage, shown: dict[str, bytes]
) -> None:
    found = await traffic(make_stage, shown)
    values = {
        (label, text)
        for family in found.values()
        for sample in family.samples
        for label, text in sample.labels.items()
        if label != "le"
    }
    assert not {text for _, text in values if "/" in text or re.search("[0-9a-f]{8}", text)}
    assert {text for label, text in values if label == "phase"} <= {phase.value for phase in Phase}
    assert len(shown["body"].splitlines()) < 600


async def test_16_promtool_finds_nothing(make_stage: MakeStage, shown: dict[str, bytes]) -> None:
    await traffic(make_stage, shown)
    checked = subprocess.run(  # noqa: ASYNC221  # the test waits for nothing else
        ["promtool", "check", "metrics"], input=shown["body"], capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


async def test_16_accept_selects_the_format(make_stage: MakeStage) -> None:
    stage = await make_stage()
    admin = stage.running.admin_url
    text = await ask(admin, "GET", "/metrics")
    assert text["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    wanted = await ask(admin, "GET", "/metrics", {"Accept": f"{OPENMETRICS},text/plain;q=0.5"})
    assert wanted["Content-Type"].startswith("application/openmetrics-text; version=1.0.0;")
    assert wanted.body.endswith(b"# EOF\n")
    assert set(await families(admin, OPENMETRICS)) == set(await families(admin))


async def test_16_the_token_guards_the_metrics(make_stage: MakeStage) -> None:
    stage = await make_stage(ADMIN__TOKEN="t" * 32)
    admin = stage.running.admin_url
    assert (await ask(admin, "GET", "/metrics")).status == 401
    assert (await ask(admin, "GET", "/metrics", {"Authorization": "Bearer x"})).status == 401
    assert await families(admin, Authorization="Bearer " + "t" * 32)


# The values agree with what was done.


async def test_16_requests_count_by_lane_and_code(make_stage: MakeStage) -> None:
    stage = await make_stage()
    for _ in range(3):
        await stage.get("/v8/RestoreSessions?limit=1")
    await stage.ask("GET", "/v8/RestoreSessions?limit=1", {})
    status = await stage.done()
    assert (await stage.get(status.rpartition("/")[0] + "/unknown")).status == 404
    await stage.get(status + "/result", Range="bytes=0-9")
    assert (await stage.ask("POST", stage.export + "?async=maybe", body=b"{}")).status == 400
    peer = await Peer.to(stage.url)
    await peer.send(b"no HTTP\r\n\r\n")
    assert (await peer.message()).status == 400
    peer.abort()
    value = await metrics(stage)
    requests = "http_requests_total"
    assert value(requests, lane="relay", code="200") == 3
    assert value(requests, lane="relay", code="401") == 1
    assert value(requests, lane="kickoff", code="202") == 1
    assert value(requests, lane="kickoff", code="400") == 1
    assert value(requests, lane="own", code="404") == 1
    assert value(requests, lane="own", code="206") == 1
    assert value(requests, lane="own", code="200") >= 1
    assert value(requests, lane="refused") == value(requests, lane="refused", code="400") == 1
    assert value(requests, lane="rescue") == 0
    for lane in ("relay", "kickoff", "own", "refused"):
        total = value(requests, lane=lane)
        for name in ("http_request_duration_seconds", "http_time_to_first_byte_seconds"):
            assert value(f"{name}_count", lane=lane) == total
            assert value(f"{name}_bucket", lane=lane, le="+Inf") == total
            assert 0 <= value(f"{name}_sum", lane=lane) < 20


async def test_16_a_request_without_a_response_is_counted_as_499(make_play: MakePlay) -> None:
    requested = asyncio.Event()

    async def script(request: Message) -> bytes | None:
        if "Health" in request.first:
            return raw("200 OK")
        requested.set()
        await asyncio.Event().wait()
        return None

    play = await make_play(script)
    peer = await Peer.to(play.url)
    await peer.send(b"GET /v8/X HTTP/1.1\r\nHost: h\r\n\r\n")
    await requested.wait()
    value = await metrics(play)
    assert value("http_connections", side="client", state="active") == 1
    assert value("http_connections", side="upstream", state="active") == 1
    peer.abort()
    value = await counted(play, "http_requests_total", lane="relay", code="499")
    assert value("http_connections", side="client") == 0
    assert value("http_requests_total", lane="relay") == 1


async def test_16_the_first_byte_is_before_the_last(make_play: MakePlay) -> None:
    """Both are measured from the first byte of the request."""

    async def script(request: Message) -> bytes:
        return raw("200 OK", ["Content-Length: 4"], b"ab", length=False)

    play = await make_play(script)
    peer = await Peer.to(play.url)
    await peer.send(b"GET /v8/X HTTP/1.1\r\n")
    await counted(play, "http_connections", side="client")  # it has read the first byte
    await asyncio.sleep(0.2)
    await peer.send(b"Host: h\r\n\r\n")
    await peer.head()
    await asyncio.sleep(0.2)
    peer.abort()
    value = await counted(play, "http_requests_total", lane="relay")
    assert value("http_requests_total", code="200") == 1
    first = value("http_time_to_first_byte_seconds_sum", lane="relay")
    last = value("http_request_duration_seconds_sum", lane="relay")
    assert 0.19 <= first <= last - 0.15
    assert value("http_time_to_first_byte_seconds_bucket", lane="relay", le="0.1") == 0


async def test_16_bytes_count_by_flow(make_stage: MakeStage) -> None:
    stage = await make_stage(EXPORTS__PREFLIGHT="false", EXPORTS__WATCH_EVENTS="false")
    target = "/v8/RestoreSessions?limit=1"
    before = await metrics(stage)
    sent = request_bytes("GET", target, stage.fields, None, "h")
    peer = await Peer.to(stage.url)
    await peer.send(sent)
    response = await peer.message()
    peer.abort()
    after = await metrics(stage)

    def grown(flow: str) -> float:
        return after("bytes_total", flow=flow) - before("bytes_total", flow=flow)

    size = len(response.head) + len(response.body)
    assert grown("client_in") == len(sent)
    assert grown("client_out") == size
    assert abs(grown("upstream_out") - len(sent)) < 100  # `Connection` may differ
    assert abs(grown("upstream_in") - size) < 100
    status = await stage.done()
    await stage.get(status + "/result")
    await stage.get(status + "/result", Range="bytes=100-199")
    await stage.ask("HEAD", status + "/result")
    after = await metrics(stage)
    assert grown("stored") == SIZE
    assert grown("served") == SIZE + 100
    assert grown("upstream_in") > SIZE
    assert grown("client_out") > SIZE


async def failing(kind: str, request: Message) -> bytes | None:
    if "Health" in request.first:
        return raw("200 OK")
    return {
        "reset": None,
        "malformed": b"HTTP/9 no\r\n\r\n",
        "truncated": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nabc",
    }[kind]


@pytest.mark.parametrize("kind", ["reset", "malformed", "truncated"])
async def test_16_failures_of_relayed_requests_count_by_kind(
    make_play: MakePlay, kind: str
) -> None:
    play = await make_play(lambda request: failing(kind, request))
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        await play.get("/v8/X")
    value = await metrics(play)
    assert value("upstream_failures_total", kind=kind) == 1
    assert value("upstream_failures_total") == 1
    assert value("http_requests_total", code="200" if kind == "truncated" else "502") == 1


@pytest.mark.parametrize("kind", ["reset", "malformed", "truncated"])
async def test_16_failures_of_exports_count_by_kind(make_play: MakePlay, kind: str) -> None:
    async def script(request: Message) -> bytes | None:
        return raw("200 OK") if request.method == "GET" else await failing(kind, request)

    play = await make_play(script, EXPORTS__WATCH_EVENTS="false", EXPORTS__ATTEMPTS="1")
    status = await play.begun("/v8/RestoreSessions/s/organization/mailboxes/m/exportToPst")
    if kind == "truncated":  # the proxy continues where the file broke off
        await counted(play, "upstream_failures_total", kind=kind)
        return
    assert (await play.finished(status)).json()["status"] == "Failed"
    value = await metrics(play)
    assert value("upstream_failures_total", kind=kind) == value("upstream_failures_total") == 1
    assert value("jobs_finished_total", status="Failed") == 1


@pytest.mark.parametrize("kind", ["connect", "tls"])
async def test_16_failures_to_connect_count_by_kind(
    tmp_path: Path, clock: Clock, localhost: trustme.LeafCert, kind: str
) -> None:
    async with Scripted(lambda request: failing("reset", request)).running(
        server_side(localhost)
    ) as upstream:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = upstream.port if kind == "tls" else unused.getsockname()[1]
            settings = settings_of(f"https://127.0.0.1:{port}", tmp_path, {})
            running = await app.start(settings, clock)
            try:
                assert (await ask(running.url, "GET", "/v8/X")).status == 502
                value = await metrics(SimpleNamespace(running=running))
            finally:
                await running.stop()
    # the readiness check of the scrape has failed too
    assert value("upstream_failures_total", kind=kind) == 2
    assert value("upstream_failures_total") == 2
    assert value("upstream_up") == value("check_success", check="upstream") == 0
    assert value("check_success", check="jobs") == 1


async def test_16_a_timeout_of_vb365_is_counted(make_play: MakePlay) -> None:
    async def script(request: Message) -> bytes:
        if request.method == "POST":
            await asyncio.Event().wait()
        return raw("200 OK")

    play = await make_play(script, EXPORTS__WATCH_EVENTS="false", EXPORTS__GENERATE_TIMEOUT="100ms")
    status = await play.begun("/v8/RestoreSessions/s/organization/mailboxes/m/exportToPst")
    assert (await play.finished(status)).json()["error"]["code"] == ErrorCode.TIMEOUT
    value = await metrics(play)
    assert value("upstream_failures_total", kind="timeout") == 1
    assert value("jobs_finished_total", status="Failed", code="UpstreamTimeout") == 1


async def test_16_exports_are_measured_by_verb(make_stage: MakeStage) -> None:
    stage = await make_stage(EXPORTS__MAX_RUNNING="1")
    stage.fault(hold=True, count=1)
    first = await stage.begun(stage.export)
    await stage.held()
    second = await stage.begun(stage.path_of("save"))
    value = await metrics(stage)
    assert (value("jobs", phase="Generating"), value("jobs", phase="Queued")) == (1, 1)
    assert value("jobs") == 2
    stage.clock.ahead += 100
    assert (await metrics(stage))("jobs_oldest_age_seconds") >= 100
    stage.simulator.release()
    for status in (first, second):
        assert (await stage.finished(status)).json()["status"] == "Success"
    value = await metrics(stage)
    assert value("jobs") == value("jobs_oldest_age_seconds") == 0
    assert value("jobs_finished_total", status="Success", code="") == 2
    for verb in ("exportToPst", "save"):
        for name in ("queue", "generation", "transfer"):
            assert value(f"export_{name}_seconds_count", verb=verb) == 1
        assert value("export_size_bytes_sum", verb=verb) == SIZE
        assert value("export_size_bytes_bucket", verb=verb, le="65536.0") == 0
        assert value("export_size_bytes_bucket", verb=verb, le="1.048576e+06") == 1
    waited = value("export_queue_seconds_sum", verb="save")
    assert waited > value("export_queue_seconds_sum", verb="exportToPst") >= 0


async def test_16_ends_joins_and_resumptions_are_counted(make_stage: MakeStage) -> None:
    stage = await make_stage()
    stage.fault(hold=True, count=1)
    cancelled = await stage.begun(stage.export, Idempotency_Key="k")
    assert await stage.begun(stage.export, Idempotency_Key="k") == cancelled
    await stage.held()
    await stage.ask("POST", cancelled + "/cancel")
    await stage.finished(cancelled)
    stage.fault(status=500, count=1)
    failed = await stage.begun(stage.export)
    assert (await stage.finished(failed)).json()["status"] == "Failed"
    value = await metrics(stage)
    assert value("jobs_joined_total") == 1
    assert value("jobs_finished_total", status="Cancelled", code="") == 1
    assert value("jobs_finished_total", status="Failed", code="UpstreamError") == 1
    assert value("jobs_finished_total") == 2
    stage.fault(hold=True, count=1)
    status = await stage.begun(stage.export)
    await stage.held()
    await stage.running.stop()
    again = await app.start(stage.running.settings, stage.clock)
    try:
        value = await metrics(SimpleNamespace(running=again))
        assert (value("jobs", phase="Suspended"), value("jobs")) == (1, 1)
        assert value("jobs_oldest_age_seconds") > 0
        await ask(again.url, "GET", status, stage.fields)
        value = await metrics(SimpleNamespace(running=again))
        assert value("jobs_resumed_total") == 1
        assert value("jobs", phase="Suspended") == 0
    finally:
        await again.stop()


async def test_14_rescued_exports_and_those_who_join_are_counted(make_rescue: MakeRescue) -> None:
    slow = Slow()
    stage = await make_rescue(slow)
    await stage.leave()
    peers = [await stage.send() for _ in range(2)]
    await stage.joined(2)
    slow.finish()
    for peer in peers:
        assert (await peer.message()).body == CONTENT
    await stage.finished()
    value = await metrics(stage)
    assert (value("jobs_rescued_total"), value("jobs_joined_total")) == (1, 2)
    assert value("http_requests_total", lane="rescue", code="499") == 1
    assert value("http_requests_total", lane="rescue", code="200") == 2
    assert value("bytes_total", flow="stored") == len(CONTENT)
    assert value("bytes_total", flow="served") == 2 * len(CONTENT)


async def test_16_storage_adds_up(make_stage: MakeStage) -> None:
    stage = await make_stage(STORAGE__MAX_BYTES="1GiB")
    await stage.done()
    value = await metrics(stage)
    assert value("storage_bytes", kind="used") >= SIZE
    assert value("storage_bytes", kind="limit") == 1 << 30
    assert value("storage_bytes", kind="promised") == 0
    assert value("storage_bytes", kind="free") > 0
    assert value("check_success", check="space") == 1
    other = await make_stage(data="other")
    value = await metrics(other)
    assert value("storage_bytes", kind="limit") == pytest.approx(
        value("storage_bytes", kind="free"), rel=0.01
    )


async def test_16_access_checks_count_by_outcome(make_stage: MakeStage) -> None:
    stage = await make_stage(ACCESS__CACHE="0s")
    status = await stage.done()
    before = await metrics(stage)
    assert (await stage.get(status)).status == 200
    assert (await stage.ask("GET", status, {"Authorization": "Bearer forged"})).status == 401
    bob = stage.simulator.login("bob")
    assert (await stage.ask("GET", status, bob)).status == 404
    stage.simulator.fault(path="RestoreSessions", method="GET", status=503)
    assert (await stage.get(status)).status == 503
    after = await metrics(stage)

    def grown(outcome: str) -> float:
        name = "access_checks_total"
        return after(name, outcome=outcome) - before(name, outcome=outcome)

    assert grown("allowed") >= 1
    assert grown("unauthorized") == 1
    assert grown("denied") >= 1
    assert grown("unreachable") >= 1
    cached = await make_stage(data="cached")
    status = await cached.done()
    before = await metrics(cached)
    await cached.get(status)
    after = await metrics(cached)
    assert (grown("cached"), grown("allowed")) == (1, 0)


async def test_16_certificates_show_their_end(
    tmp_path: Path, clock: Clock, localhost: trustme.LeafCert, authority: trustme.CA
) -> None:
    certificate, key = write(localhost, tmp_path)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    async def script(request: Message) -> bytes:
        return raw("200 OK")

    async with Scripted(script).running(server_side(localhost)) as upstream:
        given = {
            "UPSTREAM__CA_FILE": str(tmp_path / "ca.pem"),
            "LISTEN__TLS_CERTIFICATE": str(certificate),
            "LISTEN__TLS_KEY": str(key),
        }
        settings = settings_of(f"https://localhost:{upstream.port}", tmp_path / "data", given)
        running = await app.start(settings, clock)
        try:
            value = await metrics(SimpleNamespace(running=running))
        finally:
            await running.stop()
    assert value("upstream_up") == 1
    [leaf] = x509.load_pem_x509_certificates(localhost.cert_chain_pems[0].bytes())
    end = leaf.not_valid_after_utc.timestamp()
    for whose in ("own", "upstream"):
        assert value("certificate_not_after_seconds", whose=whose) == end


async def test_16_a_scrape_does_not_wait_for_vb365(make_play: MakePlay) -> None:
    """Prometheus gives a scrape 10 s, and VB365 being away is what it is to show."""

    async def script(request: Message) -> bytes | None:
        await asyncio.Event().wait()
        return None

    play = await make_play(script, UPSTREAM__CHECK_TIMEOUT="30s")
    async with asyncio.timeout(8):
        value = await metrics(play)
    assert value("check_success", check="jobs") == 1


async def test_16_the_event_loop_is_measured(make_stage: MakeStage) -> None:
    stage = await make_stage()
    value = await counted(stage, "event_loop_lag_seconds_count")
    assert value("event_loop_lag_seconds_sum") >= 0
