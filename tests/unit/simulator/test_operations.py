"""docs/upstream.md §1: the 29 exports of v6, v7 and v8, the reports, and parent resources."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path

import pytest

from proxy.simulator import Kind, make
from proxy.simulator.operations import OPERATIONS, REPORTS, find, find_report
from tests.unit.simulator.conftest import Client, Connect, Start

FACTS = json.loads((Path(__file__).parents[2] / "data" / "operations.json").read_text())
MAGIC = {
    Kind.PST: b"!BDN",
    Kind.MSG: bytes.fromhex("D0CF11E0A1B11AE1"),
    Kind.HTML: b"<!DOCTYPE html>",
    Kind.ZIP: b"PK\x03\x04",
    Kind.MSG_ZIP: b"PK\x03\x04",
    Kind.RAW: make(Kind.RAW, 64).read(0, 8),
}


def shape(path: str) -> str:
    return re.sub(r"\{\w+\}", "{}", path)


@pytest.mark.parametrize("version", [6, 7, 8])
def test_the_table_has_exactly_the_published_29_exports(version: int) -> None:
    published = {
        shape(row["path"]) for row in FACTS if row["version"] == f"v{version}" and row["export"]
    }
    ours = {
        shape(f"/v{version}/RestoreSessions/{{}}/{operation.template}")
        for operation in OPERATIONS
        if version in operation.versions
    }
    assert ours == published
    assert len(ours) == 29


@pytest.mark.parametrize("version", [6, 7, 8])
def test_the_reports_are_the_published_ones(version: int) -> None:
    published = {
        row["path"].rpartition("/")[2]
        for row in FACTS
        if row["path"].startswith(f"/v{version}/Reports/")
    }
    assert {
        f"Generate{name}" for name in REPORTS if find_report(version, f"generate{name}")
    } == published


@pytest.mark.parametrize("version", [6, 7, 8])
async def test_each_export_returns_its_kind_of_file_and_has_a_parent_resource(
    alice: Client, version: int
) -> None:
    session = alice.sim.open_session()
    for path in alice.sim.export_paths(session, version):
        reply = await alice.post(path)
        operation = find(version, path.split("/")[4:])
        assert operation is not None
        assert (reply.status, reply.headers["Content-Type"]) == (200, "application/octet-stream")
        assert reply.body.startswith(MAGIC[operation.kind]), path
        assert reply.body == alice.sim.content(path).read()
        ending = operation.kind.rpartition(".")[2]
        assert f"filename={operation.title}.{ending};" in reply.headers["Content-Disposition"]
        parent = await alice.get(path.rpartition("/")[0])
        assert (parent.status, "_links" in parent.json) == (200, True), path


async def test_paths_match_in_any_case_with_repeated_and_trailing_slashes(alice: Client) -> None:
    session = alice.sim.open_session()
    path = alice.sim.export_paths(session)[1]
    odd = (
        "//"
        + path.replace("RestoreSessions", "restoreSESSIONS").replace("exportToPst", "EXPORTTOPST")[
            1:
        ]
        + "/"
    )
    reply = await alice.post(odd)
    assert (reply.status, reply.body[:4]) == (200, b"!BDN")
    assert alice.sim.requests[-1].target == odd


async def test_ids_with_reserved_characters_stay_one_segment(alice: Client) -> None:
    folder = next(
        path for path in alice.sim.export_paths(alice.sim.open_session()) if "/folders/" in path
    )
    assert "%2B" in folder or "%2F" in folder
    assert (await alice.post(folder)).status == 200
    assert (await alice.post(folder.replace("%2F", "/").replace("%2B", "/"))).status == 404


async def test_the_path_of_the_teams_file_save_changed_in_v8(alice: Client) -> None:
    session = alice.sim.open_session()
    old = next(
        path
        for path in alice.sim.export_paths(session, 7)
        if "/files/" in path and "files/save" not in path
    )
    new = next(path for path in alice.sim.export_paths(session, 8) if "/channels/" in path)
    assert [(await alice.post(path)).status for path in (old, new)] == [200, 200]
    assert (await alice.post(old.replace("/v7/", "/v8/"))).status == 404
    assert (await alice.post(new.replace("/v8/", "/v7/"))).status == 404


async def test_a_pst_above_the_size_limit_is_a_zip_of_psts(alice: Client) -> None:
    path = alice.sim.export_paths(alice.sim.open_session())[0]
    # invalid JSON, as real clients send it
    body = b'{"enablePstSizeLimit": "True", "pstSizeLimitBytes": 300000,}'
    with zipfile.ZipFile(io.BytesIO((await alice.post(path, data=body)).body)) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 4  # 1 MiB in parts of 300,000 bytes
        assert all(archive.read(name).startswith(b"!BDN") for name in archive.namelist())


async def test_a_single_document_is_returned_raw_or_as_zip_on_request(alice: Client) -> None:
    path = next(
        p
        for p in alice.sim.export_paths(alice.sim.open_session())
        if re.search(r"/Documents/[^/]+/save$", p)
    )
    assert (await alice.post(path, json={"asZip": False})).body.startswith(MAGIC[Kind.RAW])
    assert (await alice.post(path, json={"asZip": True})).body.startswith(b"PK\x03\x04")


async def test_a_report_needs_no_session(alice: Client) -> None:
    assert (await alice.post("/v8/Reports/GenerateTeamsProtection", json={})).body.startswith(
        b"%PDF"
    )
    assert (await alice.post("/v7/Reports/GenerateTeamsProtection", json={})).status == 404


async def test_an_export_of_an_unknown_object_is_404(alice: Client) -> None:
    paths = alice.sim.export_paths(alice.sim.open_session())
    unknown = next(path for path in paths if "/mailboxes/" in path).replace(
        "mailboxes/", "mailboxes/x"
    )
    assert (
        (await alice.post(unknown)).status
        == (await alice.get(unknown.rpartition("/")[0])).status
        == 404
    )
    assert alice.sim.generations.total() == 0


async def test_without_strict_every_id_exists(start: Start, connect: Connect) -> None:
    alice = await connect(await start(strict=False))
    base = f"/v8/RestoreSessions/{alice.sim.open_session().id}/organization/mailboxes/anything"
    assert (await alice.get(base)).json["id"] == "anything"
    assert (await alice.post(f"{base}/items/a%2Fb/save")).status == 200
