"""Transactions, quotas and lists over a database in a file."""
from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, insert, select
from sqlalchemy.exc import DBAPIError, OperationalError

from common.errors import BadRequest, Overloaded
from control.db import Database, after_commit, ensure_row
from control.errors import BadReference, Duplicate, QuotaExceeded
from control.listing import Listing, list_rows, parse_boolean
from control.quota import Quotas

METADATA = MetaData()
THING = Table("thing", METADATA, Column("id", String(36), primary_key=True), Column("name", String(50), nullable=False,
                                                                                    unique=True),
              Column("size", Integer, nullable=False, default=0))
PART = Table("part", METADATA, Column("id", String(36), primary_key=True), Column("thing_id", ForeignKey("thing.id"),
                                                                                  nullable=False))
QUOTAS = Quotas(METADATA, {"volumes": 10, "gigabytes": -1})


@pytest.fixture
def database(database_url):
    """On SQLite, then on PostgreSQL."""
    made = Database(database_url)
    METADATA.create_all(made.engine)
    yield made
    made.close()


def add(connection, row_id, name=None, size=0):
    connection.execute(insert(THING).values(id=row_id, name=name or row_id, size=size))


def names(connection):
    return [row.name for row in connection.execute(select(THING).order_by(THING.c.name))]


async def test_a_transaction_that_fails_leaves_nothing_and_calls_nobody(database):
    called = []

    def fail(connection):
        add(connection, "a")
        after_commit(connection, lambda: called.append(1))
        raise BadRequest(reason="no")

    with pytest.raises(BadRequest):
        await database.run(fail)
    assert await database.read(names) == [] and called == []


async def test_what_waits_for_the_commit_is_called_once_in_the_loop(database):
    called = []

    def work(connection):
        add(connection, "a")
        after_commit(connection, lambda: called.append(threading.current_thread()))

    await database.run(work)
    await database.run(lambda connection: add(connection, "b"))
    assert called == [threading.main_thread()]


async def test_broken_promises_of_tables_are_errors_of_ours(database):
    await database.run(add, "a")
    with pytest.raises(Duplicate):
        await database.run(add, "b", "a")
    with pytest.raises(BadReference):
        await database.run(lambda connection: connection.execute(insert(PART).values(id="p", thing_id="nothing")))


async def test_a_read_cannot_write(database):
    with pytest.raises(DBAPIError):
        await database.read(add, "a")
    assert await database.read(names) == []


async def test_a_read_beside_a_writer_sees_whole_transactions(database):
    begun, go_on = threading.Event(), threading.Event()

    def slow(connection):
        add(connection, "a")
        begun.set()
        assert go_on.wait(10)
        add(connection, "b")

    writing = asyncio.create_task(database.run(slow))
    await asyncio.to_thread(begun.wait, 10)
    assert await database.read(names) == []
    go_on.set()
    await writing
    assert await database.read(names) == ["a", "b"]


async def test_a_cancelled_caller_does_not_tear_a_transaction(database):
    begun, go_on = threading.Event(), threading.Event()

    def slow(connection):
        begun.set()
        assert go_on.wait(10)
        add(connection, "a")

    task = asyncio.create_task(database.run(slow))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await database.run(lambda connection: None)
    assert await database.read(names) == ["a"]


async def test_too_many_that_wait_are_told_to_come_back(database):
    database._waiting = 10_000
    with pytest.raises(Overloaded):
        await database.read(names)


async def test_a_serialization_failure_is_tried_again_and_another_one_is_not(database):
    class Conflict(Exception):
        sqlstate = "40001"

    tries = []

    def unlucky(connection):
        tries.append(1)
        if len(tries) < 3:
            raise OperationalError("x", {}, Conflict())
        return "done"

    assert await database.run(unlucky) == "done" and len(tries) == 3

    def broken(connection):
        tries.append(1)
        raise OperationalError("x", {}, Exception("disk"))

    tries.clear()
    with pytest.raises(OperationalError):
        await database.run(broken)
    assert len(tries) == 1


async def test_ensure_row_makes_one_row_whoever_asks(database):
    made = await asyncio.gather(*(database.run(ensure_row, THING, {"id": "x"}, {"name": "x", "size": n}) for n in range(5)))
    assert sorted(made) == [False] * 4 + [True]


# quotas

async def test_takers_at_once_get_as_many_as_fit(database):
    answers = await asyncio.gather(*(database.run(QUOTAS.take, "p", {"volumes": 3}) for _ in range(5)), return_exceptions=True)
    refused = [answer for answer in answers if answer is not None]
    assert len(refused) == 2 and all(isinstance(error, QuotaExceeded) for error in refused)
    assert (await database.read(QUOTAS.used, "p"))["volumes"] == 9
    assert refused[0].fields["limit"] == 10 and refused[0].fields["used"] == 9


async def test_a_create_that_fails_gives_back_what_it_took(database):
    def create(connection):
        QUOTAS.take(connection, "p", {"volumes": 1, "gigabytes": 100})
        raise BadRequest(reason="no such image")

    with pytest.raises(BadRequest):
        await database.run(create)
    assert await database.read(QUOTAS.used, "p") == {"volumes": 0, "gigabytes": 0}


async def test_one_resource_above_its_limit_takes_none(database):
    with pytest.raises(QuotaExceeded):
        await database.run(QUOTAS.take, "p", {"gigabytes": 5, "volumes": 11})
    assert await database.read(QUOTAS.used, "p") == {"volumes": 0, "gigabytes": 0}


async def test_limits_are_per_project_and_can_be_reset_and_none_is_no_limit(database):
    await database.run(QUOTAS.set_limits, "p", {"volumes": 0})
    with pytest.raises(QuotaExceeded):
        await database.run(QUOTAS.take, "p", {"volumes": 1})
    await database.run(QUOTAS.take, "q", {"volumes": 10, "gigabytes": 10**9})
    await database.run(QUOTAS.set_limits, "p", {"volumes": -1})
    await database.run(QUOTAS.take, "p", {"volumes": 500})
    await database.run(QUOTAS.reset_limits, "p")
    assert (await database.read(QUOTAS.limits, "p"))["volumes"] == 10
    await database.run(QUOTAS.give_back, "p", {"volumes": 900})
    assert (await database.read(QUOTAS.used, "p"))["volumes"] == 0


async def test_a_recount_corrects_what_is_booked_and_says_so(database):
    await database.run(QUOTAS.take, "p", {"volumes": 5})
    assert await database.run(QUOTAS.recount, "volumes", {"p": 2, "q": 1}) == {"p": (5, 2), "q": (0, 1)}
    assert await database.run(QUOTAS.recount, "volumes", {"p": 2, "q": 1}) == {}


# lists

LISTING = Listing(key=THING.c.id, filters={"name": THING.c.name, "size": THING.c.size},
                  sorts={"size": THING.c.size, "name": THING.c.name})


@pytest.mark.parametrize("is_descending", [False, True])
async def test_pages_by_a_key_that_many_share_lose_and_repeat_nothing(database, is_descending):
    def fill(connection):
        for number in range(23):
            add(connection, f"{number:02}", size=number % 3)

    await database.run(fill)
    seen, marker = [], None
    direction = "desc" if is_descending else "asc"
    while True:
        query = [("sort_key", "size"), ("sort_dir", direction), ("limit", "4"), *([("marker", marker)] if marker else [])]
        rows, marker = await database.read(list_rows, select(THING), LISTING, query)
        seen += [(row.size, row.id) for row in rows]
        if marker is None:
            break
    assert seen == sorted(((n % 3, f"{n:02}") for n in range(23)), reverse=is_descending)


async def test_in_filters_and_markers_that_are_gone(database):
    await database.run(lambda connection: [add(connection, one) for one in "abc"])
    rows, _ = await database.read(list_rows, select(THING), LISTING, [("name", "in:a,c,x")])
    assert [row.id for row in rows] == ["a", "c"]
    with pytest.raises(BadRequest):
        await database.read(list_rows, select(THING), LISTING, [("sort_key", "size"), ("marker", "gone")])


@pytest.mark.parametrize(("text", "value"), [("True", True), ("1", True), ("yes", True), ("False", False), ("0", False),
                                             ("OFF", False)])
def test_booleans_are_read_as_clients_write_them(text, value):
    assert parse_boolean(text, "x") is value
    with pytest.raises(BadRequest):
        parse_boolean("maybe", "x")
