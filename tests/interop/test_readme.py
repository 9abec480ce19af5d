"""The commands in the README run as they would be pasted, and print what it shows."""

from __future__ import annotations

import asyncio
import base64
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.cli.trial import DEMO_PORT
from proxy.simulator import Kind, Simulator, SimulatorSettings, expected_sha256
from tests.support.local_proxy import local_proxy
from tests.support.programs import ended

README = Path(__file__).parents[2] / "README.md"
SIZE = 64 << 20  # that of the demo and of the transcript
#: The block that polls once.
POLL = 2
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
    """Run the blocks in one shell and return the stdout of each; all must succeed. After each block
    there is a file with its number in `place`.
    """
    mark = "---8<---"
    blocks = (f"{text}echo '{mark}'\ntouch {number}\n" for number, text in enumerate(commands))
    script = "".join(blocks)
    done = await ended("bash", "-e", "-u", "-o", "pipefail", "-c", script, cwd=place)
    return [part.removeprefix("\n") for part in done.stdout.split(f"{mark}\n")[:-1]]


async def _release(simulator: Simulator, polled: Callable[[], bool]) -> None:
    """Let VB365 generate the file until the first poll has its response."""
    while not polled():  # noqa: ASYNC110  # the shell makes a file
        await asyncio.sleep(0.01)
    simulator.release()


@pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("jq")),
    reason="curl or jq is not installed: the transcript of the README is not tested",
)
async def test_the_transcript_is_true(tmp_path: Path) -> None:
    """Except for ids, numbers and dates, the output is the same."""
    simulator = Simulator(SimulatorSettings(size=SIZE))
    await simulator.start()
    simulator.fault(path="exportToPst", method="POST", hold=True)
    releasing = asyncio.create_task(_release(simulator, (tmp_path / str(POLL)).exists))
    try:
        async with local_proxy(simulator.url, tmp_path / "data", EXPORTS__GRACE="250ms") as proxy:
            steps = transcript()
            assert steps[0][0].startswith(URL_LINE)
            assert "phase" in steps[POLL][0]
            first = steps[0][0].replace(URL_LINE, f"URL={proxy.url}\n")
            written = await shown([first, *(commands for commands, _ in steps[1:])], tmp_path)
    finally:
        releasing.cancel()
        await simulator.stop()
    assert [masked(text) for text in written] == [masked(text) for _, text in steps]
    assert len(steps) == 5
    assert any(text.startswith("HTTP/1.1 202 Accepted") for text in written)
    digest = base64.b64encode(bytes.fromhex(expected_sha256(SIZE, Kind.PST))).decode()
    assert written[-1] == f"{digest}\n"
