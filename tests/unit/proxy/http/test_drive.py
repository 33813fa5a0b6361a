"""A handler that starts without a task behaves as in one."""
import asyncio
import contextvars

import pytest

from proxy.http.drive import TaskHandle, go_on, start


def drive(work_of):
    """Result of `work_of()` as the front runs it, and whether it needed a task."""
    outcome = []

    def begin(loop):
        handle, work, context = TaskHandle(), work_of(), contextvars.copy_context()
        try:
            is_done, value = start(loop, work, context, handle)
        except BaseException as error:
            outcome.append((error, False))
            loop.stop()
            return
        if is_done:
            outcome.append((value, False))
            loop.stop()
        else:
            async def rest():
                try:
                    outcome.append((await go_on(work, value, handle), True))
                except BaseException as error:
                    outcome.append((error, True))
                loop.stop()
            tasks.append(loop.create_task(rest(), context=context))

    tasks = []
    loop = asyncio.new_event_loop()
    try:
        loop.call_soon(begin, loop)
        loop.run_forever()
    finally:
        loop.close()
    return outcome[0]


def test_work_that_does_not_wait_needs_no_task():
    async def work():
        return 5
    assert drive(work) == (5, False)


def test_work_that_waits_goes_on_in_a_task():
    async def work():
        return [await asyncio.sleep(0, i) for i in range(3)] + [await asyncio.get_running_loop().run_in_executor(None, int)]
    assert drive(work) == ([0, 1, 2, 0], True)


@pytest.mark.parametrize("waits", [0, 1])
def test_errors_come_out(waits):
    async def work():
        for _ in range(waits):
            await asyncio.sleep(0)
        raise KeyError("x")
    error, needed_task = drive(work)
    assert isinstance(error, KeyError) and needed_task is bool(waits)


@pytest.mark.parametrize("first_waits", [0, 1])
@pytest.mark.parametrize("delay_s", [-1, 0, 0.001])
def test_a_timeout_ends_a_wait_whenever_it_was_entered(first_waits, delay_s):
    async def work():
        for _ in range(first_waits):
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(delay_s):
                await asyncio.Event().wait()
        await asyncio.sleep(0)                   # no cancellation is left over
        return asyncio.current_task().cancelling()
    assert drive(work)[0] == 0


def test_a_timeout_reaches_a_child_that_is_waited_for():
    seen = []

    async def child():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def work():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0), asyncio.TaskGroup() as group:
                group.create_task(child())
                await asyncio.sleep(0)
                await asyncio.Event().wait()
        return seen
    assert drive(work)[0] == ["cancelled"]


def test_a_failing_child_of_a_task_group_ends_its_parent():
    async def child():
        raise KeyError("x")

    async def work():
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(child())
                await asyncio.Event().wait()
        return asyncio.current_task().cancelling()
    assert drive(work)[0] == 0


def test_a_context_variable_stays_with_its_request():
    variable = contextvars.ContextVar("v", default=0)

    async def work():
        variable.set(7)
        await asyncio.sleep(0)
        return variable.get()
    assert drive(work) == (7, True) and variable.get() == 0
