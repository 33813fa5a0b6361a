"""Passwords: hashed with argon2id in a small pool, and the rules for choosing one.

A hash takes some 50 ms and 19 MiB, outside the interpreter's lock. Who waits is bounded: a flood of logins is refused with 503
before it fills memory. Hashes of the configuration (scrypt, `common/secrets.py`) are understood as well.
"""
from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher, Type
from argon2.exceptions import Argon2Error, InvalidHashError

from common.errors import BadRequest, Overloaded
from common.secrets import verify_key

THREADS, WAITING_MAX = 2, 32
PASSWORD_CHARS_MAX = 1_024
_MEMORY_KIB, _PASSES = 19 * 1024, 2
_NOBODY = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


class Passwords:
    """Hashes and judges."""

    def __init__(self, *, threads: int = THREADS, waiting_max: int = WAITING_MAX, memory_kib: int = _MEMORY_KIB,
                 passes: int = _PASSES) -> None:
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=1, type=Type.ID)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._waiting, self._waiting_max = 0, waiting_max

    async def hash(self, password: str) -> str:
        """Raises `Overloaded`."""
        return str(await self._submit(self.hash_here, password))

    async def is_right(self, password: str, hashed: str | None) -> bool:
        """None takes as long as any other: the time does not tell who exists. Raises `Overloaded`."""
        return bool(await self._submit(self.is_right_here, password, hashed)) and hashed is not None

    def hash_here(self, password: str) -> str:
        """In this thread: for the bootstrap."""
        return self._hasher.hash(password)

    def is_right_here(self, password: str, hashed: str | None) -> bool:
        """In this thread."""
        if len(password) > PASSWORD_CHARS_MAX:
            return False
        if hashed is not None and hashed.startswith("scrypt$"):
            return verify_key(password, hashed)
        try:
            return self._hasher.verify(hashed or _NOBODY, password)
        except (Argon2Error, InvalidHashError):
            return False

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _submit(self, fn: object, *arguments: object) -> object:
        if self._waiting >= self._waiting_max:
            raise Overloaded(what="logins", reason="Too many passwords wait to be checked; try again.", retry_after_s=1)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, fn, *arguments)  # type: ignore[arg-type]
        finally:
            self._waiting -= 1


def check_password(password: object, *, regex: str) -> str:
    """A password that may be chosen. Raises `BadRequest`, without the password in it."""
    if not isinstance(password, str) or not password:
        raise BadRequest(reason="Password validation error: a password is a string that is not empty.")
    if len(password) > PASSWORD_CHARS_MAX:
        raise BadRequest(reason=f"Password validation error: a password has at most {PASSWORD_CHARS_MAX} characters.")
    if regex and re.match(regex, password) is None:
        raise BadRequest(reason=f"The password does not match the requirements: {regex}").because("password.regex")
    return password
