"""Keys that seal tokens and stored secrets: numbered files of a directory, rotated without a moment in which a token is refused.

    0            staged: opens already, seals nothing yet, so that every process knows it before it becomes the primary
    highest      primary: seals
    others       opened with until they are dropped: tokens live shorter than that takes

`rotate` makes the staged key the primary and stages a new one. Files are 0600 in a directory of mode 0700.
"""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from common.errors import ConfigError, Corruption
from common.secrets import load_secret, make_secret_dir, save_secret

KEPT = 3
KEEP_ALL = 1 << 30                       # for what is stored: it has to be opened for ever
_STAGED = 0


class KeySet:
    """The keys of one directory, as they were when it was last read."""

    def __init__(self, directory: Path, *, kept: int = KEPT) -> None:
        """Makes a staged and a primary key in an empty directory. kept: how many keys a rotation leaves. Raises `ConfigError`."""
        self._directory, self._kept = directory, kept
        make_secret_dir(directory)
        if not self._numbers():
            save_secret(directory, "0", _new_key())
            save_secret(directory, "1", _new_key())
        self._fernet: MultiFernet
        self.texts: tuple[str, ...] = ()         # the primary first
        self._read_ns = 0
        self.on_load: Callable[[], None] = _ignore       # told whenever the keys may be others than before
        self.load()

    def load(self) -> None:
        """Read the directory again. Raises `ConfigError`."""
        self._read_ns = self._directory.stat().st_mtime_ns
        numbers = self._numbers()
        if not numbers or numbers[-1] == _STAGED:
            raise ConfigError(where=str(self._directory), reason="there is no primary key: restore the directory from a backup")
        ordered = [numbers[-1], *(number for number in numbers if number != numbers[-1])]
        try:
            texts = tuple(load_secret(self._directory / str(number)) for number in ordered)
            self._fernet, self.texts = MultiFernet([Fernet(text) for text in texts]), texts
        except ValueError as error:
            raise ConfigError(where=str(self._directory), reason=f"a file is no key: {error}") from error
        self.on_load()

    def follow(self) -> None:
        """Read the directory again if another process has changed it. Raises `ConfigError`, `OSError`."""
        if self._directory.stat().st_mtime_ns != self._read_ns:
            self.load()

    def rotate(self) -> int:
        """The staged key becomes the primary one; answers its number. A crash on the way leaves a set that works."""
        numbers = self._numbers()
        primary = numbers[-1] + 1
        save_secret(self._directory, str(primary), load_secret(self._directory / "0"))
        save_secret(self._directory, "0", _new_key())
        for number in [number for number in (*numbers, primary) if number != _STAGED][:-(self._kept - 1)]:
            (self._directory / str(number)).unlink(missing_ok=True)
        self.load()
        return primary

    def seal(self, data: bytes) -> bytes:
        """Encrypted and signed, in URL-safe base64."""
        return self._fernet.encrypt(data)

    def open(self, sealed: bytes) -> bytes | None:
        """None for what none of the keys made."""
        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken:
            return None

    def seal_text(self, text: str) -> str:
        """For a column of the database."""
        return self.seal(text.encode()).decode()

    def open_text(self, sealed: str) -> str:
        """What `seal_text` was given. Raises `Corruption` when its key is gone."""
        data = self.open(sealed.encode())
        if data is None:
            raise Corruption(what="sealed column", reason=f"none of the keys in {self._directory} opens it")
        return data.decode()

    def _numbers(self) -> list[int]:
        return sorted(int(path.name) for path in self._directory.iterdir() if path.name.isdigit())


def _ignore() -> None:
    pass


def _new_key() -> str:
    return Fernet.generate_key().decode()
