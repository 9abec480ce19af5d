"""Jobs, events and strategies for the tests of transitions and of stored records."""

from __future__ import annotations

from hypothesis import strategies as st

from proxy.core.events import (
    Answered,
    Assigned,
    Cancelled,
    CancelRequested,
    Claimed,
    Delivered,
    Detached,
    Event,
    Expired,
    Extended,
    Failed,
    Finalizing,
    Forgotten,
    Identified,
    Interrupted,
    Joined,
    Received,
    Released,
    Restarted,
    Resumed,
    Shown,
    Succeeded,
)
from proxy.core.job import (
    ErrorCode,
    FileFacts,
    Job,
    JobError,
    Phase,
)
from proxy.core.transitions import IllegalTransition, advance
from tests.support.export_requests import export_request

REQUEST = export_request(
    target="/v8/RestoreSessions/s/organization/exportToPst?x=\xff",
    content_type="application/json",
    idempotency_key="key",
    fingerprint="f00d",
)


QUEUED = Job(id="1", version=1, owner="me", request=REQUEST, created=100.0, updated=100.0)


ANSWER = FileFacts(media_type="application/octet-stream", file_name="a.pst", size=10, etag=None)


ERROR = JobError(code=ErrorCode.TRUNCATED, message="cut", retryable=True)


SUCCEEDED = Succeeded(size=10, digest="ZGln", expires=900.0, format="Pst")


SAMPLES: dict[type[Event], Event] = {
    Assigned: Assigned("runner"),
    Claimed: Claimed("runner"),
    Answered: Answered(ANSWER),
    Received: Received(5, 100, "Pst"),
    Restarted: Restarted(),
    Finalizing: Finalizing(10),
    Succeeded: SUCCEEDED,
    Failed: Failed(ERROR),
    Shown: Shown(),
    Identified: Identified("identity"),
    CancelRequested: CancelRequested(),
    Cancelled: Cancelled(),
    Interrupted: Interrupted(),
    Resumed: Resumed(),
    Expired: Expired(),
    Extended: Extended(2000.0),
    Released: Released(),
    Joined: Joined(),
    Detached: Detached(),
    Delivered: Delivered(sent=10, whole=True),
    Forgotten: Forgotten(),
}


def job_after(*events: Event, job: Job = QUEUED) -> Job:
    for step, event in enumerate(events, 1):
        job = advance(job, event, 200.0 + step)
    return job


TRANSFERRING = (Claimed("r"), Answered(ANSWER), Received(5, 100, "Pst"))


#: Events that lead into each phase.
WAYS: dict[Phase, tuple[Event, ...]] = {
    Phase.QUEUED: (),
    Phase.GENERATING: (Claimed("r"),),
    Phase.TRANSFERRING: TRANSFERRING,
    Phase.FINALIZING: (*TRANSFERRING, Finalizing(10)),
    Phase.CANCELLING: (*TRANSFERRING, CancelRequested()),
    Phase.SUSPENDED: (*TRANSFERRING, Interrupted()),
    Phase.COMPLETED: (*TRANSFERRING, Finalizing(10), SUCCEEDED),
    Phase.FORGOTTEN: (*TRANSFERRING, Forgotten()),
}


DONE = job_after(*WAYS[Phase.COMPLETED])


COUNTS = st.integers(0, 2**63)


ANSWERS = st.builds(
    FileFacts,
    media_type=st.text(),
    file_name=st.text(),
    size=st.none() | COUNTS,
    etag=st.none() | st.text(),
)


EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(Claimed, st.text(), st.sampled_from([0, 1, 5])),
    st.builds(Answered, ANSWERS),
    st.builds(
        Received,
        st.integers(0, 20),
        st.none() | COUNTS,
        st.none() | st.sampled_from(["Pst", "Zip"]),
    ),
    st.sampled_from(
        [event for kind, event in SAMPLES.items() if kind not in (Claimed, Answered, Received)]
    ),
)


def walk(events: list[Event]) -> list[Job]:
    """The jobs after each of the events that apply, in order."""
    path = [QUEUED]
    for step, event in enumerate(events, 1):
        try:
            path.append(advance(path[-1], event, 100.0 + step))
        except IllegalTransition:
            continue
    return path
