"""Stamps, the order of states, and the timestamps that Swift's clients see.

    | stamp, packed: microseconds u64 | counter u32 | worker u32 | write id u64 |   big-endian, 24 bytes: memcmp order

A `Stamp` is a tuple because it is compared some thirty times in one PUT and tuples compare in C.
Source: docs/consistency.md (order of stamps); Swift API v1 (X-Timestamp with five digits, last_modified with six).
"""
from __future__ import annotations

import struct
import time
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

_PACKED = struct.Struct(">QIIQ")
PACKED_BYTES = _PACKED.size


class Stamp(NamedTuple):
    """One moment in the order of versions and ballots. `write_id`: 64 random bits, once per client operation."""

    micros: int
    counter: int
    worker: int
    write_id: int

    def pack(self) -> bytes:
        """24 bytes that sort like the stamp."""
        return _PACKED.pack(*self)


ZERO = Stamp(0, 0, 0, 0)


def unpack_stamp(buf: bytes | memoryview, offset: int = 0) -> Stamp:
    """Inverse of `Stamp.pack`."""
    return Stamp._make(_PACKED.unpack_from(buf, offset))


def next_stamp(highest: Stamp, *, clock_us: int, worker: int, write_id: int) -> Stamp:
    """The stamp that a coordinator takes after it has seen `highest`: its own clock if that is ahead, else the successor."""
    if clock_us > highest[0]:
        return Stamp(clock_us, 0, worker, write_id)
    return Stamp(highest[0], highest[1] + 1, worker, write_id)


def format_timestamp(micros: int) -> str:
    """Swift's normal form, seconds with five digits: "1700000000.12345"."""
    return f"{micros // 1_000_000:010d}.{micros % 1_000_000 // 10:05d}"


def parse_timestamp(text: str) -> int:
    """Microseconds of a decimal number of seconds. Raises `ValueError`."""
    value = float(text)
    if not 0 <= value < 10**10:
        raise ValueError(f"timestamp out of range: {text!r}")
    return round(value * 1_000_000)


def format_isos(moments: Iterable[int]) -> list[str]:
    """`format_iso` of many: rows of a page were often written in the same few seconds."""
    seconds = -1
    text = ""
    out = []
    for micros in moments:
        second = micros // 1_000_000
        if second != seconds:
            seconds, text = second, _iso_second(second)
        out.append("%s.%06d" % (text, micros % 1_000_000 // 10 * 10))        # noqa: UP031 - a third cheaper than an f-string here
    return out


def format_iso(micros: int) -> str:
    """As in listings: "2023-11-14T22:13:20.123450"."""
    seconds, rest = divmod(micros, 1_000_000)
    return f"{_iso_second(seconds)}.{rest // 10 * 10:06d}"


@lru_cache(4096)
def _iso_second(seconds: int) -> str:
    """Rows of a page were often written in the same few seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@lru_cache(4096)
def format_http_date(seconds: int) -> str:
    """RFC 9110 IMF-fixdate, independent of the locale."""
    t = time.gmtime(seconds)
    return (f"{_DAYS[t.tm_wday]}, {t.tm_mday:02d} {_MONTHS[t.tm_mon - 1]} {t.tm_year:04d} "
            f"{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d} GMT")


def last_modified(micros: int) -> str:
    """The Last-Modified of a state created at `micros`: rounded up to a second, as Swift does."""
    return format_http_date(-(-micros // 1_000_000))
