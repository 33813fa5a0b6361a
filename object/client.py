"""How other services talk to a device: one Protocol, by direct call when the owner is in this process, else framed.

Every request of the register protocol answers a `Reply` at once when nothing has to be waited for: a look at an own device
costs no scheduling at all. Else the reply comes later, to `into`, or to a future if that was not given. Errors are ours,
raised or given to whoever waits.
"""
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, TypeVar

from common.errors import Corruption
from common.futures import ignore, mapped
from common.packing import pack
from common.rpc_client import RpcClient
from common.timestamp import Stamp
from object.bodies import BLOCK_BYTES, BodyWriter
from object.owner import Owner
from object.wire import (
    OP_ACCEPT,
    OP_DONE,
    OP_LEARN,
    OP_LOOK,
    OP_OWED,
    OP_OWES,
    OP_READ_BODY,
    OP_STAGE,
    Answer,
    Reply,
    ReplySink,
    Version,
    reply_from_wire,
)

T = TypeVar("T")
HINTS_S = 0.05                           # how long hints gather: they are no news before seconds have passed
PIECE_BYTES = 4 * BLOCK_BYTES            # what one read of a large body brings, and what a reader that is stuck holds


class Stage(Protocol):
    """A large body on its way to one replica."""

    async def write(self, *chunks: bytes | memoryview) -> None:
        """One chunk at least; when it returns the replica has written them, though not durably, and nobody holds them."""

    async def finish(self, key: bytes, body_id: int, path: str) -> Reply:
        """Durable under its name when it returns; the reply is a look."""

    def abort(self) -> None:
        """Nothing is left behind."""


class ObjectClient(Protocol):
    """One device. Raises `TransportLost`, `DeadlineExceeded` and what `Owner` raises.

    into: gets the reply, or the error, if it comes later than the call returns; by default a new future, which is returned.
    """

    device_id: int
    is_local: bool

    def look(self, key: bytes, ballot: Stamp | None, *, seen_us: int, is_durable: bool, read_body: bool,
             timeout_s: float, into: ReplySink | None = None) -> Answer: ...
    def accept(self, key: bytes, ballot: Stamp, version: Version, mode: int, *, seen_us: int, is_durable: bool,
               body: bytes | None, timeout_s: float, into: ReplySink | None = None) -> Answer: ...
    def learn(self, key: bytes, ballot: Stamp, version: Version, *, body: bytes | None, timeout_s: float) -> Answer: ...
    def owed(self, key: bytes, stamp: Stamp, *, timeout_s: float) -> asyncio.Future[None] | None: ...
    async def owes(self, key: bytes, stamp: Stamp, *, timeout_s: float) -> bool: ...
    def done(self, key: bytes, stamp: Stamp) -> None: ...
    async def open_stage(self, *, timeout_s: float) -> Stage: ...
    def read_body(self, key: bytes, body_id: int, offset: int, count: int, *, timeout_s: float) -> AsyncIterator[bytes]:
        """Checked pieces of at most 256 KiB. Raises `Corruption`, `DeviceUnavailable`."""


class LocalObjectClient:
    """The owner is in this process: direct calls."""

    is_local = True

    def __init__(self, device_id: int, owner: Owner) -> None:
        self.device_id, self._owner = device_id, owner

    def look(self, key: bytes, ballot: Stamp | None, *, seen_us: int, is_durable: bool, read_body: bool,
             timeout_s: float, into: ReplySink | None = None) -> Answer:
        return self._owner.look(key, ballot, seen_us=seen_us, is_durable=is_durable, read_body=read_body, into=into)

    def accept(self, key: bytes, ballot: Stamp, version: Version, mode: int, *, seen_us: int, is_durable: bool,
               body: bytes | None, timeout_s: float, into: ReplySink | None = None) -> Answer:
        return self._owner.accept(key, ballot, version, mode, seen_us=seen_us, is_durable=is_durable, body=body, into=into)

    def learn(self, key: bytes, ballot: Stamp, version: Version, *, body: bytes | None, timeout_s: float) -> Answer:
        return self._owner.learn(key, ballot, version, body=body)

    def owed(self, key: bytes, stamp: Stamp, *, timeout_s: float) -> asyncio.Future[None] | None:
        return self._owner.owed(key, stamp)

    async def owes(self, key: bytes, stamp: Stamp, *, timeout_s: float) -> bool:
        return self._owner.owes(key, stamp)

    def done(self, key: bytes, stamp: Stamp) -> None:
        self._owner.done(key, stamp)

    async def open_stage(self, *, timeout_s: float) -> Stage:
        return LocalStage(self._owner)

    def read_body(self, key: bytes, body_id: int, offset: int, count: int, *, timeout_s: float) -> AsyncIterator[bytes]:
        return read_pieces(self._owner, key, body_id, offset, count)


class LocalStage:
    """Writes in the device's body pool, some chunks at a time; the first job makes the file."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._writer: BodyWriter | None = None
        self._is_given_up = False

    async def write(self, *chunks: bytes | memoryview) -> None:
        await self._owner.in_body_pool(lambda: self._open().write(*chunks))

    async def finish(self, key: bytes, body_id: int, path: str) -> Reply:
        writer = self._writer if self._writer is not None else await self._owner.in_body_pool(self._open)
        return await self._owner.stage(writer, key, body_id, path)

    def abort(self) -> None:
        self._is_given_up = True
        if self._writer is not None:
            self._writer.abort()

    def _open(self) -> BodyWriter:
        """In the pool. Given up meanwhile: the file goes with its handle."""
        if self._writer is None:
            self._writer = self._owner.new_body()
            if self._is_given_up:
                self._writer.abort()
        return self._writer


async def read_pieces(owner: Owner, key: bytes, body_id: int, offset: int, count: int) -> AsyncIterator[bytes]:
    """A range of a large body in checked pieces; a block that fails its check is quarantined and ends it."""
    held = owner.device.get(key)
    reader = await owner.open_body(key, body_id)
    try:
        end = min(offset + count, reader.size_bytes)
        while offset < end:
            take = min(PIECE_BYTES - offset % BLOCK_BYTES, end - offset)
            start = offset
            try:
                piece = await owner.in_body_pool(lambda at=start, n=take: reader.read(at, n))  # type: ignore[misc]
            except Corruption as error:
                assert held is not None
                owner.damaged_body(key, held, error)
                raise
            yield piece
            offset += take
    finally:
        reader.close()


class RemoteObjectClient:
    """The owner is another process. ring_version: of the ring that placed the key, checked by the server."""

    is_local = False

    def __init__(self, device_id: int, rpc: RpcClient, *, ring_version: Callable[[], int]) -> None:
        self.device_id, self._rpc, self._ring_version = device_id, rpc, ring_version
        self._done: list[tuple[bytes, bytes]] = []

    def look(self, key: bytes, ballot: Stamp | None, *, seen_us: int, is_durable: bool, read_body: bool,
             timeout_s: float, into: ReplySink | None = None) -> Answer:
        fields = (self.device_id, self._ring_version(), key, ballot, seen_us, is_durable, read_body)
        return self._ask(OP_LOOK, fields, b"", timeout_s, into)

    def accept(self, key: bytes, ballot: Stamp, version: Version, mode: int, *, seen_us: int, is_durable: bool,
               body: bytes | None, timeout_s: float, into: ReplySink | None = None) -> Answer:
        fields = (self.device_id, self._ring_version(), key, ballot, version.packed, int(mode), seen_us, is_durable,
                  body is not None)
        return self._ask(OP_ACCEPT, fields, body or b"", timeout_s, into)

    def learn(self, key: bytes, ballot: Stamp, version: Version, *, body: bytes | None, timeout_s: float) -> Answer:
        fields = (self.device_id, self._ring_version(), key, ballot, version.packed, body is not None)
        return self._ask(OP_LEARN, fields, body or b"", timeout_s, None)

    def _ask(self, op: int, fields: tuple[object, ...], body: bytes, timeout_s: float, into: ReplySink | None) -> ReplySink:
        sink = into if into is not None else asyncio.get_running_loop().create_future()
        self._rpc.call_into(_Decoded(sink), op, fields, body, timeout_s=timeout_s, resend=True)
        return sink

    def owed(self, key: bytes, stamp: Stamp, *, timeout_s: float) -> asyncio.Future[None] | None:
        fields = (self.device_id, self._ring_version(), key, stamp)
        return mapped(self._rpc.call(OP_OWED, fields, timeout_s=timeout_s, resend=True), lambda answer: None)

    async def owes(self, key: bytes, stamp: Stamp, *, timeout_s: float) -> bool:
        fields = (self.device_id, self._ring_version(), key, stamp)
        answer, _ = await self._rpc.call(OP_OWES, fields, timeout_s=timeout_s, resend=True)
        return bool(answer[0])

    def done(self, key: bytes, stamp: Stamp) -> None:
        if not self._done:
            asyncio.get_running_loop().call_later(HINTS_S, self._send_done)
        self._done.append((key, stamp.pack()))

    def _send_done(self) -> None:
        hints, self._done = self._done, []
        if self._rpc.is_connected:       # lost without harm: what is left is settled after 5 s
            self._rpc.call(OP_DONE, (self.device_id,), pack(hints), timeout_s=5.0).add_done_callback(ignore)

    async def open_stage(self, *, timeout_s: float) -> Stage:
        return RemoteStage(self._rpc, self.device_id, self._ring_version(), timeout_s)

    async def read_body(self, key: bytes, body_id: int, offset: int, count: int, *, timeout_s: float) -> AsyncIterator[bytes]:
        fields = (self.device_id, self._ring_version(), key, body_id, offset, count)
        download = await self._rpc.open_download(OP_READ_BODY, fields, timeout_s=timeout_s)
        try:
            while piece := await download.read():
                yield piece
        finally:
            download.cancel()


class RemoteStage:
    """One upload stream; the server writes as credit allows."""

    def __init__(self, rpc: RpcClient, device_id: int, ring_version: int, timeout_s: float) -> None:
        self._upload = rpc.open_upload(OP_STAGE, (device_id, ring_version), timeout_s=timeout_s)

    async def write(self, *chunks: bytes | memoryview) -> None:
        for chunk in chunks[:-1]:
            await self._upload.write(chunk)
        await self._upload.write(chunks[-1], is_piece_end=True)

    async def finish(self, key: bytes, body_id: int, path: str) -> Reply:
        fields, _ = await self._upload.finish((key, body_id, path))
        return reply_from_wire(fields[:5])

    def abort(self) -> None:
        self._upload.abort()


class _Decoded:
    """Takes an answer of the wire and gives its reply on."""

    __slots__ = ("_sink",)

    def __init__(self, sink: ReplySink) -> None:
        self._sink = sink

    def done(self) -> bool:
        return self._sink.done()

    def set_result(self, answer: tuple[list[Any], bytes], /) -> None:
        fields, body = answer
        try:
            reply = reply_from_wire(fields[:5], body if fields[5] else None)
        except Exception as error:       # a peer that answers nonsense
            self._sink.set_exception(error)
            return
        self._sink.set_result(reply)

    def set_exception(self, exception: BaseException, /) -> None:
        self._sink.set_exception(exception)
