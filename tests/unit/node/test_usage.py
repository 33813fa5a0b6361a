"""What was counted is written down, summed up over runs and workers, once, for as long as it is kept."""
import asyncio
import json
import os

import pytest

from common.clock import ManualClock
from common.errors import BadRequest, QuorumNotMet
from node import usage as usage_module
from node.usage import RETENTION_DAYS, UsageKeeper, encode_usage, parse_days, read_usage, tidy
from proxy.http.message import Body, Headers, Request
from proxy.usage import Figures, UsageCounter

DAY_US = 86_400_000_000
NOON_US = 1_795_132_800_000_000 // DAY_US * DAY_US + DAY_US // 2
TODAY = usage_module.day_of(NOON_US)


def put(counter, account="AUTH_a", received=10, count=1):
    for _ in range(count):
        counter.note(Request(method="PUT", raw_path=f"/v1/{account}/c/o".encode(), raw_query=b"", headers=Headers([]),
                             body=Body(received, b"")), 201, 0)


class Run:
    """One worker's life."""

    def __init__(self, root, clock, worker=0, ask=None):
        async def nothing_known(account):
            raise QuorumNotMet(needed=2)

        self.counter = UsageCounter()
        self.keeper = UsageKeeper(root, worker, self.counter, clock, ask or nothing_known)


def totals(root, first=TODAY, last=TODAY):
    rows, problems = read_usage(root, first, last)
    assert problems == []
    return {(row.day, row.account): (row.writes, row.received_bytes) for row in rows}


async def test_the_sum_over_workers_and_restarts_is_what_was_counted(tmp_path):
    clock = ManualClock(NOON_US)
    for worker in (0, 1, 0):                     # the third is the first one, started again
        run = Run(tmp_path, clock, worker)
        put(run.counter, count=3)
        await run.keeper.flush()
        put(run.counter, count=2)
        await run.keeper.flush()
        await run.keeper.flush()
    assert totals(tmp_path) == {(TODAY, "AUTH_a"): (15, 150)}


async def test_what_was_not_flushed_is_lost_and_nothing_else(tmp_path):
    clock = ManualClock(NOON_US)
    run = Run(tmp_path, clock)
    put(run.counter, count=3)
    await run.keeper.flush()
    put(run.counter)                             # and then kill -9
    again = Run(tmp_path, clock)
    put(again.counter, count=2)
    await again.keeper.close()
    assert totals(tmp_path) == {(TODAY, "AUTH_a"): (5, 50)}


async def test_a_flush_without_news_writes_nothing(tmp_path):
    run = Run(tmp_path, ManualClock(NOON_US))
    await run.keeper.flush()
    assert not list(tmp_path.iterdir())
    put(run.counter)
    await run.keeper.flush()
    path, = (tmp_path / TODAY).iterdir()
    before = path.stat().st_ino
    await run.keeper.flush()
    assert path.stat().st_ino == before


async def test_each_day_has_what_was_counted_before_its_midnight(tmp_path):
    clock = ManualClock(NOON_US)
    run = Run(tmp_path, clock)
    put(run.counter, count=3)
    clock.advance(DAY_US)
    await run.keeper.flush()
    put(run.counter)
    await run.keeper.flush()
    tomorrow = usage_module.day_of(clock.now_us())
    assert totals(tmp_path, TODAY, tomorrow) == {(TODAY, "AUTH_a"): (3, 30), (tomorrow, "AUTH_a"): (1, 10)}


async def test_a_clock_that_is_set_back_loses_and_repeats_nothing(tmp_path):
    clock = ManualClock(NOON_US)
    run = Run(tmp_path, clock)
    put(run.counter, count=3)
    for shift in (DAY_US, -DAY_US):
        clock.advance(shift)
        await run.keeper.flush()
        put(run.counter)
    await run.keeper.flush()
    assert sum(writes for writes, _ in totals(tmp_path, "0001-01-01", "9999-12-31").values()) == 5


async def test_figures_are_asked_for_after_changes_and_the_newest_ones_stay(tmp_path):
    clock, asked = ManualClock(NOON_US), []

    async def ask(account):
        asked.append(account)
        return Figures(100 * len(asked), len(asked), 1, clock.now_us() + len(asked))

    run = Run(tmp_path, clock, ask=ask)
    put(run.counter)
    await run.keeper.flush(asks=True)
    await run.keeper.flush(asks=True)
    assert asked == ["AUTH_a"]
    put(run.counter)
    await run.keeper.flush(asks=True)
    (row,), _ = read_usage(tmp_path, TODAY, TODAY)
    assert (row.stored_bytes, row.objects, len(asked)) == (200, 2, 2)


async def test_figures_that_cannot_be_had_do_not_keep_counts_from_being_written(tmp_path):
    run = Run(tmp_path, ManualClock(NOON_US))
    put(run.counter)
    await run.keeper.flush(asks=True)
    (row,), _ = read_usage(tmp_path, TODAY, TODAY)
    assert row.writes == 1 and row.seen_us == 0


def write_day(root, day, name, **accounts):
    (root / day).mkdir(parents=True, exist_ok=True)
    (root / day / name).write_bytes(encode_usage(accounts))


ROW = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]


def test_a_day_without_figures_has_those_of_the_last_one_before(tmp_path):
    write_day(tmp_path, "2026-11-01", "w0-a.json", a=ROW)
    write_day(tmp_path, "2026-11-03", "w0-b.json", a=[1, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    (row,), _ = read_usage(tmp_path, "2026-11-03", "2026-11-03")
    assert (row.reads, row.stored_bytes, row.objects, row.containers) == (1, 7, 8, 9)


def test_merging_old_days_changes_no_sum_also_when_it_breaks_off(tmp_path, monkeypatch):
    for number in range(4):
        write_day(tmp_path, "2026-11-01", f"w{number}-a.json", a=ROW, b=ROW)
    before = read_usage(tmp_path, "2026-11-01", "2026-11-01")
    with monkeypatch.context() as broken:
        broken.setattr(usage_module.Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "power is gone")))
        with pytest.raises(OSError):
            tidy(tmp_path, "2026-11-20")
    assert read_usage(tmp_path, "2026-11-01", "2026-11-01") == before
    write_day(tmp_path, "2026-11-01", "w9-late.json", c=ROW)
    tidy(tmp_path, "2026-11-20")
    assert [path.name for path in (tmp_path / "2026-11-01").iterdir()] == ["merged.json"]
    rows, _ = read_usage(tmp_path, "2026-11-01", "2026-11-01")
    assert rows[:2] == before[0] and rows[2].account == "c"
    tidy(tmp_path, "2026-11-20")
    assert read_usage(tmp_path, "2026-11-01", "2026-11-01")[0] == rows


def test_days_that_may_still_be_written_are_not_merged(tmp_path):
    write_day(tmp_path, "2026-11-19", "w0-a.json", a=ROW)
    write_day(tmp_path, "2026-11-19", "w1-a.json", a=ROW)
    tidy(tmp_path, "2026-11-20")
    assert len(list((tmp_path / "2026-11-19").iterdir())) == 2


def test_days_are_kept_for_the_retention_and_nothing_else_is_removed(tmp_path):
    write_day(tmp_path, "2025-10-16", "w0-a.json", a=ROW)        # 400 days before
    write_day(tmp_path, "2025-10-15", "w0-a.json", a=ROW)
    write_day(tmp_path, "notes", "mine.json", a=ROW)
    tidy(tmp_path, "2026-11-20")
    assert sorted(os.listdir(tmp_path)) == ["2025-10-16", "notes"] and RETENTION_DAYS == 400


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"format": 2, "replaces": [], "accounts": {}}',
                                  b'{"format": 1, "replaces": [], "accounts": {"a": [1]}}',
                                  json.dumps({"format": 1, "replaces": [], "accounts": {"a": ["x"] * 10}}).encode()])
def test_a_file_that_cannot_be_read_is_named_and_stays(tmp_path, data):
    write_day(tmp_path, "2026-11-01", "w0-a.json", a=ROW)
    (tmp_path / "2026-11-01" / "w1-a.json").write_bytes(data)
    rows, problems = read_usage(tmp_path, "2026-11-01", "2026-11-01")
    assert [row.account for row in rows] == ["a"] and "w1-a.json" in problems[0]
    tidy(tmp_path, "2026-11-20")
    assert (tmp_path / "2026-11-01" / "w1-a.json").read_bytes() == data


async def test_a_disk_without_room_stops_no_worker_and_the_next_flush_has_it_all(tmp_path, monkeypatch):
    run = Run(tmp_path, ManualClock(NOON_US))
    put(run.counter)
    with monkeypatch.context() as full:
        full.setattr(usage_module, "write_private", lambda *_: (_ for _ in ()).throw(OSError(28, "no space")))
        await run.keeper.flush()
    put(run.counter)
    await run.keeper.flush()
    assert totals(tmp_path) == {(TODAY, "AUTH_a"): (2, 20)}


async def test_requests_that_come_while_a_flush_is_written_are_in_the_next_one(tmp_path):
    run = Run(tmp_path, ManualClock(NOON_US))
    put(run.counter)
    flushing = asyncio.create_task(run.keeper.flush())
    await asyncio.sleep(0)
    put(run.counter)
    await flushing
    await run.keeper.flush()
    assert totals(tmp_path) == {(TODAY, "AUTH_a"): (2, 20)}


def test_days_can_be_asked_for_in_every_usual_way():
    assert parse_days({}, TODAY) == (TODAY, TODAY)
    assert parse_days({"day": "2026-11-01"}, TODAY) == ("2026-11-01", "2026-11-01")
    assert parse_days({"from": "2026-11-01"}, "2026-11-20") == ("2026-11-01", "2026-11-20")
    assert parse_days({"from": "2026-11-01", "to": "2026-11-03"}, TODAY) == ("2026-11-01", "2026-11-03")


@pytest.mark.parametrize("query", [{"day": "yesterday"}, {"day": "2026-02-30"}, {"from": "../../etc"},
                                   {"from": "2026-11-03", "to": "2026-11-01"}])
def test_a_day_that_is_none_is_refused(query):
    with pytest.raises(BadRequest):
        parse_days(query, TODAY)
