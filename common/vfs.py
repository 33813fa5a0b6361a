"""Files: the one seam between Holdfast and a file system. `RealFs` is the machine's, `FaultFs` (common/faultfs.py) loses power.

Paths are strings; handles are ints that mean something to the file system that gave them. All calls are synchronous:
who may block where is decided by the caller.
"""
from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Sequence
from typing import Protocol

PAGE_BYTES = 4096


class Vfs(Protocol):
    """What devices need of a file system. Errors are `OSError` with an errno."""

    def open(self, path: str, *, create: bool = False, exclusive: bool = False, read_only: bool = False) -> int: ...
    def open_unnamed(self, directory: str) -> int:
        """A file without a name (O_TMPFILE) in the file system of `directory`."""

    def set_direct(self, handle: int, is_direct: bool) -> bool:
        """Write past the page cache: address, offset and length are multiples of 4096. False: this file system cannot."""

    def link_unnamed(self, handle: int, path: str) -> None:
        """Give it a name; durable after `fsync(handle)`. Raises FileExistsError."""

    def allocate(self, handle: int, size_bytes: int) -> None:
        """Reserve blocks; the file then has this size and reads as zeros. Raises ENOSPC."""

    def truncate(self, path: str, size_bytes: int) -> None:
        """Cut a file; what it reserved beyond goes back."""

    def pwritev(self, handle: int, buffers: Sequence[bytes | memoryview], offset: int) -> int: ...
    def pread(self, handle: int, count: int, offset: int) -> bytes: ...
    def pread_cached(self, handle: int, count: int, offset: int) -> bytes | None:
        """As `pread`, but None when it would have to wait for the disk (RWF_NOWAIT)."""

    def fdatasync(self, handle: int) -> None: ...
    def fsync(self, handle: int) -> None: ...
    def fsync_dir(self, path: str) -> None: ...
    def set_xattr(self, handle: int, name: str, value: bytes) -> None: ...
    def get_xattr(self, handle: int, name: str) -> bytes | None: ...
    def size(self, handle: int) -> int: ...
    def modified_us(self, path: str) -> int:
        """When it was last written, microseconds since 1970."""

    def close(self, handle: int) -> None: ...
    def rename(self, source: str, target: str) -> None: ...
    def unlink(self, path: str) -> None: ...
    def mkdir(self, path: str) -> None:
        """Create it with its parents; no error if it is there. The names are durable after fsync of the parents."""

    def listdir(self, path: str) -> list[str]:
        """Sorted names; [] when the directory is not there."""

    def exists(self, path: str) -> bool: ...
    def try_lock(self, handle: int) -> bool:
        """Exclusive, for the life of the handle; False when another holds it."""

    def free_bytes(self, path: str) -> tuple[int, int]:
        """(available to us, that and what is used) of the file system: as df counts, without what is kept for others."""


class RealFs:
    """The file system of this machine."""

    def open(self, path: str, *, create: bool = False, exclusive: bool = False, read_only: bool = False) -> int:
        flags = os.O_RDONLY if read_only else os.O_RDWR
        if create:
            flags |= os.O_CREAT | (os.O_EXCL if exclusive else 0)
        return os.open(path, flags | os.O_CLOEXEC, 0o600)

    def open_unnamed(self, directory: str) -> int:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)

    def set_direct(self, handle: int, is_direct: bool) -> bool:
        flags = fcntl.fcntl(handle, fcntl.F_GETFL)
        try:
            fcntl.fcntl(handle, fcntl.F_SETFL, flags | os.O_DIRECT if is_direct else flags & ~os.O_DIRECT)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return False
            raise
        return True

    def link_unnamed(self, handle: int, path: str) -> None:
        # dst_dir_fd makes CPython call linkat(AT_SYMLINK_FOLLOW); without it the kernel answers EXDEV
        directory = os.open(os.path.dirname(path), os.O_DIRECTORY | os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.link(f"/proc/self/fd/{handle}", os.path.basename(path), dst_dir_fd=directory, follow_symlinks=True)
        finally:
            os.close(directory)

    def allocate(self, handle: int, size_bytes: int) -> None:
        os.posix_fallocate(handle, 0, size_bytes)

    def truncate(self, path: str, size_bytes: int) -> None:
        os.truncate(path, size_bytes)

    def pwritev(self, handle: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        return os.pwritev(handle, buffers, offset)

    def pread(self, handle: int, count: int, offset: int) -> bytes:
        return os.pread(handle, count, offset)

    def pread_cached(self, handle: int, count: int, offset: int) -> bytes | None:
        buffer = bytearray(count)
        try:
            got = os.preadv(handle, [buffer], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
                return os.pread(handle, count, offset)
            raise
        return bytes(buffer) if got == count else None

    def fdatasync(self, handle: int) -> None:
        os.fdatasync(handle)

    def fsync(self, handle: int) -> None:
        os.fsync(handle)

    def fsync_dir(self, path: str) -> None:
        handle = os.open(path, os.O_DIRECTORY | os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def set_xattr(self, handle: int, name: str, value: bytes) -> None:
        os.setxattr(handle, name, value)

    def get_xattr(self, handle: int, name: str) -> bytes | None:
        try:
            return os.getxattr(handle, name)
        except OSError as error:
            if error.errno == errno.ENODATA:
                return None
            raise

    def size(self, handle: int) -> int:
        return os.fstat(handle).st_size

    def modified_us(self, path: str) -> int:
        return os.stat(path).st_mtime_ns // 1000

    def close(self, handle: int) -> None:
        os.close(handle)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def mkdir(self, path: str) -> None:
        os.makedirs(path, mode=0o700, exist_ok=True)

    def listdir(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def try_lock(self, handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def free_bytes(self, path: str) -> tuple[int, int]:
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize, (stat.f_blocks - stat.f_bfree + stat.f_bavail) * stat.f_frsize
