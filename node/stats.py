"""Figures of containers on their way to their accounts: at most once a second per container, from every replica.

Figures carry the newest row they count, so that a replica that lags does not overwrite one that does not.
"""
from __future__ import annotations

import asyncio
import contextlib

from common.clock import Clock
from common.errors import StorageError
from common.log import Repeats, get_logger
from common.timestamp import ZERO
from container.client import RowClient
from container.store import Applied
from container.wire import Row
from proxy.cluster import Cluster, RowPlace

log = get_logger("node.stats")
PASS_S = 1.0
TIMEOUT_S, CLOSE_S = 10.0, 0.1      # at the end the others may have gone already


class StatsReporter:
    """One per worker, fed by its container databases."""

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self._cluster, self._clock = cluster, clock
        self._changed: dict[str, Applied] = {}           # by path of the container
        self._has_news = asyncio.Event()
        self._repeats = Repeats(log)
        self._task: asyncio.Task[None] | None = None

    def note(self, applied: Applied) -> None:
        """A database has new rows."""
        if applied.path.count("/") != 2:
            return                       # a database of which nobody knows whose it is
        before = self._changed.get(applied.path)
        if before is None or before.newest_us <= applied.newest_us:
            self._changed[applied.path] = applied
        self._has_news.set()

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="container figures")

    async def close(self) -> None:
        """Report what there is, once and quickly; what fails is reported with the next change."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._report()

    async def _run(self) -> None:
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            await asyncio.sleep(PASS_S)
            await self._report()

    async def _report(self) -> None:
        changed, self._changed = self._changed, {}
        by_account: dict[str, list[Row]] = {}
        for path, applied in changed.items():
            _, account, container = path.split("/", 2)
            figures = applied.figures
            by_account.setdefault(account, []).append(
                Row(container, "", ZERO, True, applied.instance, figures.size_bytes, figures.row_count,
                    stat_us=applied.newest_us))
        for account, rows in by_account.items():
            _, place = self._cluster.account(account)
            heard = await asyncio.gather(*(self._send(client, place, rows) for client in place.clients))
            if not all(heard):           # a replica that is away would show old figures until the next change
                for row in rows:
                    self.note(changed[f"{place.path}/{row.name}"])

    async def _send(self, client: RowClient, place: RowPlace, rows: list[Row]) -> bool:
        try:
            await client.put_rows(place.key, place.path, rows, held_by=None, timeout_s=TIMEOUT_S)
        except StorageError as error:
            self._repeats.warning("figures not delivered yet", about=place.path, reason=str(error))
            return False
        return True
