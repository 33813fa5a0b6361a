"""Flipped bits and wrong directories: never served, said by status, mended by the read that met them."""
from __future__ import annotations

import random
import shutil
import subprocess

import pytest

from common.errors import NotFound
from object.wire import BodyState
from tests.fault.cluster.harness import delete, get, listing, put, running, until

LARGE = random.Random(1).randbytes(1_200_000)
SMALL = random.Random(2).randbytes(20_000)


def held(cluster, index, name):
    place = cluster.store().cluster.object(0, "a", "c", name)
    return place.key, cluster.owner_of(index).device.get(place.key)


async def placed(cluster, index, name):
    """The same, once its record is on the disk: a PUT is answered by two of three."""
    await until(lambda: (row := held(cluster, index, name)[1]) is not None and row.segment, "this replica has it too")
    return held(cluster, index, name)


def flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))


def repaired(cluster):
    return sum(storage.status()["repaired"] for storage in cluster.storages if storage is not None)


def body_file(cluster, index):
    return next((cluster.device(index) / "bodies").rglob("*.*"))


@pytest.mark.parametrize("victim", [0, 1, 2])
async def test_a_flipped_bit_in_the_journal_is_not_served_and_is_mended(tmp_path, victim):
    async with running(tmp_path) as cluster:
        await put(cluster.store(), "o", SMALL)
        key, row = await placed(cluster, victim, "o")
        flip(cluster.device(victim) / "journal" / f"{row.segment:010d}.seg", row.offset + row.length - 5000)
        for store in cluster.stores:
            assert await get(store, "o") == SMALL
        await until(lambda: repaired(cluster) >= 1, "the replica is mended")
        owner = cluster.owner_of(victim)
        assert owner.device.get(key).state == BodyState.INLINE
        assert owner.device.read_inline(owner.device.get(key)) == SMALL
        for _ in range(2):
            for store in cluster.stores:
                assert await get(store, "o") == SMALL
            await cluster.restart()


@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.parametrize("offset", [0, 700_000, 1_199_999])
async def test_a_flipped_bit_in_a_large_body_is_not_served_and_is_mended(tmp_path, victim, offset):
    async with running(tmp_path) as cluster:
        await put(cluster.store(), "o", LARGE)
        await until(lambda: held(cluster, victim, "o")[1] is not None, "the third replica has it")
        flip(body_file(cluster, victim), offset)
        for store in cluster.stores:
            assert await get(store, "o") == LARGE
        assert await get(cluster.store(victim), "o") == LARGE        # asks its own device first
        await until(lambda: repaired(cluster) >= 1, "the replica is mended")
        assert body_file(cluster, victim).read_bytes()[:len(LARGE)] == LARGE
        assert len(list((cluster.device(victim) / "quarantine").iterdir())) == 1
        await cluster.restart()
        assert await get(cluster.store(victim), "o") == LARGE


async def test_a_lost_body_file_is_copied_back(tmp_path):
    async with running(tmp_path) as cluster:
        await put(cluster.store(), "o", LARGE)
        await until(lambda: held(cluster, 0, "o")[1] is not None, "the replica has it")
        body_file(cluster, 0).unlink()
        assert await get(cluster.store(0), "o") == LARGE
        await until(lambda: repaired(cluster) >= 1, "the replica is mended")
        assert body_file(cluster, 0).read_bytes()[:len(LARGE)] == LARGE


async def test_a_flipped_bit_found_at_start_is_served_from_the_others(tmp_path):
    """In the middle of the log: the row is known to be damaged, never taken for an older state."""
    async with running(tmp_path) as cluster:
        await put(cluster.store(), "o", b"old")
        await put(cluster.store(), "o", SMALL)
        await put(cluster.store(), "after", b"x")
        _, row = await placed(cluster, 1, "o")
        await cluster.stop()
        flip(cluster.device(1) / "journal" / f"{row.segment:010d}.seg", row.offset + row.length - 5000)
        for path in (cluster.device(1) / "index").iterdir():
            path.unlink()                # so that the start reads the whole journal
        await cluster.start()
        for store in cluster.stores:
            assert await get(store, "o") == SMALL
            assert await get(store, "after") == b"x"
            assert await listing(store) == ["after", "o"]


def make_missing(cluster, index):
    cluster.device(index).rename(cluster.root / "elsewhere")
    return "not there"


def make_foreign(cluster, index):
    path = cluster.device(index) / "device.toml"
    path.write_text(path.read_text().replace('cluster = "c"', 'cluster = "other"'))
    return "foreign"


def make_copied(cluster, index):
    """The directory of another device is here."""
    cluster.empty(index)
    shutil.copytree(cluster.device((index + 1) % 3), cluster.device(index), dirs_exist_ok=True)
    return "copied or mounted in the wrong place"


def make_newer(cluster, index):
    path = cluster.device(index) / "device.toml"
    path.write_text(path.read_text().replace("format = 1", "format = 99"))
    return "newer"


def make_headless(cluster, index):
    (cluster.device(index) / "device.toml").unlink()
    return "no device.toml"


def hold_lock(cluster, index):
    """Another process that has the lock of a device until its input ends."""
    holder = subprocess.Popen(["flock", str(cluster.device(index) / "lock"), "sh", "-c", "echo held; read _"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    return holder


def run(*command):
    subprocess.run(command, check=True)


async def check_without(cluster, index, reason):
    assert cluster.status(index)["state"] == "unusable"
    assert reason in cluster.status(index)["reason"]
    for store in cluster.stores:
        assert await get(store, "o") == SMALL
        assert await listing(store) == ["gone", "o"]
    await put(cluster.store(), "new", b"new")
    await delete(cluster.store(), "gone")
    for store in cluster.stores:
        assert await get(store, "gone") is None
        assert await listing(store) == ["new", "o"]


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("make", [make_missing, make_foreign, make_copied, make_newer, make_headless])
async def test_a_directory_that_is_not_the_device_is_refused_and_the_others_serve(tmp_path, make, index):
    async with running(tmp_path, owners=(0, 1, 0)) as cluster:
        await put(cluster.store(), "o", SMALL)
        await put(cluster.store(), "gone", b"x")
        await cluster.stop()
        reason = make(cluster, index)
        await cluster.start()
        await check_without(cluster, index, reason)


async def test_a_device_that_another_process_holds_is_refused(tmp_path):
    async with running(tmp_path) as cluster:
        await put(cluster.store(), "o", SMALL)
        await put(cluster.store(), "gone", b"x")
        await cluster.stop()
        holder = hold_lock(cluster, 1)
        try:
            await cluster.start()
            await check_without(cluster, 1, "in use")
        finally:
            holder.communicate(b"\n")


@pytest.mark.needs_root
async def test_a_read_only_device_is_refused(tmp_path):
    async with running(tmp_path) as cluster:
        await put(cluster.store(), "o", SMALL)
        await put(cluster.store(), "gone", b"x")
        await cluster.stop()
        path = str(cluster.device(2))
        run("mount", "--bind", path, path)
        try:
            run("mount", "-o", "remount,ro,bind", path)
            await cluster.start()
            await check_without(cluster, 2, "Read-only")
            await cluster.stop()
        finally:
            run("umount", path)
        await cluster.start()
        assert cluster.status(2)["state"] in ("ok", "not counted")
        assert await listing(cluster.store()) == ["new", "o"]


async def test_a_device_whose_disk_fails_twice_is_retired_and_the_others_serve(tmp_path):
    async with running(tmp_path) as cluster:
        await put(cluster.store(), "o", SMALL)
        owner = cluster.owner_of(1)

        def fail(batch):
            raise OSError(5, "Input/output error")

        owner.device.journal.write = fail
        await put(cluster.store(), "new", b"new")
        await until(lambda: cluster.status(1)["state"] == "retired", "the device is retired")
        assert "Input/output error" in cluster.status(1)["reason"]
        for store in cluster.stores:
            assert await get(store, "new") == b"new"
            assert await listing(store) == ["new", "o"]
        with pytest.raises(NotFound):
            await cluster.store().container("a", "none", fresh=True)
