"""The ops of a worker's row databases, for containers and accounts."""
from __future__ import annotations

from collections.abc import Awaitable, Mapping

import msgpack

from common.errors import DeviceUnavailable
from common.futures import mapped
from common.rpc_server import Answered, Call, Handler
from common.timestamp import Stamp
from container.client import LocalRowClient
from container.wire import (
    OP_CONFIRM,
    OP_FIGURES,
    OP_LIVE_ROWS,
    OP_PAGE,
    OP_PUT_ROWS,
    OP_ROWS_OF,
    OP_UNCONFIRMED,
    PageRequest,
    pack_page,
    pack_rows,
    unpack_rows,
)

LOCAL_S = 60.0                           # the caller's deadline counts; a direct call has none of its own


class RowServer:
    """clients: (ring device id, space) -> the direct client of a store of this process."""

    def __init__(self, clients: Mapping[tuple[int, int], LocalRowClient]) -> None:
        self._clients = clients

    @property
    def handlers(self) -> dict[int, Handler]:
        """For `RpcServer`."""
        return {OP_PUT_ROWS: self._put_rows, OP_PAGE: self._page, OP_UNCONFIRMED: self._unconfirmed,
                OP_LIVE_ROWS: self._live_rows, OP_ROWS_OF: self._rows_of, OP_FIGURES: self._figures, OP_CONFIRM: self._confirm}

    def _client(self, device_id: int, space: int) -> LocalRowClient:
        client = self._clients.get((device_id, space))
        if client is None:
            raise DeviceUnavailable(device=device_id, reason="not owned by this process")
        return client

    def _put_rows(self, call: Call) -> Awaitable[Answered]:
        device, space, key, path, held_by = call.fields
        rows = unpack_rows(call.body)
        stored = self._client(device, space).put_rows(key, path, rows, held_by=held_by, timeout_s=LOCAL_S)
        return mapped(stored, lambda _: ((), b""))

    async def _page(self, call: Call) -> Answered:
        device, space, key, page, instance, peer = call.fields
        answer = await self._client(device, space).page(key, PageRequest(*page), instance=instance, peer=peer,
                                                        timeout_s=LOCAL_S)
        return (), pack_page(answer)

    async def _unconfirmed(self, call: Call) -> Answered:
        device, space, key, page, peer, limit = call.fields
        rows = await self._client(device, space).unconfirmed(key, PageRequest(*page), peer=peer, limit=limit,
                                                             timeout_s=LOCAL_S)
        return (), pack_rows(rows)

    async def _live_rows(self, call: Call) -> Answered:
        device, space, key, instance, ballot, after, limit = call.fields
        rows = await self._client(device, space).live_rows(key, instance=instance, ballot=Stamp(*ballot), after=after,
                                                           limit=limit, timeout_s=LOCAL_S)
        return (), pack_rows(rows)

    async def _rows_of(self, call: Call) -> Answered:
        device, space, key = call.fields
        names = msgpack.unpackb(call.body)
        return (), pack_rows(await self._client(device, space).rows_of(key, names, timeout_s=LOCAL_S))

    async def _figures(self, call: Call) -> Answered:
        return await self._client(*call.fields[:2]).figures(call.fields[2], timeout_s=LOCAL_S), b""

    def _confirm(self, call: Call) -> Answered:
        client = self._client(*call.fields)
        for key, peer, rows in msgpack.unpackb(call.body):
            client.confirm(key, peer, [(name, stamp) for name, stamp in rows])
        return (), b""


