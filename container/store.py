"""The row databases of one device: journal first, applied in batches, listed by one thread.

A row is acknowledged when its journal record is durable; it is applied, up to 256 at a time, in the store's thread, and every
read of a database applies what is queued for it first. Checkpoints (synced) let the journal forget rows.

One class serves containers (rows are objects) and accounts (rows are containers): `space` tells them apart.
"""
from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import struct
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeVar

import msgpack

from common.errors import Corruption, DeadInstance, DeviceUnavailable, NotCounted, PromiseOutstanding, StorageError
from common.log import Repeats, get_logger
from common.packing import pack
from common.timestamp import Stamp
from container.broker import Broker
from container.wire import Figures, PageAnswer, PageRequest, Row, pack_row, unpack_container_state, unpack_row

log = get_logger("container.store")
T = TypeVar("T")
APPLY_ROWS_MAX = 1024                    # in one transaction
APPLY_ROWS_SOON = 1024                   # so many rows do not wait for others
APPLY_S = 0.2                            # how long rows gather; whoever reads applies them first
PROMISE_WAIT_S = 0.5
CHECKPOINT_S = 30.0
HINTS_AT_ONCE = 256
RETRY_S = 1.0
# what a damaged file makes SQLite, or the decoding of what it found, raise
DAMAGE = (sqlite3.DatabaseError, UnicodeError, ValueError, TypeError, OverflowError, struct.error, Corruption)


def _is_damage(error: sqlite3.OperationalError) -> bool:
    """A full disk or a failing one is none."""
    text = str(error)
    return "decode" in text or "malformed" in text or "no such" in text or "syntax" in text


class Applied(NamedTuple):
    """A database after rows were applied: what an account wants to know of its containers."""

    path: str
    instance: int
    figures: Figures
    newest_us: int


class RegisterView(Protocol):
    """What a row has to know of its container's register on this device."""

    def outstanding_promise(self, key: bytes) -> bool:
        """True while a prepare was promised that no accept has followed."""

    def promised(self, key: bytes) -> Stamp | None:
        """The highest durable promise for this register."""

    def container_state(self, key: bytes) -> tuple[bool, bytes] | None:
        """(is live, packed state); None when nothing is known here."""


class RowJournal(Protocol):
    """The device's journal, as far as rows need it."""

    def append_row(self, space: int, meta: bytes) -> int: ...
    def synced(self, sequence: int) -> asyncio.Future[None] | None: ...
    def rows_covered(self, space: int, sequence: int) -> None: ...
    def last_sequence(self) -> int: ...


class RowStore:
    """See the module. All public methods belong to the loop."""

    def __init__(self, journal: RowJournal, registers: RegisterView, *, directory: str, space: int, is_container: bool,
                 peers_of: Callable[[bytes], Iterable[str]], open_max: int = 200) -> None:
        """peers_of: ids of the other devices that hold a key's database."""
        self._journal, self._registers = journal, registers
        self._directory, self._space, self._is_container = directory, space, is_container
        self._peers_of, self._open_max = peers_of, open_max
        self._brokers: OrderedDict[bytes, Broker] = OrderedDict()        # only the thread touches them
        self._incoming: deque[tuple[bytes, int, str | None, Sequence[Row]]] = deque()    # synced, on their way to the thread
        self._hints: deque[tuple[bytes, str, Sequence[tuple[str, bytes]]]] = deque()
        self._queues: dict[bytes, list[tuple[Row, int, str | None]]] = {}    # only the thread touches them
        self._damaged: dict[bytes, str] = {}
        self._evicted_dirty = False
        self._repeats = Repeats(log)
        self._unqueued: set[int] = set()                         # sequences of rows that are not in `_incoming` yet
        self._paths: dict[bytes, str] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="rows")
        self._loop = asyncio.get_running_loop()
        self._replayed: list[Applied] = []
        self._is_applying = False
        self._apply_timer: asyncio.TimerHandle | None = None
        self._gathered_count = 0                                 # rows in `_incoming`
        self._is_closing = False
        self._settled: dict[bytes, asyncio.Event] = {}
        self._instances: dict[bytes, tuple[bytes, bool, int]] = {}
        self._checkpointer: asyncio.TimerHandle | None = None
        self._checkpoint_task: asyncio.Task[None] | None = None
        self.on_applied: Callable[[Applied], None] | None = None

    # --- start and stop ------------------------------------------------------------------------------------------

    def replay(self, records: Sequence[tuple[bytes, int]]) -> None:
        """Apply (meta, sequence) found in the journal at start, blocking; what a database has already is skipped."""
        for meta, sequence in records:
            key, path, sender, rows = msgpack.unpackb(meta, unicode_errors="surrogatepass")
            self._paths[key] = path
            self._queues.setdefault(key, []).extend((unpack_row(row), sequence, sender or None) for row in rows)
        for key in list(self._queues):
            try:
                self._pool.submit(self._replay_key, key).result()
            except StorageError as error:                        # tried again with the next rows
                log.warning("rows wait", directory=self._directory, reason=str(error))
        if records:
            self._need_checkpoint()

    def tell_replayed(self) -> None:
        """Give `on_applied` every database that had rows since its checkpoint: what was to be told when the process died."""
        replayed, self._replayed = self._replayed, []
        for applied in replayed:
            if self.on_applied is not None:
                self.on_applied(applied)

    async def close(self) -> None:
        """Apply and checkpoint everything."""
        self._is_closing = True
        for timer in (self._checkpointer, self._apply_timer):
            if timer is not None:
                timer.cancel()
        if self._checkpoint_task is not None:
            await asyncio.gather(self._checkpoint_task, return_exceptions=True)
        await self.checkpoint()
        await self._run(self._close_all)
        self._pool.shutdown(wait=True)

    # --- rows ----------------------------------------------------------------------------------------------------

    def put_rows(self, key: bytes, path: str, rows: Sequence[Row], *, held_by: str | None = None) -> asyncio.Future[None]:
        """Durable when the future is done. held_by: the peer that holds them too (a write-back of a listing).

        Raises, at once or in the future, `DeadInstance`, `PromiseOutstanding` (after 0.5 s).
        """
        if self._is_container:
            if self._registers.outstanding_promise(key):
                return self._loop.create_task(self._put_later(key, path, rows, held_by))
            dead = self._dead(key, rows)
            if dead and held_by is None:
                raise DeadInstance(instance=dead[0].instance)
            if dead:                     # a listing's leftovers of a container that was deleted: they mean nothing
                rows = [row for row in rows if row not in dead]
        meta = pack((key, path, held_by or "", [pack_row(row) for row in rows]))
        sequence = self._journal.append_row(self._space, meta)
        waiting = self._journal.synced(sequence)
        self._paths[key] = path
        self._unqueued.add(sequence)
        done: asyncio.Future[None] = self._loop.create_future()

        def finish(synced: asyncio.Future[None] | None) -> None:
            """Only now: no listing may show a row that a power loss takes back."""
            self._unqueued.discard(sequence)
            error = synced.exception() if synced is not None else None
            if error is not None:
                if not done.done():
                    done.set_exception(error)
                return
            self._incoming.append((key, sequence, held_by, rows))
            self._apply_soon(len(rows))
            if not done.done():
                done.set_result(None)

        if waiting is None:
            finish(None)
        else:
            waiting.add_done_callback(finish)
        return done

    async def _put_later(self, key: bytes, path: str, rows: Sequence[Row], held_by: str | None) -> None:
        await self._wait_for_promise(key)
        await self.put_rows(key, path, rows, held_by=held_by)

    def settled(self, key: bytes) -> None:
        """The register of `key` took an accept: rows that wait behind its promise go on."""
        event = self._settled.pop(key, None)
        if event is not None:
            event.set()

    async def _wait_for_promise(self, key: bytes) -> None:
        try:
            async with asyncio.timeout(PROMISE_WAIT_S):
                while self._registers.outstanding_promise(key):
                    await self._settled.setdefault(key, asyncio.Event()).wait()
        except TimeoutError:
            raise PromiseOutstanding(what="container") from None

    def _dead(self, key: bytes, rows: Sequence[Row]) -> list[Row]:
        """Those whose container is gone, as far as this replica knows."""
        found = self._registers.container_state(key)
        if found is None:
            return []                    # this replica lags: it has not heard of the container yet
        is_live, packed = found
        cached = self._instances.get(key)
        if cached is None or cached[0] != packed:
            if len(self._instances) > 10_000:
                self._instances.clear()
            cached = self._instances[key] = (packed, is_live, unpack_container_state(packed).instance)
        instance = cached[2]
        return [row for row in rows if row.instance < instance or (row.instance == instance and not is_live)]

    async def live_rows(self, key: bytes, *, instance: int, ballot: Stamp, after: str, limit: int) -> list[Row]:
        """For the deletion of a container; only while this replica's promise stands at `ballot` or above, durably.

        Rows that came before the promise and are not synced yet are heard as well: they will be answered.
        """
        promised = self._registers.promised(key)
        if promised is None or promised < ballot:
            raise NotCounted(reason="no promise stands behind this answer")
        await self._all_synced()
        return await self._run(lambda: self._with_broker(
            key, lambda broker: broker.live_rows(instance, after=after, limit=limit), []))

    async def rows_of(self, key: bytes, names: Sequence[str]) -> list[Row]:
        """All rows of these names, tombstones too, also those on their way to the disk."""
        await self._all_synced()
        return await self._run(lambda: self._with_broker(
            key, lambda broker: [row for name in names for row in broker.versions(name)], []))

    async def _all_synced(self) -> None:
        """Until what was appended up to now is durable and on its way to its database."""
        waiting = self._journal.synced(self._journal.last_sequence())
        if waiting is not None:
            await waiting

    def confirm(self, key: bytes, peer: str, rows: Sequence[tuple[str, bytes]]) -> None:
        """Hint: `peer` holds these."""
        self._hints.append((key, peer, rows))
        if len(self._hints) >= HINTS_AT_ONCE:
            self._kick()                 # else they wait for the next rows: nobody needs them before a listing

    async def page(self, key: bytes, page: PageRequest, *, instance: int, peer: str | None) -> PageAnswer:
        """See `Broker.page`."""
        empty = PageAnswer([], [], Figures(0, 0, 0))
        return await self._run(lambda: self._with_broker(key, lambda b: b.page(page, instance=instance, peer=peer), empty))

    async def unconfirmed(self, key: bytes, page: PageRequest, *, peer: str, limit: int) -> list[Row]:
        """See `Broker.unconfirmed`."""
        return await self._run(lambda: self._with_broker(key, lambda b: b.unconfirmed(peer, page, limit=limit), []))

    async def figures(self, key: bytes) -> Figures:
        """Counts and sizes of the database."""
        return await self._run(lambda: self._with_broker(key, lambda broker: broker.figures, Figures(0, 0, 0)))

    # --- applying ------------------------------------------------------------------------------------------------

    def _apply_soon(self, row_count: int) -> None:
        """A transaction costs as much as ten rows, and nobody sees a row before it is asked for."""
        self._gathered_count += row_count
        if self._gathered_count >= APPLY_ROWS_SOON:
            self._kick()
        elif self._apply_timer is None:
            self._apply_timer = self._loop.call_later(APPLY_S, self._kick)

    def _kick(self) -> None:
        if self._apply_timer is not None:
            self._apply_timer.cancel()
            self._apply_timer = None
        if not self._is_applying:
            self._gathered_count = 0
            self._is_applying = True
            self._pool.submit(self._apply_all).add_done_callback(
                lambda done: self._loop.call_soon_threadsafe(self._applied, done.exception()))

    def _sort_incoming(self) -> None:
        while self._incoming:
            key, sequence, held_by, rows = self._incoming.popleft()
            self._queues.setdefault(key, []).extend((row, sequence, held_by) for row in rows)

    def _apply_all(self) -> None:
        """In the thread: everything that is queued now."""
        self._sort_incoming()
        failed: StorageError | None = None
        for key in list(self._queues):
            try:
                self._apply_key(key)
            except StorageError as error:
                failed = error           # the others go on
        self._take_hints()
        if failed is not None:
            raise failed

    def _take_hints(self) -> None:
        while self._hints:
            key, peer, rows = self._hints.popleft()
            broker = self._brokers.get(key)
            if broker is not None:       # a closed one learns it at its next listing
                broker.confirm(peer, rows)

    def _replay_key(self, key: bytes) -> None:
        broker = self._open(key)
        if broker is not None:
            self._queues[key] = [item for item in self._queues[key] if item[1] > broker.applied]
        self._apply_key(key)
        if broker is not None:
            self._replayed.append(Applied(broker.name, broker.instance, broker.figures, broker.newest_us))

    def _apply_key(self, key: bytes) -> None:
        """Apply the queue of one database; "applied up to" never names a record of which rows are still to come.

        What could not be applied stays queued, and is tried again: a full disk is no reason to forget a row.
        """
        broker = self._open(key) if self._queues.get(key) else None
        if broker is None:
            self._queues.pop(key, None)  # of a damaged one: the journal keeps the rows
            return
        queue = self._queues[key]
        while queue:
            part, rest = queue[:APPLY_ROWS_MAX], queue[APPLY_ROWS_MAX:APPLY_ROWS_MAX + 1]
            last = part[-1][1] - 1 if rest and rest[0][1] == part[-1][1] else part[-1][1]
            rows = [(row, by) for row, _, by in part]
            if not self._guarded(key, lambda b, r=rows, n=last: b.apply(r, sequence=n) or True, broker):  # type: ignore[misc]
                return
            del queue[:APPLY_ROWS_MAX]
        del self._queues[key]
        if self.on_applied is not None:
            applied = Applied(broker.name, broker.instance, broker.figures, broker.newest_us)
            self._loop.call_soon_threadsafe(self.on_applied, applied)

    def _applied(self, error: BaseException | None) -> None:
        self._is_applying = False
        if error is not None:
            self._repeats.error("rows could not be applied yet", about=self._directory, error=str(error))
            if not self._is_closing:
                self._loop.call_later(RETRY_S, self._kick)
        elif self._incoming:
            self._apply_soon(0)
        self._need_checkpoint()

    def _with_broker(self, key: bytes, use: Callable[[Broker], T], default: T) -> T:
        """In the thread: `use` on the database of `key` with all its rows applied; `default` when there is none."""
        self._sort_incoming()
        self._apply_key(key)
        self._take_hints()
        if key not in self._brokers and key not in self._damaged and not os.path.exists(self._file(key)):
            return default
        broker = self._open(key)
        found = self._guarded(key, use, broker) if broker is not None else None
        if found is None:
            raise Corruption(what="database", file=self._file(key), reason=self._damaged.get(key, ""))
        return found

    def _guarded(self, key: bytes, use: Callable[[Broker], T], broker: Broker) -> T | None:
        """The result, or None when the database turned out to be damaged. Raises `DeviceUnavailable` for what may pass."""
        try:
            return use(broker)
        except DAMAGE as error:
            if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
                raise DeviceUnavailable(device=self._directory, reason=str(error)) from error
            self._set_damaged(key, error)
            return None

    def _open(self, key: bytes) -> Broker | None:
        """None for a damaged database: its rows stay in the journal, its peers answer, repair copies it."""
        if key in self._damaged:
            return None
        try:
            return self._open_broker(key)
        except DAMAGE as error:
            if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
                raise DeviceUnavailable(device=self._directory, reason=str(error)) from error
            self._set_damaged(key, error)
            return None

    def _set_damaged(self, key: bytes, error: BaseException) -> None:
        """Neither read nor written any more; the file stays for a person to look at."""
        self._damaged[key] = str(error) or type(error).__name__
        broker = self._brokers.pop(key, None)
        if broker is not None:
            with contextlib.suppress(sqlite3.Error):
                broker.close()
        log.error("database damaged", file=self._file(key), error=self._damaged[key])

    @property
    def damaged_count(self) -> int:
        """Databases of this device that its peers have to answer for."""
        return len(self._damaged)

    def _open_broker(self, key: bytes) -> Broker:
        broker = self._brokers.get(key)
        if broker is None:
            while len(self._brokers) >= self._open_max:
                _, oldest = self._brokers.popitem(last=False)
                if oldest.is_dirty:
                    try:
                        oldest.checkpoint()
                    except (sqlite3.Error, OSError):             # then its rows stay in the journal until the next start
                        self._evicted_dirty = True
                oldest.close()
            broker = self._brokers[key] = Broker(self._file(key), self._paths.get(key, ""), self._peers_of(key))
        self._brokers.move_to_end(key)
        return broker

    def _file(self, key: bytes) -> str:
        return f"{self._directory}/{key.hex()}.db"

    # --- checkpoints ---------------------------------------------------------------------------------------------

    def _need_checkpoint(self) -> None:
        if self._checkpointer is None and not self._is_closing:
            self._checkpointer = self._loop.call_later(CHECKPOINT_S, self._start_checkpoint)

    def _start_checkpoint(self) -> None:
        self._checkpointer = None
        self._checkpoint_task = self._loop.create_task(self.checkpoint())

    async def checkpoint(self) -> None:
        """Sync every database that changed; the journal may then forget the rows so far."""
        covered = min(self._unqueued, default=self._journal.last_sequence() + 1) - 1
        try:
            waiting = self._journal.synced(covered)
            if waiting is not None:
                await waiting
        except StorageError as error:    # a retired device: what its databases lack stays in the journal
            log.warning("no checkpoint", directory=self._directory, reason=str(error))
            return
        try:
            is_whole = await self._run(self._checkpoint_all)
        except (StorageError, OSError, sqlite3.Error) as error:
            self._repeats.warning("no checkpoint", about=self._directory, reason=str(error))
            self._need_checkpoint()
            return
        if is_whole:
            self._journal.rows_covered(self._space, covered)

    def _checkpoint_all(self) -> bool:
        """True when every row that has come so far is in a synced file."""
        self._apply_all()
        for key, broker in list(self._brokers.items()):
            if broker.is_dirty:
                self._guarded(key, Broker.checkpoint, broker)
        return not self._damaged and not self._evicted_dirty

    def _close_all(self) -> None:
        for broker in self._brokers.values():
            broker.close()
        self._brokers.clear()

    async def _run(self, job: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._pool, job)
