"""Bodies that no record names go after a day, and only if no quorum names them."""
from __future__ import annotations

import asyncio

import pytest

from common.clock import ManualClock
from common.faultfs import FaultFs
from object.index import MemoryIndex
from object.owner import Owner
from object.sweeper import AGE_US_MIN, Sweeper
from tests.fault.object.device_client import Client, body_of, key_of


@pytest.fixture
def client():
    client = Client(FaultFs(), MemoryIndex())
    client.start()
    client.put_large("kept")
    writer = client.device.new_body()
    writer.write(body_of(1, 100_000))
    client.device.staged(key_of("given-up"), 77, writer.finish(key_of("given-up"), 77, "/a/c/given-up"))
    return client


def sweep(client, *, named):
    asked = []

    async def is_named(path, policy, body_id):
        asked.append((path, policy, body_id))
        return named

    async def run():
        return await Sweeper(Owner(client.device, ManualClock()), is_named, ManualClock()).sweep()

    return asyncio.run(run()), asked


def test_a_given_up_body_goes_and_a_named_one_stays(client):
    assert sweep(client, named=False) == (1, [("/a/c/given-up", 0, 77)])
    assert len(client.fs.files("/d1/bodies")) == 1
    client.check()


def test_a_body_that_a_quorum_names_stays(client):
    assert sweep(client, named=True)[0] == 0
    assert len(client.fs.files("/d1/bodies")) == 2


def test_a_young_body_stays(client):
    for path in client.fs.files("/d1/bodies"):
        client.fs.modified[path] = ManualClock().now_us() - AGE_US_MIN + 1
    assert sweep(client, named=False) == (0, [])
