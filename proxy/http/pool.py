"""The fixed pool of body buffers of one worker: what bounds the memory of all large uploads together."""
from __future__ import annotations

import mmap
from collections import deque
from typing import Protocol

Buffer = bytearray | mmap.mmap           # the pool's are mapped: what is not kept goes back to the system at once, whole

_SPARE_MAX = 16                      # buffers kept for reuse: new pages cost up to 10 us each
_PARKED_SHARE = 4                    # copies of what stalled uploads have sent: at most this part, 1/4, of the pool's size


class PoolWaiter(Protocol):
    """An upload that stands still until a buffer is free."""

    def grant(self, buffer: Buffer) -> None:
        """Take over `buffer`; called from `give_back` of someone else."""


class BufferPool:
    """At most `count` buffers of `buffer_bytes` at one time, first come first served. Not for threads."""

    __slots__ = ("_parked_bytes", "_spare", "_waiters", "buffer_bytes", "count", "used")

    def __init__(self, count: int, buffer_bytes: int) -> None:
        self.count = count
        self.buffer_bytes = buffer_bytes
        self.used = 0
        self._parked_bytes = 0
        self._spare: list[Buffer] = []
        self._waiters: deque[PoolWaiter] = deque()

    def take(self) -> Buffer | None:
        """A buffer, or None when all are in use or others wait already."""
        if self.used >= self.count or self._waiters:
            return None
        self.used += 1
        return self._spare.pop() if self._spare else _new_buffer(self.buffer_bytes)

    @property
    def waiting(self) -> int:
        """Uploads that stand still for want of a buffer."""
        return len(self._waiters)

    @property
    def parked_bytes(self) -> int:
        """What is kept outside of the buffers."""
        return self._parked_bytes

    @property
    def is_wanted(self) -> bool:
        """Whether uploads stand still for want of a buffer."""
        return bool(self._waiters)

    def park(self, count: int) -> bool:
        """Whether `count` bytes more (or less) may be kept outside of the buffers; `park(-count)` takes them back."""
        if count > 0 and self._parked_bytes + count > self.count * self.buffer_bytes // _PARKED_SHARE:
            return False
        self._parked_bytes += count
        assert self._parked_bytes >= 0, "bytes were unparked twice"
        return True

    def wait(self, waiter: PoolWaiter) -> None:
        """Call `waiter.grant` once, when its turn comes; `forget` takes the wish back."""
        self._waiters.append(waiter)

    def forget(self, waiter: PoolWaiter) -> None:
        """`waiter` wants nothing any more."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    def give_back(self, buffer: Buffer) -> None:
        """A buffer that nobody looks into any more."""
        if self._waiters:
            self._waiters.popleft().grant(buffer)
            return
        self.used -= 1
        assert self.used >= 0, "a buffer was given back twice"
        if len(self._spare) < _SPARE_MAX:
            self._spare.append(buffer)

    def write_off(self) -> None:
        """A buffer that somebody may still look into: its place is free, its memory goes when the last view does."""
        if self._waiters:
            self._waiters.popleft().grant(_new_buffer(self.buffer_bytes))
            return
        self.used -= 1
        assert self.used >= 0, "a buffer was given back twice"


def _new_buffer(size: int) -> Buffer:
    return mmap.mmap(-1, size)
