"""Listings when row messages are lost: no listing shows less than one before it, and what was left is delivered later."""
from __future__ import annotations

import asyncio
import random

import pytest

from common.errors import Conflict, NotFound, OutcomeUnknown, StorageError
from container.wire import OP_PUT_ROWS
from object import updater as updater_module
from object.wire import OP_ACCEPT, OP_DONE, SPACE_CONTAINER
from proxy.coordinator import Coordinator, Look
from proxy.model import MetaChange
from tests.fault.cluster.harness import ROW_OPS, delete, get, listing, put, running, until

DONE_OPS = frozenset({OP_DONE})
ROWS = frozenset({OP_PUT_ROWS})


@pytest.fixture
def soon(monkeypatch):
    """What is left is delivered after milliseconds."""
    for name in ("LEFT_S", "PASS_S", "RETRY_S"):
        monkeypatch.setattr(updater_module, name, 0.05)


def pending(cluster):
    return sum(cluster.status(index)["pending_updates"] for index in range(3))


async def no_entry_is_left(cluster):
    await until(lambda: pending(cluster) == 0, "every entry is settled")


async def list_by_pairs(cluster, store, worker):
    """The same listing answered by each pair of replicas in turn."""
    answers = []
    for hidden in (0, 1, 2):
        mend = cluster.harm(worker, hidden, ops=ROW_OPS)
        answers.append(await listing(store))
        mend()
    return answers


@pytest.mark.parametrize("deaf", [0, 1, 2])
async def test_rows_that_one_replica_missed_are_in_every_listing(tmp_path, deaf):
    async with running(tmp_path, gateways=2) as cluster:
        store, other = cluster.store(3), cluster.store(4)
        await put(store, "a", b"")
        mend = cluster.harm(3, deaf, ops=ROWS)
        await put(store, "b", b"")
        await put(store, "c", b"")
        await delete(store, "a")
        mend()
        assert await list_by_pairs(cluster, other, 4) == [["b", "c"]] * 3


async def test_what_one_listing_showed_every_later_one_shows(tmp_path):
    """A row that a single replica holds is of a write that nobody acknowledged: shown once, it is shown for ever."""
    async with running(tmp_path, gateways=2, request_timeout_s=1.0) as cluster:
        store, other = cluster.store(3), cluster.store(4)
        cluster.harm(3, 1, 2, ops=ROWS)
        writing = asyncio.create_task(put(store, "lonely", b"x"))
        place = cluster.store(0).cluster.container("a", "c")[0]
        rows = cluster.storages[0]._rows[0, SPACE_CONTAINER]

        async def is_there():
            return (await rows.figures(place.key)).row_count == 1
        await until(is_there, "one replica has the row")
        shown = False
        for seed in range(12):
            hidden = random.Random(seed).randrange(3)
            mend = cluster.harm(4, hidden, ops=ROW_OPS)
            names = await listing(other)
            mend()
            assert not (shown and not names), "a listing took back what one before it showed"
            shown = shown or bool(names)
        assert shown
        await asyncio.gather(writing, return_exceptions=True)


async def test_a_container_made_anew_is_listed_although_a_replica_lacks_old_rows(tmp_path):
    """Rows of the dead instance mean nothing any more, and hold up nobody."""
    async with running(tmp_path, gateways=2) as cluster:
        store, other = cluster.store(3), cluster.store(4)
        cluster.harm(3, 2, ops=ROWS)
        await put(store, "old", b"")
        await delete(store, "old")
        await store.delete_container("a", "c")
        await store.put_container("a", "c", MetaChange(), policy=None)
        cluster.rules[3].clear()
        for hidden in (0, 1, 2):
            cluster.harm(4, hidden, ops=ROW_OPS)
            assert await listing(other) == []
            cluster.rules[4].clear()
        await put(store, "new", b"")
        assert await list_by_pairs(cluster, other, 4) == [["new"]] * 3


async def test_a_write_that_cannot_be_listed_says_so_and_is_listed_later(tmp_path, soon):
    async with running(tmp_path, gateways=2, request_timeout_s=1.0) as cluster:
        store = cluster.store(3)
        mend = cluster.harm(3, 0, 1, 2, ops=ROWS)
        info = await put(store, "o", b"body")
        assert not info.is_listed
        assert await get(cluster.store(4), "o") == b"body"
        mend()
        await until(lambda: _lists(cluster.store(4), ["o"]), "the journal delivers it")
        await no_entry_is_left(cluster)


async def _lists(store, names):
    try:
        return await listing(store) == names
    except StorageError:
        return False


async def test_an_owed_entry_survives_a_restart(tmp_path, monkeypatch):
    async with running(tmp_path, request_timeout_s=1.0) as cluster:
        monkeypatch.setattr(updater_module, "LEFT_S", 1e9)
        cluster.harm(3, 0, 1, 2, ops=ROWS)
        assert not (await put(cluster.store(), "o", b"body")).is_listed
        cluster.rules[3].clear()
        await cluster.stop()
        for name in ("LEFT_S", "PASS_S", "RETRY_S"):
            monkeypatch.setattr(updater_module, name, 0.05)
        await cluster.start()
        await until(lambda: _lists(cluster.store(), ["o"]), "the journal delivers it")
        await no_entry_is_left(cluster)


async def test_lost_done_hints_leave_no_entry_for_ever(tmp_path, soon):
    async with running(tmp_path) as cluster:
        cluster.harm(3, 0, 1, 2, ops=DONE_OPS)
        for number in range(20):
            await put(cluster.store(), f"o{number:02}", b"x")
        for number in range(0, 20, 2):
            await delete(cluster.store(), f"o{number:02}")
        await no_entry_is_left(cluster)
        assert await listing(cluster.store()) == [f"o{number:02}" for number in range(1, 20, 2)]
        await cluster.restart()
        await no_entry_is_left(cluster)
        assert await listing(cluster.store()) == [f"o{number:02}" for number in range(1, 20, 2)]


async def test_rows_under_the_promise_of_a_dead_coordinator_are_stored(tmp_path):
    """Somebody prepared the container and died: half a second later the rows settle it themselves."""
    async with running(tmp_path, gateways=2) as cluster:
        store = cluster.store(3)
        place, _ = store.cluster.container("a", "c")
        ports = store.ports(place, asyncio.get_running_loop().time() + 5)
        await put(store, "before", b"")
        coordinator = Coordinator(ports)
        await coordinator.look()
        promises = await ports.round(Look(coordinator.next(), 0), lambda replies: len(replies) == 3)
        assert all(reply.ok for reply in promises)
        assert (await put(cluster.store(4), "o", b"x")).is_listed
        assert await listing(store) == ["before", "o"]


async def test_a_listing_ends_the_promise_that_keeps_its_replicas_apart(tmp_path):
    async with running(tmp_path, gateways=2) as cluster:
        store, other = cluster.store(3), cluster.store(4)
        cluster.harm(3, 2, ops=ROWS)
        await put(store, "o", b"x")
        place, _ = store.cluster.container("a", "c")
        ports = store.ports(place, asyncio.get_running_loop().time() + 5)
        coordinator = Coordinator(ports)
        await coordinator.look()
        await ports.round(Look(coordinator.next(), 0), lambda replies: len(replies) == 3)
        assert await list_by_pairs(cluster, other, 4) == [["o"]] * 3


@pytest.mark.parametrize("stale", [0, 1, 2])
async def test_a_replica_with_a_deletion_that_never_came_about_undoes_nothing(tmp_path, soon, stale):
    """A delete reached one replica only, and was settled away: its tombstone there is not the truth."""
    async with running(tmp_path, gateways=2, request_timeout_s=2.0) as cluster:
        store, other = cluster.store(3), cluster.store(4)
        others = [index for index in range(3) if index != stale]
        cluster.harm_if(3, lambda op, fields: op == OP_ACCEPT and fields[0] in others and fields[2][0] == SPACE_CONTAINER)
        with pytest.raises(StorageError):
            await store.delete_container("a", "c")
        cluster.rules[3].clear()
        cluster.harm(4, stale)
        await other.post_container("a", "c", MetaChange(meta={"still": "here"}))
        await put(other, "o", b"x")
        cluster.rules[4].clear()
        cluster.harm(4, 0, 1, 2, ops=DONE_OPS)
        cluster.harm(3, 0, 1, 2, ops=DONE_OPS)
        await put(other, "o2", b"x")
        await put(store, "o3", b"x")
        await no_entry_is_left(cluster)
        for each in cluster.stores:
            assert [await get(each, name) for name in ("o", "o2", "o3")] == [b"x"] * 3
            assert await listing(each) == ["o", "o2", "o3"]


async def test_a_deleted_container_takes_back_what_was_not_acknowledged(tmp_path, soon):
    """The coordinator died between object and row; then the container went. The object goes too."""
    async with running(tmp_path, gateways=2, request_timeout_s=1.0) as cluster:
        store = cluster.store(3)
        cluster.harm(3, 0, 1, 2, ops=ROWS)
        object_updater_left = updater_module.LEFT_S
        updater_module.LEFT_S = 1e9
        writing = asyncio.create_task(put(store, "o", b"x"))
        await until(lambda: pending(cluster) >= 2, "the object is written")
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await cluster.store(4).delete_container("a", "c")
        updater_module.LEFT_S = object_updater_left
        await no_entry_is_left(cluster)
        await cluster.store(4).put_container("a", "c", MetaChange(), policy=None)
        assert await get(cluster.store(4), "o") is None
        assert await listing(cluster.store(4)) == []


@pytest.mark.parametrize("is_made_anew", [False, True])
async def test_what_is_owed_revives_its_container(tmp_path, soon, is_made_anew):
    async with running(tmp_path, gateways=2, request_timeout_s=1.0) as cluster:
        updater_module.LEFT_S = 1e9
        cluster.harm(3, 0, 1, 2, ops=ROWS)
        assert not (await put(cluster.store(3), "o", b"x")).is_listed
        await cluster.store(4).delete_container("a", "c")
        if is_made_anew:
            await cluster.store(4).put_container("a", "c", MetaChange(), policy=None)
        updater_module.LEFT_S = 0.05
        await no_entry_is_left(cluster)
        for store in (cluster.store(0), cluster.store(4)):
            assert await listing(store) == ["o"]
            assert await get(store, "o") == b"x"
        assert (await cluster.store(4).container("a", "c", fresh=True)).object_count == 1


@pytest.mark.parametrize("seed", range(3))
async def test_no_object_is_acknowledged_into_a_deleted_container(tmp_path, seed):
    """Many writers against many deletions: afterwards the container lists exactly what was acknowledged, or is gone."""
    chance = random.Random(seed)
    async with running(tmp_path, gateways=2) as cluster:
        stores = [cluster.store(3), cluster.store(4), cluster.store(0)]
        for turn in range(6):
            name = f"race{turn}"
            await stores[0].put_container("a", name, MetaChange(), policy=None)
            outcomes = {}

            async def write(number, name=name, outcomes=outcomes):
                await asyncio.sleep(chance.random() * 0.02)
                try:
                    await put(stores[number % 3], f"o{number}", b"x", container=name)
                    outcomes[f"o{number}"] = "done"
                except NotFound:
                    outcomes[f"o{number}"] = "refused"

            async def remove(number, name=name):
                await asyncio.sleep(chance.random() * 0.02)
                try:
                    await stores[number % 3].delete_container("a", name)
                except (Conflict, NotFound, OutcomeUnknown):
                    pass                 # what came of it is seen below

            await asyncio.gather(*(write(n) for n in range(8)), *(remove(n) for n in range(3)))
            done = sorted(key for key, what in outcomes.items() if what == "done")
            for store in stores:
                try:
                    await store.container("a", name, fresh=True)
                except NotFound:
                    assert done == []
                else:
                    assert await listing(store, container=name) == done
