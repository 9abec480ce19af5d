"""The commands in the README's transcript run unchanged and print what it shows."""

from __future__ import annotations

import asyncio
import base64
import re
import shutil
from pathlib import Path

import pytest

from proxy.simulator import Kind, Simulator, SimulatorSettings, expected_sha256
from tests.support.local_proxy import local_proxy

README = Path(__file__).parents[2] / "README.md"
SIZE = 64 << 20  # that of the demo and of the transcript
URL_LINE = re.compile(r"URL=http://[0-9.:]+")


def transcript() -> list[tuple[str, str]]:
    """Return each command of the README's console blocks with its output."""
    blocks = re.findall(
        r"^```console\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    steps: list[tuple[str, str]] = []
    for line in "".join(blocks).splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], ""))
        elif steps[-1][0].endswith("\\"):
            steps[-1] = (f"{steps[-1][0]}\n{line}", "")
        else:
            steps[-1] = (steps[-1][0], f"{steps[-1][1]}{line}\n")
    return steps


def masked(text: str) -> str:
    """Replace what differs between runs: ids, dates and numbers."""
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text.replace("\r", ""))
    text = re.sub(r"(?m)^(X-Request-Id): [0-9a-f]{32}$", r"\1: ID", text)
    return re.sub(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d+ \w{3}|\d+(\.\d+)?", "N", text).strip()


async def shown(commands: list[str], place: Path) -> list[str]:
    """Run the commands in one shell and return the stdout of each; all must succeed."""
    ended = "---8<---"
    script = "".join(f"{command}\necho '{ended}'\n" for command in commands)
    shell = await asyncio.create_subprocess_exec(
        *("bash", "-e", "-u", "-o", "pipefail", "-c", script),
        cwd=place,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(shell.communicate(), 90)
    except TimeoutError:
        shell.kill()
        await shell.communicate()
        raise
    assert shell.returncode == 0, (out.decode(), err.decode())
    return [part.removeprefix("\n") for part in out.decode().split(f"{ended}\n")[:-1]]


@pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("jq")), reason="curl or jq is not installed"
)
async def test_the_transcript_is_true(tmp_path: Path) -> None:
    """Except for ids, numbers and dates, the output is the same."""
    simulator = Simulator(SimulatorSettings(size=SIZE, generate=4.0, rate=10 << 20))
    await simulator.start()
    try:
        async with local_proxy(simulator.url, tmp_path / "data", EXPORTS__GRACE="250ms") as proxy:
            steps = transcript()
            assert URL_LINE.fullmatch(steps[0][0])
            written = await shown(
                [f"URL={proxy.url}", *(command for command, _ in steps[1:])], tmp_path
            )
    finally:
        await simulator.stop()
    assert [masked(text) for text in written] == [masked(text) for _, text in steps]
    assert any(text.startswith("HTTP/1.1 202 Accepted") for text in written)
    digest = base64.b64encode(bytes.fromhex(expected_sha256(SIZE, Kind.PST))).decode()
    assert written[-1] == f"{digest}\n"
