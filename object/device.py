"""A device: one journal, and all else derived from it. Synchronous; `object/owner.py` drives it from the event loop.

A PUT of a small body here: `accept` (object/register.py) -> `put` -> `Journal.append`; then, once per batch,
`Journal.write` in the pool and `committed` in the loop. A look: `get`, which finds the newest row in memory (in flight
included), in the rows being flushed, or in the index.

Durability: what `synced_sequence` covers survives power loss. Start-up: object/recovery.py.
"""
from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from common.errors import Corruption, DeviceFull, DeviceRefused, DeviceUnavailable
from common.log import get_logger
from common.timestamp import Stamp, unpack_stamp
from common.vfs import Vfs
from object.bodies import BodyReader, BodyWriter, alone_with, body_path
from object.format import (
    FLAG_MOVED,
    OBJECT_TYPES,
    Record,
    RecordType,
    check_record,
    encode_register_row,
    type_for,
)
from object.identity import Identity, check_identity, format_device, load_identity, lock_device, save_identity
from object.index import Index, Mark, Pending
from object.journal import Batch, Journal
from object.keyfilter import KeyFilter
from object.peers import PeerMark, PeerMarks, Standing
from object.recovery import Beside, Recovery, Replay, note_pending, pack_extras, uncount
from object.register import Held, Replica
from object.replay import list_segments, segment_path
from object.wire import SPACE_OBJECT, BodyState, Kind, Version

log = get_logger("object.device")
WARM_MAX = 4096                         # registers of containers and accounts
RECENT_MAX = 2048                        # objects that were looked at; about 1.5 KiB each
REBUILD = "index.rebuild"                # a file that asks the next start for a new index


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLimits:
    """Sizes of one device."""

    segment_bytes: int = 16 << 20
    reserve_bytes: int = 16 << 20
    fill_max: float = 0.95               # of the file system: above it new bodies are refused, the rest goes on
    max_skew_us: int = 10_000_000


@dataclass(slots=True)
class Flush:
    """Rows on their way into the index; may be written once `sequence` is synced."""

    rows: dict[bytes, Held]
    pending: dict[bytes, Pending | None]
    sequence: int
    segment: int
    extras: bytes


class Device:
    """One owner for life. Implements `object.register.RegisterLog`."""

    def __init__(self, fs: Vfs, root: str, expected: Identity, index: Index, *, limits: DeviceLimits,
                 now_us: int) -> None:
        """Open or, when the directory is empty, make the device. Raises `DeviceRefused`, `Corruption`, OSError."""
        self.fs, self.root, self.limits, self.index = fs, root, limits, index
        self.recovery = Recovery()
        fs.mkdir(root)
        self._lock = lock_device(fs, root)
        self.rows: dict[bytes, Held] = {}
        self._flushing: dict[bytes, Held] = {}
        self._warm: dict[bytes, Held] = {}                       # rows as the index has them
        self._recent: dict[bytes, Held] = {}
        self.last_held: Held | None = None       # what the last `get` found
        self.pending: dict[bytes, Pending] = {}
        self._pending_changes: dict[bytes, Pending | None] = {}
        self._staged: dict[tuple[bytes, int], int] = {}          # (key, body id) -> trailer crc
        self.filter = KeyFilter(index.count())
        self.on_index_damage: Callable[[Corruption], None] = lambda error: None
        self.usage: dict[int, int] = {}
        self.peers = PeerMarks()
        self._beside = Beside()
        self._unplaced: deque[tuple[Held, int]] = deque()        # in order of their sequences
        self._handles: dict[int, int] = {}                       # of segments that are read
        self._staging: list[tuple[bytes, int]] = []              # (key, body id) of files that are getting their name
        self.displaced_bodies: dict[tuple[bytes, int], int] = {}         # (key, body id) -> sequence of the successor
        self.damaged_segments: set[int] = set()                  # that compaction has to leave
        self.is_full = False
        self.fault: str = ""             # set when the device is retired
        try:
            self.identity = self._identify(expected)
            self._recover(now_us)
        except BaseException:
            fs.close(self._lock)
            raise

    # --- start ---------------------------------------------------------------------------------------------------

    def _identify(self, expected: Identity) -> Identity:
        found = load_identity(self.fs, self.root)
        if found is None:
            if list_segments(self.fs, f"{self.root}/journal"):
                raise DeviceRefused(device=self.root, reason="has a journal but no device.toml: restore it or empty the directory")
            self.recovery.is_new = True
            self.index.clear()
            return format_device(self.fs, self.root, expected)
        return check_identity(found, root=self.root, expected=expected)

    def _recover(self, now_us: int) -> None:
        found = Replay(self.fs, self.root, self.index, self.filter, is_new=self.recovery.is_new)
        found.run()
        self.recovery, self.rows, self.pending, self.usage = found.recovery, found.rows, found.pending, found.usage
        self.peers, self._beside = found.peers, found.beside
        headers, last, recovery = found.headers, found.last, found.recovery
        recovery.incarnation = headers[-1].incarnation if headers else self.identity.incarnation
        known_floor = floor = self._beside.floor
        if recovery.amnesia:             # durable before the next epoch hides what was found
            self._forget(now_us, recovery.amnesia)
        recovery.amnesia = self.identity.amnesia
        if recovery.amnesia:
            floor = max(floor, Stamp(self.identity.floor_us or self._new_floor_us(now_us), 0, 0, 0))
        self.epoch = recovery.epoch + 1
        self.journal = Journal(self.fs, self.root, incarnation=self.identity.incarnation, epoch=self.epoch,
                               segment_bytes=self.limits.segment_bytes, predecessor=headers[-1] if headers else None,
                               predecessor_end=last.end if last else 0,
                               predecessor_footer=last.footer_offset if last else 0,
                               last_sequence=last.last_sequence if last else 0)
        self.standing = Standing(is_new=recovery.is_new, amnesia=recovery.amnesia, ends=recovery.ends)
        self.floor = self._beside.floor = floor
        self.replica = Replica(self, floor=floor, ceiling=self._beside.ceiling, max_skew_us=self.limits.max_skew_us)
        if floor != known_floor:         # found now, or at a start whose record was never synced
            self._append_floor()
        self.has_room()
        if recovery.torn_bytes or recovery.damaged_rows or recovery.amnesia:
            log.warning("device recovered", device=self.root, torn_bytes=recovery.torn_bytes,
                        damaged_rows=recovery.damaged_rows, amnesia=recovery.amnesia or "no")

    def take_row_records(self) -> list[tuple[int, bytes, int]]:
        """Container and account rows found by replay, in order; handed over once, to their stores."""
        records, self._beside.row_records = self._beside.row_records, []
        return records

    # --- RegisterLog ---------------------------------------------------------------------------------------------

    @property
    def is_counted(self) -> bool:
        """See object/peers.py."""
        return self.standing.is_counted

    @property
    def synced_sequence(self) -> int:
        return self.journal.synced_sequence

    def get(self, key: bytes) -> Held | None:
        held = self.rows.get(key)
        if held is None:
            held = self._flushing.get(key)
            if held is None:
                held = (self._recent if key[0] >= SPACE_OBJECT else self._warm).get(key)
                if held is None:
                    held = self._load(key)
        self.last_held = held
        return held

    def peek(self, key: bytes) -> Held | None:
        """As `get`, from any thread: touches no cache. What it says may be outdated by the time it is read."""
        held = self.rows.get(key) or self._flushing.get(key)
        return held if held is not None else self.index.get(key)

    def _load(self, key: bytes) -> Held | None:
        """From the index; what is looked at stays at hand, registers of containers and accounts apart: every write looks at one."""
        if not self.filter.may_hold(key):
            return None
        try:
            held = self.index.get(key)
        except Corruption as error:
            self.on_index_damage(error)
            raise DeviceUnavailable(device=self.identity.name, reason=f"index damaged: {error}") from error
        if held is not None:
            kept, kept_max = (self._recent, RECENT_MAX) if key[0] >= SPACE_OBJECT else (self._warm, WARM_MAX)
            if len(kept) >= kept_max:
                kept.clear()
            kept[key] = held
        return held

    def _show(self, key: bytes, held: Held) -> None:
        """The newest row from now on; what was kept of the index is older, and must not be found again after the next flush."""
        self.rows[key] = held
        (self._recent if key[0] >= SPACE_OBJECT else self._warm).pop(key, None)

    def put(self, key: bytes, before: Held | None, ballot: Stamp, version: Version, state: int, body: bytes | None, *,
            is_settling: bool = False) -> int:
        # what settles goes on above the limit, as deletes do: a delete has to settle first what it deletes
        if self.is_full and not is_settling and version.kind == Kind.LIVE and (
                before is None or before.version.stamp != version.stamp):
            raise DeviceFull(device=self.identity.name, free_bytes=self.free_bytes)
        keeps = before is not None and before.version.body_id == version.body_id and version.body_id != 0
        if state == BodyState.INLINE and body is None:
            assert before is not None
            body = self.read_inline(before)
        trailer_crc = 0
        if state == BodyState.FILE:
            trailer_crc = self._staged.pop((key, version.body_id), 0) or (before.trailer_crc if before is not None else 0)
        kind = type_for(version, state, is_post=keeps)
        meta = encode_register_row(key, ballot, version, trailer_crc)
        stored = body if state == BodyState.INLINE and body is not None else b""
        sequence = self.journal.append(kind, meta, stored, key=key, ballot=ballot, stamp=version.stamp)
        held = Held(ballot, version, state, sequence, trailer_crc=trailer_crc)
        self._unplaced.append((held, sequence))
        uncount(self.usage, before)
        if before is not None and before.state == BodyState.FILE and not keeps and state != BodyState.LEARNED:
            self.displaced_bodies[key, before.version.body_id] = sequence
        self._show(key, held)
        self.filter.add(key)
        self._beside.data_sequence = sequence
        note_pending(self.pending, key, version)
        return sequence

    def append_ceiling(self, ceiling: Stamp) -> int:
        self._beside.ceiling = ceiling
        return self.journal.append(RecordType.CEILING, ceiling.pack())

    def append_promise(self, key: bytes, ballot: Stamp) -> int:
        self._beside.promises[key] = ballot
        self._beside.data_sequence = self.journal.append(RecordType.PROMISE, key + ballot.pack())
        return self._beside.data_sequence

    def promise_of(self, key: bytes) -> Stamp | None:
        return self._beside.promises.get(key)

    def body_state(self, key: bytes, version: Version) -> int:
        if (key, version.body_id) in self._staged:
            return BodyState.FILE
        return BodyState.LEARNED

    # --- other records -------------------------------------------------------------------------------------------

    def append_row(self, record_type: RecordType, meta: bytes) -> int:
        """A container or account row; applied by its store after the sync."""
        self._beside.data_sequence = sequence = self.journal.append(record_type, meta)
        self.journal.note_listed(sequence)
        return sequence

    def append_peer_mark(self, device_id: str, mark: PeerMark) -> int:
        """Remember what a peer showed."""
        return self.journal.append(RecordType.PEER_MARK, self.peers.remember(device_id, mark))

    def owe(self, key: bytes, stamp: Stamp) -> int:
        """This write was answered before its listing entry was delivered; durable with the returned sequence."""
        entry = self.pending.get(key)
        if entry is not None and entry.stamp == stamp:
            entry.is_owed = True
            self._pending_changes[key] = entry
        self._beside.data_sequence = self.journal.append(RecordType.OWED, key + stamp.pack())
        return self._beside.data_sequence

    def done(self, key: bytes, stamp: Stamp) -> None:
        """The listing holds this write: clears it and older ones."""
        entry = self.pending.get(key)
        if entry is not None and entry.stamp <= stamp:
            del self.pending[key]
            self._pending_changes[key] = None

    def restart_memory(self, now_us: int, reason: str) -> None:
        """Peers remember more than this device shows: a new incarnation and a floor; it no longer counts."""
        self._forget(now_us, reason)
        self.floor = self._beside.floor = Stamp(self.identity.floor_us, 0, 0, 0)
        self.standing = Standing(is_new=False, amnesia=reason)
        self.replica = Replica(self, floor=self.floor, ceiling=self._beside.ceiling, max_skew_us=self.limits.max_skew_us)
        self._append_floor()
        log.error("device does not count", device=self.root, reason=reason)

    def _forget(self, now_us: int, reason: str) -> None:
        """Durably: a new incarnation, and why this one does not count, so that no later start does."""
        self.identity = replace(self.identity, incarnation=os.urandom(16), amnesia=reason, floor_us=self._new_floor_us(now_us))
        save_identity(self.fs, self.root, self.identity)

    def _new_floor_us(self, now_us: int) -> int:
        return now_us + 2 * self.limits.max_skew_us

    def _append_floor(self) -> None:
        self._beside.data_sequence = self.journal.append(RecordType.FLOOR, self.floor.pack())

    def mark(self) -> PeerMark:
        """What peers shall remember of this device."""
        return PeerMark(self.identity.incarnation, self.epoch, min(self._beside.data_sequence, self.synced_sequence))

    # --- commit --------------------------------------------------------------------------------------------------

    def take_batch(self) -> Batch | None:
        """What was gathered since the last commit."""
        return self.journal.take_batch()

    def committed(self, batch: Batch) -> None:
        """In the loop, after `Journal.write`: the rows of the batch get their place."""
        self.journal.committed(batch)
        last, first = batch.last_sequence, batch.first_sequence
        segment, start, relative, live_bytes = batch.segment, batch.offset, batch.relative, 0
        unplaced = self._unplaced
        while unplaced and unplaced[0][1] <= last:
            held, sequence = unplaced.popleft()
            offset, held.length = relative[sequence - first]
            held.segment, held.offset = segment, start + offset
            live_bytes += held.length
        self.usage[segment] = self.usage.get(segment, 0) + live_bytes
        if batch.last_listed:
            self._beside.row_segments[batch.segment] = batch.last_listed

    def rows_covered(self, sequence: int) -> None:
        """Every container and account row up to `sequence` is in a synced checkpoint of its database."""
        segments = self._beside.row_segments
        for segment in [s for s, last in segments.items() if last <= sequence]:
            del segments[segment]

    def commit_inline(self) -> None:
        """Commit what was gathered, blocking: start-up, shutdown, tests."""
        while (batch := self.take_batch()) is not None:
            self.journal.write(batch)
            self.committed(batch)

    # --- flush ---------------------------------------------------------------------------------------------------

    @property
    def is_dirty(self) -> bool:
        return bool(self.rows or self._pending_changes)

    def begin_flush(self) -> Flush | None:
        """Set the newest rows apart; None when there is nothing to do or one is under way."""
        if self._flushing or not self.is_dirty:
            return None
        self._flushing, self.rows = self.rows, {}
        changes, self._pending_changes = self._pending_changes, {}
        for key in self._flushing:
            if key in self.pending:
                changes[key] = self.pending[key]
        return Flush(self._flushing, changes, self.journal.next_sequence - 1, self.journal.segment, self._pack_extras())

    def write_flush(self, flush: Flush) -> None:
        """Blocking; only after `flush.sequence` is synced."""
        rows_segment = min(self._beside.row_segments, default=flush.segment)
        self.index.flush(flush.rows, flush.pending,
                         Mark(flush.sequence, flush.segment, rows_segment, dict(self.usage), flush.extras))

    def end_flush(self, flush: Flush, *, is_done: bool) -> None:
        """Forget the rows that the index holds now, or take them back."""
        if not is_done:
            self.rows = {**flush.rows, **self.rows}
            self._pending_changes = {**flush.pending, **self._pending_changes}
        self._flushing = {}

    def _pack_extras(self) -> bytes:
        beside = self._beside
        promises = {}
        for key, ballot in beside.promises.items():
            held = self.get(key)
            if held is None or held.ballot < ballot:     # else the row stands for it
                promises[key] = ballot
        beside.promises = promises
        return pack_extras(beside, self.peers)

    def flush_inline(self) -> None:
        """Commit and flush, blocking: shutdown, tests."""
        self.commit_inline()
        flush = self.begin_flush()
        if flush is not None:
            self.write_flush(flush)
            self.end_flush(flush, is_done=True)

    # --- compaction (object/compaction.py) -----------------------------------------------------------------------

    @property
    def row_segments(self) -> dict[int, int]:
        """Segments with container or account rows that no checkpoint covers."""
        return self._beside.row_segments

    def append_moved(self, key: bytes, body: bytes | None) -> int:
        """A copy of the newest row at the end of the log. body: of an INLINE row."""
        held = self.get(key)
        assert held is not None
        kind = type_for(held.version, held.state, is_post=False)
        meta = encode_register_row(key, held.ballot, held.version, held.trailer_crc)
        stored = body if held.state == BodyState.INLINE and body is not None else b""
        sequence = self.journal.append(kind, meta, stored, key=key, ballot=held.ballot, stamp=held.version.stamp,
                                       flags=FLAG_MOVED)
        copy = Held(held.ballot, held.version, held.state, sequence, trailer_crc=held.trailer_crc)
        self._unplaced.append((copy, sequence))
        uncount(self.usage, held)
        self._show(key, copy)
        return sequence

    def append_moved_other(self, record: Record) -> int:
        """The same for records that are no rows, if they still mean something; bytes appended."""
        beside = self._beside
        if record.type == RecordType.PROMISE:
            key, ballot = record.meta[:-24], unpack_stamp(record.meta[-24:])
            held = self.get(key)
            is_alive = beside.promises.get(key) == ballot and (held is None or held.ballot < ballot)
        elif record.type == RecordType.CEILING:
            is_alive = unpack_stamp(record.meta) == beside.ceiling
        elif record.type == RecordType.FLOOR:
            is_alive = unpack_stamp(record.meta) == beside.floor
        elif record.type == RecordType.OWED:                     # its write lies in another segment, which stays meanwhile
            entry = self.pending.get(record.meta[:-24])
            is_alive = entry is not None and entry.is_owed and entry.stamp == unpack_stamp(record.meta[-24:])
        else:
            is_alive = record.type == RecordType.PEER_MARK and self.peers.is_current(record.meta)
        if is_alive:
            self.journal.append(RecordType(record.type), record.meta, flags=FLAG_MOVED)
        return record.length if is_alive else 0

    def forget_segment(self, segment: int) -> None:
        """Its file is a stub now."""
        self.usage.pop(segment, None)
        handle = self._handles.pop(segment, None)
        if handle is not None:
            self.fs.close(handle)

    # --- bodies --------------------------------------------------------------------------------------------------

    def forget_index(self) -> None:
        """The next start shall rebuild the index."""
        path = f"{self.root}/{REBUILD}"
        if not self.fs.exists(path):
            self.fs.close(self.fs.open(path, create=True))

    def read_inline(self, held: Held, *, cached_only: bool = False) -> bytes | None:
        """The body of an INLINE row, checked. cached_only: None when the disk would be waited for.

        Raises `Corruption`; the caller quarantines.
        """
        handle = self._segment_handle(held.segment)
        read = self.fs.pread_cached if cached_only else self.fs.pread
        buf = read(handle, held.length, held.offset)
        if buf is None:
            return None
        record, body = check_record(buf)
        if record.type not in OBJECT_TYPES or len(body) != held.version.size_bytes:
            raise Corruption(what="record", segment=held.segment, offset=held.offset, reason="not the row it should be")
        return bytes(body)

    def open_body(self, key: bytes, held: Held) -> BodyReader:
        """Reader of a FILE row. Raises `Corruption`, FileNotFoundError."""
        return BodyReader(self.fs, body_path(self.root, key, held.version.body_id), size_bytes=held.version.size_bytes,
                          trailer_crc=held.trailer_crc)

    def new_body(self) -> BodyWriter:
        """Raises `DeviceFull` above the fill limit."""
        if self.is_full:
            raise DeviceFull(device=self.identity.name, free_bytes=self.free_bytes)
        return BodyWriter(self.fs, self.root, free_bytes_min=int(self.size_bytes * (1 - self.limits.fill_max)))

    @contextlib.contextmanager
    def staging(self, key: bytes, body_id: int) -> Iterator[None]:
        """In the loop, around what gives a body its name: displaced before or meanwhile, the file stays."""
        self.displaced_bodies.pop((key, body_id), None)
        self._staging.append((key, body_id))
        try:
            yield
        finally:
            self._staging.remove((key, body_id))

    def staged(self, key: bytes, body_id: int, trailer_crc: int) -> None:
        """A body is durable under its name and waits for the record."""
        self.displaced_bodies.pop((key, body_id), None)
        self._staged[key, body_id] = trailer_crc

    def forget_staged(self, key: bytes, body_id: int) -> None:
        """The file of a staged body is gone."""
        self._staged.pop((key, body_id), None)

    def quarantine(self, key: bytes, held: Held) -> None:
        """A body failed its check: never served again; the file is set aside for a person to look at."""
        current = self.get(key)
        if current is None or current.ballot != held.ballot:
            return
        if held.state == BodyState.FILE:
            path = body_path(self.root, key, held.version.body_id)
            with contextlib.suppress(OSError):
                self.fs.rename(path, f"{self.root}/quarantine/{os.path.basename(path)}")
        self._show(key, Held(held.ballot, held.version, BodyState.DAMAGED, held.sequence, held.segment, held.offset,
                             held.length, held.trailer_crc))
        log.error("body quarantined", device=self.root, path=held.version.path, stamp=list(held.version.stamp))

    def take_displaced(self) -> list[tuple[bytes, int, int]]:
        """In the loop: (key, body id, sequence) of files for `unlink`. Their successors are durable, and nothing wants them again.

        They stay on the list until they are removed, so that staging one of them still takes it off.
        """
        found = []
        for (key, body_id), sequence in list(self.displaced_bodies.items()):
            if sequence > self.synced_sequence:
                continue
            held = self.get(key)
            is_named = held is not None and held.version.body_id == body_id
            if is_named or (key, body_id) in self._staged or (key, body_id) in self._staging:
                del self.displaced_bodies[key, body_id]
            else:
                found.append((key, body_id, sequence))
        return found

    def unlink(self, displaced: Iterable[tuple[bytes, int, int]]) -> None:
        """Remove body files that are still displaced. Blocking; one that is not there or cannot be removed is the sweeper's."""
        for key, body_id, sequence in displaced:
            path = body_path(self.root, key, body_id)
            with alone_with(path):       # who stages it took it off the list first, and gives the name after us
                if self.displaced_bodies.get((key, body_id)) != sequence:
                    continue
                self.displaced_bodies.pop((key, body_id), None)
                with contextlib.suppress(OSError):
                    self.fs.unlink(path)

    # --- space ---------------------------------------------------------------------------------------------------

    def has_room(self) -> bool:
        """Look at the file system; keeps spare segment and reserve in place. Blocking, once a second."""
        spare = self.journal.make_spare()
        reserve = self.journal.make_reserve(self.limits.reserve_bytes)
        self.free_bytes, self.size_bytes = self.fs.free_bytes(self.root)
        fill = 1 - self.free_bytes / self.size_bytes if self.size_bytes else 1.0
        self.is_full = not spare or not reserve or fill > self.limits.fill_max
        return not self.is_full

    def look_at_space(self) -> None:
        """Refresh `free_bytes`: one statvfs."""
        self.free_bytes, self.size_bytes = self.fs.free_bytes(self.root)

    def close(self) -> None:
        """Flush, and give up the lock."""
        for handle in self._handles.values():
            self.fs.close(handle)
        self._handles.clear()
        self.journal.close()
        self.index.close()
        self.fs.close(self._lock)

    def _segment_handle(self, segment: int) -> int:
        handles = self._handles
        handle = handles.get(segment)
        if handle is None:
            if len(handles) >= 256:
                self.fs.close(handles.pop(next(iter(handles))))
            handle = handles[segment] = self.fs.open(segment_path(f"{self.root}/journal", segment), read_only=True)
        return handle
