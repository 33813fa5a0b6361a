"""What the identity application keeps in memory, and the counter that keeps it true.

Every change of what somebody may do (an assignment, a password, a disabled user, a deleted project ...) adds one to the counter
`auth` in its own transaction. What was derived from the database, above all the meaning of a token, is remembered together with
the counter and is good as long as that has not moved: at once in the process that made the change, within `POLL_S` in others.
"""
from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from common.clock import Clock
from common.errors import StorageError
from common.log import get_logger
from control.context import Context
from control.db import Database, after_commit, ensure_row
from identity.attempts import Attempts
from identity.config import IdentityConfig
from identity.keys import KeySet
from identity.model import counter, revocation
from identity.passwords import Passwords
from identity.tokens import TokenFacts

POLL_S = 0.5
RESTORE_SKIP = 1 << 40                   # more changes than any cluster makes between a backup and its restore
_COUNTER = "auth"
_CONTEXTS_MAX = 20_000
_log = get_logger("identity.state")


@dataclass(frozen=True, slots=True)
class Known:
    """What a token meant when the counter was at `generation`."""

    generation: int
    expires_us: int
    context: Context


class Identity:
    """One per process. keys seal tokens, vault seals stored secrets."""

    def __init__(self, config: IdentityConfig, database: Database, *, keys: KeySet, vault: KeySet, passwords: Passwords,
                 clock: Clock) -> None:
        self.config, self.database, self.keys, self.vault = config, database, keys, vault
        self.passwords, self.clock, self.attempts = passwords, clock, Attempts()
        self.decoy_seed = vault.seal_text("A" * 32)          # opened where a user has none, which takes as long
        self.refuses_plain_logins = False                    # a password would cross the network in clear
        self.generation = 0
        self._revoked: dict[tuple[str, str], int] = {}       # what was revoked, and how high the counter was then
        self._contexts: OrderedDict[bytes, Known] = OrderedDict()
        keys.on_load = self.forget_contexts                  # a token ends with the key that sealed it, known or not
        self.catalog: tuple[int, object] | None = None       # of identity/catalog.py: (generation, rows)
        self.on_change: Callable[[], None] = _ignore         # told in the loop after each change that this process made

    # revocations

    def is_revoked(self, facts: TokenFacts) -> bool:
        """By what this process knows."""
        revoked = self._revoked
        return any(revoked.get(what, 0) > facts.generation for what in facts.revocable_by())

    def refresh_here(self, connection: Connection) -> int:
        """Bring this process up to what the transaction sees; the counter."""
        value = read_generation(connection)
        if value != self.generation:
            rows = connection.execute(select(revocation).where(revocation.c.number > self.generation)).all()
            for row in rows:
                self._note(value, row.number, row.kind, row.value)
            self.generation = max(self.generation, value)
        return value

    def _note(self, generation: int, number: int, kind: str, value: str) -> None:
        what = (kind, value)
        self._revoked[what] = max(self._revoked.get(what, 0), number)

    async def follow(self) -> None:
        """Until cancelled: notice what other processes changed, and drop revocations that no living token can meet."""
        rounds = 0
        while True:
            await asyncio.sleep(POLL_S)
            rounds += 1
            try:
                await self.database.read(self.refresh_here)
                self.keys.follow()
                self.vault.follow()
                if rounds % 1_200 == 0:
                    await self.database.run(self.prune_here)
            except StorageError as error:
                _log.warning("changes cannot be read", error=error)
            except Exception as error:               # the edge of a daemon: the next round tries again
                _log.error("changes cannot be read", exc=error)

    def prune_here(self, connection: Connection) -> None:
        """Events that are older than any token may be. This process forgets them as well, and those that others have dropped."""
        before_us = self.clock.now_us() - 2 * self.config.token_life_s * 1_000_000 - 86_400_000_000
        value = read_generation(connection)                  # before the rows: what comes beside this counts higher
        connection.execute(delete(revocation).where(revocation.c.revoked_us < before_us))
        kept = {(row.kind, row.value) for row in connection.execute(select(revocation.c.kind, revocation.c.value))}
        after_commit(connection, lambda: self._keep(kept, value))

    def _keep(self, kept: set[tuple[str, str]], generation: int) -> None:
        """Of what was revoked up to that generation."""
        self._revoked = {what: number for what, number in self._revoked.items() if number > generation or what in kept}

    # what tokens mean

    def known(self, token: str) -> Context | None:
        """What a token means, if this is known and still true."""
        found = self._contexts.get(_digest(token))
        if found is None or found.generation != self.generation or found.expires_us <= self.clock.now_us():
            return None
        return found.context

    def remember(self, token: str, context: Context, *, generation: int, expires_us: int, keys: tuple[str, ...]) -> None:
        """What a token meant at that generation. keys: those that opened it; not remembered if they changed meanwhile."""
        if keys is not self.keys.texts:
            return
        self._contexts[_digest(token)] = Known(generation, expires_us, context)
        if len(self._contexts) > _CONTEXTS_MAX:
            self._contexts.popitem(last=False)

    def forget_contexts(self) -> None:
        """What tokens mean is asked again."""
        self._contexts.clear()

    # changes

    def hold_changes(self, connection: Connection) -> None:
        """Let no other transaction move the counter before this one has ended; before the first read of what is written later.

        So nobody grants something to a user who is deleted at that moment, and nobody writes back what another has just changed.
        SQLite has one writer at a time anyway.
        """
        connection.execute(select(counter.c.value).where(counter.c.name == _COUNTER).with_for_update())

    def change(self, connection: Connection) -> int:
        """Something that decides what callers may do changes in this transaction; the counter's new value."""
        connection.execute(update(counter).where(counter.c.name == _COUNTER).values(value=counter.c.value + 1))
        value = read_generation(connection)
        after_commit(connection, lambda: self._forget(value))
        return value

    def revoke(self, connection: Connection, kind: str, value: str) -> None:
        """End all tokens of a user, project, domain, trust, ... that were made before this transaction."""
        number = self.change(connection)
        connection.execute(insert(revocation).values(number=number, kind=kind, value=value, revoked_us=self.clock.now_us()))
        after_commit(connection, lambda: self._note(number, number, kind, value))

    def _forget(self, generation: int) -> None:
        """The counter moved by our own hand. If others moved it as well, what they revoked is read with the next poll or token."""
        if generation == self.generation + 1:
            self.generation = generation
        elif generation > self.generation:
            self._contexts.clear()
        self.on_change()


def read_generation(connection: Connection) -> int:
    """How far the counter is."""
    return int(connection.execute(select(counter.c.value).where(counter.c.name == _COUNTER)).scalar_one())


def make_counter(connection: Connection) -> None:
    """For a new database."""
    ensure_row(connection, counter, {"name": _COUNTER}, {"value": 1})


def _ignore() -> None:
    pass


def _digest(token: str) -> bytes:
    return hashlib.blake2b(token.encode(errors="surrogatepass"), digest_size=24).digest()


Change = Callable[[Connection], None]


def find_counter(connection: Connection) -> int:
    """How far the counter is; 0 where it was never made."""
    return int(connection.execute(select(counter.c.value).where(counter.c.name == _COUNTER)).scalar() or 0)


def skip_counter(connection: Connection, replaced: int, now_us: int) -> None:
    """After a restore: the counter is as old as the backup, and tokens that were made since count higher.

    Without this they would escape every revocation until the counter came up to them. It becomes the time: no cluster changes
    more often than once a microsecond, so whatever was counted before, also after earlier restores of whatever backup, is less.
    Where the clock is behind what is known to have been counted (replaced: by the database that this one takes the place of),
    it leaps.
    """
    known = max(find_counter(connection), replaced)
    value = now_us if now_us > known else known + RESTORE_SKIP
    connection.execute(update(counter).where(counter.c.name == _COUNTER).values(value=value))
