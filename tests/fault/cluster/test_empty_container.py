"""An emptied container can be deleted at once, whatever a replica that lags still lists."""
from __future__ import annotations

import pytest

from common.errors import Conflict
from tests.fault.cluster.harness import ROW_OPS, delete, listing, put, running


@pytest.mark.parametrize("lagging", [0, 1, 2])
async def test_a_replica_that_missed_the_deletes_is_no_obstacle(tmp_path, lagging):
    async with running(tmp_path, gateways=1) as cluster:
        store = cluster.store()
        for number in range(150):
            await put(store, f"o{number:03}", b"x")
        gateway = cluster.owner_count
        cluster.harm(gateway, lagging, ops=ROW_OPS)
        for number in range(150):
            await delete(store, f"o{number:03}")
        cluster.rules[gateway].clear()
        await store.delete_container("a", "c")


async def test_a_row_that_one_replica_holds_keeps_the_container(tmp_path):
    async with running(tmp_path, gateways=1) as cluster:
        store = cluster.store()
        cluster.harm(cluster.owner_count, 2, ops=ROW_OPS)
        await put(store, "o", b"x")
        cluster.rules[cluster.owner_count].clear()
        with pytest.raises(Conflict):
            await store.delete_container("a", "c")
        assert await listing(store) == ["o"]
