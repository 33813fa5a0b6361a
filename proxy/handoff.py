"""Copies for primaries that are away: redundancy recovers at once, and the copies find their way back by `learn`.

A handoff does not count towards a quorum: what it gets is already chosen. It gives its copy back when the primaries
answer again (object/returner.py asks for it).
"""
from __future__ import annotations

import asyncio
from collections.abc import Iterator

from common.errors import QuorumNotMet, StorageError
from common.log import get_logger
from object.client import ObjectClient
from object.wire import Kind, Reply, Version
from proxy.cluster import Cluster, Place, RegisterPorts
from proxy.coordinator import Coordinator
from proxy.repair import BAD, copy_object, look_at

log = get_logger("proxy.handoff")
AT_ONCE, WAITING_MAX = 4, 10_000
AFTER_S = 0.2                            # the write itself comes first


class Handoffs:
    """One per worker."""

    def __init__(self, cluster: Cluster, *, request_timeout_s: float) -> None:
        self._cluster, self._timeout_s = cluster, request_timeout_s
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self.given_count = 0
        self._is_closed = False

    def give(self, place: Place) -> None:
        """A primary missed a write: put a copy on a handoff, in the background."""
        if self._is_closed or place.key in self._tasks or len(self._tasks) >= WAITING_MAX:
            return
        task = asyncio.get_running_loop().create_task(self._give(place))
        self._tasks[place.key] = task
        task.add_done_callback(lambda _: self._tasks.pop(place.key, None))

    async def close(self) -> None:
        """Give up what is under way; nothing more is begun."""
        self._is_closed = True
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _give(self, place: Place) -> None:
        await asyncio.sleep(AFTER_S)
        async with self._slots:
            try:
                version, holders, missing = await self._survey(place)
                targets = self._cluster.handoffs(place)
                for _ in missing:
                    if not holders or not await self._copy_to_next(place, version, holders, targets):
                        return           # every device that there is holds one already, or is away as well
            except StorageError as error:
                log.warning("handoff failed", path=place.path, error=str(error))

    async def _copy_to_next(self, place: Place, version: Version, holders: list[tuple[ObjectClient, Reply]],
                            targets: Iterator[ObjectClient]) -> bool:
        source, reply = holders[0]
        for target in targets:
            try:
                await copy_object(place, version, reply.ballot, source, reply, target)
            except StorageError:
                continue
            self.given_count += 1
            log.info("copy on handoff", path=place.path, device=target.device_id)
            return True
        return False

    async def _survey(self, place: Place) -> tuple[Version, list[tuple[ObjectClient, Reply]], list[ObjectClient]]:
        """The chosen version, who holds it with its body, and which primaries lack it."""
        deadline_s = asyncio.get_running_loop().time() + self._timeout_s
        outcome = await Coordinator(RegisterPorts(self._cluster, place, deadline_s=deadline_s)).read()
        holders, missing = [], []
        for client in place.clients:
            try:
                async with asyncio.timeout(1.0):
                    reply = await look_at(client, place.key)
            except (StorageError, TimeoutError):
                missing.append(client)
                continue
            if reply.ballot == outcome.ballot and reply.state not in BAD:
                holders.append((client, reply))
            elif reply.ballot <= outcome.ballot:         # behind, or it knows the order and lacks the body
                missing.append(client)
        return outcome.version, holders, missing

    async def give_back(self, path: str, policy: int, holder_id: int) -> bool:
        """Bring every primary of a foreign object up to date; True when all hold it. Raises what a read raises."""
        _, account, container, name = path.split("/", 3)
        place = self._cluster.object(policy, account, container, name)
        own = self._cluster.client(holder_id)
        mine = await look_at(own, place.key)
        if mine.version.kind == Kind.NOTHING:
            return True
        version, holders, missing = await self._survey(place)
        sources = [*holders, *([(own, mine)] if mine.version.stamp == version.stamp else [])]
        for target in missing:
            if not sources:
                raise QuorumNotMet(what="body", needed=1, answers={})
            await copy_object(place, version, sources[0][1].ballot, *sources[0], target)
        return True
