"""A file system in memory that loses power, fails calls, fills up and flips bits: what fault tests put under a device.

What is durable: pages after `fdatasync` or `fsync` of their file; sizes likewise; names and xattrs after `fsync` of the
file or `fsync_dir` of the parent (ext4 and XFS commit the name with the inode; `fdatasync` need not). At a power loss
everything else survives or not page by page, name by name, as the seed says. A failed `fdatasync` loses its pages.
"""
from __future__ import annotations

import errno
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from common.vfs import PAGE_BYTES

_NOT_COUNTED = {"pread", "pread_cached", "size", "listdir", "exists", "get_xattr", "free_bytes", "try_lock", "close"}


class PowerLoss(BaseException):
    """The machine is off. Not an `Exception`: nothing in the code under test may handle it."""


@dataclass
class _Inode:
    data: bytearray = field(default_factory=bytearray)           # what a reader sees
    durable: bytearray = field(default_factory=bytearray)        # what the disk has
    dirty: set[int] = field(default_factory=set)                 # pages that differ
    xattrs: dict[str, bytes] = field(default_factory=dict)
    durable_xattrs: dict[str, bytes] = field(default_factory=dict)
    lock_holder: int | None = None
    is_direct: bool = False


@dataclass(frozen=True)
class Fault:
    """The `nth` call (from 1) of `call` raises OSError(error); call "*" counts every mutating call."""

    call: str
    nth: int
    error: int = errno.EIO


class FaultFs:
    """See the module. `crash_at`: number of the mutating call (from 1) at which power is lost."""

    def __init__(self, *, seed: int = 0, crash_at: int | None = None, faults: Sequence[Fault] = (),
                 capacity_bytes: int = 1 << 30) -> None:
        self._random = random.Random(seed)
        self._crash_at = crash_at
        self._faults = list(faults)
        self._capacity = capacity_bytes
        self._names: dict[str, _Inode] = {}
        self._durable_names: dict[str, _Inode] = {}
        self._dirs: set[str] = {"/"}
        self._handles: dict[int, tuple[_Inode, bool]] = {}
        self._next_handle = 1000
        self._counts: dict[str, int] = {}
        self.calls = 0                   # mutating calls so far
        self.is_off = False
        self.is_read_only = False
        self.modified: dict[str, int] = {}       # set by tests; else long ago

    # --- what tests do -------------------------------------------------------------------------------------------

    def after_power_loss(self, *, crash_at: int | None = None) -> FaultFs:
        """The file system as the next start finds it."""
        after = FaultFs(seed=self._random.randrange(1 << 30), crash_at=crash_at, capacity_bytes=self._capacity)
        after._dirs = set(self._dirs)
        after._take_names(self)
        self.is_off = True
        return after

    def copy(self) -> FaultFs:
        """Everything as it is, made durable: an older copy of a disk, for later."""
        twin = FaultFs(seed=1, capacity_bytes=self._capacity)
        twin._dirs = set(self._dirs)
        twin._names = {path: _durable_inode(inode.data, inode.xattrs) for path, inode in self._names.items()}
        twin._durable_names = dict(twin._names)
        return twin

    def flip_bit(self, path: str, offset: int, bit: int = 0) -> None:
        """Damage one byte on the disk and in the cache."""
        inode = self._names[path]
        inode.data[offset] ^= 1 << bit
        inode.durable[offset] ^= 1 << bit

    def files(self, prefix: str = "/") -> list[str]:
        """Names of all files, sorted."""
        return sorted(path for path in self._names if path.startswith(prefix))

    def remove_tree(self, prefix: str) -> None:
        """As if the disk came back empty."""
        for table in (self._names, self._durable_names):
            for path in [p for p in table if p.startswith(prefix + "/")]:
                del table[path]
        self._dirs = {d for d in self._dirs if not d.startswith(prefix + "/")}

    def add_fault(self, fault: Fault) -> None:
        """From now on; the count of the call starts anew."""
        self._counts[fault.call] = 0
        self._faults.append(fault)

    def _take_names(self, before: FaultFs) -> None:
        survivors: dict[int, _Inode] = {}
        for path in sorted(set(before._names) | set(before._durable_names)):
            new, old = before._names.get(path), before._durable_names.get(path)
            inode = new if new is old or self._random.random() < 0.5 else old
            if inode is not None:
                if id(inode) not in survivors:
                    survivors[id(inode)] = self._survivor(inode)
                self._names[path] = self._durable_names[path] = survivors[id(inode)]

    def _survivor(self, inode: _Inode) -> _Inode:
        """Durable pages, plus the dirty ones that happened to reach the disk, some of them torn at a sector."""
        size = len(inode.durable) if self._random.random() < 0.5 else len(inode.data)
        data = bytearray(inode.durable[:size].ljust(size, b"\0"))
        for page in sorted(inode.dirty):
            start, end = page * PAGE_BYTES, min((page + 1) * PAGE_BYTES, size)
            chance = self._random.random()
            if chance < 0.5 or start >= size:
                continue
            if chance < 0.65:
                end = min(end, start + 512 * self._random.randrange(1, 8))
            data[start:end] = inode.data[start:end]
        xattrs = inode.xattrs if self._random.random() < 0.5 else inode.durable_xattrs
        return _durable_inode(data, xattrs)

    def _step(self, call: str) -> None:
        if self.is_off:
            raise PowerLoss
        if call in _NOT_COUNTED:
            return
        self.calls += 1
        if self.calls == self._crash_at:
            self.is_off = True
            raise PowerLoss
        if self.is_read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        for name in (call, "*"):
            self._counts[name] = self._counts.get(name, 0) + 1
            for fault in self._faults:
                if fault.call == name and fault.nth == self._counts[name]:
                    self._fail(call, fault)

    def _fail(self, call: str, fault: Fault) -> None:
        if call in ("fdatasync", "fsync"):
            for inode, _ in self._handles.values():
                inode.dirty.clear()      # the kernel marks the pages clean: they never reach the disk
        raise OSError(fault.error, os.strerror(fault.error))

    # --- Vfs -----------------------------------------------------------------------------------------------------

    def open(self, path: str, *, create: bool = False, exclusive: bool = False, read_only: bool = False) -> int:
        self._step("open" if create else "size")
        inode = self._names.get(path)
        if inode is None:
            if not create:
                raise FileNotFoundError(errno.ENOENT, "no such file", path)
            self._need_dir(os.path.dirname(path))
            inode = self._names[path] = _Inode()
        elif exclusive:
            raise FileExistsError(errno.EEXIST, "file exists", path)
        return self._handle(inode, read_only)

    def open_unnamed(self, directory: str) -> int:
        self._step("open_unnamed")
        self._need_dir(directory)
        return self._handle(_Inode(), False)

    def set_direct(self, handle: int, is_direct: bool) -> bool:
        self._handles[handle][0].is_direct = is_direct
        return True

    def link_unnamed(self, handle: int, path: str) -> None:
        self._step("link")
        self._need_dir(os.path.dirname(path))
        if path in self._names:
            raise FileExistsError(errno.EEXIST, "file exists", path)
        self._names[path] = self._handles[handle][0]

    def allocate(self, handle: int, size_bytes: int) -> None:
        self._step("allocate")
        inode = self._handles[handle][0]
        self._need_space(size_bytes - len(inode.data))
        _grow(inode, size_bytes)

    def truncate(self, path: str, size_bytes: int) -> None:
        self._step("truncate")
        inode = self._names[path]
        del inode.data[size_bytes:]
        if self._random.random() < 0.5:          # durable at once, or with the next sync of the file
            del inode.durable[size_bytes:]
        inode.dirty = {page for page in inode.dirty if page * PAGE_BYTES < size_bytes}

    def pwritev(self, handle: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        self._step("pwritev")
        inode, read_only = self._handles[handle]
        if read_only:
            raise OSError(errno.EBADF, "read-only handle")
        data = b"".join(buffers)
        if inode.is_direct and (offset % PAGE_BYTES or len(data) % PAGE_BYTES):
            raise OSError(errno.EINVAL, "direct writes are of whole pages")
        self._need_space(offset + len(data) - len(inode.data))
        _grow(inode, offset + len(data))
        inode.data[offset:offset + len(data)] = data
        inode.dirty.update(range(offset // PAGE_BYTES, -(-(offset + len(data)) // PAGE_BYTES)))
        return len(data)

    def pread(self, handle: int, count: int, offset: int) -> bytes:
        self._step("pread")
        return bytes(self._handles[handle][0].data[offset:offset + count])

    def pread_cached(self, handle: int, count: int, offset: int) -> bytes | None:
        return self.pread(handle, count, offset)

    def fdatasync(self, handle: int) -> None:
        self._step("fdatasync")
        _make_durable(self._handles[handle][0])

    def fsync(self, handle: int) -> None:
        self._step("fsync")
        inode = self._handles[handle][0]
        _make_durable(inode)
        inode.durable_xattrs = dict(inode.xattrs)
        for path, other in self._names.items():
            if other is inode:
                self._durable_names[path] = inode

    def fsync_dir(self, path: str) -> None:
        self._step("fsync_dir")
        for table in (self._names, self._durable_names):
            for name in [n for n in table if os.path.dirname(n) == path]:
                if name in self._names:
                    self._durable_names[name] = self._names[name]
                else:
                    del self._durable_names[name]

    def set_xattr(self, handle: int, name: str, value: bytes) -> None:
        self._step("set_xattr")
        if len(value) > 3900:
            raise OSError(errno.ENOSPC, "xattr too large")
        self._handles[handle][0].xattrs[name] = value

    def get_xattr(self, handle: int, name: str) -> bytes | None:
        self._step("get_xattr")
        return self._handles[handle][0].xattrs.get(name)

    def size(self, handle: int) -> int:
        self._step("size")
        return len(self._handles[handle][0].data)

    def modified_us(self, path: str) -> int:
        self._step("size")
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return self.modified.get(path, 0)

    def close(self, handle: int) -> None:
        self._step("close")
        inode, _ = self._handles.pop(handle)
        if inode.lock_holder == handle:
            inode.lock_holder = None

    def rename(self, source: str, target: str) -> None:
        self._step("rename")
        self._names[target] = self._names.pop(source)

    def unlink(self, path: str) -> None:
        self._step("unlink")
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        del self._names[path]

    def mkdir(self, path: str) -> None:
        self._step("mkdir")
        while path not in self._dirs:
            self._dirs.add(path)
            path = os.path.dirname(path)

    def listdir(self, path: str) -> list[str]:
        self._step("listdir")
        prefix = path.rstrip("/") + "/"
        names = {p[len(prefix):].split("/", 1)[0] for p in [*self._names, *self._dirs] if p.startswith(prefix) and p != prefix}
        return sorted(names)

    def exists(self, path: str) -> bool:
        self._step("exists")
        return path in self._names or path in self._dirs

    def try_lock(self, handle: int) -> bool:
        self._step("try_lock")
        inode = self._handles[handle][0]
        if inode.lock_holder is not None and inode.lock_holder != handle:
            return False
        inode.lock_holder = handle
        return True

    def free_bytes(self, path: str) -> tuple[int, int]:
        self._step("free_bytes")
        return self._capacity - self._used(), self._capacity

    def _used(self) -> int:
        inodes = {id(i): i for i in self._names.values()} | {id(i): i for i, _ in self._handles.values()}
        return sum(len(inode.data) for inode in inodes.values())

    def _need_space(self, more_bytes: int) -> None:
        if more_bytes > 0 and self._used() + more_bytes > self._capacity:
            raise OSError(errno.ENOSPC, "no space left")

    def _need_dir(self, path: str) -> None:
        if path not in self._dirs:
            raise FileNotFoundError(errno.ENOENT, "no such directory", path)

    def _handle(self, inode: _Inode, read_only: bool) -> int:
        self._next_handle += 1
        self._handles[self._next_handle] = (inode, read_only)
        return self._next_handle


def _durable_inode(data: bytes | bytearray, xattrs: dict[str, bytes]) -> _Inode:
    return _Inode(data=bytearray(data), durable=bytearray(data), xattrs=dict(xattrs), durable_xattrs=dict(xattrs))


def _grow(inode: _Inode, size: int) -> None:
    if size > len(inode.data):
        inode.data.extend(bytes(size - len(inode.data)))


def _make_durable(inode: _Inode) -> None:
    size = len(inode.data)
    if len(inode.durable) < size:
        inode.durable.extend(bytes(size - len(inode.durable)))
    del inode.durable[size:]
    for page in inode.dirty:
        start, end = page * PAGE_BYTES, min((page + 1) * PAGE_BYTES, size)
        inode.durable[start:end] = inode.data[start:end]
    inode.dirty.clear()
