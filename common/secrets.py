"""Secrets on disk and hashed keys. `STATE/secrets` is 0700, each file in it 0600, and what others can read is refused."""
from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from common.errors import ConfigError

_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 1 << 14, 8, 1                        # 16 MiB and some 50 ms per guess
_SCRYPT_MEMORY_BYTES_MAX = 256 << 20


def load_or_create_secret(directory: Path, name: str, *, byte_count: int = 32) -> str:
    """The secret `directory`/`name`, made at random (hex, 2 * byte_count characters) if there is none.

    Two processes that start together get the same one. Raises `ConfigError` if it cannot be made, is empty, or others can read it.
    """
    make_secret_dir(directory)
    path = directory / name
    if not path.exists():
        _create(path, secrets.token_hex(byte_count))
    return load_secret(path)


def load_secret(path: Path) -> str:
    """The text of a secret file without its line end. Raises `ConfigError`."""
    try:
        with path.open(encoding="utf-8") as file:
            _refuse_readable(path, os.fstat(file.fileno()).st_mode)
            text = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(where=str(path), reason=f"secret cannot be read: {error}") from error
    if not text:
        raise ConfigError(where=str(path), reason="secret is empty: write one, or remove the file to get a new one")
    return text


def save_secret(directory: Path, name: str, text: str) -> Path:
    """Write a secret, replacing what was there; durable when this returns. Raises `ConfigError`."""
    make_secret_dir(directory)
    path = directory / name
    temporary = _write_temporary(path, text)
    try:
        temporary.replace(path)
        _sync_directory(directory)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(where=str(path), reason=f"secret cannot be written: {error}") from error
    return path


def make_secret_dir(directory: Path) -> None:
    """Make `directory` with mode 0700, or refuse one that others can enter."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_readable(directory, directory.stat().st_mode)
    except OSError as error:
        raise ConfigError(where=str(directory), reason=f"directory for secrets: {error}") from error


def _create(path: Path, text: str) -> None:
    """Atomically, and the first of two creators wins: a link fails where a rename would replace."""
    temporary = _write_temporary(path, text)
    try:
        os.link(temporary, path)
        _sync_directory(path.parent)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(where=str(path), reason=f"secret cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_temporary(path: Path, text: str) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(where=str(path), reason=f"secret cannot be written: {error}") from error
    return temporary


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _refuse_readable(path: Path, mode: int) -> None:
    if stat.S_IMODE(mode) & 0o077:
        wanted = "700" if stat.S_ISDIR(mode) else "600"
        raise ConfigError(where=str(path), reason=f"others can read this secret: chmod {wanted} {path}")


def hash_key(key: str) -> str:
    """"scrypt$N$r$p$salt$hash", for `key_hash` in the configuration. Takes about 50 ms: not for an event loop."""
    salt = secrets.token_bytes(16)
    digest = _scrypt(key, salt, _SCRYPT_N, _SCRYPT_R, _SCRYPT_P)
    return "$".join(("scrypt", str(_SCRYPT_N), str(_SCRYPT_R), str(_SCRYPT_P), _encode(salt), _encode(digest)))


def verify_key(key: str, hashed: str) -> bool:
    """True if `hashed` came from `hash_key(key)`; compared in constant time. Raises `ConfigError` if it is no such hash."""
    try:
        name, n, r, p, salt, digest = hashed.split("$")
        if name != "scrypt" or 128 * int(n) * int(r) > _SCRYPT_MEMORY_BYTES_MAX:
            raise ValueError("unknown scheme or too costly")
        expected = base64.b64decode(digest, validate=True)
        computed = _scrypt(key, base64.b64decode(salt, validate=True), int(n), int(r), int(p))
    except (ValueError, TypeError, OverflowError) as error:          # hashlib has all three for numbers it does not like
        raise ConfigError(where="key_hash", reason=f"not a hash of `holdfast config hash-key`: {error}") from error
    return hmac.compare_digest(computed, expected)


def same_secret(given: str, expected: str) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(given.encode(errors="surrogateescape"), expected.encode(errors="surrogateescape"))


def _scrypt(key: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    memory = 2 * _SCRYPT_MEMORY_BYTES_MAX
    return hashlib.scrypt(key.encode(errors="surrogateescape"), salt=salt, n=n, r=r, p=p, maxmem=memory, dklen=32)


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
