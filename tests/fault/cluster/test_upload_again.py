"""An upload whose replicas go away in the middle waits for them, as small requests do."""
from __future__ import annotations

import asyncio

import pytest

from tests.fault.cluster.harness import Body, get, put, running

LARGE = bytes(range(256)) * 4000


class StoppingBody(Body):
    """Takes workers away after its first piece, and brings them back."""

    def __init__(self, data, cluster, workers):
        super().__init__(data)
        self._cluster, self._workers, self._has_stopped = cluster, workers, False
        self.comeback = None

    async def read_chunk(self, admit=None):
        if self._at and not self._has_stopped:
            self._has_stopped = True
            await self._cluster.stop(*self._workers)
            self.comeback = asyncio.get_running_loop().create_task(self._cluster.start(*self._workers))
        return await super().read_chunk(admit)


@pytest.mark.parametrize("workers", [(0, 1), (1, 2), (0, 1, 2)])
async def test_an_upload_goes_on_when_its_quorum_is_back(tmp_path, workers):
    async with running(tmp_path, request_timeout_s=20.0) as cluster:
        store = cluster.store()
        await put(store, "o", b"old")
        target = await store.look("a", "c", "o")
        body = StoppingBody(LARGE, cluster, workers)
        await store.put_object(target, target.current.descriptor, body, condition=None, expected_etag=None, size_max=1 << 30)
        await body.comeback
        for other in cluster.stores:
            assert await get(other, "o") == LARGE
