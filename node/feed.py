"""The feed between processes: where identity answers, and the task of a worker that asks.

A worker asks over a connection of its own, so that neither the supervisor nor another worker stands between a revocation and the
gateways. The protocol is that of the storage transport: over a unix socket on one node, over TCP between nodes.
"""
from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from common.errors import Corruption, StorageError
from common.handshake import Credentials, cluster_keys
from common.log import get_logger
from common.rpc_client import RpcClient
from common.sockets import Connect
from identity.wire import FEED_ROLE, FEED_WAIT_S, OP_FEED, Change, unpack_events
from proxy.identity_facts import IdentityFacts, merge_parts

_ANSWER_S = 3.0                          # above what an answer without news waits for
_PAUSE_S = 0.2                           # before asking again after a failure
_PARTS_MAX = 4_096                       # of a snapshot, 2 MiB each
_QUIET_S = 10.0                          # a control API that starts again is no news
_log = get_logger("node.feed")


def feed_socket(root: Path) -> Path:
    """Where identity answers the workers of its node."""
    return root / "run" / "identity.sock"


def feed_credentials(node_id: str, name: str, role: str, *, fingerprint: str, cluster_key: bytes) -> Credentials:
    """Of either end; both prove that they know the cluster's key."""
    return Credentials(name=f"{node_id}/{name}", role=role, fingerprint=fingerprint, keys=cluster_keys(cluster_key))


class FeedReader:
    """Keeps `facts` as identity says; one task until `close`."""

    def __init__(self, facts: IdentityFacts, connect: Connect, credentials: Credentials, *, grace_s: float) -> None:
        """grace_s: for its words only; the limit is kept where tokens are judged."""
        self._facts, self._grace_s = facts, grace_s
        self._client = RpcClient(connect, credentials=credentials, backoff_s_max=_PAUSE_S)
        self._client.expect_end()                        # what it would warn of is told here, in words of its own
        self._epoch, self._position = "", 0
        self._is_told = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to ask."""
        self._task = asyncio.create_task(self._run(), name="identity feed")

    async def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._client.close()

    def status(self) -> dict[str, object]:
        """For `holdfast status`."""
        return {"is_connected": self._facts.is_connected, "generation": self._facts.generation,
                "silent_s": round(self._facts.silent_s, 1)}

    async def _run(self) -> None:
        while True:
            try:
                await self._ask()
            except StorageError as error:
                self._tell_lost(error)
                await asyncio.sleep(_PAUSE_S)
            except Exception as error:                   # the edge of a task that nobody restarts
                _log.error("feed of identity cannot be taken", exc=error)
                self._epoch = ""
                self._tell_lost(Corruption(what="feed"))
                await asyncio.sleep(_PAUSE_S)

    async def _ask(self) -> None:
        """One answer, or all parts of a snapshot. Raises `StorageError`."""
        (epoch, position, left, is_snapshot), body = await self._call(0)
        if not is_snapshot:
            for generation, changes in unpack_events(body):
                self._facts.apply(generation, changes)
            self._position = position
        else:
            generation, parts = await self._take_parts(epoch, position, left, body)
            self._facts.replace(generation, merge_parts(parts))
            self._epoch, self._position = epoch, position
            _log.info("identity is known", generation=generation, users=len(self._facts.tables["user"]),
                      projects=len(self._facts.tables["project"]))
        self._facts.heard()
        self._is_told = False

    async def _take_parts(self, epoch: str, position: int, left: int, body: bytes) -> tuple[int, list[Change]]:
        parts: list[Change] = []
        self._epoch, self._position = epoch, position
        while True:
            ((generation, changes),) = unpack_events(body)
            parts.append(changes)
            if not left or len(parts) > _PARTS_MAX:
                return generation, parts
            wanted, (fields, body) = left - 1, await self._call(len(parts))
            if fields[:2] != [epoch, position] or fields[2] != wanted:
                self._epoch = ""                         # another snapshot has taken its place: from the beginning
                raise Corruption(what="feed", reason="the parts are of two snapshots")
            left = wanted

    async def _call(self, part: int) -> tuple[list[Any], bytes]:
        fields, body = await self._client.call(OP_FEED, (self._epoch, self._position, part), timeout_s=FEED_WAIT_S + _ANSWER_S)
        if self._client.peer is None or self._client.peer.role != FEED_ROLE or len(fields) != 4:
            raise Corruption(what="feed", reason="this is not identity")
        return fields, body

    def _tell_lost(self, error: StorageError) -> None:
        self._facts.lost()
        if not self._is_told and self._facts.generation and self._facts.silent_s > _QUIET_S:
            self._is_told = True
            _log.warning("identity does not answer: its tokens go on by what is known", grace_s=self._grace_s, error=error)
