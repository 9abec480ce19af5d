"""CONTRACT §5 `fileName`: that of VB365, or one made of operation, time and format."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.core.job import FileFacts, Job, Phase, ResultState
from proxy.core.job_codec import decode, encode
from proxy.core.naming import result_name
from tests.support.export_requests import export_request

SESSION = "/v8/RestoreSessions/s/organization/"
REQUEST = export_request(target=SESSION + "mailboxes/m/exportToPst?x=/posts/export")
NAMELESS = FileFacts(media_type="application/octet-stream", file_name=None, size=None, etag=None)
#: Created at 2026-11-23T03:12:04Z, started and changed later.
JOB = Job(
    id="5f0c6d3e-0000-4000-8000-000000000001",
    version=3,
    owner="o",
    request=REQUEST,
    created=1_795_403_524.9,
    started=1_795_403_600.0,
    updated=1_795_403_700.0,
    phase=Phase.TRANSFERRING,
    file=NAMELESS,
    result=ResultState.PENDING,
)


def exported(path: str, format: str | None) -> Job:
    title = path.rstrip("/").rpartition("/")[2]
    return replace(JOB, request=replace(REQUEST, target=SESSION + path, title=title), format=format)


@pytest.mark.parametrize(
    ("path", "format", "name"),
    [
        ("exportToPst", "Pst", "exportToPst-20261123T031204Z.pst"),
        ("exportToPst", "Zip", "exportToPst-20261123T031204Z.zip"),
        ("mailboxes/m/items/i/save", "Msg", "save-20261123T031204Z.msg"),
        ("mailboxes/m/items/Save", "Zip", "Save-20261123T031204Z.zip"),
        ("OneDrives/o/Documents/d/save", "Other", "save-20261123T031204Z.bin"),
        ("teams/t/posts/export", "Other", "export-20261123T031204Z.html"),
        ("Teams/t/Posts/p%2F1/Export/", "Other", "Export-20261123T031204Z.html"),
        ("teams/t/posts/export", "Zip", "export-20261123T031204Z.zip"),
        ("teams/t/posts/save", "Other", "save-20261123T031204Z.bin"),
        ("teams/posts/files/save", "Other", "save-20261123T031204Z.bin"),
    ],
)
def test_without_a_name_of_vb365_the_format_decides_the_extension(
    path: str, format: str, name: str
) -> None:
    """§5: `{title}-{yyyymmddThhmmssZ}.{pst|zip|msg|bin}`, `html` for posts' export: something that
    opens.
    """
    assert result_name(exported(path, format)) == name


def test_the_name_of_vb365_is_kept() -> None:
    assert (
        result_name(replace(JOB, file=replace(NAMELESS, file_name="a.zip"), format="Pst"))
        == "a.zip"
    )


def test_no_name_is_invented_before_the_format_is_known() -> None:
    """§5: a name that was shown does not change, so it is not shown before it is certain."""
    assert result_name(JOB) is None
    assert result_name(replace(JOB, file=None, format="Pst")) is None


def test_the_name_does_not_change_with_the_job() -> None:
    """§5: it is the same while the job runs, after its end and after a restart."""
    running = replace(JOB, format="Pst")
    ended = replace(running, phase=Phase.COMPLETED, version=9, updated=2e9, ended=2e9, attempt=2)
    assert result_name(running) == result_name(ended) == result_name(decode(encode(ended)))


def test_a_report_has_a_safe_name_too() -> None:
    """§1 `exports.reports`: the last segment is chosen by the client."""
    request = replace(REQUEST, target='/v8/Reports/Generate":\xfc', title='Generate":\xfc')
    assert (
        result_name(replace(JOB, request=request, format="Other"))
        == "Generate__\xfc-20261123T031204Z.bin"
    )


def test_a_record_of_version_0_1_0_keeps_its_name() -> None:
    record = encode(replace(JOB, file=replace(NAMELESS, file_name="export-5f0c6d3e"), format="Pst"))
    assert result_name(decode(record)) == "export-5f0c6d3e"
