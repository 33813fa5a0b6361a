"""The stores that have to agree. A row: name -> context manager (clock) -> (store, settle or None)."""
from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from proxy.model import Page
from tests.contract.memory_store import MemoryStore
from tests.contract.real_store import run_storages
from tests.contract.swift_client import POLICIES


@asynccontextmanager
async def open_memory_store(clock):
    store = MemoryStore(clock)
    yield store, None
    assert store.open_bodies == 0, "a reader was left open"


@asynccontextmanager
async def open_real_store(clock):
    async with run_storages(clock, policies=POLICIES) as (first, second):
        async def settle():
            """Figures reach the account within a second or two."""
            async with asyncio.timeout(20):
                while not await figures_agree(second.store):                  # noqa: ASYNC110  (nothing tells when)
                    await asyncio.sleep(0.05)

        yield first.store, settle


async def figures_agree(store, account="AUTH_demo"):
    """Whether the account's listing says of each container what the container says of itself."""
    _, entries = await store.list_account(account, Page(limit=10_000))
    for entry in entries:
        held = await store.container(account, entry.name, fresh=True)
        if (entry.object_count, entry.bytes_used) != (held.object_count, held.bytes_used):
            return False
    return True


STORES = {"memory": open_memory_store, "real": open_real_store}


@pytest.fixture(params=sorted(STORES))
def open_store(request):
    """Opens an empty store: `async with open_store(clock) as (store, settle)`."""
    return STORES[request.param]
