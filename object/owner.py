"""A device in the event loop of its one owner: group commit, waiting answers, background flush and space.

The writes that arrive while one sync runs form the next batch, so batching needs no timer and a lone write pays no
wait. Everything that blocks runs in the device's own pools, one thread for the journal, one for the index, two for
bodies, so that a sick disk slows only itself. Calls answer with a value when nothing has to be waited for, else with a
future.

Budget of an accept: no thread hop of its own; one hop per batch (pwritev and fdatasync together).
"""
from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from common.clock import Clock
from common.errors import Corruption, DeviceUnavailable, NotCounted, Overloaded
from common.futures import Sink, pour
from common.log import Repeats, get_logger
from common.pool import Pool
from common.timestamp import Stamp
from object.bodies import BodyReader, BodyWriter
from object.compaction import begin_scan, drop_segment, load_records, move_lost, move_records, plan_compaction
from object.device import Device
from object.journal import Batch
from object.meters import OwnerMeters
from object.peers import PeerMark
from object.register import Held
from object.wire import Answer, BodyState, Reply, ReplySink, Version, whole

log = get_logger("object.owner")
T = TypeVar("T")
GATHERED_BYTES_MAX = 64 << 20            # beyond it writes are refused: the disk does not keep up
MAINTAIN_S = 1.0
COMPACT_EVERY = 10                       # of these rounds


class Waiters(Generic[T]):
    """Answers that leave once the journal is synced up to their sequence."""

    def __init__(self) -> None:
        self._queue: deque[tuple[int, Sink[T], T]] = deque()

    def add(self, sequence: int, answer: T) -> asyncio.Future[T]:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append((sequence, future, answer))
        return future

    def add_into(self, sequence: int, answer: T, into: Sink[T] | None) -> asyncio.Future[T] | Sink[T]:
        """The same into what the caller has; who waits."""
        if into is None:
            return self.add(sequence, answer)
        self._queue.append((sequence, into, answer))
        return into

    def release(self, synced: int) -> None:
        """In order of arrival: one that waits behind a later sequence waits one batch longer, never forever."""
        queue = self._queue
        while queue and queue[0][0] <= synced:
            _, sink, answer = queue.popleft()
            if not sink.done():
                sink.set_result(answer)

    def fail(self, error: Exception) -> None:
        while self._queue:
            _, sink, _ = self._queue.popleft()
            if not sink.done():
                sink.set_exception(error)

    def __len__(self) -> int:
        return len(self._queue)


class Owner:
    """One device; every method belongs to the loop's thread."""

    def __init__(self, device: Device, clock: Clock) -> None:
        self.device, self._clock = device, clock
        self.name = device.identity.name
        self._loop = asyncio.get_running_loop()
        self._journal_pool = Pool(1, f"{self.name}-journal")
        self._index_pool = Pool(1, f"{self.name}-index")
        self._body_pool = Pool(2, f"{self.name}-body")
        self._meters = OwnerMeters(self.name, {"journal": self._journal_pool, "index": self._index_pool, "body": self._body_pool})
        self._waiters: Waiters[Reply] = Waiters()
        self._sync_waiters: Waiters[None] = Waiters()
        self._committing: Batch | None = None
        self._is_kicked = False
        self._work = asyncio.Event()
        self._repeats = Repeats(log)
        self.has_pending = asyncio.Event()
        self._compared: asyncio.Future[None] = self._loop.create_future()
        self._maintainer: asyncio.Task[None] | None = None
        self.is_primary: Callable[[bytes], bool] = lambda key: True
        self.foreign: set[bytes] = set()         # keys held for primaries that were away (object/returner.py)
        self.on_synced: list[Callable[[int], None]] = []         # consumers of the journal
        self.on_settled: list[Callable[[bytes], None]] = []      # a durable register took an accept

    def start(self) -> None:
        """Begin background work."""
        if self.device.pending:
            self.has_pending.set()
        self._work.set()
        self.device.on_index_damage = self._index_damaged
        self._index_pool.submit(self._fill_filter, lambda *_: None)
        self._maintainer = self._loop.create_task(self._maintain(), name=f"maintain {self.name}")

    def _fill_filter(self) -> None:
        """In the index's thread; rows written meanwhile are added by the loop."""
        try:
            self.device.filter.fill(self.device.index.keys())
        except Exception as error:       # without it every lookup asks the index: slower, not wrong
            log.warning("key filter not filled", device=self.name, error=str(error))

    # --- the register protocol -----------------------------------------------------------------------------------

    def look(self, key: bytes, ballot: Stamp | None, *, seen_us: int, is_durable: bool,
             read_body: bool, into: ReplySink | None = None) -> Answer:
        """See `Replica.look`; `into` and the answer: see object/client.py.

        Raises `NotCounted`, `DeviceUnavailable`, `ClockRefused`, `Corruption`.
        """
        device = self.device
        if not device.standing.is_counted or device.fault:
            return pour(self._look_later(key, ballot, seen_us, is_durable, read_body), into)
        reply = device.replica.look(key, ballot=ballot, now_us=self._clock.now_us(), seen_us=seen_us, is_durable=is_durable)
        if reply.wait_seq:
            self._kick()
            if not read_body:
                return self._waiters.add_into(reply.wait_seq, reply, into)
            return pour(self._loop.create_task(self._with_body(key, reply)), into)
        if read_body and reply.state == BodyState.INLINE:
            answer = self._read_inline(key, reply, self.device.last_held)
            return answer if isinstance(answer, Reply) else pour(answer, into)
        return reply

    def accept(self, key: bytes, ballot: Stamp, version: Version, mode: int, *, seen_us: int, is_durable: bool,
               body: bytes | None, into: ReplySink | None = None) -> Answer:
        """See `Replica.accept`; `into`: as of `look`. Raises `Overloaded`, `DeviceFull`, `NotCounted`, `NoBody`, `ClockRefused`."""
        device = self.device
        if not device.standing.is_counted or device.fault:
            answer = self._accept_later(key, ballot, version, mode, seen_us, is_durable, body)
            return answer if isinstance(answer, Reply) else pour(answer, into)
        if device.journal.gathered_bytes > GATHERED_BYTES_MAX:
            raise Overloaded(what=f"journal of {self.name}", retry_after_s=1)
        reply = device.replica.accept(key, ballot=ballot, version=version, mode=mode, now_us=self._clock.now_us(),
                                      seen_us=seen_us, body=body, is_durable=is_durable)
        if is_durable and reply.ok:
            for settled in self.on_settled:
                settled(key)
        if not reply.wait_seq:
            return reply
        self._kick()
        return self._waiters.add_into(reply.wait_seq, reply, into)

    def learn(self, key: bytes, ballot: Stamp, version: Version, *, body: bytes | None) -> Reply | asyncio.Future[Reply]:
        """See `Replica.learn`."""
        self._check_fault()
        if not self.is_primary(key):
            self.foreign.add(key)
        reply = self.device.replica.learn(key, ballot=ballot, version=version, body=body)
        if not reply.wait_seq:
            return reply
        self._kick()
        return self._waiters.add(reply.wait_seq, reply)

    def _look_later(self, key: bytes, ballot: Stamp | None, seen_us: int, is_durable: bool,
                    read_body: bool) -> asyncio.Future[Reply]:
        self._check_fault()
        if self.device.standing.amnesia:
            raise NotCounted(device=self.name, reason=self.device.standing.describe())
        return self._loop.create_task(self._after_compare(
            lambda: self.look(key, ballot, seen_us=seen_us, is_durable=is_durable, read_body=read_body)))

    def _accept_later(self, key: bytes, ballot: Stamp, version: Version, mode: int, seen_us: int, is_durable: bool,
                      body: bytes | None) -> Reply | asyncio.Future[Reply]:
        self._check_fault()
        device = self.device
        if not device.standing.amnesia:
            return self._loop.create_task(self._after_compare(
                lambda: self.accept(key, ballot, version, mode, seen_us=seen_us, is_durable=is_durable, body=body)))
        if ballot < device.floor:
            raise NotCounted(device=self.name, reason=device.standing.describe())
        reply = device.replica.accept(key, ballot=ballot, version=version, mode=mode, now_us=self._clock.now_us(),
                                      seen_us=seen_us, body=body, is_durable=is_durable)
        if not reply.ok:
            raise NotCounted(device=self.name, reason=device.standing.describe())    # its state must not be seen
        self._kick()
        return self._waiters.add(reply.wait_seq, reply) if reply.wait_seq else reply

    async def _after_compare(self, again: Callable[[], Answer]) -> Reply:
        """A device that has just started answers once its peers have compared what they remember of it."""
        await asyncio.shield(self._compared)
        return await whole(again())

    async def _with_body(self, key: bytes, reply: Reply) -> Reply:
        await self._waiters.add(reply.wait_seq, reply)
        answer = self._read_inline(key, reply, self.device.get(key)) if reply.state == BodyState.INLINE else reply
        return answer if isinstance(answer, Reply) else await answer

    def _read_inline(self, key: bytes, reply: Reply, held: Held | None) -> Reply | asyncio.Future[Reply]:
        if held is None or held.ballot != reply.ballot or held.state != BodyState.INLINE:
            return reply                 # overwritten meanwhile: the state that was read stays the answer, without body
        try:
            body = self.device.read_inline(held, cached_only=True)
        except (Corruption, OSError) as error:
            return self._damaged(key, held, reply, error)
        if body is not None:
            return reply._replace(body=body)
        return self._loop.create_task(self._read_cold(key, held, reply))

    async def _read_cold(self, key: bytes, held: Held, reply: Reply) -> Reply:
        try:
            return reply._replace(body=await self.in_body_pool(lambda: self.device.read_inline(held)))
        except (Corruption, OSError) as error:
            return self._damaged(key, held, reply, error)

    def _damaged(self, key: bytes, held: Held, reply: Reply, error: Exception) -> Reply:
        log.error("record damaged", device=self.name, path=held.version.path, error=str(error))
        self.device.quarantine(key, held)
        self._work.set()
        return reply._replace(state=BodyState.DAMAGED)

    # --- other records -------------------------------------------------------------------------------------------

    def synced(self, sequence: int) -> asyncio.Future[None] | None:
        """None when everything up to `sequence` is durable, else a future."""
        self._check_fault()
        if sequence <= self.device.synced_sequence:
            return None
        self._kick()
        return self._sync_waiters.add(sequence, None)

    def owed(self, key: bytes, stamp: Stamp) -> asyncio.Future[None] | None:
        """See `Device.owe`; durable when the future is done."""
        self._check_fault()
        return self.synced(self.device.owe(key, stamp))

    def owes(self, key: bytes, stamp: Stamp) -> bool:
        """True if this device remembers that the write was answered before it was listed. Raises `NotCounted`."""
        self._check_fault()
        if not self.device.is_counted:
            raise NotCounted(device=self.name, reason=self.device.standing.describe())
        entry = self.device.pending.get(key)
        return entry is not None and entry.is_owed and entry.stamp == stamp

    def done(self, key: bytes, stamp: Stamp) -> None:
        """A hint: lost without harm."""
        self.device.done(key, stamp)
        self._work.set()

    def remember_peer(self, device_id: str, mark: PeerMark) -> None:
        """Journal what a peer shows, with the next batch."""
        if self.device.fault or not self.device.peers.is_news(device_id, mark):
            return
        self.device.append_peer_mark(device_id, mark)
        self._kick()

    def compared_with(self, peer_id: str, remembered: PeerMark | None) -> None:
        """A peer has said what it remembers of this device; `decide` comes next."""
        device = self.device
        if device.standing.amnesia:
            return
        found = device.recovery
        shown = PeerMark(found.incarnation, found.epoch, found.sequence)
        reason = device.standing.compare(peer_id, remembered, shown)
        if reason is not None:
            device.restart_memory(self._clock.now_us(), reason)
            self._kick()

    def decide(self, *, peers: int, is_patient: bool) -> None:
        """Count, if enough peers have compared; requests that waited for this go on."""
        standing = self.device.standing
        standing.decide(peers, is_patient=is_patient)
        if (standing.is_counted or standing.amnesia) and not self._compared.done():
            self._compared.set_result(None)
            log.info("device compared", device=self.name, standing=standing.describe())

    @property
    def has_compared(self) -> bool:
        """True once it is known whether this device counts."""
        return self._compared.done()

    # --- bodies --------------------------------------------------------------------------------------------------

    async def in_body_pool(self, job: Callable[[], T]) -> T:
        """Run a blocking job of this device's bodies."""
        return await self._body_pool.run(job)

    def new_body(self) -> BodyWriter:
        """Raises `DeviceFull`, `DeviceUnavailable`, `OSError`."""
        self._check_fault()
        return self.device.new_body()

    async def stage(self, writer: BodyWriter, key: bytes, body_id: int, path: str) -> Reply:
        """Make a written body durable under its name; the reply is a look."""
        with self.device.staging(key, body_id):
            trailer_crc = await self.in_body_pool(lambda: writer.finish(key, body_id, path))
            self.device.staged(key, body_id, trailer_crc)
        return await whole(self.look(key, None, seen_us=0, is_durable=False, read_body=False))

    async def open_body(self, key: bytes, body_id: int) -> BodyReader:
        """Reader of the body that `key` has now. Raises `NoBody`, `Corruption`; quarantines what does not check."""
        held = self.device.get(key)
        if held is None or held.state != BodyState.FILE or held.version.body_id != body_id:
            raise DeviceUnavailable(device=self.name, reason="the body is not here")
        try:
            return await self.in_body_pool(lambda: self.device.open_body(key, held))
        except (Corruption, FileNotFoundError) as error:
            self.damaged_body(key, held, error)
            raise Corruption(what="body", device=self.name) from error

    def damaged_body(self, key: bytes, held: Held, error: Exception) -> None:
        """A block of a large body failed its check."""
        log.error("body damaged", device=self.name, path=held.version.path, error=str(error))
        self.device.quarantine(key, held)
        self._work.set()

    # --- commit --------------------------------------------------------------------------------------------------

    def _kick(self) -> None:
        """Commit at the end of this loop turn, unless one is under way: then right after it."""
        if self._committing is None and not self._is_kicked:
            self._is_kicked = True
            self._loop.call_soon(self._begin_commit)

    def _begin_commit(self) -> None:
        self._is_kicked = False
        if self._committing is not None:
            return
        batch = self.device.take_batch()
        if batch is None:
            return
        self._committing = batch
        self._journal_pool.submit(lambda: self.device.journal.write(batch), lambda _, error: self._end_commit(batch, error))

    def _end_commit(self, batch: Batch, error: BaseException | None) -> None:
        self._committing = None
        if error is not None:
            self._retire(error)
            return
        self._meters.note_batch(batch)
        self.device.committed(batch)
        synced = self.device.synced_sequence
        self._waiters.release(synced)
        self._sync_waiters.release(synced)
        for consume in self.on_synced:
            consume(synced)
        self._work.set()
        if self.device.pending:
            self.has_pending.set()
        self._begin_commit()

    def _retire(self, error: BaseException) -> None:
        """The device failed twice: nothing more is read from or written to it by clients."""
        self.device.fault = str(error) or type(error).__name__
        log.error("device retired", device=self.name, reason=self.device.fault)
        lost = DeviceUnavailable(device=self.name, reason=self.device.fault)
        self._waiters.fail(lost)
        self._sync_waiters.fail(lost)

    def _index_damaged(self, error: Corruption) -> None:
        """Derived data cannot be trusted: the next start rebuilds it from the journal, until then the others answer."""
        self.device.forget_index()
        self._retire(error)

    def _check_fault(self) -> None:
        if self.device.fault:
            raise DeviceUnavailable(device=self.name, reason=self.device.fault)

    # --- background ----------------------------------------------------------------------------------------------

    async def _maintain(self) -> None:
        """Once a second while there is work: remove displaced bodies, look at the space, flush the index, compact."""
        turn = 0
        while True:
            await self._work.wait()
            await asyncio.sleep(MAINTAIN_S)
            self._work.clear()
            turn += 1
            for step in (self._unlink, self._look_at_room, self.flush):
                await self._maintained(step)
            if (turn % COMPACT_EVERY == 1 or self.device.is_full) and await self._maintained(self.compact):
                turn = 0                 # there may be more
                self._work.set()
            if self.device.is_full:
                self._work.set()         # nothing else may come to wake us when space is there again

    async def _maintained(self, step: Callable[[], Awaitable[T]]) -> T | None:
        """One step; what goes wrong in it (a full disk above all) is no reason to leave out the others, or the next round."""
        try:
            return await step()
        except Exception as error:       # the edge of a daemon
            self._repeats.warning("maintenance failed", about=self.name, step=step.__name__, error=str(error))
            return None

    async def _unlink(self) -> None:
        device = self.device
        if device.displaced_bodies and (waiting := self.synced(device.journal.next_sequence - 1)) is not None:
            await waiting                # else power loss could leave the old row, which was acknowledged, without its body
        displaced = device.take_displaced()
        if displaced:
            await self.in_body_pool(lambda: device.unlink(displaced))

    async def _look_at_room(self) -> None:
        await self._in_journal_pool(self.device.has_room)

    async def flush(self) -> None:
        """Move the newest rows into the index."""
        device = self.device
        if device.fault:
            return
        flush = device.begin_flush()
        if flush is None:
            return
        is_done = False
        try:
            waiting = self.synced(flush.sequence)
            if waiting is not None:
                await waiting
            await self._index_pool.run(lambda: device.write_flush(flush))
            is_done = True
        finally:
            device.end_flush(flush, is_done=is_done)

    async def compact(self) -> bool:
        """Give back one mostly dead segment, 100 records per batch; False when there is none."""
        device = self.device
        segment = await self._index_pool.run(lambda: plan_compaction(device)) if device.journal.segment > 1 else None
        if segment is None or device.fault:
            return False
        scan = await self._index_pool.run(lambda: begin_scan(device, segment))
        steps = load_records(device, scan)
        while (step := await self._index_pool.run(lambda: next(steps, None))) is not None:      # no commit waits behind it
            if move_records(device, segment, step) and (waiting := self.synced(device.journal.next_sequence - 1)) is not None:
                await waiting
        if not move_lost(device, scan):
            device.damaged_segments.add(segment)
            log.error("segment is damaged and stays", device=self.name, segment=segment, lost=scan.lost)
            return True
        if (waiting := self.synced(device.journal.next_sequence - 1)) is not None:      # also of what made its records dead
            await waiting
        await self._in_journal_pool(lambda: drop_segment(device, segment))
        log.info("segment compacted", device=self.name, segment=segment)
        return True

    def let_go(self) -> None:
        """Of the memory that lookups have mapped, however little it is: the process has grown."""
        self._index_pool.submit(lambda: self.device.index.let_go(above_bytes=0), lambda *_: None)

    async def _in_journal_pool(self, job: Callable[[], T]) -> T:
        return await self._journal_pool.run(job)

    async def close(self) -> None:
        """Commit and flush what there is, then give up the device."""
        if self._maintainer is not None:
            self._maintainer.cancel()
            await asyncio.gather(self._maintainer, return_exceptions=True)
        if not self.device.fault:
            waiting = self.synced(self.device.journal.next_sequence - 1)
            if waiting is not None:
                await waiting
            await self.flush()
        for pool in (self._journal_pool, self._index_pool, self._body_pool):
            pool.shutdown()
        self.device.close()

