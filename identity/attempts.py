"""How many secrets of one user are tried at the same moment: no more than failures are left before the user is locked out.

A failure is counted in the database after the hash, which takes 50 ms. Without this, as many guesses as arrive meanwhile would all
be tried. Who finds no place waits until one is free and looks again; so many right passwords at once are all taken, a few at
a time.
Counted per process: each of several API processes on one database adds its own tries, at most `lockout_failures`.
"""
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from common.errors import Overloaded

WAITING_MAX = 32
_T = TypeVar("_T")


@dataclass(slots=True)
class _User:
    """running: tries that have a place. waiting: those that ask for one, of which the holder of `turn` looks."""

    running: int = 0
    waiting: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Attempts:
    """Places of all users in this process."""

    def __init__(self) -> None:
        self._users: dict[str, _User] = {}

    async def begin(self, user_id: str, look: Callable[[], Awaitable[_T]], places: Callable[[_T], int | None]) -> _T:
        """Wait for a place; what `look` answered when there was one. `end` has to follow, once the outcome is in the database.

        places: how many tries what was looked up leaves; None: no matter how many. Raises `Overloaded` and what `look` raises;
        then there is no place to give back.
        """
        user = self._users.setdefault(user_id, _User())
        if user.waiting >= WAITING_MAX:
            raise Overloaded(what="logins", reason="Too many logins of this user wait; try again.", retry_after_s=1)
        user.waiting += 1
        try:
            async with user.turn:
                return await self._find_place(user, look, places)
        finally:
            user.waiting -= 1
            self._forget(user_id, user)

    async def _find_place(self, user: _User, look: Callable[[], Awaitable[_T]], places: Callable[[_T], int | None]) -> _T:
        while True:
            user.ended.clear()
            running = user.running               # before the look: who ends during it is counted twice, never not at all
            found = await look()
            left = places(found)
            if left is None or running < left:
                user.running += 1
                return found
            await user.ended.wait()              # set already if one ended during the look

    def end(self, user_id: str) -> None:
        """The outcome of a try is known to whoever looks from now on."""
        user = self._users[user_id]
        user.running -= 1
        user.ended.set()
        self._forget(user_id, user)

    def _forget(self, user_id: str, user: _User) -> None:
        if not user.running and not user.waiting:
            self._users.pop(user_id, None)
