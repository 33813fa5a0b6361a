"""Jobs in threads, and what they give, in the loop."""
from __future__ import annotations

import asyncio
import threading

import pytest

from common.pool import Pool


async def test_a_job_gives_its_result_or_raises_its_error():
    pool = Pool(2, "t")
    assert await pool.run(lambda: threading.current_thread().name[:2]) == "t_"
    with pytest.raises(ZeroDivisionError):
        await pool.run(lambda: 1 // 0)
    pool.shutdown()


async def test_one_thread_runs_jobs_in_order_and_delivers_in_the_loop():
    pool, order, delivered = Pool(1, "t"), [], asyncio.Event()
    here = threading.get_ident()
    for number in range(100):
        pool.submit(lambda n=number: order.append(n), lambda *_: delivered.set() if threading.get_ident() == here else None)
    await pool.run(lambda: None)
    assert order == list(range(100)) and delivered.is_set()
    pool.shutdown()


async def test_no_more_threads_than_asked_for_and_none_before_the_first_job():
    before = threading.active_count()
    pool = Pool(3, "t")
    assert threading.active_count() == before
    both = threading.Barrier(3)
    await asyncio.gather(*(pool.run(both.wait) for _ in range(3)))           # three at once, or nobody gets on
    await asyncio.gather(*(pool.run(lambda: None) for _ in range(50)))
    assert threading.active_count() == before + 3
    pool.shutdown()
    assert threading.active_count() == before


async def test_a_job_that_nobody_waits_for_any_more_disturbs_nobody():
    pool, go = Pool(1, "t"), threading.Event()
    given_up = pool.run(go.wait)
    given_up.cancel()
    later = pool.run(lambda: "later")
    go.set()
    assert await later == "later"
    pool.shutdown()


async def test_an_error_in_what_follows_a_job_reaches_the_loops_handler_and_the_next_job_goes_on():
    pool, seen = Pool(1, "t"), []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: seen.append(context["exception"]))
    pool.submit(lambda: None, lambda *_: 1 // 0)
    assert await pool.run(lambda: 5) == 5
    assert [type(error) for error in seen] == [ZeroDivisionError]
    pool.shutdown()


async def test_shutting_down_finishes_what_was_submitted():
    pool, done = Pool(1, "t"), []
    for number in range(20):
        pool.submit(lambda n=number: done.append(n), lambda *_: None)
    pool.shutdown()
    assert done == list(range(20))
