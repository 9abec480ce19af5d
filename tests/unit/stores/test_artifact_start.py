"""A start looks at thousands of files: what it does for each of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from unittest.mock import Mock

import pytest

from proxy.stores.file_artifacts import files
from proxy.stores.file_artifacts.files import Entry, Places
from proxy.stores.file_artifacts.store import FileArtifacts
from tests.support.artifacts import new_id
from tests.unit.stores.test_artifacts import CONTENT, stored


async def test_a_survey_has_the_sizes_that_count_as_used_space(tmp_path: Path) -> None:
    """The system is not asked for the size of a sidecar."""
    job, artifacts = new_id(), await FileArtifacts.at(tmp_path)
    await stored(artifacts, job)
    found = await asyncio.to_thread(files.survey, tmp_path / "artifacts")
    assert found == {Entry(job, 0, "file"): len(CONTENT), Entry(job, 0, "json"): 0}
    await artifacts.close()


async def test_a_start_reads_the_directories_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reconciler asks for the ids: the used space is counted then."""
    job, before = new_id(), await FileArtifacts.at(tmp_path)
    await stored(before, job)
    await before.close()
    survey = Mock(wraps=files.survey)
    monkeypatch.setattr(files, "survey", survey)
    artifacts = await FileArtifacts.at(tmp_path)
    assert await artifacts.ids() == {job}
    assert await artifacts.used() == len(CONTENT)
    assert survey.call_count == 1
    await artifacts.close()


async def test_a_committed_file_is_found_without_path_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take more time than the disk."""
    job, artifacts = new_id(), await FileArtifacts.at(tmp_path)
    written = await stored(artifacts, job)
    directory = tmp_path / "artifacts" / job[:2]
    with monkeypatch.context() as patch:
        patch.setattr(files, "Path", None)
        patch.setattr(Places, "_path", None)
        found = await asyncio.to_thread(files.committed, Places(directory, job))
    assert found is not None
    assert found[0] == written
    await artifacts.close()
