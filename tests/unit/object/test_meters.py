"""Batches are counted by records and bytes, and what waits for a thread is seen while it waits."""
import threading
from concurrent.futures import ThreadPoolExecutor, wait

from common.metrics import Registry, format_prometheus
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


def test_jobs_that_wait_for_a_thread_are_seen():
    registry = Registry()
    go_on = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        OwnerMeters("d1", {"journal": pool}, registry)
        started = threading.Event()
        pool.submit(lambda: (started.set(), go_on.wait()))
        started.wait()
        waiting = [pool.submit(go_on.wait) for _ in range(3)]
        assert 'holdfast_pool_waiting{device="d1",pool="journal"} 3' in format_prometheus(registry.snapshot())
        go_on.set()
        wait(waiting)
        assert 'holdfast_pool_waiting{device="d1",pool="journal"} 0' in format_prometheus(registry.snapshot())
