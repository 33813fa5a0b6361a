"""Faults on messages that are none: calls of a device in this very process, harmed as if they crossed a connection.

Only a node with HOLDFAST_FAULTS=1 puts these clients around its own; without it nothing of this is on any path.
"""
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from common.errors import DeadlineExceeded
from common.faultnet import Direction, FaultRules
from common.futures import ignore, pour
from common.timestamp import Stamp
from container.client import RowClient
from container.wire import (
    OP_CONFIRM,
    OP_FIGURES,
    OP_LIVE_ROWS,
    OP_PAGE,
    OP_PUT_ROWS,
    OP_ROWS_OF,
    OP_UNCONFIRMED,
    Figures,
    PageAnswer,
    PageRequest,
    Row,
)
from object.client import ObjectClient, Stage
from object.wire import OP_ACCEPT, OP_DONE, OP_LEARN, OP_LOOK, OP_OWED, OP_OWES, OP_READ_BODY, OP_STAGE, Answer, ReplySink, Version

T = TypeVar("T")
PEER = "this process"


class Seam:
    """The way to one device of this process, with the faults of a connection."""

    def __init__(self, faults: FaultRules, device_id: int) -> None:
        self._faults, self._device_id = faults, device_id

    @property
    def is_calm(self) -> bool:
        """No faults at the moment."""
        return not self._faults.rules

    def call(self, op: int, run: Callable[[], Any], *, timeout_s: float) -> asyncio.Future[Any]:
        """What `run` gives, or the future it gives; `DeadlineExceeded` if the question or the answer was lost."""
        loop = asyncio.get_running_loop()
        outer: asyncio.Future[Any] = loop.create_future()
        timer = loop.call_later(timeout_s, _expire, outer, op)
        outer.add_done_callback(lambda _: timer.cancel())

        def go() -> None:
            """The question has arrived, though the asker may have lost patience."""
            try:
                found = run()
            except Exception as error:
                self._pass(Direction.FROM, op, partial(_fail, outer, error))
                return
            if isinstance(found, asyncio.Future):
                found.add_done_callback(lambda done: self._pass(Direction.FROM, op, partial(_copy, done, outer)))
            else:
                self._pass(Direction.FROM, op, partial(_resolve, outer, found))

        self._pass(Direction.TO, op, go)
        return outer

    async def ask(self, op: int, run: Callable[[], Awaitable[T]], *, timeout_s: float) -> T:
        """As `call`, for what is a coroutine."""
        found: T = await self.call(op, lambda: asyncio.ensure_future(run()), timeout_s=timeout_s)
        return found

    def tell(self, op: int, run: Callable[[], None]) -> None:
        """A hint, which nobody answers."""
        self._pass(Direction.TO, op, run)

    def _pass(self, direction: Direction, op: int, go: Callable[[], None]) -> None:
        self._faults.pass_on(direction, PEER, op, (self._device_id,), go, about=self._device_id)


def _expire(outer: asyncio.Future[Any], op: int) -> None:
    if not outer.done():
        outer.set_exception(DeadlineExceeded(what="answer of a device in this process", op=op))


def _resolve(outer: asyncio.Future[Any], found: Any) -> None:
    if not outer.done():
        outer.set_result(found)


def _fail(outer: asyncio.Future[Any], error: BaseException) -> None:
    if not outer.done():
        outer.set_exception(error)


def _copy(done: asyncio.Future[Any], outer: asyncio.Future[Any]) -> None:
    ignore(done)
    if outer.done():
        return
    if done.cancelled():
        outer.cancel()
    elif (error := done.exception()) is not None:
        outer.set_exception(error)
    else:
        outer.set_result(done.result())


class FaultyObjectClient:
    """An `ObjectClient` around one of this process."""

    def __init__(self, inner: ObjectClient, faults: FaultRules) -> None:
        self.device_id, self.is_local = inner.device_id, inner.is_local
        self._inner, self._seam = inner, Seam(faults, inner.device_id)

    def look(self, key: bytes, ballot: Stamp | None, *, seen_us: int, is_durable: bool, read_body: bool,
             timeout_s: float, into: ReplySink | None = None) -> Answer:
        run = partial(self._inner.look, key, ballot, seen_us=seen_us, is_durable=is_durable, read_body=read_body,
                      timeout_s=timeout_s)
        return run(into=into) if self._seam.is_calm else pour(self._seam.call(OP_LOOK, run, timeout_s=timeout_s), into)

    def accept(self, key: bytes, ballot: Stamp, version: Version, mode: int, *, seen_us: int, is_durable: bool,
               body: bytes | None, timeout_s: float, into: ReplySink | None = None) -> Answer:
        run = partial(self._inner.accept, key, ballot, version, mode, seen_us=seen_us, is_durable=is_durable, body=body,
                      timeout_s=timeout_s)
        return run(into=into) if self._seam.is_calm else pour(self._seam.call(OP_ACCEPT, run, timeout_s=timeout_s), into)

    def learn(self, key: bytes, ballot: Stamp, version: Version, *, body: bytes | None, timeout_s: float) -> Answer:
        return self._seam.call(OP_LEARN, partial(self._inner.learn, key, ballot, version, body=body, timeout_s=timeout_s),
                               timeout_s=timeout_s)

    def owed(self, key: bytes, stamp: Stamp, *, timeout_s: float) -> asyncio.Future[None] | None:
        return self._seam.call(OP_OWED, partial(self._inner.owed, key, stamp, timeout_s=timeout_s), timeout_s=timeout_s)

    async def owes(self, key: bytes, stamp: Stamp, *, timeout_s: float) -> bool:
        return await self._seam.ask(OP_OWES, partial(self._inner.owes, key, stamp, timeout_s=timeout_s), timeout_s=timeout_s)

    def done(self, key: bytes, stamp: Stamp) -> None:
        self._seam.tell(OP_DONE, partial(self._inner.done, key, stamp))

    async def open_stage(self, *, timeout_s: float) -> Stage:
        return await self._seam.ask(OP_STAGE, partial(self._inner.open_stage, timeout_s=timeout_s), timeout_s=timeout_s)

    async def read_body(self, key: bytes, body_id: int, offset: int, count: int, *, timeout_s: float) -> AsyncIterator[bytes]:
        await self._seam.call(OP_READ_BODY, lambda: None, timeout_s=timeout_s)
        async for piece in self._inner.read_body(key, body_id, offset, count, timeout_s=timeout_s):
            yield piece


class FaultyRowClient:
    """A `RowClient` around one of this process."""

    def __init__(self, inner: RowClient, faults: FaultRules) -> None:
        self.device_id, self.peer_id, self.is_local = inner.device_id, inner.peer_id, inner.is_local
        self._inner, self._seam = inner, Seam(faults, inner.device_id)

    def put_rows(self, key: bytes, path: str, rows: Sequence[Row], *, held_by: str | None,
                 timeout_s: float) -> asyncio.Future[None]:
        return self._seam.call(OP_PUT_ROWS, partial(self._inner.put_rows, key, path, rows, held_by=held_by, timeout_s=timeout_s),
                               timeout_s=timeout_s)

    async def page(self, key: bytes, page: PageRequest, *, instance: int, peer: str | None, timeout_s: float) -> PageAnswer:
        run = partial(self._inner.page, key, page, instance=instance, peer=peer, timeout_s=timeout_s)
        return await self._seam.ask(OP_PAGE, run, timeout_s=timeout_s)

    async def unconfirmed(self, key: bytes, page: PageRequest, *, peer: str, limit: int, timeout_s: float) -> list[Row]:
        run = partial(self._inner.unconfirmed, key, page, peer=peer, limit=limit, timeout_s=timeout_s)
        return await self._seam.ask(OP_UNCONFIRMED, run, timeout_s=timeout_s)

    async def live_rows(self, key: bytes, *, instance: int, ballot: Stamp, after: str, limit: int,
                        timeout_s: float) -> list[Row]:
        run = partial(self._inner.live_rows, key, instance=instance, ballot=ballot, after=after, limit=limit, timeout_s=timeout_s)
        return await self._seam.ask(OP_LIVE_ROWS, run, timeout_s=timeout_s)

    async def rows_of(self, key: bytes, names: Sequence[str], *, timeout_s: float) -> list[Row]:
        return await self._seam.ask(OP_ROWS_OF, partial(self._inner.rows_of, key, names, timeout_s=timeout_s), timeout_s=timeout_s)

    async def figures(self, key: bytes, *, timeout_s: float) -> Figures:
        return await self._seam.ask(OP_FIGURES, partial(self._inner.figures, key, timeout_s=timeout_s), timeout_s=timeout_s)

    def confirm(self, key: bytes, peer: str, rows: Sequence[tuple[str, bytes]]) -> None:
        self._seam.tell(OP_CONFIRM, partial(self._inner.confirm, key, peer, rows))
