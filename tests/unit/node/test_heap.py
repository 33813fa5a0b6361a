"""Freed memory goes back to the system after two looks, and not before."""
from __future__ import annotations

from node.heap import FREE_BYTES_MAX, HeapTrim


class Info:
    fordblks = 0


async def test_only_what_stays_free_is_given_back():
    heap = HeapTrim()
    info, trimmed = Info(), []
    heap._info, heap._trim = lambda: info, trimmed.append
    for free_bytes, trims in ((0, 0), (2 * FREE_BYTES_MAX, 0), (0, 0), (2 * FREE_BYTES_MAX, 0), (2 * FREE_BYTES_MAX, 1),
                              (2 * FREE_BYTES_MAX, 1), (2 * FREE_BYTES_MAX, 2)):
        info.fordblks = free_bytes
        heap.look()
        assert heap.trims == trims
    heap.close()
    assert trimmed == [0, 0]             # closing waits for the thread
