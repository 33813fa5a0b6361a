"""One connection: frames in and out, all frames of one loop turn in one write.

A `Link` is the asyncio protocol under `RpcClient` and `RpcServer`; it knows frames, not calls. Its owner sets `receive`,
`on_lost` and `on_paused` before the connection is made.
"""
from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from common.errors import TransportLost
from common.frames import Frame, FrameReader, FrameWriter
from common.handshake import HANDSHAKE_FRAME_BYTES_MAX

WRITE_BUFFER_HIGH_BYTES, WRITE_BUFFER_LOW_BYTES = 2 << 20, 512 << 10
JOIN_BYTES_MAX = 16 << 10                # shorter bodies are copied beside their header, longer ones written from where they are
TCP_USER_TIMEOUT_MS = 15_000             # unacknowledged for so long: the peer is gone
_UCRED = struct.Struct("3i")


class Receiver(Protocol):
    """Takes one frame."""

    def __call__(self, stream_id: int, op: int, fields: list[Any], body: bytes, /) -> None: ...


class Link(asyncio.BufferedProtocol):
    """See the module. `name` is who is at the other end, for logs and errors; "" until it has proved itself."""

    def __init__(self, *, on_made: Callable[[Link], None] | None = None) -> None:
        self.name = ""
        self.is_open = False
        self.lost_reason = ""
        self.receive: Receiver = _ignore
        self.on_made = on_made
        self.on_lost: Callable[[str], None] | None = None
        self.on_paused: Callable[[bool], None] | None = None
        self.transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader(HANDSHAKE_FRAME_BYTES_MAX)
        self._encode = FrameWriter().encode
        self._out: list[bytes | memoryview] = []
        self._is_paused = False
        self._writable: list[asyncio.Future[None]] = []

    def trust(self, name: str, frame_bytes_max: int) -> None:
        """The other end is `name`, proved: it may send frames of full size."""
        self.name, self._reader.frame_bytes_max = name, frame_bytes_max

    def send(self, stream_id: int, op: int, fields: Sequence[object], body: bytes | memoryview = b"") -> None:
        """Let a frame leave at the end of this turn; `body` must not change after. On a closed link: nothing.

        Raises as `FrameWriter.encode`, and then nothing leaves.
        """
        head = self._encode(stream_id, op, fields, body)
        if not self.is_open:
            return
        out = self._out
        if not out:
            self._loop.call_soon(self._flush)
        out.append(head)
        if body:
            out.append(body)

    async def drain(self) -> None:
        """Return when the kernel has taken most of what was sent. Raises `TransportLost`."""
        if self._is_paused and self.is_open:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._writable.append(waiter)
            await waiter
        if not self.is_open:
            raise TransportLost(peer=self.name, reason=self.lost_reason)

    def close(self, reason: str) -> None:
        """Send what was given to `send`, then close."""
        if self.is_open and self.transport is not None:
            self.lost_reason = self.lost_reason or reason
            self._flush()
            self.is_open = False
            self.transport.close()

    def abort(self, reason: str) -> None:
        """Close at once."""
        self.lost_reason = self.lost_reason or reason
        self.is_open = False
        if self.transport is not None:
            self.transport.abort()

    def peer_uid(self) -> int | None:
        """User at the other end of a unix socket; None on TCP."""
        sock = self.transport.get_extra_info("socket") if self.transport is not None else None
        if sock is None or sock.family != socket.AF_UNIX:
            return None
        uid: int = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1]
        return uid

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.is_open = True
        self.transport.set_write_buffer_limits(WRITE_BUFFER_HIGH_BYTES, WRITE_BUFFER_LOW_BYTES)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
        if self.on_made is not None:
            self.on_made(self)

    def get_buffer(self, sizehint: int) -> bytearray:
        return cast("bytearray", self._reader.room())            # any writable buffer will do

    def buffer_updated(self, nbytes: int) -> None:
        self.take(self._reader.advance(nbytes))

    def take(self, frames: list[Frame]) -> None:
        """Give frames to the owner, who may close the link at any of them."""
        for frame in frames:
            if not self.is_open:
                return
            self.receive(*frame)
        if self._reader.error is not None:
            self.abort(str(self._reader.error.fields["reason"]))

    def eof_received(self) -> None:
        self.lost_reason = self.lost_reason or "closed by the other end"

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._out.clear()
        self.lost_reason = self.lost_reason or (str(exc) if exc is not None else "closed by the other end")
        self.resume_writing()
        if self.on_lost is not None:
            self.on_lost(self.lost_reason)

    def pause_writing(self) -> None:
        self._is_paused = True
        if self.on_paused is not None:
            self.on_paused(True)

    def resume_writing(self) -> None:
        self._is_paused = False
        waiting, self._writable = self._writable, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
        if self.on_paused is not None and self.is_open:
            self.on_paused(False)

    def _flush(self) -> None:
        out = self._out
        if not out or not self.is_open or self.transport is None:
            return
        self._out = []
        if len(out) == 1:
            self.transport.write(out[0])
        elif max(map(len, out)) <= JOIN_BYTES_MAX:
            self.transport.write(b"".join(out))
        else:
            self.transport.writelines(out)


def is_allowed_uid(uid: int | None) -> bool:
    """Only this user and root may be at the other end of a unix socket."""
    return uid is None or uid in (0, os.geteuid())


def _ignore(stream_id: int, op: int, fields: list[Any], body: bytes, /) -> None:
    """Frames of an end that nobody listens to."""
