"""Clients that begin at the same moment: whoever makes the account or the container, all of them have it."""
from __future__ import annotations

import asyncio

import pytest

from proxy.model import MetaChange, Page
from tests.fault.cluster.harness import running


@pytest.mark.parametrize("gateways", [1, 3])
async def test_many_that_make_the_same_account_at_once_all_find_it_made(tmp_path, gateways):
    async with running(tmp_path, gateways=gateways, request_timeout_s=20.0) as cluster:
        stores = [cluster.store(3 + number % gateways) for number in range(16)]
        made = await asyncio.gather(*(store.create_account("new", MetaChange()) for store in stores))
        assert sum(made) >= 1
        assert all([(await store.account("new", fresh=True)).name == "new" for store in stores[:3]])


@pytest.mark.parametrize("gateways", [1, 3])
async def test_many_that_make_the_same_container_at_once_make_one(tmp_path, gateways):
    async with running(tmp_path, gateways=gateways, request_timeout_s=20.0) as cluster:
        stores = [cluster.store(3 + number % gateways) for number in range(16)]
        made = await asyncio.gather(*(store.put_container("a", "same", MetaChange(), policy=None) for store in stores))
        assert sum(made) >= 1
        instances = {(await store.container("a", "same", fresh=True)).instance for store in stores[:3]}
        assert len(instances) == 1
        _, entries = await stores[0].list_account("a", Page(limit=10))
        assert [entry.name for entry in entries].count("same") == 1
