"""Compaction beside damage, and what goes beside writes that are not durable yet: no acknowledged state is lost with it."""
from __future__ import annotations

import asyncio
import threading

import pytest

from common.clock import ManualClock
from common.faultfs import FaultFs
from object.compaction import begin_scan, drop_segment, load_records, move_lost, move_records, plan_compaction
from object.index import MemoryIndex
from object.owner import Owner
from object.replay import list_segments, segment_path
from object.wire import BodyState, Kind, Mode
from tests.fault.object.device_client import Client, body_of, key_of

JOURNAL = "/d1/journal"


def client_with(names, seed=7):
    """Each name in a segment of its own fate: written once, then others are overwritten until most of the segment is dead."""
    client = Client(FaultFs(seed=seed), MemoryIndex())
    client.start()
    for name in names:
        client.put_large(name) if name == "large" else client.put(name, 3000)
    return client


def damage(client, name):
    held = client.device.get(key_of(name))
    client.fs.flip_bit(segment_path(JOURNAL, held.segment), held.offset + 60)
    return held.segment


def compact_all(client):
    """The segments that are still there, damaged ones that stay included."""
    for _ in range(20):
        if not client.compact():
            break
    return list_segments(client.fs, JOURNAL)


def rebuilt(client):
    """The device as the next start finds it without an index."""
    client.device.commit_inline()
    client.device.close()
    after = Client(client.fs.after_power_loss(), MemoryIndex())
    after.start()
    return after.device


@pytest.mark.parametrize(("name", "state"), [("large", BodyState.FILE), ("small", BodyState.LEARNED)])
def test_a_row_whose_record_is_damaged_is_known_after_its_segment_is_gone(name, state):
    client = client_with([name])
    for number in range(30):
        client.put(f"o{number % 2}", 9000)
    client.flush()
    ballot = client.device.get(key_of(name)).ballot
    segment = damage(client, name)
    compact_all(client)
    moved = client.device.get(key_of(name))
    assert moved.segment != segment and moved.ballot == ballot
    device = rebuilt(client)
    held = device.get(key_of(name))
    assert held.ballot == ballot and held.state == state and held.version.path == f"/a/c/{name}" and not device.recovery.amnesia


def test_a_tombstone_that_is_damaged_does_not_let_the_object_come_back():
    client = client_with(["gone"])
    number = 0
    while client.device.journal.segment == 1:                # its put lives on as a dead record of a segment that stays
        client.put(f"live{number}", 9000)
        number += 1
    for _ in range(3):
        client.put("o", 9000)
    client.delete("gone")
    while client.device.journal.segment <= 3:
        client.put("o", 9000)
    client.flush()
    damage(client, "gone")
    compact_all(client)
    device = rebuilt(client)
    assert device.get(key_of("gone")).version.kind == Kind.TOMBSTONE and not device.recovery.amnesia


def test_a_segment_with_a_row_of_which_only_the_stamp_is_known_stays():
    client = client_with(["small"])
    for number in range(30):
        client.put(f"o{number % 2}", 9000)
    client.device.commit_inline()
    segment = damage(client, "small")
    client.device.close()
    after = Client(client.fs.after_power_loss(), MemoryIndex())
    after.start()
    assert after.device.get(key_of("small")).state == BodyState.LOST
    after.flush()
    compact_all(after)
    assert segment in after.device.damaged_segments
    assert rebuilt(after).get(key_of("small")).state == BodyState.LOST


def test_what_is_owed_is_owed_after_the_segment_that_said_so_is_gone():
    client = client_with(["small"])
    stamp = client.acknowledged["small"]
    number = 0
    while client.device.journal.segment == 1:
        client.put(f"live{number}", 9000)
        number += 1
    client.device.owe(key_of("small"), stamp)
    client.device.commit_inline()
    said_in = client.device.journal.segment
    while client.device.journal.segment <= 3:
        client.put("o", 9000)
    client.flush()
    for key, entry in list(client.device.pending.items()):
        if key != key_of("small"):
            client.device.done(key, entry.stamp)
    gone = set()
    while (segment := plan_compaction(client.device)) is not None:
        scan = begin_scan(client.device, segment)
        for step in load_records(client.device, scan):
            move_records(client.device, segment, step)
        assert move_lost(client.device, scan)
        client.device.commit_inline()
        drop_segment(client.device, segment)
        gone.add(segment)
    assert said_in in gone
    assert rebuilt(client).pending[key_of("small")].is_owed


class Power:
    """The first batch is slow; at the second one the power fails before anything of it reaches the disk."""

    def __init__(self, client):
        self.client, self.write = client, client.device.journal.write
        self.begun, self.go_on, self.failed = threading.Event(), threading.Event(), threading.Event()
        self.batches, self.disk = 0, None
        client.device.journal.write = self

    def __call__(self, batch):
        self.batches += 1
        if self.batches == 1:
            self.begun.set()
            assert self.go_on.wait(30)
        elif self.disk is None:
            self.disk = self.client.fs.after_power_loss()
            self.failed.set()
        return self.write(batch)


def begin(client, owner, name, size):
    """A write that waits for its sync."""
    stamp = client.next_stamp()
    version = client.version(stamp, name, body_id=stamp.write_id, size=size)
    assert client.device.replica.accept(key_of(name), ballot=stamp, version=version, mode=Mode.WRITE, now_us=stamp.micros,
                                        body=body_of(stamp.write_id, size)).ok
    owner._kick()


@pytest.mark.parametrize("is_flushed", [True, False])
async def test_a_segment_goes_only_when_what_displaced_its_records_is_durable(is_flushed):
    client = client_with(["small"])
    acknowledged = client.acknowledged["small"]
    for number in range(30):
        client.put(f"o{number % 2}", 9000)
    if is_flushed:
        client.flush()
    for key, entry in list(client.device.pending.items()):
        client.device.done(key, entry.stamp)
    owner = Owner(client.device, ManualClock())
    while plan_compaction(client.device) != client.device.get(key_of("small")).segment:
        assert await owner.compact()                         # those of which nothing lives come first
    power = Power(client)
    begin(client, owner, "other", 10)
    await asyncio.to_thread(power.begun.wait, 30)
    begin(client, owner, "small", 2000)                      # in memory it displaces the acknowledged one, on the disk not yet
    compaction = asyncio.create_task(owner.compact())
    await asyncio.wait([compaction], timeout=0.2)            # it comes as far as it can while the first batch is under way
    power.go_on.set()
    await asyncio.gather(compaction, return_exceptions=True)         # without power it may have come to nothing
    await asyncio.to_thread(power.failed.wait, 30)
    after = Client(power.disk, client.index if is_flushed else MemoryIndex())
    after.start()
    held = after.device.get(key_of("small"))
    assert held.version.stamp == acknowledged and len(after.device.read_inline(held)) == 3000


@pytest.mark.parametrize("seed", range(8))           # of what the power loss keeps: the removed name, or not
async def test_a_body_goes_only_when_what_displaced_it_is_durable(seed):
    client = client_with(["large"], seed)
    acknowledged, body = client.acknowledged["large"], client.bodies[client.acknowledged["large"]]
    owner = Owner(client.device, ManualClock())
    power = Power(client)
    begin(client, owner, "other", 10)
    await asyncio.to_thread(power.begun.wait, 30)
    begin(client, owner, "large", 2000)
    unlinking = asyncio.create_task(owner._unlink())
    await asyncio.wait([unlinking], timeout=0.2)
    power.go_on.set()
    await asyncio.gather(unlinking, return_exceptions=True)
    await asyncio.to_thread(power.failed.wait, 30)
    after = Client(power.disk, MemoryIndex())
    after.start()
    held = after.device.get(key_of("large"))
    assert held.version.stamp == acknowledged and held.state == BodyState.FILE
    reader = after.device.open_body(key_of("large"), held)
    assert reader.read(0, len(body)) == body
    reader.close()
