"""A worker or a device that is away: whatever has a quorum goes on, the rest waits, and says why when it waited in vain."""
from __future__ import annotations

import asyncio

import pytest

from common.errors import NotFound, OutcomeUnknown, QuorumNotMet
from proxy.model import MetaChange, Page
from tests.fault.cluster.harness import delete, get, listing, meta_of, post, put, running

LARGE = bytes(range(256)) * 1000


async def do_everything(store):
    """Each kind of request once, each checked by the next."""
    assert await store.put_container("a", "new", MetaChange(), policy=None)
    await put(store, "small", b"small", container="new")
    await put(store, "large", LARGE, container="new")
    await put(store, "small", b"again", container="new")
    await post(store, "large", {"color": "red"}, container="new")
    assert await get(store, "small", container="new") == b"again"
    assert await get(store, "large", container="new") == LARGE
    assert await meta_of(store, "large", container="new") == {"color": "red"}
    assert await listing(store, container="new") == ["large", "small"]
    await delete(store, "small", container="new")
    assert await get(store, "small", container="new") is None
    await store.post_container("a", "new", MetaChange(meta={"k": "v"}))
    assert (await store.container("a", "new", fresh=True)).object_count == 1
    await delete(store, "large", container="new")
    await store.delete_container("a", "new")
    with pytest.raises(NotFound):
        await store.container("a", "new", fresh=True)
    _, entries = await store.list_account("a", Page(limit=10))
    assert [entry.name for entry in entries] == ["c"]


@pytest.mark.parametrize("away", [0, 1, 2])
async def test_every_request_goes_on_while_one_device_does_not_answer(tmp_path, away):
    async with running(tmp_path, request_timeout_s=6.0) as cluster:
        cluster.harm(cluster.owner_count, away)
        await do_everything(cluster.store())


@pytest.mark.parametrize("away", [0, 2])
async def test_every_request_goes_on_while_one_worker_is_away(tmp_path, away):
    async with running(tmp_path) as cluster:
        await put(cluster.store(), "before", b"before")
        await cluster.stop(away)
        await do_everything(cluster.store())
        assert await get(cluster.store(), "before") == b"before"
        await cluster.start(away)
        for store in cluster.stores:
            assert await listing(store) == ["before"]


async def test_a_cluster_starts_without_one_of_its_workers(tmp_path):
    async with running(tmp_path) as cluster:
        await put(cluster.store(), "o", b"o")
        await cluster.stop()
        await cluster.start(0, 1, 3)
        assert await get(cluster.store(), "o") == b"o"
        await put(cluster.store(), "o", b"again")
        assert await get(cluster.store(0), "o") == b"again"
        assert await listing(cluster.store(1)) == ["o"]


@pytest.mark.parametrize("away", [1, 2])
async def test_writers_of_one_object_get_by_while_a_device_hangs(tmp_path, away):
    """A refusal by one replica and silence of another must not make anybody wait for the deadline."""
    async with running(tmp_path, gateways=2) as cluster:
        stores = [cluster.store(3), cluster.store(4)]
        for worker in (3, 4):
            cluster.harm(worker, away)
        await put(stores[0], "o", b"first")
        jobs = [put(stores[n % 2], "o", f"{n}".encode()) for n in range(12)]
        jobs += [post(stores[n % 2], "o", {"n": str(n)}) for n in range(6)]
        results = await asyncio.gather(*jobs, return_exceptions=True)
        assert [r for r in results[:12] if isinstance(r, BaseException)] == []
        assert all(r is None or isinstance(r, OutcomeUnknown) for r in results[12:])
        assert await get(stores[0], "o") == await get(stores[1], "o")


async def test_requests_wait_for_a_worker_that_comes_back(tmp_path):
    """With two devices in one worker its death stops every quorum: the requests wait, and none fails."""
    async with running(tmp_path, owners=(0, 1, 0), request_timeout_s=20.0) as cluster:
        store = cluster.store()
        await put(store, "o", b"before")
        await cluster.stop(0)
        requests = (put(store, "o2", b"new"), get(store, "o"), listing(store), put(store, "o", b"x"), put(store, "large", LARGE))
        jobs = [asyncio.create_task(job) for job in requests]
        await asyncio.sleep(1.0)
        assert not any(job.done() for job in jobs)
        await cluster.start(0)
        await asyncio.gather(*jobs)
        assert jobs[1].result() in (b"before", b"x")
        assert await get(store, "o2") == b"new"
        assert await get(store, "large") == LARGE
        assert await listing(store) == ["large", "o", "o2"]


async def test_without_a_quorum_the_answer_is_a_503_that_says_why(tmp_path):
    async with running(tmp_path, owners=(0, 1, 0), request_timeout_s=1.0) as cluster:
        store = cluster.store()
        await put(store, "o", b"o")
        await cluster.stop(0)
        for job in (get(store, "o"), put(store, "p", b"p"), put(store, "large", LARGE), delete(store, "o"), listing(store),
                    store.put_container("a", "x", MetaChange(), policy=None), store.delete_container("a", "c")):
            with pytest.raises((QuorumNotMet, OutcomeUnknown)):
                await job
        await cluster.start(0)
        assert await get(store, "o") == b"o"
        assert await get(store, "p") is None
