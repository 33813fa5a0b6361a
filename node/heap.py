"""Memory that was freed goes back to the system: a burst of large uploads must not be paid for until the next start.

So do pages that the devices have mapped, which count as ours although the system could take them back.
Buffers come from the heap of the C library (node/spawner.py says why), which keeps what was freed among what is still in use.
Source: malloc_trim(3).
"""
from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable

from common.pool import Pool

PERIOD_S = 2.0
GROWN_BYTES_MAX = 16 << 20               # since the last time; less is worth keeping: new pages cost up to 10 us each
START_BYTES = 48 << 20                   # a worker that is larger from the start has replayed something
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class HeapTrim:
    """One per worker: `start`, then `close`. Does nothing where the C library is another one."""

    def __init__(self, *, let_go: Callable[[], None]) -> None:
        """let_go: called in the loop, has the devices give back what they have mapped."""
        self._let_go = let_go
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._pool = Pool(1, "heap")
        self._timer: asyncio.TimerHandle | None = None
        self._resident_bytes = _resident_bytes
        self._base_bytes = START_BYTES   # resident after the last time, or less
        self._has_grown = False
        self.trims = 0

    def start(self) -> None:
        """Begin to look."""
        if self._trim is not None:
            self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self.look)

    def look(self) -> None:
        """Trim when the process has been larger for two looks in a row: a burst that goes on would only ask for it again."""
        found = self._resident_bytes()
        self._base_bytes = min(self._base_bytes, found)
        has_grown = found > self._base_bytes + GROWN_BYTES_MAX
        if has_grown and self._has_grown and self._trim is not None:
            self._pool.submit(self._give_back, self._end)
            self._let_go()
            self.trims += 1
            has_grown = False
        self._has_grown = has_grown
        self.start()

    def _give_back(self) -> None:
        """In the thread."""
        assert self._trim is not None
        self._trim(0)

    def _end(self, _: object, __: BaseException | None) -> None:
        self._base_bytes = self._resident_bytes()

    def close(self) -> None:
        """Look no more; before the devices are closed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pool.shutdown()


def _resident_bytes() -> int:
    """Of this process. All arenas of the C library count, which mallinfo(3) does not say."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES
