"""Who counts, across the workers of a node: comparing at start, and telling each other how far the journals have come.

At start every device asks its peers what they remember of it; once it counts, and then at most every half second while
it grows, it shows them its mark, which they journal. Source: docs/ARCHITECTURE.md, "Who counts".
"""
from __future__ import annotations

import asyncio
from collections.abc import Mapping

from common.errors import StorageError
from common.log import get_logger
from common.rpc_client import RpcClient
from common.rpc_server import Answered, Call, Handler
from object.owner import Owner
from object.peers import PeerMark, decode_marks, encode_marks
from object.wire import OP_COMPARE, OP_MARKS

log = get_logger("node.peering")
GOSSIP_S = 0.5
COMPARE_S, COMPARE_RETRY_S = 30.0, 0.2
PATIENCE_S = 3.0                         # for peers that do not answer; requests wait longer than that


class Peering:
    """One per worker. owners: by uuid, the devices of this process; remotes: a client per other process that owns devices."""

    def __init__(self, owners: Mapping[str, Owner], remotes: Mapping[int, RpcClient], *, device_count: int) -> None:
        self._owners, self._remotes = owners, remotes
        self._peer_count = device_count - 1
        self._tasks: list[asyncio.Task[None]] = []
        self._grown = asyncio.Event()
        self._shown: dict[str, PeerMark] = {}
        self._silent = 0                                 # processes that have not said what they remember
        self._is_patient = True

    @property
    def handlers(self) -> dict[int, Handler]:
        """For `RpcServer`."""
        return {OP_COMPARE: self._on_compare, OP_MARKS: self._on_marks}

    def start(self) -> None:
        """Compare with everybody, then gossip."""
        loop = asyncio.get_running_loop()
        for owner in self._owners.values():
            owner.on_synced.append(lambda _: self._grown.set())
        self._compare_locally()
        self._silent = len(self._remotes)
        self._decide()                                   # a cluster of one process has nobody else to ask
        self._tasks = [loop.create_task(self._compare_with(remote)) for remote in self._remotes.values()]
        self._tasks.append(loop.create_task(self._lose_patience()))
        self._tasks.append(loop.create_task(self._gossip()))
        self._grown.set()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _compare_locally(self) -> None:
        for uuid, owner in self._owners.items():
            for peer_uuid, peer in self._owners.items():
                if peer is not owner:
                    owner.compared_with(peer_uuid, peer.device.peers.marks.get(uuid))

    async def _compare_with(self, remote: RpcClient) -> None:
        """Until it has answered: a peer that is away now still has its say when it comes."""
        while True:
            try:
                answer, _ = await remote.call(OP_COMPARE, (list(self._owners),), timeout_s=COMPARE_S, resend=True)
            except StorageError:
                await asyncio.sleep(COMPARE_RETRY_S)
                continue
            for uuid, peer_uuid, mark in answer[0]:
                remembered = PeerMark(*mark) if mark is not None else None
                self._owners[uuid].compared_with(peer_uuid, remembered)
            self._silent -= 1
            self._decide()
            self._grown.set()
            return

    async def _lose_patience(self) -> None:
        await asyncio.sleep(PATIENCE_S)
        self._is_patient = False
        self._decide()

    def _decide(self) -> None:
        """The peer that would object may be the one that answers last: while all may still answer, all are heard."""
        is_patient = self._is_patient and self._silent > 0
        for owner in self._owners.values():
            owner.decide(peers=self._peer_count, is_patient=is_patient)

    def _on_compare(self, call: Call) -> Answered:
        """What the devices of this process remember of the caller's."""
        rows = [(uuid, peer_uuid, owner.device.peers.marks.get(uuid))
                for uuid in call.fields[0] for peer_uuid, owner in self._owners.items()
                if peer_uuid != uuid and not owner.device.fault]
        return (rows,), b""

    async def _gossip(self) -> None:
        while True:
            await self._grown.wait()
            self._grown.clear()
            news = {uuid: owner.device.mark() for uuid, owner in self._owners.items()
                    if owner.has_compared and self._shown.get(uuid) != owner.device.mark()}
            self._shown.update(news)
            self._remember(news)
            for remote in self._remotes.values() if news else ():
                if remote.is_connected:
                    future = remote.call(OP_MARKS, (encode_marks(news),), timeout_s=5.0)
                    future.add_done_callback(lambda f: f.cancelled() or f.exception())
                else:
                    self._shown.clear()                  # it shall hear of it when it is back
            await asyncio.sleep(GOSSIP_S)

    def _on_marks(self, call: Call) -> Answered:
        self._remember(decode_marks(call.fields[0]))
        return (), b""

    def _remember(self, marks: Mapping[str, PeerMark]) -> None:
        for uuid, mark in marks.items():
            for own_uuid, owner in self._owners.items():
                if own_uuid != uuid:
                    owner.remember_peer(uuid, mark)
