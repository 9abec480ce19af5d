"""Blocking work in threads: its cancellation, its priority, and how long its callers wait."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Generic, TypeVar, cast
from weakref import WeakValueDictionary

from proxy.ports import StoreUnavailable

_T = TypeVar("_T")
#: How much nicer a thread that receives an export is than the event loop's. It halves the p99 of
#: small requests beside an export; an export has a tenth of a core that they use up.
_NICER = 10
#: Seconds until the result of a thread is reported again for which there was no memory.
_RETRY = 0.1


class Threads(ThreadPoolExecutor):
    """At most `count` threads, or as many as asyncio has by default. While the system starts no
    more of them, for lack of memory or because of a limit, those that run do all the work: there is
    always one.
    """

    def __init__(
        self, count: int | None, name: str, *, initializer: Callable[[], None] | None = None
    ) -> None:
        """Start the first thread. Raises `StoreUnavailable`."""
        #: Work for which no thread was started.
        self._unstarted = 0
        super().__init__(count, thread_name_prefix=name, initializer=initializer)
        self._idle_semaphore = _Idle(0)
        try:
            self.submit(int)
        except MemoryError as why:
            self.shutdown(wait=False)
            raise StoreUnavailable("the system starts no more threads") from why

    def put(self, work: _Begun[Any]) -> None:
        """As `submit`, without a future of its own: a thread that finds no memory for that ends."""
        with self._shutdown_lock:
            if self._shutdown:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._work_queue.put(cast("Any", work))
            self._adjust_thread_count()

    def _adjust_thread_count(self) -> None:
        """Raises MemoryError if no thread lives, and none can be started."""
        alive = {each for each in self._threads if each.is_alive()}
        if len(alive) < len(self._threads):  # the others found no memory
            # they may be counted as idle, and a busy thread more than once
            while self._idle_semaphore.acquire(blocking=False):
                pass
        self._threads = alive
        # after such work one idle thread too many is counted: no other would ever be started
        while self._unstarted and self._idle_semaphore.acquire(blocking=False):
            self._unstarted -= 1
        try:
            super()._adjust_thread_count()
        except (RuntimeError, MemoryError) as why:
            if not self._threads:
                raise MemoryError("no thread can be started") from why
            self._unstarted += 1  # the work is in the queue all the same


class _Idle(threading.Semaphore):
    """The threads that wait for work."""

    def release(self, n: int = 1) -> None:
        """Count a thread. One that finds no memory for it must not end: there may be work again."""
        try:  # noqa: SIM105  # `suppress` needs memory
            super().release(n)
        except MemoryError:
            pass


class _Begun(Generic[_T]):
    """Work for a thread, and the future for its result."""

    def __init__(
        self, work: Callable[[], _T], then: Callable[[asyncio.Future[_T]], None] | None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[_T] = self._loop.create_future()
        self._work = work
        self._then = then
        self.decided = threading.Lock()
        self.wanted = False
        self._started = self._reported = False
        self._outcome: tuple[_T | None, BaseException | None] = None, MemoryError()

    def run(self, *_: object) -> None:
        """Work, and report the result, whatever finds no memory: an exception would end the thread,
        and nobody else ends the wait for the result. Python 3.14 passes an argument.
        """
        while not self._reported:
            try:
                self._run()
            except MemoryError:
                time.sleep(_RETRY)

    def _run(self) -> None:
        if not self._started:
            with self.decided:
                wanted = self.wanted
            if not wanted:
                self._reported = True
                return
            self._started = True
            self._outcome = _outcome(self._work)
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._end)
        self._reported = True

    def _end(self) -> None:
        result, failure = self._outcome
        try:
            if self.future.done():  # it was cancelled
                return
            if failure is None:
                self.future.set_result(cast("_T", result))
            else:
                self.future.set_exception(failure)
        finally:
            if self._then is not None:
                self._then(self.future)


def _outcome(work: Callable[[], _T]) -> tuple[_T | None, BaseException | None]:
    """The result of the work, or its failure, whose traceback refers to nothing that has it."""
    try:
        return work(), None
    except BaseException as why:  # noqa: BLE001  # the future raises it
        return None, why


def begin(
    executor: Executor | None,
    work: Callable[[], _T],
    then: Callable[[asyncio.Future[_T]], None] | None = None,
) -> asyncio.Future[_T]:
    """As `run_in_executor`; `then` is called when the work has ended. If this raises, for lack of
    memory, the work does not run, although it may be in the executor's queue: its caller may repeat
    it, and close what it uses.
    """
    begun = _Begun(work, then)
    with begun.decided:
        if isinstance(executor, Threads):
            executor.put(begun)
        elif executor is not None:
            executor.submit(begun.run)
        else:
            asyncio.get_running_loop().run_in_executor(None, begun.run)
        begun.wanted = True
    return begun.future


def yield_to_loop() -> None:
    """Give the calling thread a lower priority than the event loop's. Only Linux has a priority for
    each thread; elsewhere nothing changes.
    """
    if sys.platform == "linux":
        with suppress(OSError, MemoryError):  # a sandbox may forbid it
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, 0) + _NICER)


async def undisturbed(
    running: asyncio.Future[_T],
    *,
    stop: Callable[[], None] | None = None,
    unwanted: Callable[[_T], asyncio.Future[None]] | None = None,
) -> _T:
    """Wait for work that runs in a thread and return its result.

    A cancellation calls `stop`. It is raised only after the work has ended and `unwanted` has
    disposed of its result, so that no thread outlives its call.
    """
    return await _result(running, await _ended(running, stop), unwanted)


async def _result(
    running: asyncio.Future[_T],
    cancelled: bool,
    unwanted: Callable[[_T], asyncio.Future[None]] | None,
) -> _T:
    if not cancelled:
        return running.result()
    if running.exception() is None and unwanted is not None:
        disposing = unwanted(running.result())
        await _ended(disposing, None)
        disposing.result()
    raise asyncio.CancelledError


class FileTurns:
    """At most `each` calls work on one file at a time: one that hangs does not take the threads of
    all others.
    """

    def __init__(self, each: int) -> None:
        self._each = each
        self._of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def of(self, file: str) -> asyncio.Semaphore:
        """The turns of one file."""
        return self._of.setdefault(file, asyncio.Semaphore(self._each))


class Patience:
    """How long callers wait for work on files that may hang, as all do in `volume` while its server
    is away. A thread cannot be interrupted.

    At most `each` calls work on one file at a time; the others wait for their turn. Once as many
    hang that nobody waits for any more, further work on that file is refused at once, until one of
    them ends; once `limit` files hang, so is all work: new callers neither wait nor take the
    threads that are left.
    """

    def __init__(self, volume: str, limit: int, each: int) -> None:
        self._volume = volume
        self._limit = limit
        self._each = each
        self._turns = FileTurns(each)
        #: The file of each call that hangs.
        self._left: dict[asyncio.Future[Any], str] = {}

    async def call(
        self,
        file: str,
        begin: Callable[[], asyncio.Future[_T]],
        seconds: float,
        *,
        unwanted: Callable[[_T], asyncio.Future[None]] | None = None,
    ) -> _T:
        """Begin work on the file when it is its turn, and wait for it as `wait` does."""
        self._check(file)
        until = asyncio.get_running_loop().time() + seconds
        turn = self._turns.of(file)
        mine = False
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                mine = await turn.acquire()
        if not mine:  # not from the TimeoutError, which would keep this frame with its call
            raise self._hangs()
        try:
            running = begin()
        except BaseException:
            turn.release()
            raise
        running.add_done_callback(lambda _: turn.release())
        left = until - asyncio.get_running_loop().time()
        return await self.wait(file, running, left, unwanted=unwanted)

    def _check(self, file: str) -> None:
        """Raise `StoreUnavailable` if no work on the file may begin."""
        hanging = list(self._left.values())
        if hanging.count(file) >= self._each or len(set(hanging)) >= self._limit:
            raise self._hangs()

    async def wait(
        self,
        file: str,
        running: asyncio.Future[_T],
        seconds: float,
        *,
        unwanted: Callable[[_T], asyncio.Future[None]] | None = None,
    ) -> _T:
        """As `undisturbed`, but for at most `seconds`. Then it raises `StoreUnavailable`, or the
        cancellation; `unwanted` disposes of the result when there is one.
        """
        cancelled = await _ended(running, None, seconds)
        if not running.done():
            self._leave(file, running, unwanted)
            raise asyncio.CancelledError if cancelled else self._hangs()
        return await _result(running, cancelled, unwanted)

    def _leave(
        self,
        file: str,
        running: asyncio.Future[_T],
        unwanted: Callable[[_T], asyncio.Future[None]] | None,
    ) -> None:
        self._left[running] = file
        running.add_done_callback(self._left.pop)
        running.add_done_callback(partial(_dispose, unwanted=unwanted))

    def _hangs(self) -> StoreUnavailable:
        return StoreUnavailable(f"{self._volume} does not respond: its volume hangs")


async def ended(running: asyncio.Future[Any], seconds: float) -> None:
    """Wait until the work has ended, for at most `seconds`. A cancellation is raised afterwards,
    and so is a failure of the work.
    """
    cancelled = await _ended(running, None, seconds)
    if cancelled:
        raise asyncio.CancelledError
    if running.done():
        running.result()


def _dispose(
    done: asyncio.Future[_T], unwanted: Callable[[_T], asyncio.Future[None]] | None
) -> None:
    if not done.cancelled() and done.exception() is None and unwanted is not None:
        unwanted(done.result())


async def _ended(
    running: asyncio.Future[Any], stop: Callable[[], None] | None, seconds: float | None = None
) -> bool:
    """Wait for the end of the work, for at most `seconds`. Report whether the caller was cancelled
    meanwhile. The exception itself is not kept: it refers to the frames of the whole request, which
    may have a body, and would be referred to by one of them.
    """
    now = asyncio.get_running_loop().time
    until = None if seconds is None else now() + seconds
    cancelled = False
    while not running.done():
        try:
            await asyncio.wait([running], timeout=seconds)
            break
        except asyncio.CancelledError:
            cancelled = True
            if stop is not None:
                stop()
            if until is not None:
                seconds = max(0.0, until - now())
    return cancelled
