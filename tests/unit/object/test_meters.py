"""Batches are counted by records and bytes, and what waits for a thread is seen while it waits."""
import asyncio
import threading

from common.metrics import Registry, format_prometheus
from common.pool import Pool
from object.journal import Batch
from object.meters import OwnerMeters


def test_each_batch_is_counted_by_its_records_and_bytes():
    registry = Registry()
    meters = OwnerMeters("d1", {}, registry)
    for records, length in ((1, 500), (20, 70_000)):
        batch = Batch(1)
        batch.relative = [(0, 1)] * records
        batch.length = length
        meters.note_batch(batch)
    text = format_prometheus(registry.snapshot())
    assert 'holdfast_journal_batch_records_sum{device="d1"} 21' in text
    assert 'holdfast_journal_batch_records_bucket{device="d1",le="1"} 1' in text
    assert 'holdfast_journal_batch_bytes_sum{device="d1"} 70500' in text


async def test_jobs_that_wait_for_a_thread_are_seen():
    registry = Registry()
    started, go_on = threading.Event(), threading.Event()
    pool = Pool(1, "t")
    OwnerMeters("d1", {"journal": pool}, registry)
    first = pool.run(lambda: (started.set(), go_on.wait()))
    started.wait()
    waiting = [pool.run(go_on.wait) for _ in range(3)]
    assert 'holdfast_pool_waiting{device="d1",pool="journal"} 3' in format_prometheus(registry.snapshot())
    go_on.set()
    await asyncio.gather(first, *waiting)
    assert 'holdfast_pool_waiting{device="d1",pool="journal"} 0' in format_prometheus(registry.snapshot())
    pool.shutdown()
