"""The way out of one connection: writes with back-pressure, and sendfile on a descriptor of its own.

A reader that stops taking bytes holds at most WRITE_HIGH_BYTES + SLICE_BYTES of memory here (768 KiB).
sendfile: uvloop has no `loop.sendfile`, and a transport's own descriptor must not be watched by others; so the socket is
dup'ed, written directly while the transport's buffer is empty, and watched for room when it is full.
"""
from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable

from proxy.http.message import FileBody, FileSpan

WRITE_HIGH_BYTES = 524_288
SLICE_BYTES = 262_144
_SENDFILE_BYTES = 1_048_576
_READAHEAD_BYTES = 4_194_304


class ConnectionGone(Exception):
    """The peer is no longer there; what was not sent will not be."""


class Outlet:
    """Write side of a connection. Calls to `pause`, `resume` and `lose` come from the transport's protocol."""

    __slots__ = ("_waiter", "_written", "is_lost", "is_paused", "loop", "transport")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self.loop = loop
        self.transport = transport
        self.is_paused = False
        self.is_lost = False
        self._written = 0
        self._waiter: asyncio.Future[None] | None = None
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)

    def write(self, data: bytes | memoryview) -> None:
        """Hand bytes to the transport, which may buffer them; nothing once the peer is gone."""
        if not self.is_lost:
            self._written += len(data)
            self.transport.write(data)

    @property
    def sent_bytes(self) -> int:
        """Bytes that the kernel took so far: the measure of the peer's progress."""
        return self._written - (0 if self.is_lost else self.transport.get_write_buffer_size())

    @property
    def is_blocked(self) -> bool:
        """Whether bytes wait for the peer to read."""
        return not self.is_lost and (self._waiter is not None or self.transport.get_write_buffer_size() > 0)

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False
        self._wake()

    def lose(self) -> None:
        """The connection is closed: whoever waits gets `ConnectionGone`."""
        if not self.is_lost:
            self._written -= self.transport.get_write_buffer_size()
        self.is_lost = True
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _wait(self) -> None:
        """Until someone wakes us. Raises `ConnectionGone`."""
        if self.is_lost:
            raise ConnectionGone
        assert self._waiter is None, "one answer at a time"
        self._waiter = self.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self.is_lost:
            raise ConnectionGone

    async def send(self, data: bytes) -> None:
        """Write `data` in slices, each after the peer took enough of those before. Raises `ConnectionGone`."""
        if self.is_lost:
            raise ConnectionGone
        if len(data) <= SLICE_BYTES:
            self.write(data)
            if self.is_paused:
                await self._wait()
            return
        view = memoryview(data)
        for offset in range(0, len(data), SLICE_BYTES):
            self.write(view[offset:offset + SLICE_BYTES])
            if self.is_paused:
                await self._wait()

    async def flush(self) -> None:
        """Until the transport's buffer is empty. Raises `ConnectionGone`."""
        if self.transport.get_write_buffer_size() == 0 and not self.is_lost:
            return
        self.transport.set_write_buffer_limits(high=0)
        try:
            while self.transport.get_write_buffer_size() > 0 or self.is_lost:
                await self._wait()
        finally:
            self.transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)

    async def send_files(self, head: bytes, body: FileBody) -> None:
        """Send `head` and every piece of `body`. Raises `ConnectionGone`, `ShortFile` and `OSError` of the files."""
        if self.transport.get_extra_info("sslcontext") is not None:
            await self._copy_files(head, body)
            return
        await self.flush()
        sock = self.transport.get_extra_info("socket")
        sender = _FileSender(self, os.dup(sock.fileno()))
        try:
            await sender.send_bytes(head, has_more=body.length > 0)
            for piece in body.pieces:
                await (sender.send_bytes(piece, has_more=False) if isinstance(piece, bytes) else sender.send_span(piece))
        finally:
            sender.close()

    async def _copy_files(self, head: bytes, body: FileBody) -> None:
        """Through memory, for TLS."""
        await self.send(head)
        for piece in body.pieces:
            if isinstance(piece, bytes):
                await self.send(piece)
                continue
            offset, end = piece.offset, piece.offset + piece.count
            while offset < end:
                data = os.pread(piece.fd, min(SLICE_BYTES, end - offset), offset)
                if not data:
                    raise ShortFile(f"file ends at {offset}, {end} expected")
                await self.send(data)
                offset += len(data)

    def count_sent(self, count: int) -> None:
        """Bytes that went past the transport."""
        self._written += count

    def wait_for_room(self) -> Awaitable[None]:
        """One wait of a sender on its own descriptor; `wake_sender` ends it."""
        return self._wait()

    def wake_sender(self) -> None:
        self._wake()


class ShortFile(Exception):
    """A file ended before the length that the answer promised: the connection is aborted, so that the client notices."""


class _FileSender:
    """Non-blocking writes to a duplicate of the socket's descriptor. While it lives nobody uses the transport's write."""

    __slots__ = ("_fd", "_out", "_sock")

    def __init__(self, out: Outlet, fd: int) -> None:
        self._out = out
        self._sock = socket.socket(fileno=fd)
        self._sock.setblocking(False)
        self._fd = fd

    def close(self) -> None:
        self._sock.close()

    async def _writable(self) -> None:
        loop = self._out.loop
        loop.add_writer(self._fd, self._out.wake_sender)
        try:
            await self._out.wait_for_room()
        finally:
            loop.remove_writer(self._fd)

    async def send_bytes(self, data: bytes, *, has_more: bool) -> None:
        view = memoryview(data)
        while view:
            if self._out.is_lost:
                raise ConnectionGone
            try:
                count = self._sock.send(view, socket.MSG_MORE if has_more else 0)
            except (BlockingIOError, InterruptedError):
                await self._writable()
                continue
            except OSError:                              # reset by the peer: the transport will notice by itself
                raise ConnectionGone from None
            self._out.count_sent(count)
            view = view[count:]

    async def send_span(self, span: FileSpan) -> None:
        offset, end = span.offset, span.offset + span.count
        ahead = offset
        while offset < end:
            if self._out.is_lost:
                raise ConnectionGone
            if offset + _SENDFILE_BYTES > ahead and ahead < end:         # so that sendfile rarely waits for the disk
                os.posix_fadvise(span.fd, ahead, min(_READAHEAD_BYTES, end - ahead), os.POSIX_FADV_WILLNEED)
                ahead += _READAHEAD_BYTES
            try:
                count = os.sendfile(self._fd, span.fd, offset, min(_SENDFILE_BYTES, end - offset))
            except (BlockingIOError, InterruptedError):
                await self._writable()
                continue
            except (BrokenPipeError, ConnectionError):
                raise ConnectionGone from None
            if count == 0:
                raise ShortFile(f"file ends at {offset}, {end} expected")
            self._out.count_sent(count)
            offset += count
            if offset < end:
                await asyncio.sleep(0)                   # others' turn: a fast reader would keep the loop for itself
