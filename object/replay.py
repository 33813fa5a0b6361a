"""Reading a journal back: which batches hold, where the log ends, and whether something that was durable is gone.

The rules (docs/formats/journal.md): a segment ends where its successor's header says it ends. The last one ends at the
first batch that is broken or not the next one, unless a later batch proves by its synced sequence that the gap was
durable once: then it is damage, never taken for a tail.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import msgpack

from common.errors import Corruption
from common.timestamp import Stamp, unpack_stamp
from common.vfs import PAGE_BYTES, Vfs
from object.format import (
    BATCH_HEADER_BYTES,
    BatchHeader,
    Record,
    RecordType,
    SegmentHeader,
    decode_batch_header,
    decode_segment_header,
    is_batch_intact,
    iterate_records,
)

SUFFIX = ".seg"


class FooterRow(NamedTuple):
    """One record of a sealed segment, for the day its batch is damaged. key is b"" for records that are no rows."""

    type: int
    sequence: int
    key: bytes
    ballot: Stamp
    stamp: Stamp


@dataclass(slots=True)
class SegmentScan:
    """What one segment turned out to hold. lost: closed ranges of sequences that were durable and cannot be read."""

    header: SegmentHeader
    end: int = PAGE_BYTES
    last_sequence: int = 0
    torn_bytes: int = 0
    lost: list[tuple[int, int]] = field(default_factory=list)
    footer: bytes = b""                  # as it was written: only damage asks what it says
    footer_offset: int = 0

    @property
    def damaged_rows(self) -> list[FooterRow] | None:
        """The rows of the lost ranges by the footer; None when it does not name them all."""
        rows = []
        named = decode_footer(self.footer) if self.lost and self.footer else {}
        for first, last in self.lost:
            for sequence in range(first, last + 1):
                row = named.get(sequence)
                if row is None:
                    return None
                rows.append(row)
        return rows


def segment_path(directory: str, segment: int) -> str:
    return f"{directory}/{segment:010d}{SUFFIX}"


def list_segments(fs: Vfs, directory: str) -> list[int]:
    """Numbers of the segment files, ascending."""
    return sorted(int(name[:-len(SUFFIX)]) for name in fs.listdir(directory)
                  if name.endswith(SUFFIX) and name[:-len(SUFFIX)].isdigit())


def read_segment_header(fs: Vfs, directory: str, segment: int) -> SegmentHeader:
    """Raises `Corruption`."""
    handle = fs.open(segment_path(directory, segment), read_only=True)
    try:
        header = decode_segment_header(fs.pread(handle, PAGE_BYTES, 0))
    finally:
        fs.close(handle)
    if header.segment != segment:
        raise Corruption(what="segment header", reason=f"says {header.segment}, file is {segment}")
    return header


def encode_footer(rows: Iterable[FooterRow]) -> bytes:
    """A msgpack list of the rows."""
    footer = FooterRows()
    footer.extend(rows)
    return footer.encode()


class FooterRows:
    """The rows of a segment until it is sealed, packed: small records fill a segment by the ten thousand."""

    __slots__ = ("_packed", "_packer", "count")

    def __init__(self) -> None:
        self._packed = bytearray()
        self._packer = msgpack.Packer()
        self.count = 0

    def extend(self, rows: Iterable[FooterRow]) -> None:
        """What one batch brought."""
        pack = self._packer.pack
        for kind, sequence, key, ballot, stamp in rows:
            self._packed += pack((int(kind), sequence, key, ballot.pack(), stamp.pack()))
            self.count += 1

    def encode(self) -> bytes:
        """All of them, as `decode_footer` reads them."""
        head: bytes = msgpack.Packer().pack_array_header(self.count)
        return head + self._packed


def decode_footer(meta: bytes) -> dict[int, FooterRow]:
    rows = {}
    for kind, sequence, key, ballot, stamp in msgpack.unpackb(meta):
        rows[sequence] = FooterRow(kind, sequence, key, unpack_stamp(ballot), unpack_stamp(stamp))
    return rows


def scan_segment(fs: Vfs, directory: str, header: SegmentHeader, *, successor: SegmentHeader | None,
                 scan: SegmentScan) -> Iterator[tuple[Record, memoryview]]:
    """Yield the records (with their whole batch as buffer) of one segment and fill in `scan`.

    Reads the segment at once: segment_bytes of memory.
    """
    handle = fs.open(segment_path(directory, header.segment), read_only=True)
    try:
        buf = memoryview(fs.pread(handle, fs.size(handle), 0))
    finally:
        fs.close(handle)
    bound = successor.previous_end if successor is not None else len(buf)
    at, expected = PAGE_BYTES, header.first_sequence
    while at < bound:
        batch = _intact_batch(buf, at, header)
        if batch is None or batch.first_sequence != expected:
            found = _look_on(buf, at, bound, header, expected, is_last=successor is None)
            if found is None:
                if successor is not None and successor.previous_last_sequence >= expected:
                    scan.lost.append((expected, successor.previous_last_sequence))
                    expected = successor.previous_last_sequence + 1
                    at = bound
                break
            at, batch = found
            scan.lost.append((expected, batch.first_sequence - 1))
        expected = batch.first_sequence + batch.record_count
        for record in iterate_records(buf[at:at + batch.length], batch, offset=at):
            if record.type == RecordType.FOOTER:
                scan.footer, scan.footer_offset = bytes(record.meta), at
                expected = batch.first_sequence          # a footer takes no number of the log
            else:
                yield record, buf
        at += -(-batch.length // PAGE_BYTES) * PAGE_BYTES
    scan.end, scan.last_sequence = at, expected - 1
    if successor is None:
        scan.torn_bytes = _torn_bytes(buf, at)


def _intact_batch(buf: memoryview, at: int, segment: SegmentHeader) -> BatchHeader | None:
    batch = decode_batch_header(buf[at:at + BATCH_HEADER_BYTES])
    if batch is None or (batch.incarnation, batch.epoch, batch.segment) != segment[:3]:
        return None
    return batch if is_batch_intact(buf[at:], batch) else None


def _look_on(buf: memoryview, at: int, bound: int, segment: SegmentHeader, expected: int, *,
             is_last: bool) -> tuple[int, BatchHeader] | None:
    """The next batch that holds and proves that the gap before it was durable."""
    for later in range(at + PAGE_BYTES, bound, PAGE_BYTES):
        batch = _intact_batch(buf, later, segment)
        if batch is not None and batch.first_sequence > expected and (not is_last or batch.synced_sequence >= expected):
            return later, batch
    return None


def _torn_bytes(buf: memoryview, at: int) -> int:
    """Bytes behind the end that were written and are cut; 0 for untouched space."""
    tail = bytes(buf[at:])
    return len(tail.rstrip(b"\0"))
