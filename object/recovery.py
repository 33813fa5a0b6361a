"""How a device finds out what it holds: the index up to its mark, the journal from there to its end.

`Replay` gathers rows, pending entries and the rest; `object.device.Device` takes them over. What is damaged or missing is no error
but a finding: `Recovery` says it, and who counts is decided by it (object/peers.py). Rules: docs/formats/journal.md, "End of log".
"""
from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import msgpack

from common.errors import Corruption, DeviceUnavailable
from common.log import get_logger
from common.timestamp import ZERO, Stamp, unpack_stamp
from common.vfs import Vfs
from object.format import (
    FLAG_MOVED,
    OBJECT_TYPES,
    Record,
    RecordType,
    RegisterRow,
    SegmentHeader,
    check_record,
    decode_register_row,
    state_of,
)
from object.index import Index, Mark, Pending
from object.keyfilter import KeyFilter
from object.peers import PeerMarks, decode_marks, encode_marks
from object.register import Held
from object.replay import SegmentScan, list_segments, read_segment_header, scan_segment, segment_path
from object.wire import SPACE_OBJECT, BodyState, Kind, Version, make_version

log = get_logger("object.recovery")
ROW_TYPES = frozenset({RecordType.CONTAINER_ROW, RecordType.ACCOUNT_ROW})
_UNSURE = frozenset({BodyState.LEARNED, BodyState.DAMAGED, BodyState.LOST})


@dataclass(slots=True)
class Recovery:
    """What the start found, for the log, `holdfast status` and the decision who counts."""

    segments: int = 0
    records: int = 0
    torn_bytes: int = 0
    damaged_rows: int = 0
    is_new: bool = False
    is_index_rebuilt: bool = False
    amnesia: str = ""                    # why this device cannot trust its own memory
    epoch: int = 0
    incarnation: bytes = b""
    sequence: int = 0                    # the last data sequence that was found, to be compared with the peers' marks
    ends: list[tuple[int, int]] = field(default_factory=list)    # per epoch, ascending: (it, last sequence before it)


@dataclass(slots=True)
class Beside:
    """What the journal holds beside rows; kept current, and saved with every flush of the index."""

    ceiling: Stamp = ZERO
    floor: Stamp = ZERO
    data_sequence: int = 0
    promises: dict[bytes, Stamp] = field(default_factory=dict)
    row_records: list[tuple[int, bytes, int]] = field(default_factory=list)      # only during start-up
    row_segments: dict[int, int] = field(default_factory=dict)       # segment -> last row that no checkpoint covers


class Replay:
    """What a device holds, once `run` is done."""

    def __init__(self, fs: Vfs, root: str, index: Index, key_filter: KeyFilter, *, is_new: bool) -> None:
        """key_filter: learns the keys that the journal brings."""
        self._fs, self._root, self._directory, self._index, self._filter = fs, root, f"{root}/journal", index, key_filter
        self.recovery = Recovery(is_new=is_new)
        self.headers: list[SegmentHeader] = []
        self.last: SegmentScan | None = None     # of the newest segment
        self.rows: dict[bytes, Held] = {}        # that the index does not have
        self.pending: dict[bytes, Pending] = {}
        self.usage: dict[int, int] = {}          # live bytes per segment
        self.peers = PeerMarks()
        self.beside = Beside()

    def run(self) -> None:
        """Raises `OSError`; a damaged index is cleared, and the journal read from its beginning."""
        self._load_headers()
        try:
            mark = self._index.mark()
            self._replay(mark)
        except (Corruption, DeviceUnavailable) as error:         # only the index is asked for rows here
            log.warning("index damaged, rebuilding", device=self._root, error=str(error))
            self._begin_again()
        recovery = self.recovery
        recovery.epoch = max((header.epoch for header in self.headers), default=0)
        recovery.sequence = self.beside.data_sequence
        for header in self.headers:
            if not recovery.ends or header.epoch > recovery.ends[-1][0]:
                recovery.ends.append((header.epoch, header.previous_last_sequence))

    def _begin_again(self) -> None:
        self._index.clear()
        self.rows, self.beside = {}, Beside()
        self._replay(None)

    def _load_headers(self) -> None:
        """Of all segments, oldest first; notes amnesia when one is missing or unreadable."""
        headers = self.headers
        numbers = list_segments(self._fs, self._directory)
        for position, number in enumerate(numbers):
            try:
                header = read_segment_header(self._fs, self._directory, number)
            except Corruption as error:
                if position == len(numbers) - 1 and position > 0:
                    # a crash between the name and the header cannot be: the header is durable first
                    self.recovery.amnesia = f"header of the newest segment {number}: {error}"
                    self._set_aside(segment_path(self._directory, number))
                    continue
                self.recovery.amnesia = f"header of segment {number}: {error}"
                self._set_aside(segment_path(self._directory, number))
                continue
            if headers and header.previous_segment != headers[-1].segment:
                self.recovery.amnesia = f"segment {header.previous_segment} is missing"
            if not headers and number > 1 and not header.flags:
                self.recovery.amnesia = f"segments before {number} are missing"
            headers.append(header)

    def _set_aside(self, path: str) -> None:
        self._fs.rename(path, f"{self._root}/quarantine/{os.path.basename(path)}")

    def _replay(self, mark: Mark | None) -> None:
        """Bring rows, pending entries and the rest up to the end of the log."""
        recovery, headers = self.recovery, self.headers
        recovery.segments = len(headers)
        if mark is None and headers:
            recovery.is_index_rebuilt = True
            self._index.clear()           # rows of another format must not stand beside new ones
        self.usage = dict(mark.usage) if mark is not None else {}
        self.pending = dict(self._index.pending()) if mark is not None else {}
        first = min(mark.segment, mark.rows_segment) if mark is not None else 0
        indexed = mark.sequence if mark is not None else 0
        if mark is not None:
            self.beside, marks = unpack_extras(mark.extras)
            self.peers.marks.update(decode_marks(marks))
        scan: SegmentScan | None = None
        for position, header in enumerate(headers):
            successor = headers[position + 1] if position + 1 < len(headers) else None
            scan = SegmentScan(header)
            if header.flags:                             # nothing left in it
                scan.last_sequence = successor.previous_last_sequence if successor else header.previous_last_sequence
                continue
            if header.segment < first and successor is not None:
                continue                                 # all of it is in the index
            self._replay_segment(header, successor, scan, indexed=indexed)
            recovery.torn_bytes += scan.torn_bytes
        if scan is not None and mark is not None and mark.sequence > scan.last_sequence:
            recovery.amnesia = f"index knows sequence {mark.sequence}, journal ends at {scan.last_sequence}"
            self._begin_again()
            return
        self.last = scan

    def _replay_segment(self, header: SegmentHeader, successor: SegmentHeader | None, scan: SegmentScan, *, indexed: int) -> None:
        for record, buf in scan_segment(self._fs, self._directory, header, successor=successor, scan=scan):
            self.recovery.records += 1
            try:
                check_record(buf[record.offset:record.offset + record.length])
                self._replay_record(record, header.segment, indexed)
            except Corruption:
                scan.lost.append((record.sequence, record.sequence))
        if scan.lost:
            self._note_damage(scan)

    def _replay_record(self, record: Record, segment: int, indexed: int) -> None:
        kind, beside = record.type, self.beside
        if kind not in (RecordType.PEER_MARK, RecordType.CEILING):
            beside.data_sequence = max(beside.data_sequence, record.sequence)
        if kind in OBJECT_TYPES:
            if record.sequence > indexed:
                row = decode_register_row(record.meta)
                self._replay_row(row, record, segment)
        elif kind == RecordType.CEILING:
            beside.ceiling = max(beside.ceiling, unpack_stamp(record.meta))
        elif kind == RecordType.FLOOR:
            beside.floor = max(beside.floor, unpack_stamp(record.meta))
        elif kind == RecordType.PROMISE:
            key, ballot = record.meta[:-24], unpack_stamp(record.meta[-24:])
            beside.promises[key] = max(beside.promises.get(key, ZERO), ballot)
        elif kind in ROW_TYPES:
            beside.row_records.append((kind, record.meta, record.sequence))
            beside.row_segments[segment] = record.sequence
        elif kind == RecordType.PEER_MARK:
            self.peers.load(record.meta)
        elif kind == RecordType.OWED:
            key, stamp = record.meta[:-24], unpack_stamp(record.meta[-24:])
            entry = self.pending.get(key)
            if entry is not None and entry.stamp == stamp:
                entry.is_owed = True

    def _replay_row(self, row: RegisterRow, record: Record, segment: int) -> None:
        state = state_of(record.type, row.version)
        held = self._find(row.key)
        if held is not None and (row.ballot < held.ballot or (row.ballot == held.ballot and not _is_better(state, held.state)
                                                               and held.state != state)):
            return
        uncount(self.usage, held)
        new = Held(row.ballot, row.version, state, record.sequence, segment, record.offset, record.length, row.trailer_crc)
        self.rows[row.key] = new
        self._filter.add(row.key)
        self.usage[segment] = self.usage.get(segment, 0) + record.length
        if not record.flags & FLAG_MOVED:
            note_pending(self.pending, row.key, row.version)

    def _note_damage(self, scan: SegmentScan) -> None:
        """Rows of lost batches: by the footer, else the device does not know what it forgot."""
        damaged = scan.damaged_rows
        if damaged is None:
            self.recovery.amnesia = f"segment {scan.header.segment}: sequences {scan.lost} are damaged and no footer names them"
            return
        for row in damaged:
            if not row.key:
                if row.type not in (RecordType.PEER_MARK, RecordType.CHECKPOINT):
                    self.recovery.amnesia = f"segment {scan.header.segment}: a record of type {row.type} is damaged"
                continue
            held = self._find(row.key)
            if held is None or held.ballot < row.ballot:         # else all of it is known: by the index, or a copy that was moved
                unknown = make_version(stamp=row.stamp, root=row.stamp, kind=Kind.LIVE, path="")
                self._filter.add(row.key)
                self.rows[row.key] = Held(row.ballot, unknown, BodyState.LOST, row.sequence, scan.header.segment)
                self.recovery.damaged_rows += 1

    def _find(self, key: bytes) -> Held | None:
        """What is known of a key so far. Raises `DeviceUnavailable` if the index is damaged; `Corruption` would be the record's."""
        held = self.rows.get(key)
        if held is not None:
            return held
        try:
            return self._index.get(key)
        except Corruption as error:
            raise DeviceUnavailable(device=self._root, reason=f"index damaged: {error}") from error


def uncount(usage: dict[int, int], held: Held | None) -> None:
    """The record of `held` is dead."""
    if held is not None and held.length and held.segment in usage:
        usage[held.segment] -= held.length


def note_pending(pending: dict[bytes, Pending], key: bytes, version: Version) -> None:
    """The listing has to be told of this version, if it is an object's. Taken once more at a higher ballot it is owed as before."""
    if key[0] >= SPACE_OBJECT and version.kind != Kind.NOTHING:
        known = pending.get(key)
        if known is None or known.stamp != version.stamp:
            pending[key] = Pending(version.stamp, version.path)


def pack_extras(beside: Beside, peers: PeerMarks) -> bytes:
    """What the index's mark carries beside rows."""
    packed: bytes = msgpack.packb((beside.ceiling.pack(), beside.floor.pack(), beside.data_sequence,
                                   {key: ballot.pack() for key, ballot in beside.promises.items()}, encode_marks(peers.marks)))
    return packed


def unpack_extras(packed: bytes) -> tuple[Beside, Any]:
    """Inverse of `pack_extras`; the marks as `decode_marks` takes them."""
    ceiling, floor, data_sequence, promises, marks = msgpack.unpackb(packed, strict_map_key=False)
    return Beside(unpack_stamp(ceiling), unpack_stamp(floor), data_sequence,
                  {key: unpack_stamp(ballot) for key, ballot in promises.items()}), marks


def _is_better(state: int, than: int) -> bool:
    return than in _UNSURE and state not in _UNSURE
