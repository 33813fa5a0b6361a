"""Redundancy while a device is away: a handoff takes a copy, and gives it back when the primary is there again."""
from __future__ import annotations

import asyncio

import pytest

from object.wire import BodyState
from proxy.cluster import HEDGE_S_MIN
from proxy.model import MetaChange
from ring.builder import RingBuilder
from ring.device import RingDevice
from tests.fault.cluster import harness
from tests.fault.cluster.harness import Harness

DEVICES = 5
AWAY = 3


def make_ring():
    """Three replicas on five devices."""
    builder = RingBuilder(4, 3, 0)
    for index in range(DEVICES):
        builder.add_dev(RingDevice(id=index, region=1, zone=index + 1, ip="127.0.0.1", port=6200, device=f"d{index + 1}",
                                   weight=100.0, meta="", node="n1"))
    builder.rebalance(seed=1, now_s=0)
    return builder.ring()


@pytest.fixture
def five(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "DEVICE_COUNT", DEVICES)
    monkeypatch.setattr(harness, "make_ring", make_ring)
    return Harness(tmp_path, owners=range(DEVICES), request_timeout_s=2.0)


async def holders(cluster, place):
    """Device ids that hold the newest state with its body."""
    found = {}
    for index in range(DEVICES):
        if cluster.storages[index] is not None:
            held = cluster.owner_of(index).device.get(place.key)
            if held is not None and held.state in (BodyState.INLINE, BodyState.FILE):
                found[index] = held.version.stamp
    newest = max(found.values(), default=None)
    return {index for index, stamp in found.items() if stamp == newest}


async def until(condition):
    async with asyncio.timeout(60):
        while not await condition():     # noqa: ASYNC110  polled: it happens in five owners
            await asyncio.sleep(HEDGE_S_MIN)


@pytest.mark.parametrize("size", [100, 100_000])
async def test_a_handoff_takes_a_copy_and_gives_it_back(five, size):
    await five.start()
    store = five.store()
    await store.create_account("a", MetaChange())
    await store.put_container("a", "c", MetaChange(), policy=None)
    names = [f"o{n}" for n in range(30)]
    places = {name: store.cluster.object(0, "a", "c", name) for name in names}
    name = next(n for n in names if AWAY in {c.device_id for c in places[n].clients})
    primaries = {client.device_id for client in places[name].clients}
    await five.stop(AWAY)
    target = await store.look("a", "c", name)
    await store.put_object(target, harness.Descriptor(created_us=0), harness.Body(b"x" * size), condition=None,
                           expected_etag=None, size_max=1 << 30)

    async def is_whole():
        return len(await holders(five, places[name])) == 3

    await until(is_whole)
    handoff = (await holders(five, places[name]) - primaries).pop()
    assert places[name].key in five.owner_of(handoff).foreign

    await five.start(AWAY)
    returner = five.storages[handoff]._returners[0]

    async def is_back():
        await returner.pass_once()
        return AWAY in await holders(five, places[name])

    await until(is_back)
    assert places[name].key not in five.owner_of(handoff).foreign
    await five.stop()


async def test_foreign_keys_are_found_again_after_a_restart(five):
    await five.start()
    store = five.store()
    await store.create_account("a", MetaChange())
    await store.put_container("a", "c", MetaChange(), policy=None)
    target = await store.look("a", "c", "o")
    await store.put_object(target, harness.Descriptor(created_us=0), harness.Body(b"x"), condition=None, expected_etag=None,
                           size_max=100)
    place = store.cluster.object(0, "a", "c", "o")
    source = place.clients[0]
    handoff = next(store.cluster.handoffs(place))
    outcome = five.owner_of(source.device_id).device.get(place.key)
    await handoff.learn(place.key, outcome.ballot, outcome.version, body=b"x", timeout_s=5)
    await five.restart()
    returner = five.storages[handoff.device_id]._returners[0]

    async def is_found():
        return place.key in returner._owner.foreign

    await until(is_found)
    await returner.pass_once()
    assert returner.returned_count == 1
    await five.stop()
