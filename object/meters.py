"""What an owner counts of its device: how much one sync makes durable, and what waits for each of its threads.

Cost: two observations per batch, nothing per record; queue lengths are looked at when somebody asks.
"""
from __future__ import annotations

from collections.abc import Mapping

from common.metrics import METRICS, Registry
from common.pool import Pool
from object.journal import Batch

_RECORD_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0)
_BYTE_BUCKETS = tuple(4096.0 * 4 ** n for n in range(8))             # 4 KiB to 64 MiB


class OwnerMeters:
    """Handles of one device."""

    def __init__(self, device: str, pools: Mapping[str, Pool], registry: Registry = METRICS) -> None:
        """pools: by what their threads do."""
        self._records = registry.histogram("holdfast_journal_batch_records", "records that one sync made durable", ("device",),
                                           buckets=_RECORD_BUCKETS).labels(device)
        self._bytes = registry.histogram("holdfast_journal_batch_bytes", "bytes that one sync made durable", ("device",),
                                         buckets=_BYTE_BUCKETS).labels(device)
        waiting = registry.gauge("holdfast_pool_waiting", "jobs that wait for a thread", ("device", "pool"))
        for name, pool in pools.items():
            waiting.labels(device, name).source = pool.waiting_count

    def note_batch(self, batch: Batch) -> None:
        """One sync is done."""
        self._records.observe(len(batch.relative))
        self._bytes.observe(batch.length)
