"""Bodies that are not wholly here when their handler starts: the sources behind `message.Body`.

`QueueIntake` takes what `data_received` brings: chunked bodies, TLS, and lengths up to POOLED_BYTES_MIN; it holds at most
QUEUE_HIGH_BYTES and one read more. `PooledIntake` takes a large body of a plain TCP connection through a `BufferedProtocol`: the
kernel writes straight into pooled buffers, of which one upload holds at most four; no buffer, no reading.
Neither takes a byte beyond the body: what follows goes back to the connection.
"""
from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from common.errors import BadRequest, BodyTooShort, StorageError
from proxy.http.chunked import ChunkDecoder
from proxy.http.message import CHUNK_BYTES_MAX, READY_BYTES_MAX, Lease
from proxy.http.pool import BufferPool

POOLED_BYTES_MIN = 262_144           # below it a buffer of 1 MiB is not worth its place
QUEUE_HIGH_BYTES = 262_144
QUEUE_LOW_BYTES = 65_536
LEASES_MAX = 4


class IntakeOwner(Protocol):
    """What an intake needs of its connection."""

    def send_continue(self) -> None:
        """Write the 100 line."""

    def pause_intake(self) -> None:
        """Stop reading the socket (idempotent)."""

    def resume_intake(self) -> None:
        """Read the socket again (idempotent)."""

    def divert_input(self, receiver: PooledIntake | None) -> None:
        """Let the transport read into `receiver`'s buffers; None ends that."""

    def count_input(self, count: int) -> None:
        """Bytes that came past `data_received`."""


class Intake:
    """What both kinds share: one waiting reader, a sticky end."""

    __slots__ = ("_expects_continue", "_owner", "_waiter", "error", "is_complete", "received_bytes", "remaining")

    def __init__(self, owner: IntakeOwner, remaining: int | None, *, expects_continue: bool) -> None:
        self._owner = owner
        self._expects_continue = expects_continue
        self._waiter: asyncio.Future[None] | None = None
        self.error: StorageError | None = None
        self.is_complete = False                 # the last byte has arrived (perhaps not been read)
        self.received_bytes = 0
        self.remaining = remaining               # bytes still to come, None when chunked

    @property
    def is_awaited(self) -> bool:
        """Whether a reader waits for the client: only then is the client slow."""
        return self._waiter is not None and not self.is_complete and self.error is None

    @property
    def is_unasked(self) -> bool:
        """Whether the client was never told to send the body: then nobody knows if it will."""
        return self._expects_continue and not self.received_bytes

    def fail(self, error: StorageError) -> None:
        """No more bytes will come; the first error stays."""
        if not self.is_complete and self.error is None:
            self.error = error
            self._wake()

    def fail_short(self) -> None:
        """The client is gone."""
        if self.remaining is None:
            self.fail(BodyTooShort(got_bytes=self.received_bytes))
        else:
            self.fail(BodyTooShort(expected_bytes=self.received_bytes + self.remaining, got_bytes=self.received_bytes))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        """Until bytes, the end or an error are here."""
        if self._expects_continue:
            self._expects_continue = False
            if not self.received_bytes:
                self._owner.send_continue()
        assert self._waiter is None, "one reader at a time"
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def feed(self, data: bytes) -> bytes:
        """Bytes of the socket; returns those after the end of the body."""
        raise NotImplementedError

    async def read(self) -> bytes | Lease:
        """See `message.BodySource`."""
        raise NotImplementedError

    def take_ready(self) -> bytes | None:
        """See `message.BodySource`."""
        return None

    def close(self) -> None:
        """The answer is out: drop what was not read, give buffers back, fail later reads."""
        raise NotImplementedError


class QueueIntake(Intake):
    """Pieces in a queue."""

    __slots__ = ("_decoder", "_pieces", "_queued_bytes")

    def __init__(self, owner: IntakeOwner, length: int | None, *, expects_continue: bool) -> None:
        super().__init__(owner, length, expects_continue=expects_continue)
        self._decoder = ChunkDecoder() if length is None else None
        self._pieces: deque[bytes] = deque()
        self._queued_bytes = 0

    def feed(self, data: bytes) -> bytes:
        if self.error is not None:
            return b""
        if self._decoder is None:
            pieces, rest = self._cut(data)
        else:
            try:
                pieces, rest = self._decoder.feed(data)
            except BadRequest as error:
                self.fail(error)
                return b""
            self.is_complete = self._decoder.is_complete
        for piece in pieces:
            self._pieces.append(piece)
            self._queued_bytes += len(piece)
        self.received_bytes += len(data) - len(rest)
        if self._queued_bytes > QUEUE_HIGH_BYTES and not self.is_complete:
            self._owner.pause_intake()
        if self._pieces or self.is_complete:
            self._wake()
        return rest

    def _cut(self, data: bytes) -> tuple[list[bytes], bytes]:
        assert self.remaining is not None
        taken = min(self.remaining, len(data))
        self.remaining -= taken
        self.is_complete = self.remaining == 0
        return [data[:taken]] if taken else [], data[taken:]

    async def read(self) -> bytes | Lease:
        while not self._pieces:
            if self.is_complete:
                return b""
            if self.error is not None:
                raise self.error
            await self._wait()
        return self._pop()

    def _pop(self) -> bytes:
        """Queued pieces as one, at most CHUNK_BYTES_MAX."""
        piece = self._pieces.popleft()
        if self._pieces and len(piece) < QUEUE_LOW_BYTES:
            parts = [piece]
            size = len(piece)
            while self._pieces and size + len(self._pieces[0]) <= CHUNK_BYTES_MAX:
                parts.append(self._pieces.popleft())
                size += len(parts[-1])
            piece = b"".join(parts)
        if len(piece) > CHUNK_BYTES_MAX:
            self._pieces.appendleft(piece[CHUNK_BYTES_MAX:])
            piece = piece[:CHUNK_BYTES_MAX]
        self._queued_bytes -= len(piece)
        if self._queued_bytes <= QUEUE_LOW_BYTES:
            self._owner.resume_intake()
        return piece

    def take_ready(self) -> bytes | None:
        if not self.is_complete or self._queued_bytes > READY_BYTES_MAX:
            return None
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._queued_bytes = 0
        return data

    def close(self) -> None:
        self._pieces.clear()
        self._queued_bytes = 0
        self.fail_short()


class PooledIntake(Intake):
    """A body of known length above POOLED_BYTES_MIN, received into pooled buffers; takes none before the first read."""

    __slots__ = ("_current", "_filled", "_first", "_full", "_is_diverted", "_is_waiting", "_leased", "_pool")

    def __init__(self, owner: IntakeOwner, length: int, pool: BufferPool, *, expects_continue: bool) -> None:
        super().__init__(owner, length, expects_continue=expects_continue)
        self.remaining: int = length
        self._pool = pool
        self._first: deque[bytes] = deque()              # came with the head, before reading stopped
        self._current: bytearray | None = None           # being filled, up to `_filled`
        self._filled = 0
        self._full: deque[tuple[bytearray, int]] = deque()
        self._leased: set[int] = set()                   # ids of buffers that the reader holds
        self._is_waiting = False                         # in the pool's queue
        self._is_diverted = False

    # Input, before and during the diversion.

    def feed(self, data: bytes) -> bytes:
        taken = min(self.remaining, len(data))
        if taken:
            self._first.append(data[:taken])
            self._took(taken)
        return data[taken:]

    def _took(self, count: int) -> None:
        self.remaining -= count
        self.received_bytes += count
        self.is_complete = self.remaining == 0

    def get_buffer(self, sizehint: int) -> memoryview:
        """Room for the next read of the socket, never beyond the end of the body."""
        if self._current is None:                        # a read after the pause: some loops have one more
            self._current = self._pool.take() or self._overdraw()
            self._filled = 0
        end = min(len(self._current), self._filled + self.remaining)
        return memoryview(self._current)[self._filled:end]

    def _overdraw(self) -> bytearray:
        self._pool.used += 1
        return bytearray(self._pool.buffer_bytes)

    def buffer_updated(self, nbytes: int) -> None:
        """`nbytes` more are in the current buffer."""
        assert self._current is not None
        self._owner.count_input(nbytes)
        self._filled += nbytes
        self._took(nbytes)
        if self.is_complete or self._filled == len(self._current):
            self._full.append((self._current, self._filled))
            self._current = None
            if self.is_complete:
                self._end_diversion()
            else:
                self._want_buffer()
            self._wake()

    # Buffers.

    @property
    def _held(self) -> int:
        return len(self._full) + len(self._leased) + (self._current is not None)

    def _want_buffer(self) -> None:
        """Get the next buffer to fill, or stop reading until there is one."""
        if self.is_complete or self.error is not None or self._current is not None or self._is_waiting:
            return
        if self._held >= LEASES_MAX:
            self._owner.pause_intake()
            return
        self._current = self._pool.take()
        self._filled = 0
        if self._current is None:
            self._is_waiting = True
            self._pool.wait(self)
            self._owner.pause_intake()
        else:
            self._owner.resume_intake()

    def grant(self, buffer: bytearray) -> None:
        """See `pool.PoolWaiter`."""
        self._is_waiting = False
        self._current = buffer
        self._filled = 0
        self._owner.resume_intake()

    def _lease(self, buffer: bytearray, size: int) -> Lease:
        key = id(buffer)
        self._leased.add(key)

        def give_back() -> None:
            if key in self._leased:                      # else written off by `close`
                self._leased.discard(key)
                self._pool.give_back(buffer)
                self._want_buffer()

        return Lease(memoryview(buffer)[:size], give_back)

    # The reader.

    async def read(self) -> bytes | Lease:
        while True:
            if self._first:
                return self._first.popleft()
            if self._full:
                return self._lease(*self._full.popleft())
            if self.is_complete:
                return b""
            if self.error is not None:
                raise self.error
            self._start()
            await self._wait()

    def _start(self) -> None:
        if not self._is_diverted:
            self._is_diverted = True
            self._owner.divert_input(self)
        self._want_buffer()

    def _end_diversion(self) -> None:
        if self._is_diverted:
            self._is_diverted = False
            self._owner.divert_input(None)

    def fail(self, error: StorageError) -> None:
        super().fail(error)
        if self.error is not None:
            self._drop_buffers()

    def _drop_buffers(self) -> None:
        """Give back what no reader holds."""
        if self._is_waiting:
            self._is_waiting = False
            self._pool.forget(self)
        if self._current is not None:
            self._pool.give_back(self._current)
            self._current = None
        while self._full:
            self._pool.give_back(self._full.popleft()[0])

    def close(self) -> None:
        self._first.clear()
        self.fail_short()
        self._drop_buffers()
        for _ in range(len(self._leased)):
            self._pool.write_off()
        self._leased.clear()
        self._end_diversion()
