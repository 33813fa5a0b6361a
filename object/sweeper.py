"""Bodies that no record names: uploads that were given up after their last byte, files whose removal a crash forgot.

A file goes when it is older than a day and a quorum of its object's replicas does not name it. Once an hour; one
directory listing per partition, nothing while there is nothing to look at.
"""
from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

from common.clock import Clock
from common.errors import StorageError
from common.log import get_logger
from object.bodies import body_path, read_body_xattr
from object.device import Device
from object.owner import Owner
from object.wire import SPACE_OBJECT, BodyState, make_key, split_key

log = get_logger("object.sweeper")
PASS_S = 3600.0
AGE_US_MIN = 86_400_000_000

IsNamed = Callable[[str, int, int], Awaitable[bool]]     # path, policy, body id: True if a quorum look names that body


class Orphan(NamedTuple):
    """A body file that the newest row of its key does not name."""

    key: bytes
    body_id: int
    path: str                            # of the object


def find_orphans(device: Device, *, before_us: int) -> Iterator[Orphan]:
    """Blocking. before_us: only files that were last written before this moment."""
    root = f"{device.root}/bodies"
    for directory in device.fs.listdir(root):
        space, _, partition = directory.partition("-")
        for name in device.fs.listdir(f"{root}/{directory}"):
            digest, _, body_id = name.partition(".")
            key = make_key(int(space, 16), int(partition, 16), bytes.fromhex(digest))
            held = device.peek(key)
            is_named = held is not None and held.version.body_id == int(body_id, 16) and held.state == BodyState.FILE
            path = body_path(device.root, key, int(body_id, 16))
            if is_named or device.fs.modified_us(path) >= before_us:
                continue
            found = read_body_xattr(device.fs, path)
            if found is not None:
                yield Orphan(key, int(body_id, 16), found[3])


class Sweeper:
    """One per device."""

    def __init__(self, owner: Owner, is_named: IsNamed, clock: Clock) -> None:
        self._owner, self._is_named, self._clock = owner, is_named, clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"sweeper {self._owner.name}")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(PASS_S)
            try:
                await self.sweep()
            except (OSError, StorageError, ValueError) as error:
                log.warning("sweep failed", device=self._owner.name, error=str(error))

    async def sweep(self) -> int:
        """One pass; how many files were removed."""
        device = self._owner.device
        before_us = self._clock.now_us() - AGE_US_MIN
        removed = 0
        for orphan in await self._owner.in_body_pool(lambda: list(find_orphans(device, before_us=before_us))):
            policy = split_key(orphan.key)[0] - SPACE_OBJECT
            if await self._is_named(orphan.path, policy, orphan.body_id):
                continue
            with contextlib.suppress(FileNotFoundError):
                await self._owner.in_body_pool(
                    lambda o=orphan: device.fs.unlink(body_path(device.root, o.key, o.body_id)))  # type: ignore[misc]
                device.forget_staged(orphan.key, orphan.body_id)
                removed += 1
        if removed:
            log.info("bodies swept", device=self._owner.name, files=removed)
        return removed
