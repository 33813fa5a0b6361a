"""A handoff gives its copies back: once the primaries of a foreign object answer, they learn it from here.

The copy itself stays until the replicator has counted it as superfluous; here it is only no longer owed.
"""
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from common.errors import StorageError
from common.log import Repeats, get_logger
from object.owner import Owner
from object.wire import SPACE_OBJECT, split_key

log = get_logger("object.returner")
PASS_S = 10.0
AT_ONCE = 100

GiveBack = Callable[[str, int], Awaitable[bool]]         # path, policy


class Returner:
    """One per device."""

    def __init__(self, owner: Owner, give_back: GiveBack) -> None:
        self._owner, self._give_back = owner, give_back
        self._task: asyncio.Task[None] | None = None
        self._repeats = Repeats(log)
        self.returned_count = 0

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"returner {self._owner.name}")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        self._find_foreign()
        while True:
            await asyncio.sleep(PASS_S)
            await self.pass_once()

    def _find_foreign(self) -> None:
        """What an earlier start took for others: one seek per partition."""
        device = self._owner.device
        for space, partition in device.index.partitions():
            prefix = bytes((space,)) + partition.to_bytes(4, "big")
            if space >= SPACE_OBJECT and not self._owner.is_primary(prefix + bytes(16)):
                self._owner.foreign.update(key for key, _ in device.index.rows(prefix))

    async def pass_once(self) -> None:
        """Try to give back what is held for others."""
        for key in list(self._owner.foreign)[:AT_ONCE]:
            held = self._owner.device.get(key)
            if held is None:
                self._owner.foreign.discard(key)
                continue
            try:
                if await self._give_back(held.version.path, split_key(key)[0] - SPACE_OBJECT):
                    self._owner.foreign.discard(key)
                    self.returned_count += 1
            except StorageError as error:
                self._repeats.warning("handoff waits for its primaries", device=self._owner.name, reason=str(error))
