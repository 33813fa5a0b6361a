"""Large bodies, one file each: bodies/<space>-<partition>/<hash>.<body id>, immutable once it has its name.

    | body | crc32 u32 per 64 KiB block ... | trailer: magic HFBT | version u16 | 0 u16 | body bytes u64 | blocks u32 | crc32 u32 |
    | xattr user.holdfast: msgpack [key, body id, body bytes, path, trailer crc] |

The trailer's crc covers the block checksums and itself; it is repeated in the journal record that names the file.
Durable with one fsync after the link: fdatasync may lose the name. Budget: 1 write pass, 1 fsync, no rename. Staged again,
a body replaces the file that is there: nobody knows whether that one was ever synced.
"""
from __future__ import annotations

import contextlib
import errno
import mmap
import os
import struct
import threading
from collections.abc import Iterator, Sequence

import msgpack

from common.errors import Corruption
from common.hashing import crc32, crc32_long
from common.vfs import PAGE_BYTES, Vfs
from object.wire import split_key

BLOCK_BYTES = 65_536
DIRECT_BYTES_MIN, DIRECT_BYTES_MAX = 65_536, 1 << 20     # shorter writes cost less through the page cache
_TRAILER = struct.Struct(">4sHHQII")
_MAGIC, VERSION = b"HFBT", 1
XATTR = "user.holdfast"


def body_directory(root: str, key: bytes) -> str:
    space, partition, _ = split_key(key)
    return f"{root}/bodies/{space:02x}-{partition:06x}"


def body_path(root: str, key: bytes, body_id: int) -> str:
    return f"{body_directory(root, key)}/{split_key(key)[2].hex()}.{body_id:016x}"


_names_lock = threading.Lock()
_names: dict[str, list[threading.Lock]] = {}     # path -> its lock, once for each who holds it or waits for it


@contextlib.contextmanager
def alone_with(path: str) -> Iterator[None]:
    """Blocks until nobody else gives or takes the name of this body file."""
    with _names_lock:
        holders = _names.setdefault(path, [])
        lock = holders[0] if holders else threading.Lock()
        holders.append(lock)
    try:
        with lock:
            yield
    finally:
        with _names_lock:
            holders.pop()
            if not holders:
                del _names[path]


class _Aligned(threading.local):
    """A buffer of a MiB at the start of a page, one per thread: direct writes take nothing else."""

    def __init__(self) -> None:
        self.buffer = mmap.mmap(-1, DIRECT_BYTES_MAX)


_aligned = _Aligned()


class BodyWriter:
    """Streams one body into a file without a name. All methods block: they belong to the device's body pool.

    Whole pages go past the page cache: what is synced before anybody is answered gains nothing by a copy there, and a page
    that is new to the cache costs a virtual machine up to 10 us.
    """

    def __init__(self, fs: Vfs, root: str, *, free_bytes_min: int = 0) -> None:
        """free_bytes_min: of the file system; what would leave less is refused while it is written, as ENOSPC."""
        self._fs, self._root, self._free_bytes_min = fs, root, free_bytes_min
        self._handle = fs.open_unnamed(f"{root}/tmp")
        self._crcs = bytearray()
        self._block = 0                  # crc of the block under way
        self._block_fill = 0
        self._rest = b""                 # less than a page, not written yet
        self._written_bytes = 0
        self._can_be_direct = True
        self._lock = threading.Lock()    # whoever gives up must not close the file under a write that still runs
        self.size_bytes = 0

    def write(self, *chunks: bytes | memoryview) -> None:
        """Append; any size. Raises OSError (ENOSPC, EIO): then `abort`."""
        if self._free_bytes_min and self._fs.free_bytes(self._root)[0] < self._free_bytes_min:
            raise OSError(errno.ENOSPC, "above the fill limit")      # the look once a second is too late for what is large
        with self._lock:
            buffer, fill = _aligned.buffer, len(self._rest)
            buffer[:fill] = self._rest
            for chunk in chunks:
                view = memoryview(chunk)
                self.size_bytes += len(view)
                self._sum(view)
                while view:
                    take = min(len(view), DIRECT_BYTES_MAX - fill)
                    buffer[fill:fill + take] = view[:take]
                    fill, view = fill + take, view[take:]
                    if fill == DIRECT_BYTES_MAX:
                        self._write(buffer, fill)
                        fill = 0
            whole = fill // PAGE_BYTES * PAGE_BYTES
            if whole:
                self._write(buffer, whole)
            self._rest = buffer[whole:fill]

    def _write(self, buffer: mmap.mmap, count: int) -> None:
        """Whole pages of the thread's buffer."""
        with memoryview(buffer) as view, view[:count] as pages:
            if count >= DIRECT_BYTES_MIN and self._can_be_direct:
                self._write_direct(pages)
            else:
                self._append([pages])

    def _write_direct(self, aligned: memoryview) -> None:
        try:
            if self._fs.set_direct(self._handle, True):
                try:
                    self._append([aligned])
                finally:
                    self._fs.set_direct(self._handle, False)
                return
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        self._can_be_direct = False      # this file system cannot, or wants other alignments; nothing was written
        self._append([aligned])

    def _append(self, buffers: Sequence[bytes | memoryview]) -> None:
        want = sum(map(len, buffers))
        if self._fs.pwritev(self._handle, buffers, self._written_bytes) != want:
            raise OSError(errno.ENOSPC, "short write of a body")     # the rest would be a hole that reads as zeros
        self._written_bytes += want

    def _sum(self, view: memoryview) -> None:
        while view:
            take = min(BLOCK_BYTES - self._block_fill, len(view))
            self._block = crc32_long(view[:take], self._block)
            self._block_fill += take
            if self._block_fill == BLOCK_BYTES:
                self._end_block()
            view = view[take:]

    def finish(self, key: bytes, body_id: int, path: str) -> int:
        """Trailer, xattr, name, sync: the crc of the trailer. What had the name before is replaced. Raises OSError."""
        with self._lock:
            crc = self._end(key, body_id, path)
            with alone_with(body_path(self._root, key, body_id)):
                self._name(key, body_id)
            self._close()
            return crc

    def _end(self, key: bytes, body_id: int, path: str) -> int:
        if self._block_fill:
            self._end_block()
        trailer, crc = _encode_trailer(bytes(self._crcs), self.size_bytes)
        self._append([self._rest, trailer] if self._rest else [trailer])
        packed = msgpack.packb((key, body_id, self.size_bytes, path, crc), unicode_errors="surrogatepass")
        self._fs.set_xattr(self._handle, XATTR, packed)
        return crc

    def _name(self, key: bytes, body_id: int) -> None:
        target = body_path(self._root, key, body_id)
        try:
            self._fs.link_unnamed(self._handle, target)
        except FileNotFoundError:
            directory = body_directory(self._root, key)
            self._fs.mkdir(directory)
            self._fs.fsync_dir(f"{self._root}/bodies")
            self._fs.link_unnamed(self._handle, target)
        except FileExistsError:
            self._replace(key, target)
            return
        self._sync_named(target)

    def _replace(self, key: bytes, target: str) -> None:
        """Over a file of the same body. It may be torn, or acknowledged: it has the name until ours is durable."""
        spare = body_path(self._root, key, int.from_bytes(os.urandom(8), "big"))     # a crash leaves it to the sweeper
        self._fs.link_unnamed(self._handle, spare)
        self._sync_named(spare)
        try:
            self._fs.rename(spare, target)
        except OSError:
            self._take_back(spare)
            raise
        self._fs.fsync_dir(body_directory(self._root, key))

    def _sync_named(self, path: str) -> None:
        try:
            self._fs.fsync(self._handle)
        except OSError:
            self._take_back(path)        # its pages are lost though they still read well
            raise

    def _take_back(self, path: str) -> None:
        with contextlib.suppress(OSError):
            self._fs.unlink(path)

    def abort(self) -> None:
        """Give up the file; without a name nothing is left behind. Waits for a write that runs."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._handle >= 0:
            self._fs.close(self._handle)
            self._handle = -1

    def _end_block(self) -> None:
        self._crcs += self._block.to_bytes(4, "big")
        self._block = self._block_fill = 0


def _encode_trailer(crcs: bytes, size_bytes: int) -> tuple[bytes, int]:
    head = _TRAILER.pack(_MAGIC, VERSION, 0, size_bytes, len(crcs) // 4, 0)
    crc = crc32(head, crc32(crcs))
    return b"".join((crcs, head[:-4], crc.to_bytes(4, "big"))), crc


class BodyReader:
    """Reads a body and checks every block that a range touches. Blocking; holds one file handle until `close`."""

    def __init__(self, fs: Vfs, path: str, *, size_bytes: int, trailer_crc: int) -> None:
        """Raises FileNotFoundError, `Corruption` (a trailer that is not the one the record names)."""
        self._fs, self._path, self.size_bytes = fs, path, size_bytes
        self._handle = fs.open(path, read_only=True)
        try:
            self._crcs = self._load_trailer(trailer_crc)
        except BaseException:
            self.close()
            raise

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`, all blocks they touch checked; one call of the system. Raises `Corruption`."""
        end = min(offset + count, self.size_bytes)
        if offset >= end:
            return b""
        number = offset // BLOCK_BYTES
        start, stop = number * BLOCK_BYTES, min(-(-end // BLOCK_BYTES) * BLOCK_BYTES, self.size_bytes)
        buf = self._fs.pread(self._handle, stop - start, start)
        view = memoryview(buf)
        for at in range(0, stop - start, BLOCK_BYTES):
            if crc32_long(view[at:at + BLOCK_BYTES]) != int.from_bytes(self._crcs[number * 4:number * 4 + 4], "big"):
                raise Corruption(what="body block", file=self._path, block=number)
            number += 1
        return buf if start == offset and stop == end else buf[offset - start:end - start]

    def close(self) -> None:
        if self._handle >= 0:
            self._fs.close(self._handle)
            self._handle = -1

    def _load_trailer(self, expected_crc: int) -> bytes:
        blocks = -(-self.size_bytes // BLOCK_BYTES)
        buf = self._fs.pread(self._handle, blocks * 4 + _TRAILER.size, self.size_bytes)
        crcs, head = buf[:blocks * 4], buf[blocks * 4:]
        if len(head) != _TRAILER.size:
            raise Corruption(what="body trailer", file=self._path, reason="too short")
        magic, version, zero, size, count, crc = _TRAILER.unpack(head)
        computed = crc32(_TRAILER.pack(magic, version, zero, size, count, 0), crc32(crcs))
        if magic != _MAGIC or version > VERSION or crc != computed or crc != expected_crc or size != self.size_bytes:
            raise Corruption(what="body trailer", file=self._path, reason="checksum")
        return crcs


def read_body_xattr(fs: Vfs, path: str) -> tuple[bytes, int, int, str, int] | None:
    """(key, body id, body bytes, path of the object, trailer crc) of a body file; None when it has none."""
    handle = fs.open(path, read_only=True)
    try:
        packed = fs.get_xattr(handle, XATTR)
    finally:
        fs.close(handle)
    if packed is None:
        return None
    key, body_id, size_bytes, name, crc = msgpack.unpackb(packed, unicode_errors="surrogatepass")
    return key, body_id, size_bytes, name, crc
