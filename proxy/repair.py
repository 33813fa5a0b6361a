"""Mending what a read met: a replica whose body is damaged or missing gets it from one that has it.

Repair uses `learn`: the version was read at one ballot on a quorum, so it is chosen; promises and floors do not apply.
"""
from __future__ import annotations

import asyncio

from common.errors import StorageError
from common.log import get_logger
from common.timestamp import Stamp
from object.client import ObjectClient
from object.wire import BodyState, Reply, Version, whole
from proxy.cluster import Cluster, Place

log = get_logger("proxy.repair")
AT_ONCE, WAITING_MAX = 4, 1000
TIMEOUT_S = 60.0
BAD = (BodyState.DAMAGED, BodyState.LEARNED, BodyState.LOST)


class Repairer:
    """Repairs in the background, a few at once, each object once."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self.repaired_count = 0

    def repair(self, place: Place, version: Version, ballot: Stamp) -> None:
        """Begin, unless it is under way or too much waits already (the auditor finds it again)."""
        if place.key in self._tasks or len(self._tasks) >= WAITING_MAX:
            return
        task = asyncio.get_running_loop().create_task(self._repair(place, version, ballot))
        self._tasks[place.key] = task
        task.add_done_callback(lambda _: self._tasks.pop(place.key, None))

    async def close(self) -> None:
        """Give up what is under way."""
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _repair(self, place: Place, version: Version, ballot: Stamp) -> None:
        async with self._slots:
            good: list[tuple[ObjectClient, Reply]] = []
            bad: list[ObjectClient] = []
            for client in place.clients:
                try:
                    reply = await look_at(client, place.key)
                except StorageError as error:
                    if error.code == "corruption":
                        bad.append(client)
                    continue
                if reply.ballot == ballot and reply.state not in BAD:
                    good.append((client, reply))
                elif reply.ballot == ballot:
                    bad.append(client)
            for client in bad:
                for source, reply in good:
                    try:
                        await copy_object(place, version, ballot, source, reply, client)
                    except StorageError as error:
                        log.warning("repair failed", path=place.path, device=client.device_id, error=str(error))
                        continue
                    self.repaired_count += 1
                    log.info("replica repaired", path=place.path, device=client.device_id, source=source.device_id)
                    break


async def look_at(client: ObjectClient, key: bytes) -> Reply:
    """State and small body of one replica."""
    return await whole(client.look(key, None, seen_us=0, is_durable=False, read_body=True, timeout_s=TIMEOUT_S))


async def copy_object(place: Place, version: Version, ballot: Stamp, source: ObjectClient, reply: Reply,
                      target: ObjectClient) -> None:
    """Body first, then the record that names it."""
    if reply.state == BodyState.FILE:
        stage = await target.open_stage(timeout_s=TIMEOUT_S)
        try:
            async for piece in source.read_body(place.key, version.body_id, 0, version.size_bytes, timeout_s=TIMEOUT_S):
                await stage.write(piece)
            await stage.finish(place.key, version.body_id, version.path)
        finally:
            stage.abort()
    await whole(target.learn(place.key, ballot, version, body=reply.body, timeout_s=TIMEOUT_S))
