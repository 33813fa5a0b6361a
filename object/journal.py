"""Appending to a device's journal: gather records, one write, one sync, segment after segment.

`append` and `take_batch` belong to the owner's loop; `write` blocks and runs in the device's pool, one at a time.
Budget of a batch: one pwritev, one fdatasync; every 16 MiB a footer and a rename. Nothing is ever written twice into
the same page, a failed sync is never retried.
"""
from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass, field

from common.errors import DeviceUnavailable
from common.timestamp import ZERO, Stamp
from common.vfs import PAGE_BYTES, Vfs
from object.format import (
    BATCH_HEADER_BYTES,
    RECORD_HEADER_BYTES,
    BatchHeader,
    RecordType,
    SegmentHeader,
    encode_batch,
    encode_record,
    encode_segment_header,
)
from object.replay import FooterRow, FooterRows, segment_path

SPARE, RESERVE = "spare.tmp", "reserve"
BATCH_BYTES_MAX = 2 << 20                # a larger gathering is cut into several batches
_FOOTER_ROW_BYTES = 96


@dataclass(slots=True)
class Batch:
    """Records that become durable together. `segment`, `starts`: where `write` put them."""

    first_sequence: int
    parts: list[bytes | memoryview] = field(default_factory=list)
    rows: list[FooterRow] = field(default_factory=list)
    relative: list[tuple[int, int]] = field(default_factory=list)    # per record: offset in the batch, length
    length: int = BATCH_HEADER_BYTES
    segment: int = 0
    offset: int = 0
    last_listed: int = 0                 # sequence of the last container or account row; 0: none

    @property
    def last_sequence(self) -> int:
        return self.first_sequence + len(self.relative) - 1


class Journal:
    """The append side. One owner; created by `Device.open` after replay, which knows where the log ended."""

    def __init__(self, fs: Vfs, root: str, *, incarnation: bytes, epoch: int, segment_bytes: int,
                 predecessor: SegmentHeader | None, predecessor_end: int, predecessor_footer: int,
                 last_sequence: int) -> None:
        """Takes a new segment for the new epoch, durably: this is also what makes a cut tail stay cut."""
        self._fs, self._root, self._dir = fs, root, f"{root}/journal"
        self._incarnation, self._epoch = incarnation, epoch
        self._segment_bytes = segment_bytes
        self._handle = -1
        self._rows = FooterRows()
        self._gathering: Batch | None = None
        self._full: deque[Batch] = deque()       # a batch fits into a segment and into memory
        self.next_sequence = last_sequence + 1
        self.synced_sequence = last_sequence
        self.segment = predecessor.segment if predecessor is not None else 0
        self._offset, self._footer_offset, self._written_sequence = predecessor_end, predecessor_footer, last_sequence
        self.has_spare = False
        old_end = self._offset
        self._start_segment()
        if predecessor is not None and not predecessor.flags:    # its space was reserved for an epoch that has ended
            fs.truncate(segment_path(self._dir, predecessor.segment), old_end)

    # --- the owner's side ----------------------------------------------------------------------------------------

    def append(self, record_type: RecordType, meta: bytes, body: bytes | memoryview = b"", *, key: bytes = b"",
               ballot: Stamp = ZERO, stamp: Stamp = ZERO, flags: int = 0) -> int:
        """Gather one record for the next batch; its sequence."""
        sequence = self.next_sequence
        self.next_sequence += 1
        batch = self._gathering
        if batch is None or batch.length >= BATCH_BYTES_MAX:
            if batch is not None:
                self._full.append(batch)
            batch = self._gathering = Batch(sequence)
        head = encode_record(record_type, meta, body, sequence=sequence, flags=flags)
        length = len(head)
        batch.parts.append(head)
        if body:
            length += len(body)
            batch.parts.append(body)
        batch.relative.append((batch.length, length))
        batch.length += length
        batch.rows.append(FooterRow(record_type, sequence, key, ballot, stamp))
        return sequence

    def note_listed(self, sequence: int) -> None:
        """The record that was just gathered is a row of a database."""
        assert self._gathering is not None
        self._gathering.last_listed = sequence

    @property
    def gathered_bytes(self) -> int:
        """Size of what waits to be written."""
        gathering = self._gathering.length if self._gathering is not None else 0
        return gathering + sum(batch.length for batch in self._full) if self._full else gathering

    def take_batch(self) -> Batch | None:
        """What was gathered first, for `write`; None when there is nothing."""
        if self._full:
            return self._full.popleft()
        batch, self._gathering = self._gathering, None
        return batch

    def committed(self, batch: Batch) -> None:
        """Back in the loop after `write`: the batch is durable."""
        self.synced_sequence = batch.last_sequence

    # --- the pool's side -----------------------------------------------------------------------------------------

    def write(self, batch: Batch) -> None:
        """Make `batch` durable. Raises `DeviceUnavailable` when two segments in a row fail: the device is retired."""
        try:
            if self._offset + self._padded(batch) + self._footer_bytes(len(batch.rows)) > self._segment_bytes:
                self._next_segment()
            self._write_synced(batch)
        except OSError as first:
            try:                         # the pages are lost: never sync again, write elsewhere from memory
                self._start_segment()
                self._write_synced(batch)
            except OSError as second:
                raise DeviceUnavailable(device=self._root, reason=f"{first}; then {second}") from second

    def make_spare(self) -> bool:
        """Preallocate the next segment, so that a roll needs no space and little time. False: the disk is full."""
        if not self.has_spare:
            try:
                self._allocate(f"{self._dir}/{SPARE}", self._segment_bytes)
            except OSError:
                self._unlink(f"{self._dir}/{SPARE}")
                return False
            self.has_spare = True
        return True

    def make_reserve(self, size_bytes: int) -> bool:
        """Preallocate the space that lets deletes run on a full disk. False: it cannot be had now."""
        path = f"{self._root}/{RESERVE}"
        if self._fs.exists(path):
            return True
        try:
            self._allocate(path, size_bytes)
        except OSError:
            self._unlink(path)
            return False
        return True

    def close(self) -> None:
        if self._handle >= 0:
            self._fs.close(self._handle)
            self._handle = -1

    def _write_synced(self, batch: Batch) -> None:
        self._write_unsynced(batch)
        self._fs.fdatasync(self._handle)
        batch.segment, batch.offset = self.segment, self._offset
        self._offset += self._padded(batch)
        self._rows.extend(batch.rows)
        self._written_sequence = batch.last_sequence

    def _write_unsynced(self, batch: Batch) -> None:
        header = BatchHeader(len(batch.relative), self._incarnation, self._epoch, self.segment, batch.length,
                             batch.first_sequence, self._written_sequence)
        buffers = encode_batch(batch.parts, header)
        offset = self._offset
        for start in range(0, len(buffers), 1000):       # IOV_MAX is 1024
            group = buffers[start:start + 1000]
            want = sum(map(len, group))
            if self._fs.pwritev(self._handle, group, offset) != want:
                raise OSError(5, "short write to the journal")
            offset += want

    def _next_segment(self) -> None:
        """Seal with a footer of its rows, go on in a new one."""
        if self._rows.count:
            # the footer takes no sequence of the log: it repeats the number after the last and is skipped by it
            footer = Batch(self._written_sequence + 1)
            meta = self._rows.encode()
            footer.parts = [encode_record(RecordType.FOOTER, meta, b"", sequence=self._written_sequence)]
            footer.length += RECORD_HEADER_BYTES + len(meta)
            if self._offset + self._padded(footer) <= self._segment_bytes:
                with contextlib.suppress(OSError):       # without a footer damage is only dearer
                    self._write_footer(footer)
        self._start_segment()

    def _write_footer(self, footer: Batch) -> None:
        header = BatchHeader(1, self._incarnation, self._epoch, self.segment, footer.length, footer.first_sequence,
                             self._written_sequence)
        buffers = encode_batch(footer.parts, header)
        self._fs.pwritev(self._handle, buffers, self._offset)
        self._fs.fdatasync(self._handle)
        self._footer_offset = self._offset
        self._offset += self._padded(footer)

    def _start_segment(self) -> None:
        header = SegmentHeader(self._incarnation, self._epoch, self.segment + 1, self._written_sequence + 1, self.segment,
                               self._offset, self._written_sequence, self._footer_offset)
        path = segment_path(self._dir, header.segment)
        spare = f"{self._dir}/{SPARE}"
        if not self.has_spare:
            self._allocate_or_use_reserve(spare)
        handle = self._fs.open(spare)
        try:
            self._fs.pwritev(handle, [encode_segment_header(header)], 0)
            self._fs.fsync(handle)       # the header is durable before the name is
            self._fs.rename(spare, path)
            self._fs.fsync_dir(self._dir)
        except BaseException:
            self._fs.close(handle)
            self.has_spare = False
            raise
        self.close()
        self.has_spare = False
        self._handle, self.segment, self._offset = handle, header.segment, PAGE_BYTES
        self._rows, self._footer_offset = FooterRows(), 0

    def _allocate_or_use_reserve(self, path: str) -> None:
        try:
            self._allocate(path, self._segment_bytes)
        except OSError:
            self._unlink(path)
            self._unlink(f"{self._root}/{RESERVE}")      # what it is for: deletes go on when the disk is full
            self._allocate(path, self._segment_bytes)

    def _allocate(self, path: str, size_bytes: int) -> None:
        self._unlink(path)
        handle = self._fs.open(path, create=True)
        try:
            self._fs.allocate(handle, size_bytes)
        finally:
            self._fs.close(handle)

    def _unlink(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.unlink(path)

    def _footer_bytes(self, more_rows: int) -> int:
        return 2 * PAGE_BYTES + (self._rows.count + more_rows) * _FOOTER_ROW_BYTES

    @staticmethod
    def _padded(batch: Batch) -> int:
        return -(-batch.length // PAGE_BYTES) * PAGE_BYTES
