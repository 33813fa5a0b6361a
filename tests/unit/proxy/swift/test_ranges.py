"""Ranges: what is refused as egregious, and the edges of lengths."""
import pytest

from proxy.swift.ranges import Span, parse_range, spans_for


@pytest.mark.parametrize(("text", "length", "spans"), [
    ("bytes=0-0", 1, [(0, 1)]), ("bytes=-0", 5, []), ("bytes=-9", 5, [(0, 5)]), ("bytes=5-", 5, []), ("bytes=5-,0-0", 5, [(0, 1)]),
    ("BYTES = 1 - 2", 5, [(1, 3)]), ("bytes=0-", 0, []),
    (f"bytes={','.join(f'{n}-{n}' for n in range(50))}", 99, [(n, n + 1) for n in range(50)]),
    (f"bytes={','.join(f'{n}-{n}' for n in range(51))}", 99, []),
    ("bytes=0-,0-", 9, [(0, 9), (0, 9)]), ("bytes=0-,0-,0-", 9, []), ("bytes=" + ",".join(["0-"] * 50), 20_000_000, []),
    ("bytes=1-1,1-1,1-1", 9, [(1, 2)] * 3), ("bytes=1-1,1-1,1-1,1-1", 9, []), ("bytes=0-4,5-8,0-4,5-8,0-0", 9, []),
    ("bytes=0-5,1-6,2-7", 99, [(0, 6), (1, 7), (2, 8)]), ("bytes=0-5,1-6,2-7,3-8", 99, []),
    (f"bytes={','.join(f'{n}-{n}' for n in range(9, 0, -1))}", 99, [(n, n + 1) for n in range(9, 0, -1)]),
    (f"bytes={','.join(f'{n}-{n}' for n in range(10, 0, -1))}", 99, []),
])
def test_ranges_cover_what_they_say(text, length, spans):
    assert spans_for(parse_range(text), length) == [Span(*span) for span in spans]


@pytest.mark.parametrize("text", ["", "bytes", "bytes=", "bytes=-", "bytes=1", "bytes=2-1", "bytes=1-2,", "bytes=--1",
                                  "bytes=1-2-3",
                                  "bytes=\u0661-", "items=0-1", "bytes=+1-2", "bytes=1_0-20", "bytes=" + "9" * 20 + "-"])
def test_a_range_that_means_nothing_is_ignored(text):
    assert parse_range(text) is None
