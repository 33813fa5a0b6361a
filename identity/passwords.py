"""Passwords: hashed with argon2id in a small pool, and the rules for choosing one.

A hash takes some 50 ms and 19 MiB, outside the interpreter's lock. Who waits is bounded: a flood of logins is refused with 503
before it fills memory, and has one turn in so many (identity/turns.py). Hashes of the configuration (scrypt, `common/secrets.py`)
are understood as well.
"""
from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher, Type
from argon2.exceptions import Argon2Error, InvalidHashError

from common.errors import BadRequest
from common.secrets import verify_key
from identity.turns import Turns

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
        self.turns = Turns(running_max=threads, total_max=waiting_max)

    async def hash(self, password: str, *, peer: str) -> str:
        """peer: the address that asks, for a fair turn. Raises `Overloaded`."""
        return str(await self._submit(peer, self.hash_here, password))

    async def is_right(self, password: str, hashed: str | None, *, peer: str) -> bool:
        """None takes as long as any other: the time does not tell who exists. Raises `Overloaded`."""
        return bool(await self._submit(peer, self.is_right_here, password, hashed)) and hashed is not None

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

    async def _submit(self, peer: str, fn: Callable[..., object], *arguments: object) -> object:
        await self.turns.take(peer)
        work = asyncio.get_running_loop().run_in_executor(self._pool, fn, *arguments)
        work.add_done_callback(lambda _: self.turns.give_back())
        return await asyncio.shield(work)        # a client that goes away does not stop the thread: its turn ends with the work


def _to_the_end(regex: str) -> str:
    """A `$` at the end of an operator's rule means the end, not also before a newline that ends the password."""
    return regex[:-1] + r"\Z" if regex.endswith("$") and not regex.endswith(r"\$") else regex


def check_password(password: object, *, regex: str) -> str:
    """A password that may be chosen. Raises `BadRequest`, without the password in it."""
    if not isinstance(password, str) or not password:
        raise BadRequest(reason="Password validation error: a password is a string that is not empty.")
    if len(password) > PASSWORD_CHARS_MAX:
        raise BadRequest(reason=f"Password validation error: a password has at most {PASSWORD_CHARS_MAX} characters.")
    if regex and re.match(_to_the_end(regex), password) is None:
        raise BadRequest(reason=f"The password does not match the requirements: {regex}").because("password.regex")
    return password
