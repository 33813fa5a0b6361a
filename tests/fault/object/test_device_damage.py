"""Damage that is no power loss: flipped bits, missing files, failing calls, full disks, wrong directories."""
from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from common.errors import Corruption, DeviceFull, DeviceRefused, DeviceUnavailable
from common.faultfs import Fault, FaultFs
from common.timestamp import Stamp
from common.vfs import PAGE_BYTES
from object.device import Device, DeviceLimits
from object.format import RecordType
from object.identity import Identity, save_identity
from object.index import MemoryIndex
from object.replay import list_segments, segment_path
from object.wire import BodyState, Kind, Mode
from tests.fault.object.device_client import IDENTITY, LARGE, LIMITS, NOW, Client, body_of, key_of, open_device

JOURNAL = "/d1/journal"


@pytest.fixture
def client():
    client = Client(FaultFs(seed=5), MemoryIndex())
    client.start()
    return client


def restart(client, *, index=None):
    client.fs = client.fs.after_power_loss()
    client.index = index if index is not None else client.index
    client.start()


def location(client, name):
    held = client.device.get(key_of(name))
    return segment_path(JOURNAL, held.segment), held.offset, held.length


def fill_segments(client, count):
    number = 0
    while client.device.journal.segment < count:
        client.put(f"o{number}", 3000)
        number += 1
    return number


def test_a_flipped_bit_in_a_small_body_is_never_served(client):
    client.put("a", 2000)
    path, offset, length = location(client, "a")
    client.fs.flip_bit(path, offset + length - 10)
    held = client.device.get(key_of("a"))
    with pytest.raises(Corruption):
        client.device.read_inline(held)
    client.device.quarantine(key_of("a"), held)
    assert client.device.get(key_of("a")).state == BodyState.DAMAGED


def test_a_flipped_bit_in_a_large_body_fails_the_block_it_is_in_and_no_other(client):
    client.put_large("big")
    held = client.device.get(key_of("big"))
    body_file = next(path for path in client.fs.files("/d1/bodies"))
    client.fs.flip_bit(body_file, 70_000)
    reader = client.device.open_body(key_of("big"), held)
    assert reader.read(0, 65_536) == client.bodies[held.version.stamp][:65_536]
    with pytest.raises(Corruption):
        reader.read(65_536, 1)
    assert reader.read(131_072, 100) == client.bodies[held.version.stamp][131_072:131_172]
    client.device.quarantine(key_of("big"), held)
    assert client.fs.files("/d1/quarantine") and not client.fs.files("/d1/bodies")


def test_a_flipped_bit_in_the_trailer_is_found_when_the_body_is_opened(client):
    client.put_large("big")
    body_file = next(path for path in client.fs.files("/d1/bodies"))
    client.fs.flip_bit(body_file, LARGE + 3)
    with pytest.raises(Corruption):
        client.device.open_body(key_of("big"), client.device.get(key_of("big")))


def test_a_repaired_body_is_served_again_after_a_restart(client):
    client.put("a", 2000)
    held = client.device.get(key_of("a"))
    client.device.quarantine(key_of("a"), held)
    body = client.bodies[held.version.stamp]
    reply = client.device.replica.learn(key_of("a"), ballot=held.ballot, version=held.version, body=body)
    assert reply.ok
    client.device.commit_inline()
    restart(client, index=MemoryIndex())
    client.check()


def test_a_torn_tail_is_cut_and_reported(client):
    client.put("a", 100)
    client.put("b", 100)
    path, offset, _ = location(client, "b")
    client.fs.flip_bit(path, offset)
    client.acknowledged.pop("b")
    restart(client)
    assert client.device.recovery.torn_bytes > 0 and client.device.recovery.amnesia == ""
    assert client.device.get(key_of("b")) is None
    client.put("b", 50)
    restart(client, index=MemoryIndex())
    client.check()


def test_damage_before_a_later_batch_is_never_taken_for_a_tail(client):
    for name in "abc":
        client.put(name, 100)
    path, offset, _ = location(client, "b")
    client.fs.flip_bit(path, offset)
    restart(client)
    assert "damaged" in client.device.recovery.amnesia
    assert not client.device.standing.is_counted
    assert client.device.identity.incarnation != IDENTITY.incarnation
    assert client.device.floor > Stamp(NOW, 0, 0, 0)
    assert client.device.get(key_of("c")) is not None            # what can be read is kept


def test_damage_in_a_sealed_segment_names_the_rows_that_it_lost(client):
    fill_segments(client, 3)
    path, offset, _ = location(client, "o2")
    client.fs.flip_bit(path, offset + 5)
    lost = client.device.get(key_of("o2")).version.stamp
    restart(client, index=MemoryIndex())
    assert client.device.recovery.amnesia == ""
    held = client.device.get(key_of("o2"))
    assert held.state == BodyState.LOST and held.version.stamp == lost
    with pytest.raises(Corruption):
        client.device.replica.look(key_of("o2"), ballot=None, now_us=NOW)
    client.put("o2", 10)                                         # a newer write heals it
    restart(client, index=MemoryIndex())
    assert client.device.get(key_of("o2")).state == BodyState.INLINE


def test_a_row_that_the_index_knows_is_not_lost_with_its_record(client):
    client.device.append_row(RecordType.CONTAINER_ROW, b"no checkpoint covers it")       # so a start reads this segment again
    client.put_large("large")
    fill_segments(client, 3)
    client.flush()
    path, offset, _ = location(client, "large")
    client.fs.flip_bit(path, offset + 60)
    restart(client)
    held = client.device.get(key_of("large"))
    assert held.state == BodyState.FILE and held.version.path == "/a/c/large" and client.device.recovery.damaged_rows == 0


def test_what_is_owed_is_owed_when_the_same_version_is_taken_at_a_higher_ballot(client):
    client.put("x", 100)
    version = client.device.get(key_of("x")).version
    client.device.owe(key_of("x"), version.stamp)
    ballot = client.next_stamp()                                 # a condition that was false, a read that settles
    assert client.device.replica.accept(key_of("x"), ballot=ballot, version=version, mode=Mode.KEEP, now_us=ballot.micros,
                                        body=body_of(version.stamp.write_id, 100)).ok
    client.device.commit_inline()
    assert client.device.pending[key_of("x")].is_owed
    restart(client, index=MemoryIndex())
    assert client.device.pending[key_of("x")].is_owed


def test_a_lost_row_is_filled_by_a_repair(client):
    fill_segments(client, 3)
    before = client.device.get(key_of("o2"))
    path, offset, _ = location(client, "o2")
    client.fs.flip_bit(path, offset + 5)
    restart(client, index=MemoryIndex())
    reply = client.device.replica.learn(key_of("o2"), ballot=before.ballot, version=before.version,
                                        body=client.bodies[before.version.stamp])
    assert reply.ok
    client.device.commit_inline()
    client.check()


def test_a_missing_segment_makes_the_device_forgetful(client):
    fill_segments(client, 4)
    client.fs.unlink(segment_path(JOURNAL, 2))
    client.fs.fsync_dir(JOURNAL)
    restart(client)
    assert "2 is missing" in client.device.recovery.amnesia


def test_a_missing_first_segment_makes_the_device_forgetful(client):
    fill_segments(client, 3)
    client.fs.unlink(segment_path(JOURNAL, 1))
    client.fs.fsync_dir(JOURNAL)
    restart(client)
    assert "before 2 are missing" in client.device.recovery.amnesia


def test_an_index_that_knows_more_than_the_journal_makes_the_device_forgetful(client):
    client.put("a", 10)
    older = client.fs.copy()
    client.put("b", 10)
    client.flush()
    client.fs = older
    client.start()
    assert "index knows sequence" in client.device.recovery.amnesia


def test_a_failed_sync_moves_the_batch_to_a_new_segment(client):
    client.put("a", 10)
    segment = client.device.journal.segment
    client.fs.add_fault(Fault("fdatasync", 1))
    client.put("b", 10)
    assert client.device.journal.segment == segment + 1
    restart(client, index=MemoryIndex())
    assert client.device.recovery.amnesia == ""
    client.check()


def test_a_second_failed_sync_retires_the_device(client):
    client.put("a", 10)
    client.fs.add_fault(Fault("fdatasync", 1))
    client.fs.add_fault(Fault("fdatasync", 2))
    with pytest.raises(DeviceUnavailable):
        client.put("b", 10)
    restart(client)
    client.check()


def test_a_read_only_file_system_retires_the_device_and_reads_go_on(client):
    client.put("a", 10)
    client.fs.is_read_only = True
    with pytest.raises(DeviceUnavailable):
        client.put("b", 10)
    assert client.device.read_inline(client.device.get(key_of("a"))) == client.bodies[client.acknowledged["a"]]


def test_on_a_full_disk_writes_are_refused_and_deletes_go_on():
    client = Client(FaultFs(seed=1, capacity_bytes=600 << 10), MemoryIndex())
    client.limits = replace(LIMITS, reserve_bytes=LIMITS.segment_bytes)
    client.start()
    number = 0
    with pytest.raises(DeviceFull):
        while True:
            client.device.has_room()
            client.put(f"o{number}", 3000)
            number += 1
    assert number > 10
    for name in range(number):
        client.device.has_room()
        client.delete(f"o{name}")
        client.compact()
    client.possible.clear()
    restart(client, index=MemoryIndex())
    for name in range(number):
        assert client.device.get(key_of(f"o{name}")).version.kind == Kind.TOMBSTONE
    assert client.device.has_room()
    client.put("again", 3000)


def test_a_large_body_on_a_full_disk_leaves_nothing_behind():
    client = Client(FaultFs(seed=1, capacity_bytes=400 << 10), MemoryIndex())
    client.start()
    before = client.fs.files()
    writer = client.device.new_body()
    with pytest.raises(OSError) as error:
        for _ in range(100):
            writer.write(b"x" * 60_000)
    assert error.value.errno == errno.ENOSPC
    writer.abort()
    assert client.fs.files() == before


@pytest.mark.parametrize(("change", "reason"), [
    ({"cluster": "other"}, "foreign"),
    ({"fingerprint": "other"}, "foreign"),
    ({"id": "u2", "name": "d2"}, "copied"),
    ({"format": 99}, "newer"),
])
def test_a_directory_of_something_else_is_refused_with_the_reason(client, change, reason):
    client.put("a", 10)
    client.device.close()
    fields = {"id": "u1", "name": "d1", "cluster": "c", "fingerprint": "f", "incarnation": b"i" * 16} | change
    save_identity(client.fs, "/d1", Identity(**fields))
    with pytest.raises(DeviceRefused, match=reason):
        client.start()


def test_a_journal_of_a_newer_format_is_refused(client, monkeypatch):
    client.put("a", 10)
    client.device.close()
    monkeypatch.setattr("object.format.VERSION", 0)
    with pytest.raises(DeviceRefused, match="newer"):
        client.start()


def test_an_index_of_another_format_is_rebuilt_from_nothing(client):
    client.put("a", 10)
    client.flush()
    client.index._mark = None
    client.index._rows[key_of("ghost")] = client.index._rows[key_of("a")]
    restart(client)
    assert client.device.recovery.is_index_rebuilt and client.device.get(key_of("ghost")) is None
    client.check()


def test_a_device_mounted_twice_is_refused(client):
    with pytest.raises(DeviceRefused, match="in use"):
        open_device(client.fs, MemoryIndex())


def test_a_journal_without_its_identity_is_refused(client):
    client.put("a", 10)
    client.device.close()
    client.fs.unlink("/d1/device.toml")
    with pytest.raises(DeviceRefused, match=r"no device.toml"):
        client.start()


def test_an_empty_directory_becomes_a_new_device():
    fs = FaultFs()
    device = Device(fs, "/d1", IDENTITY, MemoryIndex(), limits=DeviceLimits(segment_bytes=LIMITS.segment_bytes, reserve_bytes=4096),
                    now_us=NOW)
    assert device.recovery.is_new and list_segments(fs, JOURNAL) == [1]


def test_promises_below_the_journaled_ceiling_are_refused_after_a_restart(client):
    ballot = Stamp(NOW + 1000, 0, 1, 1)
    assert client.device.replica.look(key_of("a"), ballot=ballot, now_us=NOW).ok
    client.device.commit_inline()
    restart(client)
    version = client.version(Stamp(NOW + 900, 0, 1, 2), "a", size=0)
    reply = client.device.replica.accept(key_of("a"), ballot=version.stamp, version=version, mode=Mode.WRITE, now_us=NOW)
    assert not reply.ok and reply.promised > ballot


def test_padding_keeps_a_durable_page_from_being_written_again(client):
    client.put("a", 10)
    _, first, _ = location(client, "a")
    client.put("b", 10)
    _, second, _ = location(client, "b")
    assert second // PAGE_BYTES > first // PAGE_BYTES
