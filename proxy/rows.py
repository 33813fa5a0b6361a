"""Rows over the replicas of a database: delivery to a quorum, and listings that no later listing contradicts.

A listing asks a second replica for what the first may not hold in the page's range, then the first for the page and what
the second may not hold of it; each stores what it lacked before the answer. Source of the rules: docs/ARCHITECTURE.md, "Listing".
Budget of a page when all is well: two calls, one after the other, one scan.
"""
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from common.errors import DeadInstance, DeadlineExceeded, PromiseOutstanding, QuorumNotMet, StorageError
from container.client import RowClient
from container.wire import UNCONFIRMED_ROWS, ListEntry, PageAnswer, PageRequest, Row
from proxy.cluster import RowPlace
from proxy.witness import Witness, explain

T = TypeVar("T")
EXCHANGES_MAX = 50                       # rounds of one listing in which replicas still lack rows of each other
SETTLE_PAUSE_S = 0.02
LAG_S = 0.3                              # how long a listing waits before it asks another pair of replicas
STEP_NAMES = 1000
GATHERED_ROWS_MAX = 256                  # in one message


async def deliver(place: RowPlace, rows: Sequence[Row], *, deadline_s: float,
                  settle: Callable[[], Awaitable[None]] | None) -> None:
    """Rows to a quorum of the replicas, durably.

    settle: ends a change of the container that holds the rows up, and raises `DeadInstance` if they have no container then.
    One replica's word for that is not enough: it may have taken a deletion that never came about.
    Raises `DeadInstance`, `QuorumNotMet`.
    """
    loop = asyncio.get_running_loop()
    is_checked = False
    while True:
        delivery = _Delivery(place, rows, deadline_s, is_death_news=not is_checked)
        await delivery.wait()
        if len(delivery.stored) >= place.quorum:
            return
        is_held_up = any(isinstance(error, (PromiseOutstanding, DeadInstance)) for error in delivery.errors.values())
        if not is_held_up or settle is None or loop.time() + SETTLE_PAUSE_S >= deadline_s:
            raise delivery.explain(QuorumNotMet(needed=place.quorum, what="listing",
                                                answers={str(c.device_id): e.code for c, e in delivery.errors.items()}))
        if is_checked:
            await asyncio.sleep(SETTLE_PAUSE_S)
        await settle()
        is_checked = True


class Deliveries:
    """Rows of one turn of the loop for one database travel together: one message, one record, one answer per replica.

    A group commit ends many writes at once, so in a busy container a batch is many rows. When a batch does not reach its
    quorum, or a promise or a deletion stands against it, each write goes on by itself with `deliver`.
    """

    def __init__(self) -> None:
        self._gathering: dict[bytes, _Gathered] = {}

    async def deliver(self, place: RowPlace, row: Row, *, deadline_s: float, settle: Callable[[], Awaitable[None]]) -> None:
        """As the function `deliver`, of one row."""
        loop = asyncio.get_running_loop()
        gathered = self._gathering.get(place.key)
        if gathered is None or len(gathered.rows) >= GATHERED_ROWS_MAX:
            gathered = self._gathering[place.key] = _Gathered(place)
            loop.call_soon(self._send, gathered)
        is_stored = gathered.add(row, deadline_s, loop.create_future())
        if not await is_stored:
            await deliver(place, [row], deadline_s=deadline_s, settle=settle)

    def _send(self, gathered: _Gathered) -> None:
        if self._gathering.get(gathered.place.key) is gathered:
            del self._gathering[gathered.place.key]
        gathered.send()


class _Gathered:
    """Rows that leave together, and who waits for them."""

    __slots__ = ("_deadline_s", "_waiting", "place", "rows")

    def __init__(self, place: RowPlace) -> None:
        self.place = place
        self.rows: list[Row] = []
        self._waiting: list[asyncio.Future[bool]] = []
        self._deadline_s = float("inf")

    def add(self, row: Row, deadline_s: float, is_stored: asyncio.Future[bool]) -> asyncio.Future[bool]:
        self.rows.append(row)
        self._waiting.append(is_stored)
        self._deadline_s = min(self._deadline_s, deadline_s)
        return is_stored

    def send(self) -> None:
        delivery = _Delivery(self.place, self.rows, self._deadline_s, is_death_news=True)
        delivery.enough.add_done_callback(partial(self._end, delivery))
        delivery.limit()

    def _end(self, delivery: _Delivery, _: asyncio.Future[None]) -> None:
        delivery.close()
        is_stored = len(delivery.stored) >= self.place.quorum
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(is_stored)


class _Delivery:
    """The answers of all replicas to one set of rows; enough when a quorum has stored them or one says that they are dead."""

    def __init__(self, place: RowPlace, rows: Sequence[Row], deadline_s: float, *, is_death_news: bool) -> None:
        loop = asyncio.get_running_loop()
        self._place, self._rows, self._deadline_s, self._is_death_news = place, rows, deadline_s, is_death_news
        self._began_s = loop.time()
        self._witness: Witness | None = None
        self.errors: dict[RowClient, StorageError] = {}
        self.stored: list[RowClient] = []
        self.enough: asyncio.Future[None] = loop.create_future()
        self._deadline: asyncio.TimerHandle | None = None
        timeout_s = max(deadline_s - loop.time(), 0.001)
        for client in place.clients:
            try:
                future = client.put_rows(place.key, place.path, rows, held_by=None, timeout_s=timeout_s)
            except StorageError as error:
                self._note(client, error)
                continue
            future.add_done_callback(partial(self._on_answer, client))

    def _on_answer(self, client: RowClient, future: asyncio.Future[None]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if error is not None and not isinstance(error, StorageError):
            error = StorageError(reason=repr(error))
        self._note(client, error)

    def _note(self, client: RowClient, error: StorageError | None) -> None:
        if error is not None:
            self.errors[client] = error
            self._tell(client, error)
        else:
            self.stored.append(client)
        answered = len(self.stored) + len(self.errors)
        if answered == len(self._place.clients):                 # once, when there is nothing more to tell
            _confirm(self._place, self._rows, self.stored)
        if not self.enough.done() and (len(self.stored) >= self._place.quorum or answered == len(self._place.clients)
                                        or (self._is_death_news and isinstance(error, DeadInstance))):
            self.enough.set_result(None)

    def _tell(self, client: RowClient, error: StorageError) -> None:
        if self._witness is None:
            self._witness = Witness()
        self._witness.note(client.device_id, "row", error, (asyncio.get_running_loop().time() - self._began_s) * 1e3)

    def explain(self, error: QuorumNotMet) -> QuorumNotMet:
        """The error, with what each database said, or that it said nothing."""
        for client in self._place.clients:
            if client not in self.errors and client not in self.stored:
                self._tell(client, DeadlineExceeded(what="answer of a replica"))
        return explain(error, "quorum.rows", self._witness, path=self._place.path, needed=self._place.quorum,
                       replicas=len(self._place.clients), answered=sorted(client.device_id for client in self.stored))

    async def wait(self) -> None:
        """Until it is enough, or the deadline has passed."""
        self.limit()
        try:
            await self.enough
        finally:
            self.close()

    def limit(self) -> None:
        """End at the deadline."""
        self._deadline = asyncio.get_running_loop().call_at(self._deadline_s, self._give_up)

    def close(self) -> None:
        """The deadline means nothing any more."""
        if self._deadline is not None:
            self._deadline.cancel()

    def _give_up(self) -> None:
        if not self.enough.done():
            self.enough.set_result(None)


def _confirm(place: RowPlace, rows: Sequence[Row], stored: Sequence[RowClient]) -> None:
    """Tell each who else holds the rows."""
    names = [(row.name, row.stamp.pack()) for row in rows]
    for client in stored:
        for other in stored:
            if other is not client:
                client.confirm(place.key, other.peer_id, names)


async def list_rows(place: RowPlace, page: PageRequest, *, instance: int, deadline_s: float,
                    settle: Callable[[], Awaitable[None]] | None = None) -> PageAnswer:
    """A page of any length and the figures, agreed on by two replicas.

    settle: ends a change of the container that holds up what the replicas lack of each other. Raises `QuorumNotMet`.
    """
    entries: list[ListEntry | str] = []
    while True:                          # in steps that fit into a frame and do not hold up the loop
        step = page._replace(limit=min(page.limit - len(entries), STEP_NAMES))
        answer = await _list_step(place, step, instance=instance, deadline_s=deadline_s, settle=settle)
        entries.extend(answer.entries)
        if len(answer.entries) < step.limit or len(entries) >= page.limit:
            return answer._replace(entries=entries)
        last = answer.entries[-1]
        page = page._replace(marker=last if isinstance(last, str) else last[0])


async def _list_step(place: RowPlace, page: PageRequest, *, instance: int, deadline_s: float,
                     settle: Callable[[], Awaitable[None]] | None) -> PageAnswer:
    """One step; another pair of replicas is asked when one fails or is slow."""
    if len(place.clients) == 1:
        return await place.clients[0].page(place.key, page, instance=instance, peer=None, timeout_s=_left(deadline_s))
    errors: dict[str, str] = {}
    witness = Witness()
    pairs = [(a, b) for i, a in enumerate(place.clients) for b in place.clients[i + 1:]]
    listings: set[asyncio.Task[PageAnswer]] = set()
    try:
        while pairs or listings:
            if pairs:
                first, second = pairs.pop(0)
                if str(first.device_id) in errors or str(second.device_id) in errors:
                    continue
                listings.add(asyncio.create_task(_agreed_page(place, page, first, second, instance, deadline_s,
                                                                  _Noted(errors, witness), settle)))
            patience_s = min(LAG_S, _left(deadline_s)) if pairs else _left(deadline_s) + LAG_S
            finished, listings = await asyncio.wait(listings, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                error = task.exception()
                if error is None:
                    return task.result()
                if not isinstance(error, StorageError):
                    raise error
                errors.setdefault("pair", error.code)
    finally:
        for task in listings:
            task.cancel()
    raise explain(QuorumNotMet(needed=place.quorum, what="listing", answers=errors), "quorum.page", witness, path=place.path,
                  needed=2, replicas=len(place.clients))


async def _agreed_page(place: RowPlace, page: PageRequest, first: RowClient, second: RowClient, instance: int,
                       deadline_s: float, noted: _Noted,
                       settle: Callable[[], Awaitable[None]] | None) -> PageAnswer:
    """The second is asked before the first: what it then knows the first to hold is in the page.

    The other way round, or at once, a row could reach the first behind its page and be confirmed ahead of the question.
    """
    limit = max(page.limit, UNCONFIRMED_ROWS)
    for _ in range(EXCHANGES_MAX):
        lacking = await noted.ask(second, second.unconfirmed(place.key, page, peer=first.peer_id, limit=limit,
                                                             timeout_s=_left(deadline_s)))
        await _give(place, lacking, second, first, deadline_s, settle)
        if len(lacking) >= limit:
            continue                     # there may be more
        answer = await noted.ask(first, first.page(place.key, page, instance=instance, peer=second.peer_id,
                                                   timeout_s=_left(deadline_s)))
        await _give(place, answer.unconfirmed, first, second, deadline_s, settle)
        if len(answer.unconfirmed) < limit:
            return answer                # the second has stored all that this page shows
    raise QuorumNotMet(needed=place.quorum, what="listing", reason="the replicas lack too many rows of each other")


class _Noted(NamedTuple):
    """Where one listing notes what its replicas answered instead of what they were asked for."""

    errors: dict[str, str]
    witness: Witness

    async def ask(self, client: RowClient, call: Awaitable[T]) -> T:
        """The answer; an error is noted as this replica's."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            return await call
        except StorageError as error:
            self.errors[str(client.device_id)] = error.code
            self.witness.note(client.device_id, "page", error, (loop.time() - began_s) * 1e3)
            raise


async def _give(place: RowPlace, rows: list[Row], giver: RowClient, taker: RowClient, deadline_s: float,
                settle: Callable[[], Awaitable[None]] | None) -> None:
    """Store in `taker` what `giver` holds; afterwards the giver knows it."""
    if not rows:
        return
    try:
        await taker.put_rows(place.key, place.path, rows, held_by=giver.peer_id, timeout_s=_left(deadline_s))
    except PromiseOutstanding:
        if settle is None:
            raise
        await settle()                   # whoever asked for the promise has died
        await taker.put_rows(place.key, place.path, rows, held_by=giver.peer_id, timeout_s=_left(deadline_s))
    giver.confirm(place.key, taker.peer_id, [(row.name, row.stamp.pack()) for row in rows])


def _left(deadline_s: float) -> float:
    return max(deadline_s - asyncio.get_running_loop().time(), 0.001)
