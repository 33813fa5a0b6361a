"""Freed memory goes back to the system after two looks, and not before."""
from __future__ import annotations

import mmap
import os
from pathlib import Path

from node.heap import GROWN_BYTES_MAX, START_BYTES, HeapTrim, drop_mapped


async def test_only_a_process_that_stays_larger_is_trimmed():
    heap, trimmed = HeapTrim(), []
    size = [START_BYTES]
    heap._resident_bytes, heap._trim = lambda: size[0], trimmed.append
    large = size[0] + 2 * GROWN_BYTES_MAX
    for found, trims in ((size[0], 0), (large, 0), (size[0], 0), (large, 0), (large, 1)):
        size[0] = found
        heap.look()
        assert heap.trims == trims
    await heap._pool.run(lambda: None)   # behind the trim
    for found, trims in ((large, 1), (large, 1), (large + 2 * GROWN_BYTES_MAX, 1), (large + 2 * GROWN_BYTES_MAX, 2)):
        size[0] = found                  # what could not be given back is the measure from now on
        heap.look()
        assert heap.trims == trims
    heap.close()
    assert trimmed == [0, 0]             # closing waits for the thread


async def test_the_size_of_a_process_is_seen():
    heap = HeapTrim()
    before = heap._resident_bytes()
    held = bytearray(b"x") * (64 << 20)
    assert heap._resident_bytes() - before > 60 << 20 and len(held)
    heap.close()


def test_pages_of_a_mapped_index_are_let_go_and_read_again(tmp_path):
    path = tmp_path / "data.mdb"
    path.write_bytes(os.urandom(8 << 20))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert bytes(mapped) == path.read_bytes()
        before = _mapped_bytes(path)
        assert drop_mapped("data.mdb") >= 1 and drop_mapped("other.mdb") == 0
        assert before == 8 << 20 and _mapped_bytes(path) == 0
        assert bytes(mapped) == path.read_bytes()


def _mapped_bytes(path):
    """Resident bytes of the mapping of a file."""
    is_it = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line[:1] in "0123456789abcdef" and "-" in line.split()[0]:
            is_it = line.endswith(str(path))
        elif is_it and line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    return None
