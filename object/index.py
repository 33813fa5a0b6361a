"""The index of a device: key -> newest row, pending listing updates, marks. Derived from the journal, disposable.

    | row: crc32 u32 of the rest | state u8 | segment u32 | offset u64 | length u32 | trailer crc u32 | ballot 24 |
    |   packed version |
    | pending: key -> stamp 24 | owed u8 | path (UTF-8) |

`LmdbIndex` is one synced transaction per flush (no WRITEMAP: that is SIGBUS on a full disk); `MemoryIndex` is what the
simulated disk has. Budget of a lookup: one B+tree descent, about 2 us warm. A flush of names from everywhere maps most of the
file, so a large one is let go of after each (common/mapped.py): a device with a million names would hold half a GiB.
"""
from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import lmdb
import msgpack

from common.errors import Corruption
from common.hashing import crc32
from common.mapped import find_mapped
from common.timestamp import Stamp, unpack_stamp
from common.vfs import PAGE_BYTES
from object.register import Held
from object.wire import make_key, split_key, unpack_version

_ROW = struct.Struct(">BIQII")
_MARK = b"mark"
FORMAT = 1
_LMDB_MAGIC = 0xBEEFC0DE
MAPPED_BYTES_MAX = 16 << 20              # of an index, kept mapped from one flush to the next


@dataclass(frozen=True, slots=True)
class Mark:
    """Indexed up to `sequence`; what comes later lies in `segment` or after.

    rows_segment: the oldest segment with container or account rows that no database checkpoint covers.
    usage: live bytes per segment. extras: what else replay up to here had gathered (object/device.py).
    """

    sequence: int
    segment: int
    rows_segment: int
    usage: dict[int, int]
    extras: bytes


@dataclass(slots=True)
class Pending:
    """A listing entry that may not have been delivered yet."""

    stamp: Stamp
    path: str
    is_owed: bool = False
    since_s: float = 0.0                 # monotonic; 0: from before this start


class Index(Protocol):
    """Lookups in the owner's loop, `flush` in its pool; never two flushes at once."""

    def get(self, key: bytes) -> Held | None: ...
    def mark(self) -> Mark | None:
        """None: the index is new or unusable and has to be rebuilt from the journal."""

    def flush(self, rows: Mapping[bytes, Held], pending: Mapping[bytes, Pending | None], mark: Mark) -> None:
        """One durable transaction; a pending value of None removes the entry."""

    def pending(self) -> Iterator[tuple[bytes, Pending]]: ...
    def rows(self, prefix: bytes = b"") -> Iterator[tuple[bytes, Held]]:
        """All rows whose key starts with `prefix`, in key order."""

    def keys(self) -> Iterator[bytes]:
        """All keys."""

    def count(self) -> int:
        """How many."""

    def partitions(self) -> list[tuple[int, int]]:
        """(space, partition) of all rows, ascending; one seek each."""

    def let_go(self, *, above_bytes: int = MAPPED_BYTES_MAX) -> None:
        """Of memory that many lookups have mapped, if the index is larger than that; in its pool."""

    def clear(self) -> None: ...
    def close(self) -> None: ...


def pack_row(held: Held) -> bytes:
    packed = b"".join((_ROW.pack(held.state, held.segment, held.offset, held.length, held.trailer_crc),
                       held.ballot.pack(), held.version.packed))
    return crc32(packed).to_bytes(4, "big") + packed


def unpack_row(buf: bytes) -> Held:
    """Raises `Corruption`: LMDB itself checks nothing."""
    if crc32(memoryview(buf)[4:]) != int.from_bytes(buf[:4], "big"):
        raise Corruption(what="index row")
    state, segment, offset, length, trailer_crc = _ROW.unpack_from(buf, 4)
    at = 4 + _ROW.size
    return Held(unpack_stamp(buf, at), unpack_version(bytes(buf[at + 24:])), state, 0, segment, offset, length, trailer_crc)


def _pack_pending(entry: Pending) -> bytes:
    return entry.stamp.pack() + bytes((entry.is_owed,)) + entry.path.encode("utf-8", "surrogatepass")


def _unpack_pending(buf: bytes) -> Pending:
    return Pending(unpack_stamp(buf), buf[25:].decode("utf-8", "surrogatepass"), bool(buf[24]))


def _check_file(path: str) -> None:
    """A data file that is shorter than its own meta pages say is met by SIGBUS once it is mapped. Raises `Corruption`.

    Meta pages are the first two; at offset 16 of each: magic u32, version u32, address u64, map size u64, two databases of
    48 bytes, last page u64, transaction u64. Source: mdb.c of LMDB 0.9, native byte order.
    """
    try:
        with open(f"{path}/data.mdb", "rb") as file:
            head = file.read(2 * PAGE_BYTES)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return
    if size == 0:
        return
    metas = []
    for start in (0, PAGE_BYTES):
        if len(head) >= start + 160:
            magic, = struct.unpack_from("=I", head, start + 16)
            last_page, transaction = struct.unpack_from("=QQ", head, start + 136)
            metas.append((transaction, magic, last_page))
    if len(metas) < 2 or any(magic != _LMDB_MAGIC for _, magic, _ in metas) or (max(metas)[2] + 1) * PAGE_BYTES > size:
        raise Corruption(what="index", file=f"{path}/data.mdb", reason="shorter than it says, or no LMDB file")


class MemoryIndex:
    """Survives a simulated power loss as of its last flush, as LMDB does."""

    def __init__(self) -> None:
        self._rows: dict[bytes, bytes] = {}
        self._pending: dict[bytes, bytes] = {}
        self._mark: Mark | None = None

    def get(self, key: bytes) -> Held | None:
        packed = self._rows.get(key)
        return unpack_row(packed) if packed is not None else None

    def mark(self) -> Mark | None:
        return self._mark

    def flush(self, rows: Mapping[bytes, Held], pending: Mapping[bytes, Pending | None], mark: Mark) -> None:
        self._rows.update({key: pack_row(held) for key, held in rows.items()})
        for key, entry in pending.items():
            if entry is None:
                self._pending.pop(key, None)
            else:
                self._pending[key] = _pack_pending(entry)
        self._mark = mark

    def pending(self) -> Iterator[tuple[bytes, Pending]]:
        return ((key, _unpack_pending(packed)) for key, packed in list(self._pending.items()))

    def rows(self, prefix: bytes = b"") -> Iterator[tuple[bytes, Held]]:
        return ((key, unpack_row(self._rows[key])) for key in sorted(self._rows) if key.startswith(prefix))

    def keys(self) -> Iterator[bytes]:
        return iter(list(self._rows))

    def count(self) -> int:
        return len(self._rows)

    def partitions(self) -> list[tuple[int, int]]:
        return sorted({split_key(key)[:2] for key in self._rows})

    def let_go(self, *, above_bytes: int = MAPPED_BYTES_MAX) -> None:
        pass

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]

    def close(self) -> None:
        pass


class LmdbIndex:
    """LMDB environment in `<device>/index`."""

    def __init__(self, path: str, *, map_bytes: int = 64 << 30) -> None:
        """map_bytes: address space, not disk. Raises `lmdb.Error`, `Corruption` when the files are unusable: remove them."""
        _check_file(path)
        self._env = lmdb.open(path, map_size=map_bytes, max_dbs=3, subdir=True, mode=0o600, metasync=True, sync=True,
                              lock=False, readahead=False, max_readers=4)
        self._rows = self._env.open_db(b"rows")
        self._pending = self._env.open_db(b"pending")
        self._meta = self._env.open_db(b"meta")
        self._file = f"{os.path.realpath(path)}/data.mdb"
        self._mapped = next(find_mapped(self._file), None)       # until `close`: nobody changes the size of the map

    def get(self, key: bytes) -> Held | None:
        try:
            with self._env.begin(db=self._rows, buffers=False) as txn:
                packed = txn.get(key)
        except lmdb.Error as error:
            raise Corruption(what="index", reason=str(error)) from error
        return unpack_row(packed) if packed is not None else None

    def mark(self) -> Mark | None:
        with self._env.begin(db=self._meta) as txn:
            packed = txn.get(_MARK)
        if packed is None:
            return None
        version, *fields = msgpack.unpackb(packed, strict_map_key=False)
        return Mark(*fields) if version == FORMAT else None

    def flush(self, rows: Mapping[bytes, Held], pending: Mapping[bytes, Pending | None], mark: Mark) -> None:
        with self._env.begin(write=True) as txn:
            for key in sorted(rows):
                txn.put(key, pack_row(rows[key]), db=self._rows)
            for key, entry in pending.items():
                if entry is None:
                    txn.delete(key, db=self._pending)
                else:
                    txn.put(key, _pack_pending(entry), db=self._pending)
            fields = (FORMAT, mark.sequence, mark.segment, mark.rows_segment, mark.usage, mark.extras)
            txn.put(_MARK, msgpack.packb(fields), db=self._meta)
        self.let_go()

    def pending(self) -> Iterator[tuple[bytes, Pending]]:
        with self._env.begin(db=self._pending) as txn:
            entries = [(bytes(key), _unpack_pending(bytes(packed))) for key, packed in txn.cursor()]
        return iter(entries)

    def rows(self, prefix: bytes = b"") -> Iterator[tuple[bytes, Held]]:
        start = prefix
        while True:                      # short readers: a long one would keep freed pages alive
            with self._env.begin(db=self._rows) as txn:
                cursor = txn.cursor()
                if not cursor.set_range(start):
                    return
                page: list[tuple[bytes, Held]] = []
                for key, packed in cursor:
                    if not key.startswith(prefix) or len(page) == 1000:
                        break
                    page.append((bytes(key), unpack_row(bytes(packed))))
            yield from page
            if len(page) < 1000:
                return
            start = page[-1][0] + b"\0"

    def keys(self) -> Iterator[bytes]:
        start = b""
        while True:
            with self._env.begin(db=self._rows) as txn:
                cursor = txn.cursor()
                page = list(islice(cursor.iternext(keys=True, values=False), 10_000)) if cursor.set_range(start) else []
            yield from page
            if len(page) < 10_000:
                return
            start = page[-1] + b"\0"

    def count(self) -> int:
        with self._env.begin(db=self._rows) as txn:
            return int(txn.stat(self._rows)["entries"])

    def partitions(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        with self._env.begin(db=self._rows) as txn:
            cursor = txn.cursor()
            is_there = cursor.first()
            while is_there:
                space, partition, _ = split_key(cursor.key())
                found.append((space, partition))
                is_there = cursor.set_range(make_key(space, partition, b"\xff" * 16) + b"\0")
        return found

    def let_go(self, *, above_bytes: int = MAPPED_BYTES_MAX) -> None:
        if self._mapped is not None and os.stat(self._file).st_size > above_bytes:
            self._mapped.let_go()

    def clear(self) -> None:
        with self._env.begin(write=True) as txn:
            for db in (self._rows, self._pending, self._meta):
                txn.drop(db, delete=False)

    def close(self) -> None:
        self._mapped = None
        self._env.close()
