"""`simulate --fault` and `--scenario`: what is accepted, and what an error says."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import aiohttp
import pytest
from typer.testing import CliRunner

from proxy.cli.main import app
from proxy.cli.request_log import line
from proxy.cli.scenario import Scenario
from proxy.simulator import Fault, Simulator, SimulatorSettings
from proxy.simulator import control as control_endpoint
from proxy.simulator.calls import RecordedRequest
from proxy.simulator.faults import TYPES
from tests.support.commands import ROOT, finished, listening

PAGE = (ROOT / "docs" / "simulator.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples" / "simulator" / "bad-day.toml"


def of_faults(*texts: str) -> Scenario:
    scenario = Scenario()
    for text in texts:
        scenario.add_fault(text)
    return scenario


def of_file(text: str, place: Path) -> Scenario:
    scenario, path = Scenario(), place / "scenario.toml"
    path.write_text(text, encoding="utf-8")
    scenario.read(path)
    return scenario


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "outlook_missing,path=exportToPst",
            Fault(outlook_missing=True, path="exportToPst"),
        ),
        ("latency=250ms", Fault(latency=0.25)),
        ("cut_at=20MiB, cut=close, count=1", Fault(cut_at=20 << 20, cut="close", count=1)),
        ("rate=1.5KiB,stall_at=7,lie=-3", Fault(rate=1536.0, stall_at=7, lie=-3)),
        ("hold=false,status=503", Fault(hold=False, status=503)),
        (
            '{"status": 503, "headers": {"Retry-After": "5", "Server": null}}',
            Fault(status=503, headers={"Retry-After": "5", "Server": None}),
        ),
        ('{"generate": 1.5, "set_cookies": ["a=1"]}', Fault(generate=1.5, set_cookies=["a=1"])),
    ],
)
def test_a_fault_is_text_or_json(text: str, fault: Fault) -> None:
    scenario = of_faults(text)
    scenario.check()
    assert scenario.faults == [fault]


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("outlok_missing", "'outlok_missing' is not known", "did you mean outlook_missing?"),
        ("latency=soon", 'latency = "soon" is not valid', "write a duration, for example 3s"),
        ("latency", "latency = true is not valid", "write a duration"),
        ("size=3MB", 'size = "3MB" is not valid', "write a size, for example 64MiB"),
        ("cut_at=-1", 'cut_at = "-1" is not valid', "write a size"),
        ("status=99", 'status = "99" is not valid', "write a status from 200 to 599"),
        ("skip=-1,reset", 'skip = "-1" is not valid', "a whole number that is not negative"),
        ("reset=maybe", 'reset = "maybe" is not valid', "write true or false"),
        ("framing=odd", 'framing = "odd" is not valid', "write length, chunked or close"),
        ("headers=a", 'headers = "a" is not valid', "write names and values, for example { Retry"),
        ("set_cookies=a", 'set_cookies = "a" is not valid', "write a list of texts"),
        ("path=exportToPst", "has no effect", "name at least one of accepted, body"),
        ("cut=close", "cut needs cut_at", "add cut_at"),
        ("stall=1s", "stall needs stall_at", "add stall_at"),
        ("reset,reset", "names a member twice", "write each name once"),
        ('{"reset"', "is not JSON", 'write {"name": value'),
        ('{"reset":' * 5000, "is not JSON", 'write {"name": value'),
        ('{"path": 1, "reset": true}', "path = 1 is not valid", "write text in quotes"),
    ],
)
def test_a_problem_names_the_member_its_value_and_the_fix(text: str, what: str, fix: str) -> None:
    (problem,) = of_faults(text).problems
    assert problem.place == f"--fault {text!r}"
    assert what in problem.what
    assert problem.fix.startswith(fix) or fix in problem.fix


def test_an_unknown_fault_lists_all_known_ones() -> None:
    (problem,) = of_faults("nonsense").problems
    assert set(TYPES) <= set(re.findall(r"\w+", problem.fix))


def test_all_problems_of_a_file_are_reported_with_their_places(tmp_path: Path) -> None:
    scenario = of_file(
        'simulatr = 1\nuser = [{ name = "dave" }]\nfault = [{ reset = true }, { status = "x" }]\n'
        '[simulator]\nversions = [9]\ntoken_lifetime = "5min"\nseed = 1.5\nforeign_session = 500\n',
        tmp_path,
    )
    path = tmp_path / "scenario.toml"
    assert [f"{problem.place}: {problem.what}" for problem in scenario.problems] == [
        f"{path}: has no part 'simulatr'",
        f"{path}: [simulator]: versions = [9] is not valid",
        f'{path}: [simulator]: token_lifetime = "5min" is not valid',
        f"{path}: [simulator]: seed = 1.5 is not valid",
        f"{path}: [simulator]: foreign_session = 500 is not valid",
        f"{path}: user 1: has no password",
        f'{path}: fault 2: status = "x" is not valid',
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[simulator", "is not TOML"),
        ("simulator = " + "[" * 5000, "is not TOML"),
        ("simulator = 1", "simulator = 1 is not a table"),
        ("user = 1", "user = 1 is not a list of tables"),
        ("fault = [1]", "fault = [1] is not a list of tables"),
    ],
)
def test_a_file_of_another_form_is_a_problem(text: str, what: str, tmp_path: Path) -> None:
    (problem,) = of_file(text, tmp_path).problems
    assert problem.what.startswith(what)


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    scenario = Scenario()
    scenario.read(tmp_path / "missing.toml")
    scenario.read(tmp_path)
    (tmp_path / "utf16.toml").write_bytes("a = 1".encode("utf-16"))
    scenario.read(tmp_path / "utf16.toml")
    assert [problem.what for problem in scenario.problems] == [
        "cannot be read: No such file or directory",
        "cannot be read: Is a directory",
        "is UTF-16",
    ]


async def test_the_example_does_what_its_comments_say() -> None:
    scenario = Scenario()
    scenario.read(EXAMPLE)
    scenario.check()
    settings = scenario.settings
    assert (settings.size, settings.generate, settings.rate) == (64 << 20, 3.0, 16 << 20)
    assert [user.name for user in settings.users] == ["alice", "admin"]
    simulator = Simulator(replace(settings, size=21 << 20, generate=0.0, rate=None))
    for fault in scenario.faults:
        simulator.faults.add(fault)
    await simulator.start()
    try:
        path = simulator.export_paths(simulator.open_session())[1]
        async with aiohttp.ClientSession(simulator.url, headers=simulator.login()) as http:
            async with http.post(path) as response:
                assert response.status == 500
                assert "Outlook" in (await response.json())["message"]
            broken = await http.post(path)
            with pytest.raises(aiohttp.ClientError):
                await broken.read()
            assert simulator.deliveries[-1].sent == 20 << 20
            async with http.post(path) as response:
                assert sum([len(chunk) async for chunk in response.content.iter_any()]) == 21 << 20
            health = [(await http.get("/v8/Health")) for _ in range(3)]
            assert [each.status for each in health] == [503, 503, 200]
            assert health[0].headers["Retry-After"] == "5"
    finally:
        await simulator.stop()


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (
            RecordedRequest("POST", "/v8/token", (), 0.0, status=200, sent=283, seconds=0.004),
            "POST /v8/token 200 283 B 0.00 s",
        ),
        (
            RecordedRequest(
                *("POST", "/a/exportToPst", (), 0.0),
                status=200,
                user="alice",
                faults=("cut_at", "rate"),
                outcome="cut",
                sent=20 << 20,
                seconds=3.125,
            ),
            "POST /a/exportToPst 200 20 MiB 3.12 s user=alice faults=cut_at,rate cut",
        ),
        (
            RecordedRequest("GET", "/\x1b[31m", (), 0.0, outcome="complete"),
            "GET /\\x1b[31m - 0 B 0.00 s",
        ),
    ],
)
def test_the_line_of_a_request(request_: RecordedRequest, expected: str) -> None:
    time, _, rest = line(request_).partition(" ")
    assert re.fullmatch(r"\d\d:\d\d:\d\d", time)
    assert rest == expected


async def test_every_request_is_logged_when_it_has_ended() -> None:
    """Also those that a fault or the client ends."""
    logged: list[RecordedRequest] = []
    simulator = Simulator(SimulatorSettings(size=1000), log=logged.append)
    simulator.fault(path="Health", status=503)
    simulator.fault(path="exportToPst", count=1, cut_at=100)
    simulator.fault(path="Organizations", reset=True)
    await simulator.start()
    try:
        path = simulator.export_paths(simulator.open_session())[1]
        async with aiohttp.ClientSession(simulator.url, headers=simulator.login()) as http:
            await http.get("/v8/Health")
            with pytest.raises(aiohttp.ClientError):
                await (await http.post(path)).read()
            with pytest.raises(aiohttp.ClientError):
                await http.post("/v8/Organizations")  # aiohttp would repeat a GET
            await http.get("/_control")
        await simulator.until(lambda: len(logged) == 4)
    finally:
        await simulator.stop()
    found = [(each.target, each.status, each.user, each.sent, each.outcome) for each in logged]
    assert found[:3] == [
        ("/v8/Health", 503, "", 0, ""),
        (path, 200, "alice", 100, "cut"),
        ("/v8/Organizations", None, "", 0, ""),
    ]
    assert found[3][:2] == ("/_control", 200)
    assert [each.faults for each in logged[:3]] == [("status",), ("cut_at",), ("reset",)]


# The command


def test_simulate_prints_its_faults_and_a_line_per_request() -> None:
    arguments = ("--port", "0", "--scenario", str(EXAMPLE), "--size", "1KiB", "--rate", "1GiB")
    with listening("simulate", *arguments, "--fault", "status=418,path=ServiceInst") as (run, url):
        done = finished("-sS", f"{url}/v8/ServiceInstance?x", program=("curl",), check=True)
        assert done.stdout == ""
        assert run.stderr is not None
        assert re.fullmatch(
            r"\d\d:\d\d:\d\d GET /v8/ServiceInstance\?x 418 0 B \d\.\d\d s faults=status\n",
            run.stderr.readline(),
        )


def test_simulate_with_a_wrong_fault_exits_2() -> None:
    arguments = ["simulate", "--port", "0", "--fault", "outlok_missing", "--fault", "rate=x"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith(
        "--fault 'outlok_missing': 'outlok_missing' is not known\n    did"
    )
    assert "--fault 'rate=x': rate = \"x\" is not valid\n    write a size" in done.stderr


# The documentation


def names(heading: str) -> set[str]:
    """The names in the first cells of the tables below a heading of the page."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]*`) \|", section, re.MULTILINE)
    return set(re.findall(r"`([^`]+)`", " ".join(cells)))


def test_the_page_has_every_fault_setting_and_request() -> None:
    assert names("Faults") == set(TYPES)
    settings = {member.name for member in fields(SimulatorSettings)}
    assert names("Scenarios") == settings - {"users"}
    documented = re.findall(r"^(\w+ +/_control\S*)", control_endpoint.__doc__ or "", re.MULTILINE)
    assert names("Control") == {" ".join(words.split()) for words in documented}


def test_the_page_shows_the_example_and_faults_that_are_accepted() -> None:
    assert f"```toml\n{EXAMPLE.read_text(encoding='utf-8')}```\n" in PAGE
    shown = re.findall(r"--fault '([^']+)'", PAGE)
    assert len(shown) == 4
    scenario = of_faults(*shown)
    scenario.check()
    assert len(scenario.faults) == 4
