"""How other services talk to the row databases of one device: one Protocol, direct or framed."""
from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from common.errors import NotCounted
from common.futures import mapped
from common.packing import pack
from common.rpc_client import RpcClient
from common.timestamp import Stamp
from container.store import RowStore
from container.wire import (
    OP_CONFIRM,
    OP_FIGURES,
    OP_LIVE_ROWS,
    OP_PAGE,
    OP_PUT_ROWS,
    OP_ROWS_OF,
    OP_UNCONFIRMED,
    Figures,
    PageAnswer,
    PageRequest,
    Row,
    pack_rows,
    unpack_page,
    unpack_rows,
)

HINTS_S = 0.05                           # how long hints gather before they travel


class RowClient(Protocol):
    """The databases of one space on one device. Raises what `RowStore` raises, and `NotCounted` for reads of a device
    that does not count."""

    device_id: int
    peer_id: str                         # the device's uuid, by which others confirm rows to it
    is_local: bool

    def put_rows(self, key: bytes, path: str, rows: Sequence[Row], *, held_by: str | None,
                 timeout_s: float) -> asyncio.Future[None]:
        """Durable when the future is done. Errors are raised at once or set in the future."""
    async def page(self, key: bytes, page: PageRequest, *, instance: int, peer: str | None, timeout_s: float) -> PageAnswer: ...
    async def unconfirmed(self, key: bytes, page: PageRequest, *, peer: str, limit: int, timeout_s: float) -> list[Row]: ...
    async def live_rows(self, key: bytes, *, instance: int, ballot: Stamp, after: str, limit: int,
                        timeout_s: float) -> list[Row]: ...
    async def rows_of(self, key: bytes, names: Sequence[str], *, timeout_s: float) -> list[Row]: ...
    async def figures(self, key: bytes, *, timeout_s: float) -> Figures: ...
    def confirm(self, key: bytes, peer: str, rows: Sequence[tuple[str, bytes]]) -> None:
        """Hint, lost without harm."""


class Countable(Protocol):
    """The device's standing, as far as reads need it."""

    @property
    def is_counted(self) -> bool: ...


class LocalRowClient:
    """The store is in this process."""

    is_local = True

    def __init__(self, device_id: int, peer_id: str, store: RowStore, standing: Countable) -> None:
        self.device_id, self.peer_id = device_id, peer_id
        self._store, self._standing = store, standing

    def put_rows(self, key: bytes, path: str, rows: Sequence[Row], *, held_by: str | None,
                 timeout_s: float) -> asyncio.Future[None]:
        return self._store.put_rows(key, path, rows, held_by=held_by)

    async def page(self, key: bytes, page: PageRequest, *, instance: int, peer: str | None, timeout_s: float) -> PageAnswer:
        self._check()
        return await self._store.page(key, page, instance=instance, peer=peer)

    async def unconfirmed(self, key: bytes, page: PageRequest, *, peer: str, limit: int, timeout_s: float) -> list[Row]:
        self._check()
        return await self._store.unconfirmed(key, page, peer=peer, limit=limit)

    async def live_rows(self, key: bytes, *, instance: int, ballot: Stamp, after: str, limit: int,
                        timeout_s: float) -> list[Row]:
        self._check()
        return await self._store.live_rows(key, instance=instance, ballot=ballot, after=after, limit=limit)

    async def rows_of(self, key: bytes, names: Sequence[str], *, timeout_s: float) -> list[Row]:
        self._check()
        return await self._store.rows_of(key, names)

    async def figures(self, key: bytes, *, timeout_s: float) -> Figures:
        self._check()
        return await self._store.figures(key)

    def confirm(self, key: bytes, peer: str, rows: Sequence[tuple[str, bytes]]) -> None:
        self._store.confirm(key, peer, rows)

    def _check(self) -> None:
        if not self._standing.is_counted:
            raise NotCounted(device=self.device_id, reason="its databases wait for copy")


class RemoteRowClient:
    """The store is in another process. space: containers or accounts."""

    is_local = False

    def __init__(self, device_id: int, peer_id: str, space: int, rpc: RpcClient) -> None:
        self.device_id, self.peer_id, self._space, self._rpc = device_id, peer_id, space, rpc
        self._hints: list[tuple[bytes, str, list[tuple[str, bytes]]]] = []

    def put_rows(self, key: bytes, path: str, rows: Sequence[Row], *, held_by: str | None,
                 timeout_s: float) -> asyncio.Future[None]:
        fields = (self.device_id, self._space, key, path, held_by)
        return mapped(self._rpc.call(OP_PUT_ROWS, fields, pack_rows(rows), timeout_s=timeout_s, resend=True), lambda _: None)

    async def page(self, key: bytes, page: PageRequest, *, instance: int, peer: str | None, timeout_s: float) -> PageAnswer:
        fields = (self.device_id, self._space, key, page, instance, peer)
        _, body = await self._rpc.call(OP_PAGE, fields, timeout_s=timeout_s, resend=True)
        return unpack_page(body)

    async def unconfirmed(self, key: bytes, page: PageRequest, *, peer: str, limit: int, timeout_s: float) -> list[Row]:
        fields = (self.device_id, self._space, key, page, peer, limit)
        _, body = await self._rpc.call(OP_UNCONFIRMED, fields, timeout_s=timeout_s, resend=True)
        return unpack_rows(body)

    async def live_rows(self, key: bytes, *, instance: int, ballot: Stamp, after: str, limit: int,
                        timeout_s: float) -> list[Row]:
        fields = (self.device_id, self._space, key, instance, ballot, after, limit)
        _, body = await self._rpc.call(OP_LIVE_ROWS, fields, timeout_s=timeout_s, resend=True)
        return unpack_rows(body)

    async def rows_of(self, key: bytes, names: Sequence[str], *, timeout_s: float) -> list[Row]:
        fields = (self.device_id, self._space, key)
        _, body = await self._rpc.call(OP_ROWS_OF, fields, pack(list(names)), timeout_s=timeout_s, resend=True)
        return unpack_rows(body)

    async def figures(self, key: bytes, *, timeout_s: float) -> Figures:
        answer, _ = await self._rpc.call(OP_FIGURES, (self.device_id, self._space, key), timeout_s=timeout_s, resend=True)
        return Figures(*answer)

    def confirm(self, key: bytes, peer: str, rows: Sequence[tuple[str, bytes]]) -> None:
        if not self._hints:
            asyncio.get_running_loop().call_later(HINTS_S, self._send_hints)
        self._hints.append((key, peer, list(rows)))

    def _send_hints(self) -> None:
        hints, self._hints = self._hints, []
        if self._rpc.is_connected:
            call = self._rpc.call(OP_CONFIRM, (self.device_id, self._space), pack(hints), timeout_s=5.0)
            call.add_done_callback(lambda f: f.cancelled() or f.exception())
