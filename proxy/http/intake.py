"""Bodies that are not wholly here when their handler starts: the sources behind `message.Body`.

`QueueIntake` takes what `data_received` brings: chunked bodies, TLS, and lengths up to POOLED_BYTES_MIN; it holds at most
QUEUE_HIGH_BYTES and one read more. `PooledIntake` takes a large body of a plain TCP connection through a `BufferedProtocol`: the
kernel writes straight into pooled buffers, of which one upload holds at most four; no buffer, no reading. Only an upload whose
bytes flow holds any: the first 32 KiB, and what comes after a pause, arrive in a small buffer of its own. What came with the head
beyond 32 KiB has to be parked at once, or the upload is refused. So 1 000 uploads that are stuck hold the pools (64 MiB for all
workers of a node), what they had sent before (a quarter of that) and 64 KiB each, and leave the pool to the others.
Neither takes a byte beyond the body: what follows goes back to the connection.
"""
from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from typing import Protocol

from common.errors import BadRequest, BodyTooShort, ClientTimeout, Overloaded, StorageError
from proxy.http.chunked import ChunkDecoder
from proxy.http.message import CHUNK_BYTES_MAX, READY_BYTES_MAX, Lease
from proxy.http.pool import Buffer, BufferPool

POOLED_BYTES_MIN = 262_144           # below it a buffer of 1 MiB is not worth its place
QUEUE_HIGH_BYTES = 262_144
QUEUE_LOW_BYTES = 65_536
LEASES_MAX = 4
SMALL_BYTES = 32_768                 # of an upload that has not shown yet that it flows; as much again need not be parked
STALL_S = 1.0                        # without a byte: the pooled buffer goes to somebody else
EVICT_S = 5.0                        # without a byte, and what it sent is too much to keep: the upload ends
NEW_WAIT_S = 2.0                     # for a first buffer, then 503: the client has lost little; longer than a stall
WAIT_S = 10.0                        # for a later one


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


class Intake(ABC):
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

    @abstractmethod
    def feed(self, data: bytes) -> bytes:
        """Bytes of the socket; returns those after the end of the body."""

    @abstractmethod
    async def read(self) -> bytes | Lease:
        """See `message.BodySource`."""

    def take_ready(self) -> bytes | None:
        """See `message.BodySource`."""
        return None

    @abstractmethod
    def close(self) -> None:
        """The answer is out: drop what was not read, give buffers back, fail later reads."""


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
    """A body of known length above POOLED_BYTES_MIN, received into pooled buffers while it flows; takes none before the first read.

    `_current` is being filled up to `_filled`: a small buffer of its own, or a pooled one.
    """

    __slots__ = ("_current", "_filled", "_had_buffer", "_idle_since_s", "_is_diverted", "_is_flowing", "_is_waiting", "_leased",
                 "_parked_bytes", "_pool", "_ready", "_seen_bytes", "_unpassed_bytes", "_waiting_since_s")

    def __init__(self, owner: IntakeOwner, length: int, pool: BufferPool, *, expects_continue: bool) -> None:
        super().__init__(owner, length, expects_continue=expects_continue)
        self.remaining: int = length
        self._pool = pool
        self._current: Buffer | None = None
        self._filled = 0
        self._is_flowing = False                         # `_current` is, or the next one has to be, of the pool
        self._had_buffer = False
        self._ready: deque[bytes | tuple[Buffer, int]] = deque()     # for the reader: own bytes, or a full buffer of the pool
        self._leased: set[int] = set()                   # ids of buffers that the reader holds
        self._is_waiting = False                         # in the pool's queue
        self._is_diverted = False
        self._unpassed_bytes = 0                         # came since the last pooled buffer that was full: the reader gathers them
        self._parked_bytes = 0                           # of those, what the pool has allowed us to keep
        self._seen_bytes = -1                            # as of the tick at `_idle_since_s`
        self._idle_since_s = 0.0
        self._waiting_since_s: float | None = None

    # Input, before and during the diversion.

    def feed(self, data: bytes) -> bytes:
        if self.error is not None:
            return b""
        taken = min(self.remaining, len(data))
        if taken:
            if not self._park(max(0, self._unpassed_bytes + taken - SMALL_BYTES)):
                self.fail(_overloaded())                 # now, not when it has stalled: a thousand of them come within a second
                return b""
            self._ready.append(data[:taken])
            self._took(taken)
        return data[taken:]

    def _took(self, count: int) -> None:
        self.remaining -= count
        self.received_bytes += count
        self._unpassed_bytes += count
        self.is_complete = self.remaining == 0

    def get_buffer(self, sizehint: int) -> memoryview:
        """Room for the next read of the socket, never beyond the end of the body."""
        if self._current is None:                        # a read after the pause: some loops have one more
            self._take_small()
        assert self._current is not None
        end = min(len(self._current), self._filled + self.remaining)
        return memoryview(self._current)[self._filled:end]

    def buffer_updated(self, nbytes: int) -> None:
        """`nbytes` more are in the current buffer."""
        assert self._current is not None
        self._owner.count_input(nbytes)
        if self.error is not None:                       # what came before is dropped: a body with a hole is none
            return
        self._filled += nbytes
        self._took(nbytes)
        if not self.is_complete and self._filled < len(self._current):
            return
        if self._is_small:
            self._pass_small()
        else:
            self._ready.append((self._current, self._filled))
            self._current = None
            self._unpassed_bytes = 0
            self._park(0)
        self._is_flowing = True
        if self.is_complete:
            self._end_diversion()
        else:
            self._want_buffer()
        self._wake()

    # Buffers.

    @property
    def _is_small(self) -> bool:
        return self._current is not None and len(self._current) < self._pool.buffer_bytes

    @property
    def _held(self) -> int:
        """Buffers of the pool."""
        full = sum(1 for ready in self._ready if not isinstance(ready, bytes))
        return full + len(self._leased) + (self._current is not None and not self._is_small)

    def _take_small(self) -> None:
        self._current, self._filled = bytearray(SMALL_BYTES), 0

    def _pass_small(self) -> None:
        """What the small buffer holds is the reader's."""
        assert self._current is not None
        if self._filled:
            self._ready.append(bytes(memoryview(self._current)[:self._filled]))
        self._current, self._filled = None, 0

    def _want_buffer(self) -> None:
        """Get the next buffer to fill, or stop reading until there is one."""
        if self.is_complete or self.error is not None or self._is_waiting:
            return
        if self._current is None and not self._is_flowing:
            self._take_small()
        elif self._current is None:
            self._current = self._pool.take() if self._held < LEASES_MAX else None
            self._filled = 0
        if self._current is not None:
            self._note_buffer()
            self._owner.resume_intake()
            return
        self._owner.pause_intake()
        if self._held < LEASES_MAX:
            self._is_waiting = True
            self._waiting_since_s = None
            self._pool.wait(self)

    def grant(self, buffer: Buffer) -> None:
        """See `pool.PoolWaiter`."""
        self._is_waiting = False
        if self._is_small:                               # of a read after the pause
            self._pass_small()
            self._wake()
        assert self._current is None
        self._current, self._filled = buffer, 0
        self._note_buffer()
        self._owner.resume_intake()

    def _note_buffer(self) -> None:
        self._had_buffer = self._had_buffer or not self._is_small
        self._seen_bytes = -1                            # its time without a byte begins with the next tick

    def tick(self, now_s: float) -> None:
        """Once a second: a buffer is for those whose bytes flow, and nobody waits long for one."""
        if self._is_waiting:
            since_s = self._waiting_since_s = now_s if self._waiting_since_s is None else self._waiting_since_s
            if now_s - since_s >= (WAIT_S if self._had_buffer else NEW_WAIT_S):
                self.fail(_overloaded())
        elif self._current is not None:
            if self.received_bytes != self._seen_bytes:
                self._seen_bytes, self._idle_since_s = self.received_bytes, now_s
            elif now_s - self._idle_since_s >= STALL_S:
                self._stall(now_s - self._idle_since_s)

    def _stall(self, idle_s: float) -> None:
        """Nothing comes: the buffer goes back, what is in it to the reader; unless all stalled ones together kept too much."""
        if self._park(max(0, min(self._unpassed_bytes, self._pool.buffer_bytes) - SMALL_BYTES)):
            if self._is_small:
                return
            buffer = self._current
            assert buffer is not None
            self._pass_small()
            self._take_small()
            self._is_flowing = False
            self._pool.give_back(buffer)
            self._wake()
        elif idle_s >= EVICT_S and (self._is_small or self._pool.is_wanted):
            self.fail(ClientTimeout(what="request body", waited_s=round(idle_s, 1)))

    def _park(self, count: int) -> bool:
        """Let the pool know that we keep `count` bytes beside its buffers; False if it cannot allow that."""
        if not self._pool.park(count - self._parked_bytes):
            return False
        self._parked_bytes = count
        return True

    def _lease(self, buffer: Buffer, size: int) -> Lease:
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
            if self._ready:
                ready = self._ready.popleft()
                return ready if isinstance(ready, bytes) else self._lease(*ready)
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
        if self._current is not None and not self._is_small:
            self._pool.give_back(self._current)
        self._current = None
        for ready in self._ready:
            if not isinstance(ready, bytes):
                self._pool.give_back(ready[0])
        self._ready.clear()
        self._park(0)

    def close(self) -> None:
        self.fail_short()
        self._drop_buffers()
        for _ in range(len(self._leased)):
            self._pool.write_off()
        self._leased.clear()
        self._end_diversion()


def _overloaded() -> Overloaded:
    return Overloaded(what="buffers for uploads", retry_after_s=2)
