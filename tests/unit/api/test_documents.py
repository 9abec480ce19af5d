"""Job documents are rendered once for each version of a job (CONTRACT §5)."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest

from proxy.api import documents
from proxy.api.documents import Documents
from proxy.core.events import Claimed, Failed
from proxy.core.job import ErrorCode, Job, JobError
from proxy.core.job_document import body
from proxy.core.paths import Links, job_links
from proxy.core.transitions import advance
from tests.support.fakes import new_job


def links(job: Job, base: str = "http://proxy") -> Links:
    return job_links(base, "v8", "_async", job.id)


def test_the_document_of_an_unchanged_job_is_rendered_once() -> None:
    """Also if its record was read again."""
    shown, job = Documents(), new_job()
    with patch.object(documents, "body", wraps=body) as render:
        for each in (job, job, replace(job)):
            assert shown.body(each, links(job)) == body(job, links(job))
    assert render.call_count == 1


def test_a_changed_job_has_another_document() -> None:
    shown, job = Documents(), new_job()
    for each in (job, advance(job, Claimed("h"), 5.0), replace(job, joined=3), job):
        assert shown.body(each, links(job)) == body(each, links(job))


def test_links_for_another_client_are_not_used_again() -> None:
    """§13."""
    shown, job = Documents(), new_job()
    for base in ("http://proxy", "https://balancer/prefix", "http://proxy"):
        assert shown.body(job, links(job, base)) == body(job, links(job, base))


@pytest.mark.parametrize("length", [1, 1 << 16])
def test_memory_is_bounded(length: int) -> None:
    error = JobError(code=ErrorCode.INTERNAL, message="x" * length, retryable=False)
    shown, job = Documents(), advance(new_job(), Failed(error), 5.0)
    for number in range(600):
        each = replace(job, id=str(number))
        shown.body(each, links(each))
    kept = [content for _, _, content in shown._rendered.values()]
    assert len(kept) == (512 if length == 1 else 0)
