"""Bytes of a device's journal: segments, batches, records. Everything big-endian; docs/formats/journal.md tells the story.

    | segment header, 4096 bytes: magic HFSEGMNT | version u16 | flags u16 | incarnation 16 | epoch u64 | segment u64
    |   | first sequence u64 | previous segment u64 | previous end u64 | previous last sequence u64 | previous footer u64
    |   | crc32 u32 | zeros |                        "previous end" is where replay of the older segment has to stop
    | batch, padded to 4096: magic HFBA | version u16 | records u16 | incarnation 16 | epoch u64 | segment u64
    |   | length u32 | first sequence u64 | synced sequence u64 | crc32 u32 | records ... | zeros |
    |   length counts header and records without padding; the crc covers both with its own field as zero
    | record: type u8 | flags u8 | 0 u16 | meta length u32 | body length u32 | sequence u64 | crc32 u32 | meta | body |
    |   the crc covers the first 20 bytes, meta and body

A batch starts on a page of its own, so that a durable page is never written again.
"""
from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgpack

from common.errors import Corruption, DeviceRefused
from common.hashing import crc32, crc32_long
from common.packing import pack
from common.timestamp import Stamp, unpack_stamp
from common.vfs import PAGE_BYTES
from object.wire import KEY_BYTES, BodyState, Kind, Version, unpack_version

VERSION = 1
SEGMENT_MAGIC, BATCH_MAGIC = b"HFSEGMNT", b"HFBA"
_SEGMENT = struct.Struct(">8sHH16sQQQQQQQI")
_BATCH = struct.Struct(">4sHH16sQQIQQI")
_RECORD = struct.Struct(">BBHIIQI")
_CHECKED = struct.Struct(">BBHIIQ")      # a record's header without its crc
_RECORD_CHECKED = _CHECKED.size
_ROW_START = bytes((0x94, 0xC4, KEY_BYTES))      # msgpack: a list of four that begins with so many bytes
BATCH_HEADER_BYTES, RECORD_HEADER_BYTES = _BATCH.size, _RECORD.size
SEGMENT_DROPPED = 1                      # compaction took what lived here: only this page is left, so that the chain holds
FLAG_MOVED = 1                           # a copy made by compaction: consumers of the journal skip it


class RecordType(enum.IntEnum):
    """Final: numbers are never used again for something else."""

    PUT_INLINE = 1
    PUT_REF = 2
    TOMBSTONE = 3
    POST = 4                             # whole record, small body copied
    LEARNED = 5
    FRAGMENT = 6                         # of an erasure-coded object: meta as PUT_REF plus fragment index and scheme
    CONTAINER_ROW = 7
    ACCOUNT_ROW = 8
    PROMISE = 9
    FLOOR = 10
    PEER_MARK = 11
    OWED = 12
    CEILING = 13
    FOOTER = 14
    CHECKPOINT = 15


OBJECT_TYPES = frozenset({RecordType.PUT_INLINE, RecordType.PUT_REF, RecordType.TOMBSTONE, RecordType.POST,
                          RecordType.LEARNED, RecordType.FRAGMENT})


class SegmentHeader(NamedTuple):
    """First page of a segment. previous_end 0: there is no older segment."""

    incarnation: bytes
    epoch: int
    segment: int
    first_sequence: int
    previous_segment: int
    previous_end: int
    previous_last_sequence: int
    previous_footer: int                 # offset of the footer batch, 0: none was written
    flags: int = 0


class BatchHeader(NamedTuple):
    """What a batch says of itself."""

    record_count: int
    incarnation: bytes
    epoch: int
    segment: int
    length: int
    first_sequence: int
    synced_sequence: int


class Record(NamedTuple):
    """One record as replay finds it. `offset` and `length` locate header, meta and body in the segment."""

    type: int
    flags: int
    sequence: int
    meta: bytes
    body_bytes: int
    offset: int
    length: int


class RegisterRow(NamedTuple):
    """Meta of all OBJECT_TYPES."""

    key: bytes
    ballot: Stamp
    version: Version
    trailer_crc: int                     # PUT_REF: of the body file's trailer


def encode_segment_header(header: SegmentHeader) -> bytes:
    fields = (SEGMENT_MAGIC, VERSION, header.flags, *header[:-1])
    packed = _SEGMENT.pack(*fields, 0)
    return _SEGMENT.pack(*fields, crc32(packed)).ljust(PAGE_BYTES, b"\0")


def decode_segment_header(page: bytes) -> SegmentHeader:
    """Raises `Corruption`, and `DeviceRefused` for a segment that a newer Holdfast wrote."""
    if len(page) < _SEGMENT.size:
        raise Corruption(what="segment header", reason="too short")
    magic, version, flags, *fields, crc = _SEGMENT.unpack_from(page)
    if magic != SEGMENT_MAGIC or crc != crc32(_SEGMENT.pack(magic, version, flags, *fields, 0)):
        raise Corruption(what="segment header", reason="checksum")
    if version != VERSION:
        raise DeviceRefused(device="", reason=f"written by a newer Holdfast: journal format {version}, known is {VERSION}")
    return SegmentHeader(*fields)._replace(flags=flags)


def encode_record(record_type: int, meta: bytes, body: bytes | memoryview, *, sequence: int, flags: int = 0) -> bytes:
    """Header and meta; the body follows as it is (no copy)."""
    head = _CHECKED.pack(record_type, flags, 0, len(meta), len(body), sequence)
    crc = crc32(meta, crc32(head))
    if body:
        crc = crc32_long(body, crc)
    return head + crc.to_bytes(4, "big") + meta


def check_record(buf: bytes | memoryview) -> tuple[Record, memoryview]:
    """The record at the start of `buf` and its body. Raises `Corruption`."""
    view = memoryview(buf)
    if len(view) < RECORD_HEADER_BYTES:
        raise Corruption(what="record", reason="too short")
    kind, flags, _, meta_len, body_len, sequence, crc = _RECORD.unpack_from(view)
    end = RECORD_HEADER_BYTES + meta_len + body_len
    if end > len(view) or crc != crc32_long(view[RECORD_HEADER_BYTES:end], crc32(view[:_RECORD_CHECKED])):
        raise Corruption(what="record", reason="checksum")
    meta_end = RECORD_HEADER_BYTES + meta_len
    return Record(kind, flags, sequence, bytes(view[RECORD_HEADER_BYTES:meta_end]), body_len, 0, end), view[meta_end:end]


def encode_batch(parts: Sequence[bytes | memoryview], header: BatchHeader) -> list[bytes | memoryview]:
    """Buffers for one pwritev: header, the given record parts, padding. header.length must count header and parts."""
    fields = (BATCH_MAGIC, VERSION, *header)
    crc = crc32(_BATCH.pack(*fields, 0))
    for part in parts:
        crc = crc32_long(part, crc)
    padding = bytes(-header.length % PAGE_BYTES)
    return [_BATCH.pack(*fields, crc), *parts, padding]


def decode_batch_header(buf: bytes | memoryview) -> BatchHeader | None:
    """The header, unchecked but for magic and version; None when this is no batch."""
    if len(buf) < BATCH_HEADER_BYTES or bytes(buf[:4]) != BATCH_MAGIC:
        return None
    _, version, *fields, _ = _BATCH.unpack_from(buf)
    return BatchHeader(*fields) if version == VERSION else None


def is_batch_intact(buf: bytes | memoryview, header: BatchHeader) -> bool:
    """True when the crc of the whole batch holds. buf: at least header.length bytes."""
    if header.length < BATCH_HEADER_BYTES or header.length > len(buf):
        return False
    crc = crc32(_BATCH.pack(BATCH_MAGIC, VERSION, *header, 0))
    found: int = _BATCH.unpack_from(buf)[-1]
    return found == crc32_long(memoryview(buf)[BATCH_HEADER_BYTES:header.length], crc)


def iterate_records(buf: bytes | memoryview, header: BatchHeader, *, offset: int) -> Iterator[Record]:
    """Records of an intact batch that starts at `offset` of its segment."""
    at = BATCH_HEADER_BYTES
    for _ in range(header.record_count):
        kind, flags, _, meta_len, body_len, sequence, _ = _RECORD.unpack_from(buf, at)
        length = RECORD_HEADER_BYTES + meta_len + body_len
        meta = bytes(buf[at + RECORD_HEADER_BYTES:at + RECORD_HEADER_BYTES + meta_len])
        yield Record(kind, flags, sequence, meta, body_len, offset + at, length)
        at += length


def encode_register_row(key: bytes, ballot: Stamp, version: Version, trailer_crc: int = 0) -> bytes:
    """msgpack [key, ballot, version, trailer crc]."""
    return pack((key, ballot.pack(), version.packed, trailer_crc))


def decode_row_key(meta: bytes) -> bytes:
    """The key of `encode_register_row`, the rest unread. Raises `Corruption`."""
    if meta[:3] == _ROW_START and len(meta) > 3 + KEY_BYTES:
        return meta[3:3 + KEY_BYTES]
    return decode_register_row(meta).key


def decode_register_row(meta: bytes) -> RegisterRow:
    """Raises `Corruption`."""
    try:
        key, ballot, version, trailer_crc = msgpack.unpackb(meta)
        return RegisterRow(key, unpack_stamp(ballot), unpack_version(version), trailer_crc)
    except (ValueError, TypeError, struct.error) as error:
        raise Corruption(what="record meta", reason=str(error)) from error


def type_for(version: Version, state: int, *, is_post: bool) -> RecordType:
    """The record type of a register row."""
    if state in (BodyState.LEARNED, BodyState.DAMAGED):
        return RecordType.LEARNED
    if version.kind != Kind.LIVE:
        return RecordType.TOMBSTONE
    if state == BodyState.FILE:
        return RecordType.PUT_REF
    return RecordType.POST if is_post else RecordType.PUT_INLINE


def state_of(record_type: int, version: Version) -> int:
    """The body state that a record of this type stands for."""
    if record_type == RecordType.LEARNED:
        return BodyState.LEARNED
    if version.kind != Kind.LIVE or version.size_bytes == 0:
        return BodyState.NONE
    return BodyState.FILE if record_type == RecordType.PUT_REF else BodyState.INLINE
