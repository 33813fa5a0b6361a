"""Bodies too large for one frame: DATA frames under credit, in either direction.

The sender may have WINDOW_BYTES on the way that the receiver's reader has not taken; CREDIT gives back what was taken. So
one stuck reader holds at most a window of memory and no other stream. END carries last fields, RESET an error.
"""
from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from common.errors import DeadlineExceeded, StorageError, error_from_wire, error_to_wire
from common.frames import CREDIT, DATA, END, RESET

WINDOW_BYTES = 1 << 20
DOWNLOAD_WINDOW_BYTES = 256 << 10        # what a reader that is stuck holds; an upload has shown that its bytes flow
DATA_BYTES_MAX = 256 << 10
_PIECE_END = ("piece",)                  # field of a DATA frame that ends a piece; no number, which faults take for a device


class SendFrame(Protocol):
    """Sends a frame of one stream."""

    def __call__(self, op: int, fields: Sequence[object], body: bytes | memoryview = b"", /) -> None: ...


class Drain(Protocol):
    """`Link.drain`."""

    async def __call__(self) -> None: ...


class OutFlow:
    """The sending half. wait_s: how long one write may wait for the reader."""

    __slots__ = ("_credit_bytes", "_drain", "_error", "_is_ended", "_send", "_wait_s", "_waiter", "_window_bytes")

    def __init__(self, send: SendFrame, drain: Drain, *, wait_s: float, window_bytes: int = WINDOW_BYTES) -> None:
        self._send, self._drain, self._wait_s = send, drain, wait_s
        self._credit_bytes = self._window_bytes = window_bytes
        self._error: StorageError | None = None
        self._is_ended = False
        self._waiter: asyncio.Future[None] | None = None

    async def write(self, chunk: bytes | bytearray | memoryview, *, is_piece_end: bool = False) -> None:
        """Send all of `chunk`, which must not change after. One writer at a time.

        is_piece_end: return when a reader of pieces has dealt with all that was written, and holds nothing of it any more.
        Raises `DeadlineExceeded`, `TransportLost`, or what the other end gave as reason to stop.
        """
        view = memoryview(chunk)
        while view:
            if self._credit_bytes <= 0 and self._error is None:
                await self._wait_for_credit()
            if self._error is not None:
                raise self._error
            assert not self._is_ended, "write after the end of a stream"
            count = min(len(view), DATA_BYTES_MAX, self._credit_bytes)
            self._credit_bytes -= count
            self._send(DATA, _PIECE_END if is_piece_end and count == len(view) else (), view[:count])
            view = view[count:]
            await self._drain()
        while is_piece_end and self._credit_bytes < self._window_bytes and self._error is None:
            await self._wait_for_credit()
        if is_piece_end and self._error is not None:
            raise self._error

    def end(self, fields: Sequence[object] = ()) -> None:
        """Nothing follows. Raises what broke the stream."""
        if self._error is not None:
            raise self._error
        self._is_ended = True
        self._send(END, fields)

    def grant(self, count: int) -> None:
        """The reader took `count` bytes."""
        self._credit_bytes = min(self._credit_bytes + count, self._window_bytes)
        self._wake()

    def fail(self, error: StorageError) -> None:
        """Writes raise `error` from now on."""
        self._error = self._error or error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait_for_credit(self) -> None:
        assert self._waiter is None, "two writers of one stream"
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._wait_s):
                await self._waiter
        except TimeoutError:
            raise DeadlineExceeded(what="credit of a stream", waited_s=self._wait_s) from None
        finally:
            self._waiter = None


class InFlow:
    """The receiving half: `await read()` or `async for chunk`. wait_s: how long one read may wait for bytes.

    `end_fields` are those of END, known once `read` returned b"".
    """

    __slots__ = ("_buffered_bytes", "_chunks", "_error", "_is_ended", "_send", "_taken_bytes", "_wait_s", "_waiter",
                 "_window_bytes", "end_fields")

    def __init__(self, send: SendFrame, *, wait_s: float, window_bytes: int = WINDOW_BYTES) -> None:
        self._send, self._wait_s, self._window_bytes = send, wait_s, window_bytes
        self._chunks: deque[tuple[bytes, bool]] = deque()        # and whether it ends a piece
        self._buffered_bytes = self._taken_bytes = 0
        self._error: StorageError | None = None
        self._is_ended = False
        self._waiter: asyncio.Future[None] | None = None
        self.end_fields: list[Any] = []

    async def read(self) -> bytes:
        """The next chunk, at most DATA_BYTES_MAX; b"" at the end. One reader at a time.

        Raises `DeadlineExceeded`, `TransportLost`, `StreamAborted`, or the other end's error; bytes read before are then
        not the whole.
        """
        if not self._chunks and not await self._has_more():
            return b""
        chunk, _ = self._take()
        if self._taken_bytes >= self._window_bytes // 4:
            self._give_credit()
        return chunk

    async def read_piece(self) -> list[bytes]:
        """The chunks of the next piece as its writer made it, or half a window of them; [] at the end. Raises as `read`.

        The writer hears that a piece is dealt with when the next one is asked for.
        """
        self._give_credit()
        chunks: list[bytes] = []
        while self._taken_bytes < self._window_bytes // 2 and (self._chunks or await self._has_more()):
            chunk, is_piece_end = self._take()
            chunks.append(chunk)
            if is_piece_end:
                break
        return chunks

    async def _has_more(self) -> bool:
        """Wait for bytes; False at the end."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._is_ended:
                return False
            await self._wait_for_bytes()
        return True

    def _take(self) -> tuple[bytes, bool]:
        chunk, is_piece_end = self._chunks.popleft()
        self._buffered_bytes -= len(chunk)
        self._taken_bytes += len(chunk)
        return chunk, is_piece_end

    def _give_credit(self) -> None:
        if self._taken_bytes and not self._is_ended:
            self._send(CREDIT, (self._taken_bytes,))
            self._taken_bytes = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await self.read():
            yield chunk

    def feed(self, chunk: bytes, *, is_piece_end: bool = False) -> bool:
        """Bytes arrived; False if the sender broke the rules: beyond its credit, empty, or after the end."""
        self._buffered_bytes += len(chunk)
        if not chunk or self._is_ended or self._buffered_bytes + self._taken_bytes > self._window_bytes:
            return False
        self._chunks.append((chunk, is_piece_end))
        self._wake()
        return True

    def feed_whole(self, body: bytes) -> None:
        """The whole arrived in one frame."""
        if body:
            self._chunks.append((body, True))
            self._buffered_bytes += len(body)
        self.end([])

    def end(self, fields: list[Any]) -> None:
        """END arrived."""
        self._is_ended = True
        self.end_fields = fields
        self._wake()

    def fail(self, error: StorageError) -> None:
        """Reads raise `error`, after END nothing changes: the whole is here."""
        if not self._is_ended:
            self._error = self._error or error
            self._chunks.clear()
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait_for_bytes(self) -> None:
        assert self._waiter is None, "two readers of one stream"
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._wait_s):
                await self._waiter
        except TimeoutError:
            raise DeadlineExceeded(what="bytes of a stream", waited_s=self._wait_s) from None
        finally:
            self._waiter = None


def send_error(send: SendFrame, op: int, error: StorageError) -> None:
    """An ERROR or RESET frame. Fields that cannot travel go as text: the error itself must arrive."""
    code, fields = error_to_wire(error)
    try:
        send(op, (code, fields))
    except (TypeError, ValueError, OverflowError, StorageError):
        send(op, (code, {name: str(value)[:1024] for name, value in list(fields.items())[:32]}))


def reset(send: SendFrame, error: StorageError) -> None:
    """Tell the other end that this one gave up."""
    send_error(send, RESET, error)


def read_error(fields: list[Any]) -> StorageError:
    """The error of an ERROR or RESET frame."""
    code, facts = fields if len(fields) == 2 else ("", {})
    if not isinstance(code, str) or not isinstance(facts, dict):
        code, facts = "", {}
    try:
        return error_from_wire(code, facts)
    except TypeError:                                            # names that are no strings
        return error_from_wire(code, {})
