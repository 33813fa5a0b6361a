"""Small files of a state directory: written whole and for this user alone, and the lock that only one supervisor can have."""
from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from common.errors import ConfigError, Conflict

LOCK_FILE = "supervisor.lock"                # below STATE/run
_FLOCK = struct.Struct("hhqqi4x")            # struct flock of 64-bit Linux


def write_private(path: Path, data: bytes) -> None:
    """Replace `path`, mode 0600: readers see the old file or the new one, which survives power loss. Raises `OSError`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def lock_state(root: Path) -> int:
    """Become the one supervisor of `root`, until the descriptor that this returns is closed. Raises `Conflict`, `ConfigError`.

    A POSIX lock, because it ends with this process, no child has it, and anyone may ask who holds it.
    """
    path = root / "run" / LOCK_FILE
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(where=str(path), reason=f"cannot be locked: {error.strerror}") from error
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        pid = find_running(root)
        raise Conflict(what="state directory", pid=pid, reason=f"{root} is in use by the running node with process id {pid}; "
                       f"`holdfast down --data {root}` stops it, or choose another directory with --data") from error
    return fd


def find_running(root: Path) -> int | None:
    """Process id of the supervisor of `root`, None if there is none. Raises `ConfigError` if this user may not know."""
    path = root / "run" / LOCK_FILE
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(where=str(path), reason=f"cannot be read: {error.strerror}") from error
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    finally:
        os.close(fd)
    return None if kind == fcntl.F_UNLCK else int(pid)
