"""A write that was answered before it was listed is never undone, whoever of the devices looks after it first."""
from __future__ import annotations

import pytest

from container.wire import OP_PUT_ROWS
from object import updater
from object.wire import OP_OWED
from proxy import store as store_module
from tests.fault.cluster.harness import get, listing, put, running, until


@pytest.fixture
def quick(monkeypatch):
    """Only what is left to be done is waited for; nothing is due before the test says so."""
    monkeypatch.setattr(updater, "PASS_S", 0.05)
    monkeypatch.setattr(updater, "RETRY_S", 0.05)
    monkeypatch.setattr(updater, "LEFT_S", 1e9)
    monkeypatch.setattr(store_module, "OWE_S", 1.0)
    return lambda: monkeypatch.setattr(updater, "LEFT_S", 0.05)


@pytest.mark.parametrize("ignorant", [0, 1, 2])
async def test_a_device_that_missed_the_debt_asks_before_it_undoes(tmp_path, quick, ignorant):
    async with running(tmp_path, gateways=2, request_timeout_s=1.0) as cluster:
        cluster.harm(3, 0, 1, 2, ops=frozenset({OP_PUT_ROWS}))
        cluster.harm(3, ignorant, ops=frozenset({OP_OWED}))
        info = await put(cluster.store(3), "o", b"x")
        assert not info.is_listed
        await cluster.store(4).delete_container("a", "c")
        for worker in {0, 1, 2} - {ignorant}:
            for other in cluster.storages[worker]._updaters:
                await other.close()
        quick()
        await until(lambda: cluster.status(ignorant)["pending_updates"] == 0, "the entry is settled")
        assert await get(cluster.store(4), "o") == b"x"
        assert await listing(cluster.store(4)) == ["o"]


async def test_a_write_that_nobody_owes_is_undone_with_its_container(tmp_path, quick):
    async with running(tmp_path, gateways=2, request_timeout_s=1.0) as cluster:
        cluster.harm(3, 0, 1, 2, ops=frozenset({OP_PUT_ROWS, OP_OWED}))
        with pytest.raises(Exception, match="quorum_not_met"):
            await put(cluster.store(3), "o", b"x")
        await cluster.store(4).delete_container("a", "c")
        quick()
        await until(lambda: sum(cluster.status(i)["pending_updates"] for i in range(3)) == 0, "all entries are settled")
        for index in range(3):
            held = list(cluster.owner_of(index).device.rows.values())
            assert not any(row.version.path == "/a/c/o" and row.version.kind == 1 for row in held)
