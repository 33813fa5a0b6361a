"""Running a handler without a task as long as it does not wait.

Most small requests are answered from memory; a task costs about 2 us of them. So a handler's first step runs directly in the
protocol's callback; only if it waits, the rest of it becomes a task. Between the two `asyncio.current_task()` must be
something that `asyncio.timeout` and `TaskGroup` can keep and cancel later: `TaskHandle`.
Source: docs.python.org/3/library/asyncio-extending.html (_enter_task and _leave_task are for such drivers).
"""
from __future__ import annotations

import asyncio
import contextvars
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar, cast

T = TypeVar("T")


class TaskHandle:
    """Stands for the task of a handler in its first step, and passes on to the real one what is asked of it later.

    A task that is cancelled before its first step never runs; so until the real one runs, cancelling is done here in the
    way a task does it: cancel what is waited for, or raise at the next step.
    """

    __slots__ = ("_cancel_requests", "_must_cancel", "_task", "_waits_for")

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._waits_for: Any = None
        self._cancel_requests = 0
        self._must_cancel = False

    def suspend(self, waits_for: Any) -> None:
        """The first step ended waiting."""
        self._waits_for = waits_for

    def become(self, task: asyncio.Task[Any] | None) -> bool:
        """`task` runs now; returns whether it has to begin with a cancellation."""
        self._task = task
        self._waits_for = None
        return self._must_cancel

    def cancel(self, msg: object | None = None) -> bool:
        """As of a task."""
        if self._task is not None:
            return self._task.cancel(msg)
        self._cancel_requests += 1
        if self._waits_for is None or not self._waits_for.cancel(msg):
            self._must_cancel = True
        return True

    def uncancel(self) -> int:
        """As of a task."""
        if self._cancel_requests > 0:
            self._cancel_requests -= 1
            return self.cancelling()
        return 0 if self._task is None else self._task.uncancel()

    def cancelling(self) -> int:
        """As of a task."""
        return self._cancel_requests + (0 if self._task is None else self._task.cancelling())

    def done(self) -> bool:
        """As of a task."""
        return self._task is not None and self._task.done()

    def get_name(self) -> str:
        """As of a task."""
        return "handler" if self._task is None else self._task.get_name()


def start(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], context: contextvars.Context,
          handle: TaskHandle) -> tuple[bool, Any]:
    """Run `work` up to its first wait. Returns (True, result) or (False, what it waits for). Raises what `work` raises."""
    task = cast("asyncio.Task[Any]", handle)
    _enter_task(loop, task)
    try:
        waits_for = context.run(work.send, None)
        handle.suspend(waits_for)
        return False, waits_for
    except StopIteration as stop:
        return True, stop.value
    finally:
        _leave_task(loop, task)


@coroutine
def go_on(work: Coroutine[Any, Any, T], waits_for: Any, handle: TaskHandle) -> Generator[Any, Any, T]:
    """The rest of a started `work`, for a task of its own: waits for what the first step asked, then goes on."""
    try:
        if handle.become(asyncio.current_task()):
            waits_for = work.throw(asyncio.CancelledError())
        while True:
            try:
                value = yield waits_for
            except GeneratorExit:
                work.close()
                raise
            except BaseException as error:
                waits_for = work.throw(error)
            else:
                waits_for = work.send(value)
    except StopIteration as stop:
        return cast(T, stop.value)
