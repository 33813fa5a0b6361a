"""Files that a library maps to read them: their pages count as ours, although the system could take them back at any time.

A look at a page that is not mapped costs a fault of half a microsecond, and maps its 15 neighbours with it (fault-around of
Linux), so a file that is read here and there is soon mapped whole. Letting go leaves it in the page cache: nothing is lost.
Source: madvise(2), proc(5).
"""
from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import NamedTuple

_MADV_DONTNEED = 4
_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Mapped(NamedTuple):
    """Where a file is mapped, for reading only. Good for as long as its owner keeps it mapped: later others may live there."""

    start: int
    length: int

    def let_go(self) -> bool:
        """Of all its pages, from any thread; False if the system refused."""
        return bool(_madvise(self.start, self.length, _MADV_DONTNEED) == 0)


def find_mapped(ending: str, maps: str = "/proc/self/maps") -> Iterator[Mapped]:
    """Mappings of files whose path ends so, that can only be read."""
    with open(maps, encoding="utf-8", errors="replace") as file:
        for line in file:
            fields = line.rstrip("\n").split(maxsplit=5)
            if len(fields) == 6 and fields[5].endswith(ending) and fields[1] == "r--s":
                start, end = (int(address, 16) for address in fields[0].split("-"))
                yield Mapped(start, end - start)
