"""The client's download: it is resumed, verified and named (CONTRACT §6)."""

from __future__ import annotations

import errno
import os
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp import web

from proxy.client import files, locking
from proxy.client.errors import CommandError
from proxy.client.files import PartialFile, Target, safe_name
from proxy.client.job import Job
from tests.support.windows import refusing
from tests.unit.client.fake_proxy import EXPORT, FILE, ID, STORY, SUCCESS, FakeProxy, document


@pytest.fixture
def tracked(fake: FakeProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the fake know how many bytes the client has stored."""
    write, fake.kept = PartialFile.write, 0

    def write_and_tell(file: PartialFile, chunk: bytes) -> None:
        write(file, chunk)
        fake.kept = file.offset

    monkeypatch.setattr(PartialFile, "write", write_and_tell)


@pytest.mark.usefixtures("tracked")
def test_a_broken_download_continues_where_it_broke(run: Any, fake: FakeProxy, here: Path) -> None:
    """§6: Range with If-Range; the digest is over the whole file."""
    fake.cuts = [300_000, 0, 400_000]
    assert run("export", "--path", EXPORT).exit_code == 0
    assert (here / "Jane Roe.pst").read_bytes() == FILE
    ranges = [(fields.get("Range"), fields.get("If-Range")) for fields, _ in fake.calls("/result")]
    whole, *rest = ranges
    assert whole == (None, None)
    assert rest == [(f"bytes={offset}-", '"e1"') for offset in (300_000, 300_000, 700_000)]


@pytest.mark.usefixtures("tracked")
@pytest.mark.parametrize("etag", ['""', 'W/"e1"'])
def test_an_etag_that_proves_nothing_is_no_condition_of_the_rest(
    run: Any, fake: FakeProxy, here: Path, etag: str
) -> None:
    """§6: an If-Range with it would get the whole file again. The digest proves that it fits."""
    fake.fields, fake.cuts = {"ETag": etag}, [300_000]
    assert run("export", "--path", EXPORT).exit_code == 0
    assert (here / "Jane Roe.pst").read_bytes() == FILE
    fields, _ = fake.calls("/result")[-1]
    assert (fields["Range"], fields.get("If-Range")) == ("bytes=300000-", None)


def test_a_download_without_ranges_starts_over_a_bounded_number_of_times(
    run: Any, fake: FakeProxy, here: Path
) -> None:
    """A 200 to a Range request is the whole file and replaces what was there; eight breaks at one
    offset are the limit.
    """
    fake.ranges, fake.cuts = False, [300_000, 300_000]
    assert run("export", "--path", EXPORT).exit_code == 0
    assert (here / "Jane Roe.pst").read_bytes() == FILE
    fake.story, fake.cuts = list(STORY), [300_000] * 100
    result = run("export", "--path", EXPORT, "-o", "again.pst")
    assert result.exit_code == 1
    assert "giving up after 8 tries" in result.stderr
    assert not (here / "again.pst").exists()


def test_a_wrong_file_is_fetched_once_more_and_never_kept(
    run: Any, fake: FakeProxy, here: Path
) -> None:
    fake.file = b"!BDX" + FILE[4:]
    result = run("export", "--path", EXPORT)
    assert result.exit_code == 1
    assert "does not have the expected SHA-256" in result.stderr
    assert len(fake.calls("/result")) == 2
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_in_place_of_the_partial_file_is_not_followed(
    run: Any, fake: FakeProxy, here: Path, tmp_path_factory: pytest.TempPathFactory, exists: bool
) -> None:
    """In a directory that others can write, it could name any file of the user."""
    victim = tmp_path_factory.mktemp("elsewhere") / "victim"
    if exists:
        victim.write_bytes(b"precious")
    part = here / f"Jane Roe.pst.{ID[:8]}.part"
    part.symlink_to(victim)
    result = run("export", "--path", EXPORT)
    assert result.exit_code == 1
    assert "symbolic link" in result.stderr
    assert victim.read_bytes() == b"precious" if exists else not victim.exists()
    assert fake.calls("/result") == []
    part.unlink()
    assert run("jobs", "fetch", ID).exit_code == 0
    assert (here / "Jane Roe.pst").read_bytes() == FILE


@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_in_place_of_the_file_is_replaced(
    run: Any, here: Path, tmp_path_factory: pytest.TempPathFactory, exists: bool
) -> None:
    """Its target stays as it is."""
    victim = tmp_path_factory.mktemp("elsewhere") / "victim"
    if exists:
        victim.write_bytes(b"precious")
    (here / "mail.pst").symlink_to(victim)
    assert run("export", "--path", EXPORT, "-o", "mail.pst").exit_code == 0
    assert (here / "mail.pst").read_bytes() == FILE
    assert not (here / "mail.pst").is_symlink()
    assert victim.read_bytes() == b"precious" if exists else not victim.exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"Content-Encoding": "gzip"}, "compresses the download"),
        ({"Transfer-Encoding": "chunked"}, "the length of the file"),
    ],
)
def test_a_download_modified_on_the_way_is_rejected(
    run: Any, fake: FakeProxy, here: Path, fields: dict[str, str], message: str
) -> None:
    fake.fields = fields
    if "Transfer-Encoding" in fields:
        fake.download = chunked  # type: ignore[method-assign]
    result = run("export", "--path", EXPORT)
    assert result.exit_code == 1
    assert message in result.stderr
    assert not (here / "Jane Roe.pst").exists()


@pytest.mark.parametrize("value", ["Identity", "identity, identity", ","])
def test_content_encoding_identity_is_accepted(
    run: Any, fake: FakeProxy, here: Path, value: str
) -> None:
    """RFC 9110 §8.4.1: servers and balancers send it although it has no meaning."""
    fake.fields = {"Content-Encoding": value}
    assert run("export", "--path", EXPORT).exit_code == 0
    assert (here / "Jane Roe.pst").read_bytes() == FILE


async def chunked(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    return response


def test_a_later_fetch_continues_an_earlier_one(run: Any, fake: FakeProxy, here: Path) -> None:
    """The digest in the document proves the whole file; bytes that are not the job's are
    dropped.
    """
    fake.story = [SUCCESS]
    part = here / f"Jane Roe.pst.{ID[:8]}.part"
    part.write_bytes(FILE[:1000])
    assert run("jobs", "fetch", ID).exit_code == 0
    assert fake.calls("/result")[0][0]["Range"] == "bytes=1000-"
    part.write_bytes(b"x" * (len(FILE) + 1))
    result = run("jobs", "fetch", ID)
    assert result.stdout == "Jane Roe-2.pst\n"
    assert (here / "Jane Roe-2.pst").read_bytes() == FILE


def test_a_complete_file_that_could_not_be_renamed_is_not_downloaded_again(
    run: Any, fake: FakeProxy, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows while Outlook has the file open: its digest proves that it is complete."""
    fake.story = [SUCCESS]
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", Mock(side_effect=PermissionError(13, "in use")))
        assert "in use" in run("jobs", "fetch", ID).stderr
    (part,) = here.iterdir()
    assert part.read_bytes() == FILE
    result = run("jobs", "fetch", ID)
    assert (result.exit_code, "SHA-256 verified" in result.stderr) == (0, True)
    assert len(fake.calls("/result")) == 1
    assert (here / "Jane Roe.pst").read_bytes() == FILE


def test_a_file_that_another_command_downloads_is_left_to_it(
    run: Any, fake: FakeProxy, here: Path
) -> None:
    """Both would append to it, and each would verify what it has received itself."""
    fake.story = [SUCCESS]
    part = here / f"Jane Roe.pst.{ID[:8]}.part"
    with closing(PartialFile(part)) as other:
        other.write(FILE[:1000])
        result = run("jobs", "fetch", ID)
        assert result.exit_code == 1
        assert f"{part.name} is in use: another command downloads this file" in result.stderr
        assert (part.read_bytes(), fake.calls("/result")) == (FILE[:1000], [])
    assert run("jobs", "fetch", ID).exit_code == 0
    assert (here / "Jane Roe.pst").read_bytes() == FILE


def test_a_file_that_another_command_has_just_completed_is_not_changed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is renamed after this command has opened it and before it has locked it."""
    part, named, locked = here / "a.part", here / "a.pst", locking._lock
    part.write_bytes(FILE)

    def rename_and_lock(descriptor: int) -> None:
        part.rename(named)
        locked(descriptor)

    monkeypatch.setattr(locking, "_lock", rename_and_lock)
    with pytest.raises(CommandError, match="in use"):
        PartialFile(part)
    assert list(here.iterdir()) == [named]


def test_the_file_is_locked_until_it_has_its_name(
    run: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another command that opened it in between would change the verified file."""
    accept = Target.accept

    def accept_while_another_looks(target: Target) -> Path:
        with pytest.raises(CommandError, match="in use"):
            PartialFile(target.partial)
        return accept(target)

    monkeypatch.setattr(Target, "accept", accept_while_another_looks)
    assert run("export", "--path", EXPORT).exit_code == 0
    assert (here / "Jane Roe.pst").read_bytes() == FILE


@pytest.mark.parametrize("damaged", [False, True])
def test_on_windows_the_file_is_closed_before_it_is_renamed_or_removed(
    run: Any, fake: FakeProxy, here: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    for name in ("unlink", "rename", "replace"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    monkeypatch.setattr(files, "sys", SimpleNamespace(platform="win32"))
    fake.file = b"!BDX" + FILE[4:] if damaged else FILE
    assert run("export", "--path", EXPORT).exit_code == damaged
    assert [path.name for path in here.iterdir()] == ([] if damaged else ["Jane Roe.pst"])


def test_a_file_system_without_locks_does_not_prevent_a_download(
    run: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "_lock", Mock(side_effect=OSError(errno.ENOLCK, "no locks")))
    assert run("export", "--path", EXPORT).exit_code == 0
    assert (here / "Jane Roe.pst").read_bytes() == FILE


@pytest.mark.usefixtures("tracked")
def test_bytes_that_another_program_has_written_are_never_verified(
    run: Any, fake: FakeProxy, here: Path
) -> None:
    """As a second command on a file system without locks would: the file is downloaded again."""
    fake.cuts, part = [300_000], here / f"Jane Roe.pst.{ID[:8]}.part"

    def append(called: str) -> None:
        if called.endswith("/result") and part.exists() and part.stat().st_size == 300_000:
            part.write_bytes(FILE[:300_001])

    fake.before = append
    result = run("export", "--path", EXPORT)
    assert result.exit_code == 0
    assert "was changed by another program" in result.stderr
    assert (here / "Jane Roe.pst").read_bytes() == FILE


def test_a_write_that_times_out_is_an_error_of_the_disk(
    run: Any, fake: FakeProxy, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS. As an error of the connection, it was retried after half of a chunk."""
    write = PartialFile.write
    failing, offsets = iter([False, True]), []

    def write_half(descriptor: int, chunk: bytes) -> int:
        os.write(descriptor, chunk[: len(chunk) // 2])
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

    def write_and_fail(file: PartialFile, chunk: bytes) -> None:
        if next(failing, False):
            inner = file._file
            file._file = Mock(wraps=inner)
            file._file.write = lambda part: write_half(inner.fileno(), part)
            offsets.append(file.offset)
        write(file, chunk)

    monkeypatch.setattr(PartialFile, "write", write_and_fail)
    result = run("export", "--path", EXPORT)
    part = here / f"Jane Roe.pst.{ID[:8]}.part"
    assert result.exit_code == 1
    assert f"{part.name} cannot be written: Connection timed out" in result.stderr
    assert len(fake.calls("/result")) == 1
    assert part.read_bytes() == FILE[: offsets[0]] != b""
    assert run("jobs", "fetch", ID).exit_code == 0
    assert (here / "Jane Roe.pst").read_bytes() == FILE


def test_output_names_a_file_or_a_directory(run: Any, fake: FakeProxy, here: Path) -> None:
    """A named file is replaced; in a directory no file is ever overwritten; a missing suffix is
    added.
    """
    fake.story = [SUCCESS]
    (here / "named.dat").write_bytes(b"old")
    assert run("jobs", "fetch", ID, "-o", "named.dat").stdout == "named.dat\n"
    assert (here / "named.dat").read_bytes() == FILE
    assert run("jobs", "fetch", ID, "-o", "deep/er/").stdout == f"{Path('deep/er/Jane Roe.pst')}\n"
    assert (
        run("jobs", "fetch", ID, "-o", "deep/er/").stdout == f"{Path('deep/er/Jane Roe-2.pst')}\n"
    )
    assert run("jobs", "fetch", ID, "-o", "bare").stdout == "bare.pst\n"


@pytest.mark.parametrize(
    ("given", "kind", "named"),
    [
        ("a.pst", "Zip", "a.zip"),
        ("report.docx", "Zip", "report.docx"),
        ("posts.html", "Other", "posts.html"),
        ("../../etc/passwd", "Other", "passwd"),
        ("..\\..\\a:b?.msg", "Msg", "a_b_.msg"),
        ("CON.pst", "Pst", "_CON.pst"),
        (".\x00.", "Zip", "_.zip"),
        ("a\x9b2J\u202e\u200bb.pst", "Pst", "a_2J__b.pst"),
        ("...", "Msg", "exportToPst-5f0c6d3e.msg"),
        (None, None, "exportToPst-5f0c6d3e"),
        ("日" * 200 + ".zip", "Zip", "日" * 65 + ".zip"),
    ],
)
def test_a_servers_file_name_is_made_safe(given: str | None, kind: str | None, named: str) -> None:
    job = document("Success", "Completed")
    job["result"] |= {"fileName": given, "format": kind}
    assert safe_name(Job(job)) == named


@pytest.mark.parametrize(
    ("title", "named"),
    [
        ("../../.ssh/authorized_keys", "authorized_keys-5f0c6d3e"),
        ("/etc/cron.d/job", "job-5f0c6d3e"),
        ("..\\..\\job", "job-5f0c6d3e"),
        ("a\x1b]0;b\x07", "a_]0;b_-5f0c6d3e"),
    ],
)
def test_a_servers_title_does_not_choose_the_directory(title: str, named: str) -> None:
    """A server that sends no file name must not write elsewhere than where the user wants it."""
    job = document("Success", "Completed") | {"title": title}
    job["result"] |= {"fileName": None, "format": "Other"}
    assert safe_name(Job(job)) == named
    assert Target(None, Job(job)).partial.parent == Path()


@pytest.mark.parametrize("id", ["../../x", "", "a" * 65, "a/b", "a\\b", "a\x1bb"])
def test_an_id_that_is_no_name_is_no_job(id: str) -> None:
    with pytest.raises(CommandError, match="not a job document"):
        Job(document("Success", "Completed") | {"id": id})


@pytest.mark.parametrize("value", [5, "x", [1], {"a": 1}, True, float("nan"), -1])
def test_members_of_another_type_count_as_absent(value: Any) -> None:
    job = document("Running", "Transferring")
    numbers = dict.fromkeys(
        ("bytesReceived", "bytesTotal", "bytesPerSecond", "secondsRemaining"),
        None if value == 5 else value,
    )
    job |= {"progress": numbers, "error": value}
    job["result"] = {
        "fileName": None if value == "x" else value,
        "format": None if value == "x" else value,
        "digest": value,
        "size": None if value == 5 else value,
    }
    read = Job(job)
    assert (read.received, read.size, read.rate, read.seconds_left) == (0, None, None, None)
    assert (read.file_name, read.format, read.digest) == (None, None, None)
    assert read.outcome
