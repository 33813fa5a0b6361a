"""Listing entries that were left: what the gateway did not confirm within 5 s, or what replay found, is settled and delivered.

A consumer of the journal: entries live in `Device.pending` and in the index's pending set, so one dead container holds up
nobody. Every device that still has an entry delivers it; rows are idempotent.
"""
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from common.clock import Clock
from common.errors import StorageError
from common.log import Repeats, get_logger
from object.index import Pending
from object.owner import Owner
from object.wire import SPACE_OBJECT, split_key

log = get_logger("object.updater")
LEFT_S = 5.0                             # older entries are ours to deliver
PASS_S = 1.0
RETRY_S = 5.0
AT_ONCE = 16

Settle = Callable[[str, int, bool], Awaitable[None]]     # path, policy, is owed: brings the listing up to date, or raises


class Updater:
    """One per device."""

    def __init__(self, owner: Owner, settle: Settle, clock: Clock) -> None:
        self._owner, self._settle, self._clock = owner, settle, clock
        self._task: asyncio.Task[None] | None = None
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._repeats = Repeats(log)
        self.delivered_count = 0

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"updater {self._owner.name}")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._owner.has_pending.wait()
            await asyncio.sleep(PASS_S)
            try:
                await self._pass()
            except Exception as error:                   # the edge of a daemon: log and go on
                log.error("updater pass failed", device=self._owner.name, exc=error)
            if not self._owner.device.pending:
                self._owner.has_pending.clear()

    async def _pass(self) -> None:
        now_s = self._clock.monotonic_s()
        due = []
        for key, entry in self._owner.device.pending.items():
            if entry.since_s == 0.0:
                entry.since_s = now_s
            elif now_s - entry.since_s >= LEFT_S:
                due.append((key, entry))
        async with asyncio.TaskGroup() as group:
            for key, entry in due[:1000]:
                group.create_task(self._deliver(key, entry))

    async def _deliver(self, key: bytes, entry: Pending) -> None:
        async with self._slots:
            try:
                await self._settle(entry.path, split_key(key)[0] - SPACE_OBJECT, entry.is_owed)
            except StorageError as error:
                self._repeats.warning("listing update waits", about=error.code, device=self._owner.name, path=entry.path,
                                      reason=str(error))
                entry.since_s = self._clock.monotonic_s() - LEFT_S + RETRY_S
                return
            self._owner.done(key, entry.stamp)
            self.delivered_count += 1
