"""Figures of containers reach every replica of their account, also one that was away, and also at the end."""
from __future__ import annotations

import asyncio
from types import SimpleNamespace

from common.clock import SystemClock
from common.errors import DeviceUnavailable
from container.broker import Broker
from container.store import Applied
from container.wire import Figures
from node.stats import StatsReporter


class Database:
    def __init__(self):
        self.is_away, self.rows = False, {}

    async def put_rows(self, key, path, rows, *, held_by, timeout_s):
        if self.is_away:
            raise DeviceUnavailable(device=1, reason="away")
        self.rows |= {row.name: row.object_count for row in rows}


def make():
    databases = [Database() for _ in range(3)]
    place = SimpleNamespace(key=b"k", path="/a", clients=databases)
    return databases, StatsReporter(SimpleNamespace(account=lambda name: (None, place)), SystemClock())


def applied(count):
    return Applied("/a/c", 1, Figures(count, count, 0), count)


async def test_a_replica_that_was_away_hears_of_it_in_the_next_pass(monkeypatch):
    monkeypatch.setattr("node.stats.PASS_S", 0.0)
    databases, reporter = make()
    databases[1].is_away = True
    reporter.start()
    reporter.note(applied(5))
    for _ in range(20):
        await asyncio.sleep(0)
    assert [database.rows for database in databases] == [{"c": 5}, {}, {"c": 5}]
    databases[1].is_away = False
    for _ in range(20):
        await asyncio.sleep(0)
    assert databases[1].rows == {"c": 5}
    await reporter.close()


async def test_newer_figures_replace_those_that_could_not_be_delivered(monkeypatch):
    databases, reporter = make()
    databases[0].is_away = True
    reporter.note(applied(5))
    await reporter._report()
    reporter.note(applied(7))
    databases[0].is_away = False
    await reporter._report()
    assert [database.rows for database in databases] == [{"c": 7}] * 3


async def test_what_was_not_reported_yet_is_reported_at_the_end():
    databases, reporter = make()
    reporter.start()
    reporter.note(applied(3))
    await reporter.close()
    assert [database.rows for database in databases] == [{"c": 3}] * 3


def test_a_database_that_is_opened_to_read_knows_its_name(tmp_path):
    Broker(str(tmp_path / "x.db"), "/a/c", []).close()
    broker = Broker(str(tmp_path / "x.db"), "", [])
    assert broker.name == "/a/c" and broker._is_container
    broker.close()
