"""Receiving a body: small ones whole in memory, large ones staged on the replicas while they arrive.

A large body goes to every replica of its object at once, in chunks of at most 1 MiB, as fast as the slowest of the ones
that are needed. The upload holds at most one chunk per replica. Cut short, too long or not matching: nothing is left.
"""
from __future__ import annotations

import asyncio
import errno
import hashlib
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, TypeVar

from common.errors import BodyTooLarge, BodyTooShort, ChecksumMismatch, DeadlineExceeded, DeviceFull, QuorumNotMet, StorageError
from common.hashing import md5_hex
from common.log import get_logger
from object.client import ObjectClient, Stage
from object.wire import Reply
from proxy.cluster import Place, RegisterPorts
from proxy.model import BodySource
from proxy.witness import Witness, explain

log = get_logger("proxy.bodies")
E = TypeVar("E", bound=StorageError)
T = TypeVar("T")
HASH_INLINE_MAX = 65_536
_HASHERS = ThreadPoolExecutor(2, thread_name_prefix="hash")      # its threads start with the first large body
REPLAY_BYTES_MAX, KEPT_BYTES_MAX = 4 << 20, 4 << 20
SMALL_BYTES_MAX, UNDER_WAY_BYTES_MAX = 65_536, 6 << 20
RETRY_S = 0.2
LAG_S = 1.0                              # how long a chunk waits for the last replica once a quorum has it


@dataclass(slots=True)
class Piece:
    """Chunks as they came, at most about a MiB in all: joining them would be a copy."""

    chunks: list[bytes] = field(default_factory=list)
    admitted_bytes: int = 0              # of `_under_way`

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.chunks))

    def release(self) -> None:
        """Nobody needs it any more."""
        _under_way.give(self.admitted_bytes)
        self.chunks, self.admitted_bytes = [], 0


@dataclass(slots=True)
class Received:
    """A body that is here (small) or durable under its id on a quorum of replicas (staged)."""

    size_bytes: int
    etag: str
    body_id: int
    small: bytes | None = None
    replies: list[Reply] = field(default_factory=list)

    @property
    def is_staged(self) -> bool:
        return self.small is None


async def receive_body(body: BodySource, place: Place, ports: RegisterPorts, *, inline_bytes_max: int, size_max: int,
                       expected_etag: str | None, deadline_s: Callable[[], float]) -> Received:
    """Read the body, check it, and only then give it a name.

    Raises `BodyTooLarge`, `BodyTooShort`, `ChecksumMismatch`, `DeviceFull`, `QuorumNotMet`.
    """
    if body.length is not None and body.length > size_max:
        raise BodyTooLarge(limit_bytes=size_max)
    small = body.take_ready()
    if small is None:
        small, first = await _read_small(body, inline_bytes_max)
        if first is not None:
            return await _stage_body(body, first, place, ports, size_max=size_max, expected_etag=expected_etag,
                                     deadline_s=deadline_s)
    if len(small) > size_max:
        raise BodyTooLarge(limit_bytes=size_max)
    if body.length is not None and len(small) != body.length:
        raise BodyTooShort(expected_bytes=body.length, got_bytes=len(small))
    etag = md5_hex(small)
    check_etag(expected_etag, etag)
    return Received(len(small), etag, ports.write_id if small else 0, small)


def check_etag(expected: str | None, computed: str) -> None:
    """Raises `ChecksumMismatch`."""
    if expected is not None and expected != computed:
        raise ChecksumMismatch(expected=expected, computed=computed)


async def _read_small(body: BodySource, inline_bytes_max: int) -> tuple[bytes, Piece | None]:
    """(all of it, None), or what was read when it grew too large."""
    if body.length is not None and body.length > inline_bytes_max:
        return b"", await _read_piece(body)
    chunks: list[bytes] = []
    size = 0
    while chunk := await body.read_chunk():
        if size + len(chunk) > inline_bytes_max:
            return b"", Piece([*chunks, chunk])
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks), None


async def _stage_body(body: BodySource, piece: Piece, place: Place, ports: RegisterPorts, *, size_max: int,
                      expected_etag: str | None, deadline_s: Callable[[], float]) -> Received:
    uploads = _Patient(place, ports.quorum, deadline_s)
    try:
        await uploads.open()
        md5 = hashlib.md5(usedforsecurity=False)
        size = 0
        while piece.chunks:
            size += piece.size_bytes
            if size > size_max:
                raise BodyTooLarge(limit_bytes=size_max)
            piece = await _store_piece(piece, body, uploads, md5)
        if body.length is not None and size != body.length:
            raise BodyTooShort(expected_bytes=body.length, got_bytes=size)
        check_etag(expected_etag, md5.hexdigest())
        replies = await uploads.finish(place.key, ports.write_id, place.path)
    except BaseException:
        piece.release()
        uploads.abort()
        raise
    return Received(size, md5.hexdigest(), ports.write_id, None, replies)


async def _store_piece(piece: Piece, body: BodySource, uploads: _Patient, md5: hashlib._Hash) -> Piece:
    """Write and hash a piece while the next one arrives; the next one. A client that is stuck then holds none."""
    reading = asyncio.ensure_future(_read_piece(body))
    try:
        results = await asyncio.gather(uploads.write(piece.chunks), _hash(md5, piece), return_exceptions=True)
        piece.release()
        for result in results:           # both have ended before anything is given up
            if isinstance(result, BaseException):
                raise result
        return await asyncio.shield(reading)
    except BaseException:
        piece.release()
        reading.cancel()
        for read in await asyncio.gather(reading, return_exceptions=True):
            if isinstance(read, Piece):
                read.release()
        raise


async def _read_piece(body: BodySource) -> Piece:
    """The next chunk that is not small, with the small ones before it: a piece costs a thread hop per replica, whatever its size.

    What is not small is of `_under_way` until `_store_piece` has stored it; nobody waits for a client while it holds any of that.
    """
    piece = Piece()
    size = 0
    while size < SMALL_BYTES_MAX and (chunk := await body.read_chunk(_admit)):
        piece.chunks.append(chunk)
        size += len(chunk)
        if len(chunk) > SMALL_BYTES_MAX:
            piece.admitted_bytes += len(chunk)
    return piece


async def _admit(size: int) -> None:
    if size > SMALL_BYTES_MAX:
        await _under_way.take(size)


class _Gate:
    """So many bytes of all uploads of this worker may be on their way to the replicas; first come first served."""

    def __init__(self, bytes_max: int) -> None:
        self._free_bytes = bytes_max
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Wait until `size` bytes are free, and take them."""
        if not self._waiting and self._free_bytes >= size:
            self._free_bytes -= size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(size)          # it was our turn, and we are gone
            raise

    def give(self, size: int) -> None:
        """Bytes are free again."""
        self._free_bytes += size
        while self._waiting and (self._waiting[0][1].done() or self._free_bytes >= self._waiting[0][0]):
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._free_bytes -= size
                turn.set_result(None)


_under_way = _Gate(UNDER_WAY_BYTES_MAX)


async def _hash(md5: hashlib._Hash, piece: Piece) -> None:
    if piece.size_bytes <= HASH_INLINE_MAX:
        _update(md5, piece.chunks)
    else:
        await asyncio.get_running_loop().run_in_executor(_HASHERS, _update, md5, piece.chunks)


def _update(md5: hashlib._Hash, chunks: Sequence[bytes]) -> None:
    for chunk in chunks:
        md5.update(chunk)


class _Patient:
    """Uploads that begin again while what they have sent is still at hand: a worker that dies is back within 2 s.

    Beyond 4 MiB a lost quorum is an error: the client has the rest of the bytes, and we have not the first. So it is when all
    uploads of this worker together keep more than `KEPT_BYTES_MAX`.
    """

    kept_bytes_of_all: ClassVar[int] = 0

    def __init__(self, place: Place, quorum: int, deadline_s: Callable[[], float]) -> None:
        self._make = partial(_Uploads, place, quorum, deadline_s)
        self._deadline_s = deadline_s
        self._uploads = self._make()
        self._kept: list[list[bytes]] | None = []
        self._kept_bytes = 0

    async def open(self) -> None:
        """Begin on every replica. Raises `QuorumNotMet`, `DeviceFull`."""
        await self._until_done(self._uploads.open, self._replay)

    async def write(self, chunks: list[bytes]) -> None:
        """The next piece to a quorum."""
        self._keep(chunks)
        await self._until_done(partial(self._uploads.write, chunks), self._replay)

    async def finish(self, key: bytes, body_id: int, path: str) -> list[Reply]:
        """Durable under its name on a quorum; the replies are looks."""
        async def after_replay() -> list[Reply]:
            await self._replay()
            return await self._uploads.finish(key, body_id, path)

        replies = await self._until_done(partial(self._uploads.finish, key, body_id, path), after_replay)
        self._forget()
        return replies

    def _keep(self, chunks: list[bytes]) -> None:
        if self._kept is None:
            return
        size = sum(map(len, chunks))
        if self._kept_bytes + size > REPLAY_BYTES_MAX or _Patient.kept_bytes_of_all + size > KEPT_BYTES_MAX:
            self._forget()
            return
        self._kept.append(chunks)
        self._kept_bytes += size
        _Patient.kept_bytes_of_all += size

    def _forget(self) -> None:
        """Nothing is kept from now on."""
        _Patient.kept_bytes_of_all -= self._kept_bytes
        self._kept, self._kept_bytes = None, 0

    async def _replay(self) -> None:
        await self._uploads.open()
        for chunks in self._kept or ():
            await self._uploads.write(chunks)

    async def _until_done(self, first: Callable[[], Awaitable[T]], again: Callable[[], Awaitable[T]]) -> T:
        """`first`, and as long as replicas are only away `again` on new uploads."""
        give_up_s = self._deadline_s()
        attempt = first
        while True:
            try:
                return await attempt()
            except QuorumNotMet:
                if self._kept is None or asyncio.get_running_loop().time() + RETRY_S >= give_up_s:
                    raise
            await asyncio.sleep(RETRY_S)
            self._uploads.abort()
            self._uploads = self._make()
            attempt = again

    def abort(self) -> None:
        """Nothing is left behind."""
        self._forget()
        self._uploads.abort()


class _Uploads:
    """The same bytes to every replica; goes on while a quorum keeps up."""

    def __init__(self, place: Place, quorum: int, deadline_s: Callable[[], float]) -> None:
        self._place, self._quorum, self._deadline_s = place, quorum, deadline_s
        self.stages: dict[ObjectClient, Stage] = {}
        self._errors: dict[str, StorageError] = {}
        self._witness = Witness()
        self._asked_s = 0.0

    async def open(self) -> None:
        await self._each([(client, self._open(client)) for client in self._place.clients])

    async def _open(self, client: ObjectClient) -> None:
        self.stages[client] = await client.open_stage(timeout_s=self._left_s())

    async def write(self, chunks: list[bytes]) -> None:
        await self._each([(client, stage.write(*chunks)) for client, stage in self.stages.items()])

    async def finish(self, key: bytes, body_id: int, path: str) -> list[Reply]:
        """Durable under its name on a quorum; the replies are looks."""
        replies: list[Reply] = []

        async def end(stage: Stage) -> None:
            replies.append(await stage.finish(key, body_id, path))

        await self._each([(client, end(stage)) for client, stage in self.stages.items()])
        return replies

    async def _each(self, jobs: Sequence[tuple[ObjectClient, Coroutine[Any, Any, None]]]) -> None:
        """Wait for a quorum, and a little for the others: a replica that fails or hangs is left out, too few are an error."""
        loop = asyncio.get_running_loop()
        self._asked_s = loop.time()
        tasks = {loop.create_task(job): client for client, job in jobs}
        waiting = set(tasks)
        good = 0
        try:
            while waiting:
                patience_s = LAG_S if good >= self._quorum else self._left_s()
                finished, waiting = await asyncio.wait(waiting, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                if not finished:
                    break
                for task in finished:
                    good += self._judge(tasks[task], task.exception())
        finally:
            for task in waiting:
                task.cancel()
        for task in waiting:
            self._leave_out(tasks[task], DeadlineExceeded(what="body chunk"))
        if good < self._quorum:
            for error in self._errors.values():
                if isinstance(error, DeviceFull):
                    raise self._explain(DeviceFull(**error.fields), "device.full")
            raise self._explain(QuorumNotMet(needed=self._quorum, what="body",
                                             answers={d: e.code for d, e in self._errors.items()}), "quorum.body")

    def _explain(self, error: E, rule: str) -> E:
        return explain(error, rule, self._witness, path=self._place.path, needed=self._quorum,
                       replicas=len(self._place.clients), answered=sorted(client.device_id for client in self.stages))

    def _judge(self, client: ObjectClient, error: BaseException | None) -> bool:
        """True for a success; raises what is no fault of a replica."""
        if error is None:
            return True
        if not isinstance(error, (StorageError, OSError)):
            raise error
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            error = DeviceFull(device=client.device_id)
        self._leave_out(client, error if isinstance(error, StorageError) else StorageError(reason=str(error)))
        return False

    def _leave_out(self, client: ObjectClient, error: StorageError) -> None:
        self._errors[str(client.device_id)] = error
        self._witness.note(client.device_id, "body", error, (asyncio.get_running_loop().time() - self._asked_s) * 1e3)
        stage = self.stages.pop(client, None)
        if stage is not None:
            stage.abort()

    def _left_s(self) -> float:
        return max(self._deadline_s() - asyncio.get_running_loop().time(), 0.001)

    def abort(self) -> None:
        for stage in self.stages.values():
            stage.abort()
