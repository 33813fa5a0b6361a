"""Rows over the replicas of a database: delivery to a quorum, and listings that no later listing contradicts.

A listing asks one replica for the page and a second for what the first may not hold in its range, and the other way
round; each stores what it lacked before the answer. Source of the rules: docs/ARCHITECTURE.md, "Listing".
Budget of a page when all is well: two calls in parallel, one scan.
"""
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from common.errors import DeadInstance, PromiseOutstanding, QuorumNotMet, StorageError
from container.client import RowClient
from container.wire import UNCONFIRMED_ROWS, PageAnswer, PageRequest, Row
from proxy.cluster import RowPlace

EXCHANGES_MAX = 50                       # rounds of one listing in which replicas still lack rows of each other
SETTLE_PAUSE_S = 0.02


async def deliver(place: RowPlace, rows: Sequence[Row], *, deadline_s: float,
                  settle: Callable[[], Awaitable[None]] | None) -> None:
    """Rows to a quorum of the replicas, durably. settle: ends a change of the container that holds the rows up.

    Raises `DeadInstance`, `QuorumNotMet`.
    """
    loop = asyncio.get_running_loop()
    while True:
        answers = await _gather_quorum(place, rows, deadline_s)
        stored = [client for client, error in answers.items() if error is None]
        if len(stored) >= place.quorum:
            _confirm(place, rows, stored)
            return
        errors = [error for error in answers.values() if error is not None]
        for error in errors:
            if isinstance(error, DeadInstance):
                raise error
        is_held_up = any(isinstance(error, PromiseOutstanding) for error in errors)
        if not is_held_up or settle is None or loop.time() + SETTLE_PAUSE_S >= deadline_s:
            raise QuorumNotMet(needed=place.quorum, what="listing",
                               answers={str(c.device_id): e.code for c, e in answers.items() if e is not None})
        await settle()


async def _gather_quorum(place: RowPlace, rows: Sequence[Row], deadline_s: float) -> dict[RowClient, StorageError | None]:
    """Answers until a quorum has stored the rows or all have answered; the others go on in the background."""
    loop = asyncio.get_running_loop()
    answers: dict[RowClient, StorageError | None] = {}
    timeout_s = max(deadline_s - loop.time(), 0.001)
    tasks = {loop.create_task(client.put_rows(place.key, place.path, rows, held_by=None, timeout_s=timeout_s)): client
             for client in place.clients}
    pending = set(tasks)
    while pending and sum(error is None for error in answers.values()) < place.quorum:
        finished, pending = await asyncio.wait(pending, timeout=max(deadline_s - loop.time(), 0),
                                               return_when=asyncio.FIRST_COMPLETED)
        if not finished:
            break
        for task in finished:
            answers[tasks[task]] = _error_of(task)
        if any(isinstance(error, DeadInstance) for error in answers.values()):
            break
    for task in pending:
        late = tasks[task]
        task.add_done_callback(lambda t, client=late: _late(t, client, place, rows, answers))  # type: ignore[misc]
        answers.setdefault(late, QuorumNotMet(reason="no answer in time"))
    return answers


def _late(task: asyncio.Task[None], client: RowClient, place: RowPlace, rows: Sequence[Row],
          answers: dict[RowClient, StorageError | None]) -> None:
    """The third replica has stored the rows too: the others may know."""
    if task.cancelled() or _error_of(task) is not None:
        return
    answers[client] = None
    _confirm(place, rows, [c for c, error in answers.items() if error is None])


def _error_of(task: asyncio.Task[None]) -> StorageError | None:
    error = task.exception()
    if error is None or isinstance(error, StorageError):
        return error
    raise error


def _confirm(place: RowPlace, rows: Sequence[Row], stored: Sequence[RowClient]) -> None:
    """Tell each who else holds the rows."""
    names = [(row.name, row.stamp.pack()) for row in rows]
    for client in stored:
        for other in stored:
            if other is not client:
                client.confirm(place.key, other.peer_id, names)


async def list_rows(place: RowPlace, page: PageRequest, *, instance: int, deadline_s: float) -> PageAnswer:
    """One page and the figures, agreed on by two replicas. Raises `QuorumNotMet`."""
    errors: dict[str, str] = {}
    pairs: list[tuple[RowClient, RowClient | None]] = [
        (a, b) for i, a in enumerate(place.clients) for b in place.clients[i + 1:]]
    for first, second in pairs or [(place.clients[0], None)]:
        if str(first.device_id) in errors or (second is not None and str(second.device_id) in errors):
            continue
        try:
            if second is None:
                return await first.page(place.key, page, instance=instance, peer=None, timeout_s=_left(deadline_s))
            return await _agreed_page(place, page, first, second, instance, deadline_s, errors)
        except StorageError as error:
            errors.setdefault(str(first.device_id) if second is None else "pair", error.code)
    raise QuorumNotMet(needed=place.quorum, what="listing", answers=errors)


async def _agreed_page(place: RowPlace, page: PageRequest, first: RowClient, second: RowClient, instance: int,
                       deadline_s: float, errors: dict[str, str]) -> PageAnswer:
    limit = max(page.limit, UNCONFIRMED_ROWS)
    for _ in range(EXCHANGES_MAX):
        timeout_s = _left(deadline_s)
        asked = (first.page(place.key, page, instance=instance, peer=second.peer_id, timeout_s=timeout_s),
                 second.unconfirmed(place.key, page, peer=first.peer_id, limit=limit, timeout_s=timeout_s))
        answer, lacking = await asyncio.gather(*asked, return_exceptions=True)
        for client, result in ((first, answer), (second, lacking)):
            if isinstance(result, StorageError):
                errors[str(client.device_id)] = result.code
                raise result
            if isinstance(result, BaseException):
                raise result
        assert isinstance(answer, PageAnswer) and isinstance(lacking, list)
        if not answer.unconfirmed and not lacking:
            return answer
        await asyncio.gather(_give(place, answer.unconfirmed, first, second, deadline_s),
                             _give(place, lacking, second, first, deadline_s))
        if not lacking and len(answer.unconfirmed) < limit:
            return answer                # the second has stored all that this page shows; the page itself stands
    raise QuorumNotMet(needed=place.quorum, what="listing", reason="the replicas lack too many rows of each other")


async def _give(place: RowPlace, rows: list[Row], giver: RowClient, taker: RowClient, deadline_s: float) -> None:
    """Store in `taker` what `giver` holds; afterwards the giver knows it."""
    if rows:
        await taker.put_rows(place.key, place.path, rows, held_by=giver.peer_id, timeout_s=_left(deadline_s))
        giver.confirm(place.key, taker.peer_id, [(row.name, row.stamp.pack()) for row in rows])


def _left(deadline_s: float) -> float:
    return max(deadline_s - asyncio.get_running_loop().time(), 0.001)
