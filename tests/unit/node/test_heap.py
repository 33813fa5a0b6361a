"""Freed memory goes back to the system after two looks, and not before."""
from __future__ import annotations

from node.heap import GROWN_BYTES_MAX, START_BYTES, HeapTrim


async def test_only_a_process_that_stays_larger_is_trimmed():
    trimmed, let_go = [], []
    heap = HeapTrim(let_go=lambda: let_go.append(1))
    size = [START_BYTES]
    heap._resident_bytes, heap._trim = lambda: size[0], trimmed.append
    large = size[0] + 2 * GROWN_BYTES_MAX
    for found, trims in ((size[0], 0), (large, 0), (size[0], 0), (large, 0), (large, 1)):
        size[0] = found
        heap.look()
        assert heap.trims == len(let_go) == trims
    await heap._pool.run(lambda: None)   # behind the trim
    for found, trims in ((large, 1), (large, 1), (large + 2 * GROWN_BYTES_MAX, 1), (large + 2 * GROWN_BYTES_MAX, 2)):
        size[0] = found                  # what could not be given back is the measure from now on
        heap.look()
        assert heap.trims == trims
    heap.close()
    assert trimmed == [0, 0]             # closing waits for the thread


async def test_the_size_of_a_process_is_seen():
    heap = HeapTrim(let_go=lambda: None)
    before = heap._resident_bytes()
    held = bytearray(b"x") * (64 << 20)
    assert heap._resident_bytes() - before > 60 << 20 and len(held)
    heap.close()
