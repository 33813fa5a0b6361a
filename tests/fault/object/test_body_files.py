"""Files of large bodies that are staged again: what is acknowledged is on the disk, and what is current again stays there."""
from __future__ import annotations

import asyncio
import threading

import pytest

from common.clock import ManualClock
from common.faultfs import Fault, FaultFs, PowerLoss
from common.vfs import RealFs
from object.bodies import BodyReader, BodyWriter, body_path
from object.index import MemoryIndex
from object.owner import Owner
from object.wire import BodyState, Mode
from tests.fault.object.device_client import LARGE, Client, body_of, key_of

KEY, NAME = key_of("large"), "/a/c/large"
BODY = body_of(99, LARGE)


def client_on(seed):
    client = Client(FaultFs(seed=seed), MemoryIndex())
    client.start()
    client.put("first", 10)
    return client


def upload(client, body_id, body=BODY):
    """Staged; not named by a record yet."""
    writer = client.device.new_body()
    writer.write(body)
    client.device.staged(KEY, body_id, writer.finish(KEY, body_id, NAME))


def acknowledge(client, stamp):
    client._accept("large", client.version(stamp, "large", body_id=stamp.write_id, size=LARGE), content=BODY)


def check_after_power_loss(fs):
    after = Client(fs.after_power_loss(), MemoryIndex())
    after.start()
    check_readable(after.device, BODY)


def check_readable(device, body):
    held = device.get(KEY)
    assert held.state == BodyState.FILE
    reader = device.open_body(KEY, held)
    assert reader.read(0, len(body)) == body
    reader.close()


class Killed(BaseException):
    """kill -9: names and the page cache stay."""


def upload_killed_after_link(client, body_id):
    link = client.fs.link_unnamed

    def link_and_die(handle, path):
        link(handle, path)
        raise Killed

    client.fs.link_unnamed = link_and_die
    with pytest.raises(Killed):
        upload(client, body_id)
    client.fs.link_unnamed = link


@pytest.mark.parametrize("seed", range(12))
def test_a_body_staged_again_after_a_kill_before_its_sync_survives_power_loss(seed):
    client = client_on(seed)
    stamp = client.next_stamp()
    upload_killed_after_link(client, stamp.write_id)
    upload(client, stamp.write_id)
    acknowledge(client, stamp)
    check_after_power_loss(client.fs)


@pytest.mark.parametrize("seed", range(12))
def test_a_body_staged_again_after_its_sync_failed_survives_power_loss(seed):
    client = client_on(seed)
    stamp = client.next_stamp()
    client.fs.add_fault(Fault("fsync", 1))
    with pytest.raises(OSError):
        upload(client, stamp.write_id)
    upload(client, stamp.write_id)
    acknowledge(client, stamp)
    check_after_power_loss(client.fs)


def test_a_body_whose_sync_failed_leaves_no_name():
    client = client_on(1)
    client.fs.add_fault(Fault("fsync", 1))
    with pytest.raises(OSError):
        upload(client, 77)
    assert client.fs.files("/d1/bodies") == []


def test_a_torn_leftover_is_replaced_by_the_next_upload():
    client = client_on(1)
    stamp = client.next_stamp()
    upload_killed_after_link(client, stamp.write_id)
    client.fs.truncate(body_path("/d1", KEY, stamp.write_id), 4096)
    upload(client, stamp.write_id)
    acknowledge(client, stamp)
    check_readable(client.device, BODY)
    assert client.fs.files("/d1/bodies") == [body_path("/d1", KEY, stamp.write_id)]


@pytest.mark.parametrize("call", ["link", "fsync", "rename", "fsync_dir"])
def test_a_body_that_cannot_be_staged_again_keeps_its_acknowledged_file(call):
    client = client_on(1)
    stamp = client.next_stamp()
    upload(client, stamp.write_id)
    acknowledge(client, stamp)
    client.fs.add_fault(Fault(call, 2 if call == "link" else 1))         # the first link finds the old file
    with pytest.raises(OSError):
        upload(client, stamp.write_id)
    assert client.fs.files("/d1/bodies") == [body_path("/d1", KEY, stamp.write_id)]
    check_readable(client.device, BODY)
    check_after_power_loss(client.fs)


@pytest.mark.parametrize("seed", range(6))
def test_power_loss_anywhere_in_staging_again_keeps_the_acknowledged_body(seed):
    steps = 0
    while True:
        client = client_on(seed)
        stamp = client.next_stamp()
        upload(client, stamp.write_id)
        acknowledge(client, stamp)
        steps += 1
        client.fs._crash_at = client.fs.calls + steps
        try:
            upload(client, stamp.write_id)
        except PowerLoss:
            check_after_power_loss(client.fs)
        else:
            break
    assert steps > 6                     # open, writes, xattr, two links, sync, rename, sync of the directory


def test_a_reader_of_the_old_file_reads_on_while_the_body_is_staged_again(tmp_path):
    fs, root = RealFs(), str(tmp_path)
    for name in ("bodies", "tmp"):
        fs.mkdir(f"{root}/{name}")

    def stage():
        writer = BodyWriter(fs, root)
        writer.write(BODY)
        return writer.finish(KEY, 77, NAME)

    crc = stage()
    path = body_path(root, KEY, 77)
    inode = (tmp_path / path).stat().st_ino
    reader = BodyReader(fs, path, size_bytes=LARGE, trailer_crc=crc)
    assert stage() == crc
    assert reader.read(0, LARGE) == BODY
    reader.close()
    assert (tmp_path / path).stat().st_ino != inode and len(list((tmp_path / path).parent.iterdir())) == 1
    again = BodyReader(fs, path, size_bytes=LARGE, trailer_crc=crc)
    assert again.read(0, LARGE) == BODY
    again.close()


# --- displaced, then current again ---------------------------------------------------------------------------------


def displace(client):
    """The large body of v1 gives way to a small one here only; v1."""
    upload(client, (stamp := client.next_stamp()).write_id)
    acknowledge(client, stamp)
    first = client.device.get(KEY).version
    write_small(client)
    return first


def write_small(client):
    stamp = client.next_stamp()
    version = client.version(stamp, "large", body_id=stamp.write_id, size=10)
    assert client.device.replica.accept(KEY, ballot=stamp, version=version, mode=Mode.WRITE, now_us=stamp.micros,
                                        body=body_of(5, 10)).ok


def learn(client, version):
    assert client.device.replica.learn(KEY, ballot=client.next_stamp(), version=version).ok


def owner_of(client):
    owner = Owner(client.device, ManualClock())
    owner.decide(peers=0, is_patient=True)
    return owner


async def stage(owner, version):
    writer = owner.new_body()
    writer.write(BODY)
    await owner.stage(writer, KEY, version.body_id, NAME)


async def test_a_displaced_body_that_is_current_again_keeps_its_file():
    client = client_on(1)
    first = displace(client)
    owner = owner_of(client)
    await stage(owner, first)
    learn(client, first)
    await owner._unlink()
    check_readable(client.device, BODY)


async def test_a_displaced_body_that_is_staged_again_keeps_its_file_until_a_record_names_it():
    client = client_on(1)
    first = displace(client)
    owner = owner_of(client)
    await stage(owner, first)
    await owner._unlink()
    learn(client, first)
    check_readable(client.device, BODY)


async def test_a_body_that_is_displaced_for_good_loses_its_file():
    client = client_on(1)
    displace(client)
    await owner_of(client)._unlink()
    assert client.fs.files("/d1/bodies") == [] and not client.device.displaced_bodies


async def test_a_body_staged_again_while_its_removal_is_under_way_keeps_its_file():
    client = client_on(1)
    first = displace(client)
    owner = owner_of(client)
    begun, go_on, remove = threading.Event(), threading.Event(), client.device.unlink

    def unlink_late(displaced):
        begun.set()
        assert go_on.wait(30)
        remove(displaced)

    client.device.unlink = unlink_late
    unlinking = asyncio.create_task(owner._unlink())
    assert await asyncio.to_thread(begun.wait, 30)
    await stage(owner, first)            # another thread of the pool
    learn(client, first)
    go_on.set()
    await unlinking
    check_readable(client.device, BODY)


async def test_a_body_that_is_displaced_while_it_is_staged_again_keeps_its_file():
    client = client_on(1)
    upload(client, (stamp := client.next_stamp()).write_id)
    acknowledge(client, stamp)
    first = client.device.get(KEY).version
    owner = owner_of(client)
    named, go_on, fsync_dir = threading.Event(), threading.Event(), client.fs.fsync_dir

    def fsync_late(path):
        named.set()
        assert go_on.wait(30)
        fsync_dir(path)

    client.fs.fsync_dir = fsync_late
    staging = asyncio.create_task(stage(owner, first))
    assert await asyncio.to_thread(named.wait, 30)
    write_small(client)
    client.device.commit_inline()
    await owner._unlink()
    go_on.set()
    await staging
    learn(client, first)
    check_readable(client.device, BODY)
