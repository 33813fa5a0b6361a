"""Memory that was freed goes back to the system: a burst of large uploads must not be paid for until the next start.

Buffers come from the heap of the C library (node/spawner.py says why), which keeps what was freed among what is still in use.
Source: malloc_trim(3), mallinfo(3).
"""
from __future__ import annotations

import asyncio
import ctypes

from common.pool import Pool

PERIOD_S = 2.0
FREE_BYTES_MAX = 32 << 20                # less is worth keeping: new pages cost up to 10 us each


class _Mallinfo2(ctypes.Structure):
    """struct mallinfo2 of glibc 2.33; fordblks: free bytes that the heap keeps."""

    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks",
                                                     "uordblks", "fordblks", "keepcost")]


class HeapTrim:
    """One per worker: `start`, then `close`. Does nothing where the C library is another one."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self._info = getattr(library, "mallinfo2", None)
        self._trim = getattr(library, "malloc_trim", None)
        if self._info is not None:
            self._info.restype = _Mallinfo2
        self._pool = Pool(1, "heap")
        self._timer: asyncio.TimerHandle | None = None
        self._was_above = False
        self.trims = 0

    def start(self) -> None:
        """Begin to look."""
        if self._info is not None and self._trim is not None:
            self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self.look)

    def look(self) -> None:
        """Trim what was free at two looks in a row: a burst that goes on would only ask for it again."""
        assert self._info is not None and self._trim is not None
        is_above = self._info().fordblks > FREE_BYTES_MAX
        if is_above and self._was_above:
            trim = self._trim
            self._pool.submit(lambda: trim(0), lambda *_: None)
            self.trims += 1
            is_above = False
        self._was_above = is_above
        self.start()

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pool.shutdown()
