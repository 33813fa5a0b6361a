"""Bodies of objects: windows into one random buffer per size, in a memory file that load generators inherit."""
from __future__ import annotations

import mmap
import os
import random

VARIANT_COUNT, VARIANT_STEP = 61, 64          # a prime, so that a body in the place of another one is seen


class Bodies:
    """Files are made when they are asked for, and closed with `close`."""

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}
        self._maps: dict[int, mmap.mmap] = {}

    def find_fd(self, size_bytes: int) -> int:
        """The memory file of this size."""
        if size_bytes not in self._fds:
            length = size_bytes + (VARIANT_COUNT - 1) * VARIANT_STEP
            fd = os.memfd_create(f"holdfast-bench-{size_bytes}")
            os.truncate(fd, length)
            self._maps[size_bytes] = mmap.mmap(fd, length)
            chooser = random.Random(size_bytes)
            for at in range(0, length, 1 << 20):
                count = min(1 << 20, length - at)
                self._maps[size_bytes][at:at + count] = chooser.randbytes(count)
            self._fds[size_bytes] = fd
        return self._fds[size_bytes]

    def find_body(self, size_bytes: int, number: int) -> memoryview:
        """What the object with this number holds."""
        self.find_fd(size_bytes)
        begin = number % VARIANT_COUNT * VARIANT_STEP
        return memoryview(self._maps[size_bytes])[begin:begin + size_bytes]

    def close(self) -> None:
        """The memory goes once no load generator has it."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
        self._maps.clear()
