"""The ops of a worker's devices: decode, find the owner, answer what it answers."""
from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Mapping
from typing import Any

import msgpack

from common.errors import DeviceFull, DeviceUnavailable, OlderConfig
from common.futures import mapped
from common.rpc_server import LATER, Answered, Call, Download, Handler
from common.timestamp import Stamp, unpack_stamp
from object.client import LocalStage, read_pieces
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
    Reply,
    reply_to_wire,
    unpack_version,
)

Wire = tuple[tuple[Any, ...], bytes]


class ObjectServer:
    """Serves the devices that this process owns. owners: ring device id -> owner."""

    def __init__(self, owners: Mapping[int, Owner], *, ring_version: int) -> None:
        self._owners = owners
        self.ring_version = ring_version

    @property
    def handlers(self) -> dict[int, Handler]:
        """For `RpcServer`."""
        return {OP_LOOK: self._look, OP_ACCEPT: self._accept, OP_LEARN: self._learn, OP_OWED: self._owed,
                OP_OWES: self._owes, OP_DONE: self._done, OP_STAGE: self._stage, OP_READ_BODY: self._read_body}

    def _owner(self, device_id: int, ring_version: int) -> Owner:
        if ring_version < self.ring_version:
            raise OlderConfig(mine=self.ring_version, theirs=ring_version)
        owner = self._owners.get(device_id)
        if owner is None:
            raise DeviceUnavailable(device=device_id, reason="not owned by this process")
        return owner

    def _look(self, call: Call) -> Answered | None:
        device, ring_version, key, ballot, seen_us, is_durable, read_body = call.fields
        owner = self._owner(device, ring_version)
        answer = owner.look(key, Stamp(*ballot) if ballot is not None else None, seen_us=seen_us, is_durable=is_durable,
                            read_body=read_body, into=_Encoded(call))
        return _encode(answer) if isinstance(answer, Reply) else LATER

    def _accept(self, call: Call) -> Answered | None:
        device, ring_version, key, ballot, packed, mode, seen_us, is_durable, has_body = call.fields
        owner = self._owner(device, ring_version)
        answer = owner.accept(key, Stamp(*ballot), unpack_version(packed), mode, seen_us=seen_us, is_durable=is_durable,
                              body=call.body if has_body else None, into=_Encoded(call))
        return _encode(answer) if isinstance(answer, Reply) else LATER

    def _learn(self, call: Call) -> Answered | Awaitable[Answered]:
        device, ring_version, key, ballot, packed, has_body = call.fields
        owner = self._owner(device, ring_version)
        return _answer(owner.learn(key, Stamp(*ballot), unpack_version(packed), body=call.body if has_body else None))

    def _owed(self, call: Call) -> Answered | Awaitable[Answered]:
        device, ring_version, key, stamp = call.fields
        waiting = self._owner(device, ring_version).owed(key, Stamp(*stamp))
        return mapped(waiting, lambda _: ((), b"")) if waiting is not None else ((), b"")

    def _owes(self, call: Call) -> Answered:
        device, ring_version, key, stamp = call.fields
        return (self._owner(device, ring_version).owes(key, Stamp(*stamp)),), b""

    def _done(self, call: Call) -> Answered:
        owner = self._owner(call.fields[0], self.ring_version)
        for key, stamp in msgpack.unpackb(call.body):
            owner.done(key, unpack_stamp(stamp))
        return (), b""

    async def _stage(self, call: Call) -> Answered:
        """Upload: [device, ring version], the body, then [key, body id, path]. Cut short: nothing is left behind."""
        owner = self._owner(*call.fields)
        stream = call.stream
        assert stream is not None
        stage = LocalStage(owner)
        try:
            while piece := await stream.read_piece():
                await stage.write(*piece)
            key, body_id, path = stream.end_fields
            return _encode(await stage.finish(key, body_id, path))
        except OSError as error:         # what the caller makes of it is the same as of a local device
            name = owner.name
            raise (DeviceFull(device=name) if error.errno == errno.ENOSPC
                   else DeviceUnavailable(device=name, reason=str(error))) from error
        finally:
            stage.abort()

    async def _read_body(self, call: Call) -> Answered:
        device, ring_version, key, body_id, offset, count = call.fields
        owner = self._owner(device, ring_version)
        return Download((), read_pieces(owner, key, body_id, offset, count))


class _Encoded:
    """Takes a reply and gives it to the wire."""

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    def done(self) -> bool:
        return False

    def set_result(self, reply: Reply, /) -> None:
        self._call.answer(_encode(reply))

    def set_exception(self, exception: BaseException, /) -> None:
        self._call.fail(exception)


def _answer(answer: Reply | asyncio.Future[Reply]) -> Answered | Awaitable[Answered]:
    return _encode(answer) if isinstance(answer, Reply) else mapped(answer, _encode)


def _encode(reply: Reply) -> Wire:
    return (*reply_to_wire(reply), reply.body is not None), reply.body or b""
