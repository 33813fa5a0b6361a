"""Giving space back: live records of a mostly dead segment move to the end of the log, then only its header stays.

Consumers skip moved copies, so a segment is taken only when no listing entry of it is outstanding and the databases
have checkpointed its rows. Tombstones always move: dropping one while an older segment holds a dead put of the same key
would revive the object in a rebuilt index. Rows of batches that do not check move as well, by the footer that names them; a
segment with a damage that no footer names stays. It goes only once all that displaced its records is durable.
"""
from __future__ import annotations

from collections.abc import Iterator

from common.errors import Corruption
from common.timestamp import PACKED_BYTES as STAMP_BYTES
from common.timestamp import unpack_stamp
from object.device import Device
from object.format import (
    OBJECT_TYPES,
    SEGMENT_DROPPED,
    Record,
    RecordType,
    check_record,
    decode_row_key,
    encode_segment_header,
)
from object.recovery import ROW_TYPES
from object.replay import SegmentScan, list_segments, read_segment_header, scan_segment, segment_path
from object.wire import BodyState

DEAD_SHARE_MIN = 0.5
_NEEDED = frozenset({RecordType.PROMISE, RecordType.CEILING, RecordType.FLOOR, RecordType.OWED})
STEP_BYTES, STEP_RECORDS = 256 << 10, 100        # of the loop's time at once: about 2 ms


def plan_compaction(device: Device) -> int | None:
    """The sealed segment with the fewest live bytes, if half of it is dead and nothing stands on its records. Blocking."""
    directory = f"{device.root}/journal"
    outstanding = {held.segment for key in list(device.pending) if (held := device.peek(key)) is not None}
    best: tuple[int, int] | None = None
    for segment in list_segments(device.fs, directory):
        if segment >= device.journal.segment or segment in outstanding or segment in device.row_segments:
            continue
        if segment in device.damaged_segments:
            continue
        live = max(device.usage.get(segment, 0), 0)
        if live > device.limits.segment_bytes * (1 - DEAD_SHARE_MIN) or read_segment_header(device.fs, directory, segment).flags:
            continue
        if best is None or live < best[0]:
            best = (live, segment)
    return best[1] if best is not None else None


def begin_scan(device: Device, segment: int) -> SegmentScan:
    """For `load_records`, then `move_lost`. Blocking."""
    return SegmentScan(read_segment_header(device.fs, f"{device.root}/journal", segment))


def load_records(device: Device, scan: SegmentScan) -> Iterator[list[tuple[Record, bytes]]]:
    """The records of a sealed segment that still live, with their bytes, in steps of 256 KiB or 100 records; fills in `scan`.

    Each step blocks, in any thread: what dies meanwhile is left to `move_records`, and what is dead now never lives again. A
    small record is a dozen objects, a segment has them by the ten thousand: all at once they would leave the heap full of holes.
    """
    directory, segment = f"{device.root}/journal", scan.header.segment
    following = read_segment_header(device.fs, directory, segment + 1)
    step, size = [], 0
    for record, buf in scan_segment(device.fs, directory, scan.header, successor=following, scan=scan):
        if not _may_live(device, segment, record):
            continue
        step.append((record, bytes(buf[record.offset:record.offset + record.length])))
        size += record.length
        if len(step) == STEP_RECORDS or size >= STEP_BYTES:
            device.index.let_go()
            yield step
            step, size = [], 0
    device.index.let_go()
    if step:
        yield step


def _may_live(device: Device, segment: int, record: Record) -> bool:
    if record.type in OBJECT_TYPES:
        held = device.peek(decode_row_key(record.meta))
        return held is not None and held.offset == record.offset and held.segment == segment
    if record.type == RecordType.PROMISE:
        return device.promise_of(record.meta[:-STAMP_BYTES]) == unpack_stamp(record.meta[-STAMP_BYTES:])
    return record.type not in ROW_TYPES          # a plan stands on no segment whose rows are not checkpointed


def move_records(device: Device, segment: int, step: list[tuple[Record, bytes]]) -> int:
    """Append copies of what of a step still lives; bytes moved."""
    return sum(_move(device, segment, record, view) for record, view in step)


def move_lost(device: Device, scan: SegmentScan) -> bool:
    """The same for batches that do not check, after the last step: of a row everything but an inline body is known.

    False: the footer does not name all of them, one was no row, or of one nothing is known but its stamp: the segment has to stay.
    `drop_segment` comes after everything that was appended up to now is durable: copies, and what made other records dead.
    """
    rows, segment = scan.damaged_rows, scan.header.segment
    if rows is None or any(not row.key and row.type in _NEEDED for row in rows):
        return False
    found = [(row, device.get(row.key)) for row in rows if row.key]
    live = [(row.key, held) for row, held in found if held is not None and held.segment == segment and held.ballot == row.ballot]
    if any(held.state == BodyState.LOST for _, held in live):
        return False
    for key, held in live:
        if held.state == BodyState.INLINE:
            device.quarantine(key, held)
        device.append_moved(key, None)
    return True


def _move(device: Device, segment: int, record: Record, view: bytes) -> int:
    if record.type in OBJECT_TYPES:
        key = decode_row_key(record.meta)
        held = device.get(key)
        if held is None or held.offset != record.offset or held.segment != segment:
            return 0                     # dead
        body: bytes | None = None
        try:
            body = bytes(check_record(view)[1])
        except Corruption:
            if held.state == BodyState.INLINE:
                device.quarantine(key, held)
        device.append_moved(key, body)
        return record.length
    return device.append_moved_other(record)


def drop_segment(device: Device, segment: int) -> None:
    """Replace the file by its header page, durably: the chain of segments stays checkable. Blocking."""
    directory = f"{device.root}/journal"
    path = segment_path(directory, segment)
    header = read_segment_header(device.fs, directory, segment)
    stub = f"{directory}/stub.tmp"
    if device.fs.exists(stub):
        device.fs.unlink(stub)
    handle = device.fs.open(stub, create=True)
    try:
        device.fs.pwritev(handle, [encode_segment_header(header._replace(flags=SEGMENT_DROPPED))], 0)
        device.fs.fsync(handle)
    finally:
        device.fs.close(handle)
    device.fs.rename(stub, path)
    device.fs.fsync_dir(directory)
    device.forget_segment(segment)

