"""Rows of one turn of the loop travel together; what does not get through together goes on alone."""
from __future__ import annotations

import asyncio
from functools import partial

import pytest

from common.errors import DeadInstance, DeviceUnavailable, PromiseOutstanding, QuorumNotMet
from common.timestamp import Stamp
from container.wire import Row
from proxy.cluster import RowPlace
from proxy.rows import GATHERED_ROWS_MAX, Deliveries


class Database:
    """Takes rows; `refuse(rows)` gives the error to answer with, or None."""

    def __init__(self, device_id, refuse=lambda rows: None):
        self.device_id, self.peer_id, self.is_local, self.refuse = device_id, f"d{device_id}", True, refuse
        self.batches, self.confirmed = [], set()

    def put_rows(self, key, path, rows, *, held_by, timeout_s):
        future = asyncio.get_running_loop().create_future()
        self.batches.append([row.name for row in rows])
        error = self.refuse(rows)
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
        return future

    def confirm(self, key, peer, rows):
        self.confirmed |= {(peer, name) for name, _ in rows}


def row(name):
    return Row(name, "", Stamp(1, 0, 0, 7), True, 1)


def place_of(*databases):
    return RowPlace(b"k", "/a/c", databases, 2)


async def deliver(deliveries, place, name, *, left_s=5.0, settle=None):
    async def nothing():
        pass

    await deliveries.deliver(place, row(name), deadline_s=asyncio.get_running_loop().time() + left_s, settle=settle or nothing)


async def test_rows_of_one_turn_are_one_message_per_replica_and_each_hears_who_else_holds_them():
    databases = [Database(n) for n in range(3)]
    deliveries, place = Deliveries(), place_of(*databases)
    names = [f"o{n}" for n in range(20)]
    await asyncio.gather(*(deliver(deliveries, place, name) for name in names))
    assert [database.batches for database in databases] == [[names]] * 3
    for database in databases:
        assert database.confirmed == {(other.peer_id, name) for other in databases if other is not database for name in names}


async def test_databases_do_not_mix_and_no_message_is_larger_than_its_bound():
    one, two = Database(1), Database(2)
    deliveries = Deliveries()
    first, second = RowPlace(b"1", "/a/1", (one,), 1), RowPlace(b"2", "/a/2", (two,), 1)
    count = GATHERED_ROWS_MAX + 10
    await asyncio.gather(*(deliver(deliveries, first, f"a{n}") for n in range(count)), deliver(deliveries, second, "b"))
    assert sorted(map(len, one.batches)) == [10, GATHERED_ROWS_MAX] and two.batches == [["b"]]


async def test_a_quorum_is_enough_for_a_batch():
    databases = [Database(1), Database(2), Database(3, lambda rows: DeviceUnavailable(device=3))]
    await asyncio.gather(*(deliver(Deliveries(), place_of(*databases), name) for name in "ab"))


@pytest.mark.parametrize("error", [partial(DeadInstance, instance=1), partial(PromiseOutstanding, what="container")])
async def test_a_row_that_holds_its_batch_up_holds_up_itself_alone(error):
    def refuse(rows):
        return error() if any(row.name == "bad" for row in rows) else None

    databases = [Database(n, refuse) for n in range(3)]
    deliveries, place, settled = Deliveries(), place_of(*databases), []

    async def settle():
        settled.append("bad")
        raise DeadInstance(instance=1)

    results = await asyncio.gather(*(deliver(deliveries, place, name, settle=settle if name == "bad" else None)
                                     for name in ("good", "bad", "fine")), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), DeadInstance, type(None)] and settled == ["bad"]
    assert all(["good"] in database.batches and ["fine"] in database.batches for database in databases)


async def test_too_few_replicas_are_an_error_for_each_row_and_it_says_who_failed():
    down = lambda rows: DeviceUnavailable(device=0)       # noqa: E731
    databases = [Database(1), Database(2, down), Database(3, down)]
    results = await asyncio.gather(*(deliver(Deliveries(), place_of(*databases), name) for name in "ab"), return_exceptions=True)
    assert [type(result) for result in results] == [QuorumNotMet] * 2
    assert results[0].fields["answers"] == {"2": "device_unavailable", "3": "device_unavailable"}


async def test_whoever_gives_up_waiting_takes_nobody_with_it():
    databases = [Database(n) for n in range(3)]
    deliveries, place = Deliveries(), place_of(*databases)
    leaving = asyncio.create_task(deliver(deliveries, place, "left"))
    staying = asyncio.create_task(deliver(deliveries, place, "stays"))
    await asyncio.sleep(0)
    leaving.cancel()
    await staying
    assert leaving.cancelled() and databases[0].batches == [["left", "stays"]]
