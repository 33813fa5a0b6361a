"""Which row is the newest, wherever it is just then: in memory, on its way into the index, or kept from an earlier look."""
from __future__ import annotations

import pytest

from common.errors import DeviceFull
from common.faultfs import FaultFs
from common.timestamp import Stamp
from object.device import Device
from object.index import MemoryIndex
from object.wire import SPACE_ACCOUNT, SPACE_CONTAINER, SPACE_OBJECT, Kind, Mode, make_key, make_version
from tests.fault.object.device_client import IDENTITY, LIMITS, NOW


def write(device, key, number):
    stamp = Stamp(NOW + number, 0, 1, number)
    version = make_version(stamp=stamp, root=stamp, kind=Kind.LIVE, path="/a/c/o", descriptor=b"x")
    assert device.replica.accept(key, ballot=stamp, version=version, mode=Mode.WRITE, now_us=stamp.micros).ok
    device.commit_inline()
    return stamp


@pytest.mark.parametrize("space", [SPACE_ACCOUNT, SPACE_CONTAINER, SPACE_OBJECT])
def test_what_was_kept_of_the_index_is_never_taken_for_the_newest_row_after_a_start(space):
    fs, index, key = FaultFs(seed=1), MemoryIndex(), make_key(space, 7, b"k" * 16)
    device = Device(fs, "/d1", IDENTITY, index, limits=LIMITS, now_us=NOW)
    write(device, key, 1)
    device.flush_inline()
    newest = write(device, key, 2)                   # in the journal, not in the index
    device.close()
    device = Device(fs, "/d1", IDENTITY, index, limits=LIMITS, now_us=NOW)
    assert device.get(key).version.stamp == newest
    device.flush_inline()
    assert device.get(key).version.stamp == newest


@pytest.mark.parametrize("space", [SPACE_ACCOUNT, SPACE_CONTAINER, SPACE_OBJECT])
def test_a_look_between_two_writes_keeps_nothing_back(space):
    key = make_key(space, 7, b"k" * 16)
    device = Device(FaultFs(seed=1), "/d1", IDENTITY, MemoryIndex(), limits=LIMITS, now_us=NOW)
    for number in range(1, 5):
        stamp = write(device, key, number)
        if number % 2:
            device.flush_inline()
        assert device.get(key).version.stamp == stamp
    device.flush_inline()
    assert device.get(key).version.stamp == stamp


def test_a_full_device_refuses_what_is_new_and_takes_what_settles_or_deletes():
    key = make_key(SPACE_OBJECT, 7, b"k" * 16)
    device = Device(FaultFs(seed=1), "/d1", IDENTITY, MemoryIndex(), limits=LIMITS, now_us=NOW)
    write(device, key, 1)
    device.is_full = True
    stamps = [Stamp(NOW + number, 0, 1, number) for number in range(2, 5)]
    live = [make_version(stamp=stamp, root=stamp, kind=Kind.LIVE, path="/a/c/o", descriptor=b"x") for stamp in stamps]
    with pytest.raises(DeviceFull):
        device.replica.accept(key, ballot=stamps[0], version=live[0], mode=Mode.WRITE, now_us=NOW)
    assert device.replica.accept(key, ballot=stamps[0], version=live[0], mode=Mode.KEEP, now_us=NOW).ok       # a read's write-back
    assert device.replica.learn(key, ballot=stamps[1], version=live[1]).ok
    gone = make_version(stamp=stamps[2], root=stamps[2], kind=Kind.TOMBSTONE, path="/a/c/o")
    assert device.replica.accept(key, ballot=stamps[2], version=gone, mode=Mode.WRITE, now_us=NOW).ok


def test_a_large_body_stops_at_the_fill_limit_while_it_is_written():
    fs = FaultFs(seed=1)
    device = Device(fs, "/d1", IDENTITY, MemoryIndex(), limits=LIMITS, now_us=NOW)
    writer = device.new_body()
    writer.write(b"x" * 100_000)
    fs.free_bytes = lambda path: (0, device.size_bytes)
    with pytest.raises(OSError, match="fill limit"):
        writer.write(b"x" * 100_000)
    writer.abort()
