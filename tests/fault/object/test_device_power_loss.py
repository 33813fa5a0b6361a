"""Power loss at every durable step of a device: what was acknowledged survives, what was not is old or new, never torn."""
from __future__ import annotations

import random

import pytest

from common.errors import NoBody
from common.faultfs import FaultFs, PowerLoss
from object.index import MemoryIndex
from object.wire import BodyState, Kind, Mode
from tests.fault.object.device_client import LARGE, Client, key_of


def small_puts(client):
    for number in range(12):
        client.put(f"o{number % 4}", 3000)


def large_puts(client):
    client.put_large("big")
    client.put_large("big", 70_000)
    client.put("big", 10)


def deletes(client):
    client.put("a", 100)
    client.put_large("b")
    client.delete("a")
    client.delete("b")
    client.put("a", 5)


def posts(client):
    client.put("a", 2000)
    client.put_large("b")
    client.post("a", "one")
    client.post("b", "two")
    client.post("a", "three")


def checkpoints(client):
    client.put("a", 2000)
    client.flush()
    client.put("b", 2000)
    client.delete("a")
    client.flush()
    client.put("a", 1)


def compactions(client):
    client.put("keep", 3000)
    client.put("gone", 10)
    client.delete("gone")
    client.put_large("keep-large")
    for number in range(30):
        client.put(f"o{number % 2}", 9000)
    client.flush()
    assert client.compact()
    client.put("after", 10)
    while client.compact():
        client.put("more", 100)


SCENARIOS = [small_puts, large_puts, deletes, posts, checkpoints, compactions]


def run_until_power_loss(scenario, *, crash_at, seed):
    """True when power was lost on the way; the client then has a fresh, checked device."""
    client = Client(FaultFs(seed=seed, crash_at=crash_at), MemoryIndex())
    try:
        client.start()
        scenario(client)
        has_crashed = False
    except PowerLoss:
        has_crashed = True
    client.fs = client.fs.after_power_loss()
    client.start()
    assert client.device.recovery.amnesia == ""
    client.check()
    return has_crashed, client


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_acknowledged_writes_survive_power_loss_at_every_step(scenario, seed):
    crash_at, has_crashed = 1, True
    while has_crashed:
        has_crashed, client = run_until_power_loss(scenario, crash_at=crash_at, seed=seed * 1000 + crash_at)
        client.put("later", 100)
        client.fs = client.fs.after_power_loss()
        client.start()
        client.check()
        crash_at += 1
    assert crash_at > 20


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
def test_a_lost_index_is_rebuilt_from_the_journal(scenario):
    client = Client(FaultFs(), MemoryIndex())
    client.start()
    scenario(client)
    client.index = MemoryIndex()
    client.fs = client.fs.after_power_loss()
    client.start()
    assert client.device.recovery.is_index_rebuilt
    client.check()


@pytest.mark.parametrize("seed", range(40))
def test_power_loss_again_and_again_loses_nothing(seed):
    rng = random.Random(seed)
    client = Client(FaultFs(seed=seed, crash_at=rng.randrange(20, 80)), MemoryIndex())
    crashes = 0
    while crashes < 6:
        try:
            client.start()
            client.check()
            for _ in range(40):
                name = rng.choice("abcdef")
                held = client.device.get(key_of(name))
                choice = rng.random()
                if choice < 0.5:
                    client.put(name, rng.choice((0, 1, 4096, 9000)))
                elif choice < 0.6:
                    client.put_large(name)
                elif choice < 0.75:
                    client.delete(name)
                elif choice < 0.9 and held is not None and held.version.kind == Kind.LIVE:
                    client.post(name, str(rng.random()))
                elif choice < 0.95:
                    client.flush()
                else:
                    client.compact()
        except PowerLoss:
            pass
        client.fs = client.fs.after_power_loss(crash_at=rng.randrange(5, 90))
        crashes += 1
    client.fs = client.fs.after_power_loss()
    client.start()
    client.check()


def test_a_write_that_names_a_body_which_is_not_staged_is_refused():
    client = Client(FaultFs(), MemoryIndex())
    client.start()
    stamp = client.next_stamp()
    version = client.version(stamp, "a", body_id=stamp.write_id, size=LARGE)
    with pytest.raises(NoBody):
        client.device.replica.accept(key_of("a"), ballot=stamp, version=version, mode=Mode.WRITE, now_us=stamp.micros)
    assert client.device.get(key_of("a")) is None


def test_a_replica_without_the_body_learns_the_order():
    client = Client(FaultFs(), MemoryIndex())
    client.start()
    stamp = client.next_stamp()
    version = client.version(stamp, "a", body_id=stamp.write_id, size=10)
    reply = client.device.replica.accept(key_of("a"), ballot=stamp, version=version, mode=Mode.KEEP, now_us=stamp.micros)
    assert reply.ok and reply.state == BodyState.LEARNED
    client.device.commit_inline()
    filled = client.device.replica.accept(key_of("a"), ballot=stamp, version=version, mode=Mode.WRITE, now_us=stamp.micros,
                                          body=b"0123456789")
    assert filled.ok and filled.state == BodyState.INLINE
    client.device.commit_inline()
    client.fs = client.fs.after_power_loss()
    client.start()
    assert client.device.read_inline(client.device.get(key_of("a"))) == b"0123456789"
