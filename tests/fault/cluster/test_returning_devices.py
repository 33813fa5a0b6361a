"""A device that shows less than its peers remember is found out, and takes nothing of what was acknowledged with it."""
from __future__ import annotations

import asyncio

import pytest

from common.errors import NotFound, StorageError
from common.timestamp import ZERO
from container.wire import OP_PUT_ROWS
from proxy.model import MetaChange
from tests.fault.cluster.harness import PEER_OPS, Harness, delete, get, listing, meta_of, post, put, running, until

LARGE = bytes(range(256)) * 800


async def write_before(store):
    """What the older copy will know."""
    for name in ("stays", "overwritten", "deleted", "posted"):
        await put(store, name, b"before " + name.encode())
    await put(store, "large", LARGE)


async def write_after(store):
    """What it will not know."""
    await put(store, "overwritten", b"after")
    await delete(store, "deleted")
    await post(store, "posted", {"color": "blue"})
    await put(store, "new", b"new")
    await put(store, "large", LARGE[::-1])
    await store.post_container("a", "c", MetaChange(meta={"state": "after"}))


async def check_after(store):
    assert await get(store, "stays") == b"before stays"
    assert await get(store, "overwritten") == b"after"
    assert await get(store, "deleted") is None
    assert await meta_of(store, "posted") == {"color": "blue"}
    assert await get(store, "new") == b"new"
    assert await get(store, "large") == LARGE[::-1]
    assert (await store.container("a", "c", fresh=True)).meta == {"state": "after"}
    assert await listing(store) == ["large", "new", "overwritten", "posted", "stays"]


async def wait_for_marks(cluster):
    """Until the peers of every device remember what it holds (at most a second behind)."""
    def agree():
        owners = [cluster.owner_of(index) for index in range(3)]
        return all(peer.device.peers.marks.get(owner.device.identity.id) == owner.device.mark()
                   for owner in owners for peer in owners if peer is not owner)
    await until(agree, "peers remember each other")


async def take_writes(store):
    await put(store, "later", b"later")
    await put(store, "overwritten", b"later still")
    await delete(store, "stays")
    assert await get(store, "later") == b"later"
    assert await get(store, "overwritten") == b"later still"
    assert await get(store, "stays") is None
    assert await listing(store) == ["large", "later", "new", "overwritten", "posted"]


@pytest.mark.parametrize("comes_back", ["older", "empty"])
@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.parametrize("owners", [(0, 1, 2), (0, 1, 0)], ids=["a worker each", "two workers"])
async def test_a_device_that_forgot_loses_no_acknowledged_write(tmp_path, comes_back, victim, owners):
    async with running(tmp_path, owners=owners) as cluster:
        await write_before(cluster.store())
        await cluster.stop()
        cluster.save(victim)
        await cluster.start()
        born = cluster.owner_of(victim).device.identity.incarnation
        await write_after(cluster.store())
        await wait_for_marks(cluster)
        await cluster.stop()
        if comes_back == "older":
            cluster.restore(victim)
        else:
            cluster.empty(victim)
        await cluster.start()
        for store in cluster.stores:
            await check_after(store)
        await until(lambda: cluster.status(victim)["state"] == "not counted", "the device is found out")
        assert "remembers" in cluster.status(victim)["reason"]
        assert cluster.owner_of(victim).device.identity.incarnation != born
        await take_writes(cluster.store())
        await cluster.restart()
        assert cluster.status(victim)["state"] == "not counted"
        for store in cluster.stores:
            assert await listing(store) == ["large", "later", "new", "overwritten", "posted"]
            assert await get(store, "later") == b"later"
            assert await get(store, "stays") is None


@pytest.mark.parametrize("comes_back", ["older", "empty"])
@pytest.mark.parametrize(("victim", "lagging", "owners"),
                         [(0, 2, (0, 1, 0)), (2, 0, (0, 1, 0)), (0, 1, (0, 1, 2)), (1, 2, (0, 1, 2))])
async def test_a_lagging_replica_and_one_that_forgot_are_no_quorum(tmp_path, comes_back, victim, lagging, owners):
    """The dangerous case: the two of them agree on the past. Every gateway is asked from the first moment on."""
    async with running(tmp_path, owners=owners) as cluster:
        await write_before(cluster.store())
        await cluster.stop()
        cluster.save(victim)
        cluster.device(lagging).rename(tmp_path / "unmounted")
        await cluster.start()
        await write_after(cluster.store())
        third = 3 - victim - lagging
        uuid = cluster.uuids[victim]
        await until(lambda: cluster.owner_of(third).device.peers.marks.get(uuid) == cluster.owner_of(victim).device.mark(),
                    "the third remembers the victim")
        await cluster.stop()
        (tmp_path / "unmounted").rename(cluster.device(lagging))
        if comes_back == "older":
            cluster.restore(victim)
        else:
            cluster.empty(victim)
        for worker in range(cluster.owner_count):        # what the third remembers comes late
            cluster.harm_if(worker, lambda op, fields: op in PEER_OPS, delay_s=0.5)
        await cluster.start()
        for store in cluster.stores:
            await check_after(store)
        await until(lambda: cluster.status(victim)["state"] == "not counted", "the device is found out")


async def test_an_unclean_stop_is_no_rollback(tmp_path):
    """A device that shows all that its peers remember counts at once, under the incarnation it had."""
    async with running(tmp_path) as cluster:
        await write_before(cluster.store())
        for _ in range(2):
            born = [cluster.owner_of(index).device.identity.incarnation for index in range(3)]
            await cluster.restart()
            await until(lambda: all(cluster.status(index)["state"] == "ok" for index in range(3)), "all count")
            assert [cluster.owner_of(index).device.identity.incarnation for index in range(3)] == born


async def test_rows_of_a_returning_device_do_not_hide_those_of_its_peers(tmp_path):
    """Only the device that forgot and one more had the rows; the third one is what remains."""
    async with running(tmp_path) as cluster:
        await put(cluster.store(), "old", b"old")
        await cluster.stop()
        cluster.save(0)
        await cluster.start()
        cluster.harm(3, 2, ops=frozenset({OP_PUT_ROWS}))
        for number in range(20):
            await put(cluster.store(), f"n{number:02}", b"x")
        await delete(cluster.store(), "old")
        await wait_for_marks(cluster)
        await cluster.stop()
        cluster.rules[3].clear()
        cluster.restore(0)
        await cluster.start()
        for store in cluster.stores:
            assert await listing(store) == [f"n{number:02}" for number in range(20)]


async def test_two_devices_that_forgot_stop_the_cluster_instead_of_lying(tmp_path):
    """A minority that remembers is no quorum: 503 with a reason, until a person decides."""
    cluster = Harness(tmp_path, request_timeout_s=1.0)
    await cluster.start()
    await cluster.store().create_account("a", MetaChange())
    await cluster.store().put_container("a", "c", MetaChange(), policy=None)
    await put(cluster.store(), "o", b"o")
    await wait_for_marks(cluster)
    await cluster.stop()
    cluster.empty(0)
    cluster.empty(1)
    await cluster.start()
    try:
        await until(lambda: [cluster.status(i)["state"] for i in range(3)] == ["not counted", "not counted", "ok"], "found out")
        with pytest.raises(StorageError) as refused:
            await get(cluster.store(), "o")
        assert not isinstance(refused.value, NotFound)
        assert refused.value.code in ("quorum_not_met", "outcome_unknown")
    finally:
        await cluster.stop()


async def test_a_new_cluster_counts_its_devices_at_once(tmp_path):
    async with running(tmp_path, owners=(0, 1, 0)) as cluster:
        assert [cluster.status(index)["state"] for index in range(3)] == ["ok"] * 3
        assert all(cluster.owner_of(index).device.floor == ZERO for index in range(3))
        await asyncio.gather(*(put(cluster.store(), f"o{n}", b"") for n in range(30)))
        assert len(await listing(cluster.store(0))) == 30
