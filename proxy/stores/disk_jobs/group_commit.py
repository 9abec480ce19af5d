"""Orders the changes of a job store: they are decided one by one on the event loop, and made
durable in one thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import structlog

from proxy.stores.availability import Availability
from proxy.stores.disk_jobs.database import Change
from proxy.stores.threads import begin

log = structlog.get_logger(__name__)

_T = TypeVar("_T")
#: The maximum number of changes in a transaction.
_LARGEST_BATCH = 64
#: Seconds after which a change that found no memory is applied again.
_APPLY_AGAIN = 0.05


@dataclass(slots=True)
class _Operation(Generic[_T]):
    touches: frozenset[Hashable]
    decide: Callable[[], tuple[_T, Change | None]]
    done: asyncio.Future[_T]


@dataclass(slots=True)
class _Decided:
    operation: _Operation[Any]
    result: Any
    change: Change


class GroupCommit:
    """Runs operations in the order of their calls. A batch is one transaction. Operations that
    touch the same keys never share a batch, so each is decided on durable state: of two that
    compare and set the same version, one wins.

    It uses callbacks and no task, so that nothing can cancel it: a change that is being written is
    applied in memory too (`apply`), even if its caller is cancelled.
    """

    def __init__(
        self,
        executor: Executor,
        commit: Callable[[list[Change]], list[Exception | None]],
        apply: Callable[[Change], None],
    ) -> None:
        self._executor = executor
        self._commit = commit
        self._apply = apply
        self._availability = Availability("jobs")
        self._waiting: deque[_Operation[Any]] = deque()
        self._batch: list[_Decided] = []
        self._idle = asyncio.Event()
        self._idle.set()

    def submit(
        self, touches: frozenset[Hashable], decide: Callable[[], tuple[_T, Change | None]]
    ) -> asyncio.Future[_T]:
        """Return the result of `decide` once the change that it returns is durable and applied."""
        operation = _Operation(touches, decide, asyncio.get_running_loop().create_future())
        self._waiting.append(operation)
        if not self._batch:
            self._begin()
        return operation.done

    async def drained(self) -> None:
        """Wait until no operation is left."""
        await self._idle.wait()

    def _begin(self) -> None:
        self._batch = self._gather()
        if not self._batch:
            self._idle.set()
            return
        self._idle.clear()
        try:
            changes = [decided.change for decided in self._batch]
            begin(self._executor, partial(self._commit, changes), self._written)
        except MemoryError as why:
            self._settle([why] * len(self._batch))

    def _gather(self) -> list[_Decided]:
        batch: list[_Decided] = []
        touched: set[Hashable] = set()
        while (
            self._waiting
            and len(batch) < _LARGEST_BATCH
            and touched.isdisjoint(self._waiting[0].touches)
        ):
            operation = self._waiting.popleft()
            if operation.done.cancelled():
                continue
            try:
                result, change = operation.decide()
                if change is None:
                    operation.done.set_result(result)
                    continue
                decided = _Decided(operation, result, change)
                touched |= operation.touches
                batch.append(decided)
            except Exception as why:  # noqa: BLE001  # the other operations continue
                _fail(operation, why)
        return batch

    def _written(self, writing: asyncio.Future[list[Exception | None]]) -> None:
        broken = writing.exception()
        self._settle([broken] * len(self._batch) if broken is not None else writing.result())

    def _settle(self, outcomes: list[Any]) -> None:
        """Give each operation of the batch its outcome, an exception or None, and begin the next
        one.

        What is stored and finds no memory to be applied is applied later: the next operation must
        not be decided before.
        """
        while self._batch:
            decided, failure = self._batch[0], outcomes[0]
            try:
                shown = self._applied(decided.change) if failure is None else failure
            except MemoryError as why:
                try:
                    asyncio.get_running_loop().call_later(_APPLY_AGAIN, self._settle, outcomes)
                except MemoryError:
                    shown = why
                else:
                    return
            try:  # noqa: SIM105  # `suppress` would need memory itself
                self._report(decided, failure, shown)
            except MemoryError:
                pass  # the others, and those that follow, have their outcomes
            del self._batch[0], outcomes[0]
        self._begin()

    def _report(
        self, decided: _Decided, failure: BaseException | None, shown: BaseException | None
    ) -> None:
        _resolve(decided, shown)
        if failure is None:
            self._availability.worked()
        else:
            self._availability.failed(failure)

    def _applied(self, change: Change) -> Exception | None:
        """Apply the change, and return why that failed: the other operations continue. Raises
        `MemoryError`.
        """
        try:
            self._apply(change)
        except MemoryError:
            raise
        except Exception as why:
            log.exception("a change is stored and not shown", job=change.id)
            return why
        return None


def _fail(operation: _Operation[Any], why: Exception) -> None:
    if not operation.done.done():
        operation.done.set_exception(why)


def _resolve(decided: _Decided, failure: BaseException | None) -> None:
    done = decided.operation.done
    if done.done():
        return
    if failure is None:
        done.set_result(decided.result)
    else:
        done.set_exception(failure)
