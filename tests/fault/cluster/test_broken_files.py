"""Derived files that break on one device: it is mended or left out, the others serve, no answer is wrong."""
from __future__ import annotations

import random
import sqlite3

import pytest

from common.errors import BadRequest
from container.broker import Broker
from proxy.model import MetaChange
from tests.fault.cluster.harness import Body, Descriptor, get, listing, put, running, until


def databases(cluster, index):
    return [path for space in ("containers", "accounts") for path in (cluster.device(index) / space).glob("*.db")]


def flip_bytes(path, count, seed):
    data = bytearray(path.read_bytes())
    rng = random.Random(seed)
    for _ in range(count):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


async def fill(cluster):
    for number in range(40):
        await put(cluster.store(), f"o{number:02}", b"x" * 100)


async def check(cluster):
    for store in cluster.stores:
        assert await listing(store) == [f"o{number:02}" for number in range(40)]
        assert await get(store, "o07") == b"x" * 100
        assert (await store.account("a", fresh=True)).container_count == 1


@pytest.mark.parametrize("seed", range(6))
async def test_damaged_databases_of_one_device_are_left_out(tmp_path, seed):
    async with running(tmp_path) as cluster:
        await fill(cluster)
        await cluster.stop()
        for path in databases(cluster, 1):
            flip_bytes(path, 200, seed)
        await cluster.start()
        await check(cluster)
        await put(cluster.store(), "later", b"y")
        assert "later" in await listing(cluster.store())


@pytest.mark.parametrize("size", [0, 1, 5000, 8192, 20_000])
async def test_a_truncated_index_is_rebuilt(tmp_path, size):
    async with running(tmp_path) as cluster:
        await fill(cluster)
        await cluster.stop()
        path = cluster.device(0) / "index" / "data.mdb"
        with path.open("r+b") as file:
            file.truncate(min(size, path.stat().st_size - 1))
        await cluster.start()
        await check(cluster)
        assert cluster.status(0)["is_counted"]


@pytest.mark.parametrize("seed", range(6))
async def test_flipped_bits_in_index_rows_are_never_believed(tmp_path, seed):
    async with running(tmp_path) as cluster:
        await fill(cluster)
        await cluster.stop()
        path = cluster.device(0) / "index" / "data.mdb"
        data = bytearray(path.read_bytes())
        at = data.find(b"/a/c/o07")      # inside a row, so that LMDB's own structure stays whole
        assert at > 0
        data[at + seed] ^= 1
        path.write_bytes(data)
        await cluster.start()
        await check(cluster)


async def test_starts_that_do_not_hold_end_with_a_new_index(tmp_path):
    async with running(tmp_path) as cluster:
        await fill(cluster)
        await cluster.stop()
        (cluster.device(0) / "index.starts").write_bytes(b"...")
        await cluster.start()
        assert cluster.status(0)["is_index_rebuilt"]
        await check(cluster)


async def test_rows_that_found_no_room_are_applied_once_there_is_some(tmp_path, monkeypatch):
    """A full disk is no reason to forget a row."""
    apply, is_full = Broker.apply, True

    def full(self, rows, *, sequence):
        if is_full:
            raise sqlite3.OperationalError("database or disk is full")
        apply(self, rows, sequence=sequence)

    async with running(tmp_path) as cluster:
        monkeypatch.setattr(Broker, "apply", full)
        await put(cluster.store(), "o", b"x")
        is_full = False

        async def is_listed():
            return await listing(cluster.store()) == ["o"]

        await until(is_listed, "the row is there")
        assert all(cluster.status(index)["is_counted"] for index in range(3))
        await cluster.restart()
        assert await listing(cluster.store()) == ["o"]


async def test_metadata_that_no_replica_could_bring_is_refused_before_any_takes_it(tmp_path):
    async with running(tmp_path) as cluster:
        store = cluster.store()
        await put(store, "o", b"x")
        huge = {f"m{number}": "\u00ff" * 200 for number in range(100)}
        target = await store.look("a", "c", "o")
        with pytest.raises(BadRequest):
            await store.put_object(target, Descriptor(created_us=0, meta=huge), Body(b"y"), condition=None, expected_etag=None,
                                   size_max=10)
        with pytest.raises(BadRequest):
            await store.post_object(await store.look("a", "c", "o"), lambda d: Descriptor(created_us=0, meta=huge))
        with pytest.raises(BadRequest):
            await store.post_container("a", "c", MetaChange(meta=huge))
        with pytest.raises(BadRequest):
            await store.post_account("a", MetaChange(meta=huge))
        for other in cluster.stores:
            assert await get(other, "o") == b"x"
