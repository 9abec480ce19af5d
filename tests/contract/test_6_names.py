"""CONTRACT §5, §6: the name of the file, its exact media type, and protection from content
sniffing.
"""

from __future__ import annotations

import asyncio
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from proxy import app
from tests.contract.conftest import MakePlay, Play
from tests.contract.test_5_words import script_for
from tests.support.commands import finished
from tests.support.wire import Message, Peer, raw, request_bytes

SESSION = "/v8/RestoreSessions/0f0c6d3e-0000-4000-8000-000000000001/organization"
PST, ZIP = b"!BDN" + bytes(60), b"PK\x03\x04" + bytes(60)
MSG, HTML = bytes.fromhex("D0CF11E0A1B11AE1") + bytes(60), b"<!DOCTYPE html>"


def stamp(document: dict[str, Any]) -> str:
    return datetime.fromisoformat(document["creationTime"]).strftime("%Y%m%dT%H%M%SZ")


def offered(file: Message) -> str:
    name = file["Content-Disposition"].rpartition("UTF-8''")[2]
    assert f'filename="{name}"' in file["Content-Disposition"]
    return name


@pytest.mark.parametrize(
    ("path", "content", "name"),
    [
        ("/mailboxes/m/exportToPst", PST, "exportToPst-{}.pst"),
        ("/mailboxes/m/exportToPst", ZIP, "exportToPst-{}.zip"),
        ("/mailboxes/m/items/i/save", MSG, "save-{}.msg"),
        ("/OneDrives/o/Documents/d/save", b"plain", "save-{}.bin"),
        ("/teams/t/posts/export", HTML, "export-{}.html"),
        ("/teams/t/posts/p/export", b"", "export-{}.html"),
    ],
)
@pytest.mark.parametrize("disposition", [[], ["Content-Disposition: attachment"]])
async def test_a_file_without_a_name_gets_one_with_a_suffix(
    make_play: MakePlay, path: str, content: bytes, name: str, disposition: list[str]
) -> None:
    """§5 `fileName`: from title, time and format; §6: Content-Disposition has the same."""
    play = await make_play(script_for(raw("200 OK", disposition, content)))
    status = await play.begun(SESSION + path)
    document = (await play.finished(status)).json()
    assert document["result"]["fileName"] == name.format(stamp(document))
    ranged = {"Range": "bytes=0-1"} if content else {}
    for method, given in (("GET", {}), ("HEAD", {}), ("GET", ranged)):
        file = await play.ask(method, status + "/result", play.fields | given)
        assert offered(file) == document["result"]["fileName"]
        assert file["X-Content-Type-Options"] == "nosniff"


async def test_the_name_never_changes_once_it_is_shown(
    make_play: MakePlay,
) -> None:
    """§5: it is known before the transfer ends and survives a restart."""

    async def script(request: Message) -> bytes:
        if request.method != "POST":
            return raw("200 OK", [], b"{}")
        if "Range" not in request:
            return raw("200 OK", ["Content-Length: 64", 'ETag: "a"'], PST[:40], length=False)
        start = int(request["Range"].removeprefix("bytes=").removesuffix("-"))
        return raw("206 Rest", [f"Content-Range: bytes {start}-63/64", 'ETag: "a"'], PST[start:])

    play = await make_play(script)
    status = await play.begun(SESSION + "/mailboxes/m/exportToPst")
    document = (
        await play.until(status, lambda document: bool((document["result"] or {}).get("format")))
    ).json()
    name = document["result"]["fileName"]
    assert document["status"] == "Running"
    assert name == f"exportToPst-{stamp(document)}.pst"
    await play.running.stop()
    play.running = await app.start(play.running.settings, play.clock)
    try:
        assert (await play.get(status)).json()["result"]["fileName"] == name
        over = (await play.finished(status)).json()
        assert (over["status"], over["attempt"], over["result"]["fileName"]) == ("Success", 1, name)
        assert offered(await play.get(status + "/result")) == name
    finally:
        await play.running.stop()


async def test_the_name_is_null_until_the_format_is_known(make_play: MakePlay) -> None:
    """§5: an unknown name is never invented; if VB365 sent one, it is shown at once."""
    head = "HTTP/1.1 200 OK\r\nContent-Length: 64\r\n"
    shown = []
    for disposition in ("", 'Content-Disposition: attachment; filename="a.pst"\r\n'):
        play = await make_play(
            script_for((head + disposition + "\r\n").encode()), data=disposition[:1] or "data"
        )
        status = await play.begun(SESSION + "/mailboxes/m/exportToPst")
        result = (await play.until(status, lambda document: document["result"] is not None)).json()[
            "result"
        ]
        shown.append((result["format"], result["fileName"]))
        assert (await play.ask("POST", status + "/cancel")).status == 202
    assert shown == [(None, None), (None, "a.pst")]


async def test_of_a_windows_path_the_last_part_is_the_name(make_play: MakePlay) -> None:
    r"""§5, §6: VB365 builds its file in C:\Windows\Temp, and may say so."""
    disposition = 'Content-Disposition: attachment; filename="C:\\Windows\\Temp\\x\\mailbox.pst"'
    play = await make_play(script_for(raw("200 OK", [disposition], PST)))
    status = await play.begun(SESSION + "/mailboxes/m/exportToPst")
    assert (await play.finished(status)).json()["result"]["fileName"] == "mailbox.pst"
    assert offered(await play.get(status + "/result")) == "mailbox.pst"


async def head_of(
    play: Play, method: str, target: str, fields: dict[str, str], version: str = "1.1"
) -> bytes:
    wire = await Peer.to(play.url)
    try:
        request = request_bytes(method, target, play.fields | fields, None, "h")
        await wire.send(request.replace(b"HTTP/1.1", b"HTTP/" + version.encode(), 1))
        return await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), 20)
    finally:
        wire.abort()


@pytest.mark.parametrize(
    "value",
    [b"Text/ODD;x=1 ;y", b"a/b; c=\xe9", b"a/b; c=\xc3\xa9", b"a/b; c=\x80\xff", b"a/b;\tc"],
)
async def test_content_type_is_that_of_vb365_byte_for_byte(
    make_play: MakePlay, value: bytes
) -> None:
    """§6: also where it is not UTF-8; in every response with the file."""
    play = await make_play(
        script_for(raw("200 OK", ["Content-Type: " + value.decode("latin-1")], PST))
    )
    status = await play.begun(SESSION + "/mailboxes/m/exportToPst")
    document = (await play.finished(status)).json()
    assert document["result"]["mediaType"] == value.decode("latin-1")
    line = b"\r\nContent-Type: " + value + b"\r\n"
    for method, fields, code in (
        ("GET", {}, b"200"),
        ("HEAD", {}, b"200"),
        ("GET", {"Range": "bytes=1-2"}, b"206"),
    ):
        for version in ("1.1", "1.0"):
            head = await head_of(play, method, status + "/result", fields, version)
            assert head.startswith(b"HTTP/1.1 " + code)
            assert line in head
            assert head.count(b"\r\nContent-Length: ") == 1
    parts = await play.get(status + "/result", Range="bytes=0-0,5-5")
    assert parts.body.count(line) == 2
    waited = await play.kickoff(
        SESSION + "/mailboxes/m/exportToPst", Prefer="respond-async, wait=10"
    )
    assert (waited.status, waited["Content-Type"].encode("latin-1"), waited.body) == (
        200,
        value,
        PST,
    )
    assert waited["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("fields", [[], ["Content-Type: "]])
async def test_a_file_without_a_media_type_is_octet_stream(
    make_play: MakePlay, fields: list[str]
) -> None:
    """§6: VB365 declares every export so."""
    play = await make_play(script_for(raw("200 OK", fields, PST)))
    status = await play.begun(SESSION + "/mailboxes/m/exportToPst")
    assert (await play.finished(status)).json()["result"]["mediaType"] == "application/octet-stream"
    assert (await play.get(status + "/result"))["Content-Type"] == "application/octet-stream"


async def test_a_304_also_forbids_content_sniffing(make_play: MakePlay) -> None:
    """§6: the fields of a 304 update those of the cached copy."""
    play = await make_play(script_for(raw("200 OK", [], HTML)))
    status = await play.begun(SESSION + "/teams/t/posts/export")
    await play.finished(status)
    known = (await play.get(status + "/result"))["ETag"]
    same = await play.get(status + "/result", If_None_Match=known)
    assert (same.status, same["X-Content-Type-Options"]) == (304, "nosniff")


async def test_sha256sum_accepts_the_digest(make_play: MakePlay, tmp_path: Path) -> None:
    """§5 `result.sha256`: in hexadecimal."""
    play = await make_play(script_for(raw("200 OK", [], PST)))
    status = await play.begun(SESSION + "/mailboxes/m/exportToPst")
    digest = (await play.finished(status)).json()["result"]["sha256"]
    assert re.fullmatch("[0-9a-f]{64}", digest)
    (tmp_path / "mailbox.pst").write_bytes((await play.get(status + "/result")).body)
    digests = f"{digest}  mailbox.pst\n"
    sha256sum = ("sha256sum", "--check", "-")
    done = await asyncio.to_thread(finished, program=sha256sum, cwd=tmp_path, input=digests)
    assert (done.returncode, done.stdout) == (0, "mailbox.pst: OK\n")
