"""The stores that have to agree. A row: name -> context manager (clock) -> (store, settle or None)."""
from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

from tests.contract.memory_store import MemoryStore


@asynccontextmanager
async def open_memory_store(clock):
    store = MemoryStore(clock)
    yield store, None
    assert store.open_bodies == 0, "a reader was left open"


STORES = {"memory": open_memory_store}


@pytest.fixture(params=sorted(STORES))
def open_store(request):
    """Opens an empty store: `async with open_store(clock) as (store, settle)`."""
    return STORES[request.param]
