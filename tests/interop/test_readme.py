"""The commands in the README run as they would be pasted, and print what it shows."""

from __future__ import annotations

import asyncio
import base64
import re
import shutil
from pathlib import Path

import pytest

from proxy.cli.trial import DEMO_PORT
from proxy.simulator import Kind, Simulator, SimulatorSettings, expected_sha256
from tests.support.local_proxy import local_proxy

README = Path(__file__).parents[2] / "README.md"
SIZE = 64 << 20  # that of the demo and of the transcript
#: Where `demo` listens.
URL_LINE = f"URL=http://127.0.0.1:{DEMO_PORT}\n"


def transcript() -> list[tuple[str, str]]:
    """Return each block of commands from `URL=` to the digest, with the output that follows it."""
    section = README.read_text(encoding="utf-8").partition("\n## Try it\n")[2]
    section = section.partition("\n## ")[0]
    blocks = re.findall(r"^```(sh|text)\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    first = next(number for number, (_, text) in enumerate(blocks) if text.startswith("URL="))
    steps: list[tuple[str, str]] = []
    for kind, text in blocks[
        first:-1
    ]:  # the last block is the command's, which asks for a password
        if kind == "sh":
            steps.append((text, ""))
        else:
            steps[-1] = (steps[-1][0], text)
    return steps


def masked(text: str) -> str:
    """Replace what differs between runs: ids, dates and numbers."""
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text.replace("\r", ""))
    text = re.sub(r"(?m)^(X-Request-Id): [0-9a-f]{32}$", r"\1: ID", text)
    return re.sub(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d+ \w{3}|\d+(\.\d+)?", "N", text).strip()


async def shown(commands: list[str], place: Path) -> list[str]:
    """Run the blocks in one shell and return the stdout of each; all must succeed."""
    ended = "---8<---"
    script = "".join(f"{command}echo '{ended}'\n" for command in commands)
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
            assert steps[0][0].startswith(URL_LINE)
            first = steps[0][0].replace(URL_LINE, f"URL={proxy.url}\n")
            written = await shown([first, *(commands for commands, _ in steps[1:])], tmp_path)
    finally:
        await simulator.stop()
    assert [masked(text) for text in written] == [masked(text) for _, text in steps]
    assert len(steps) == 5
    assert any(text.startswith("HTTP/1.1 202 Accepted") for text in written)
    digest = base64.b64encode(bytes.fromhex(expected_sha256(SIZE, Kind.PST))).decode()
    assert written[-1] == f"{digest}\n"
