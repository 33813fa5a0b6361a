"""One suite over both forms of `object.client.ObjectClient`: a direct call to the owner, and the transport to its process."""
import asyncio
import random
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from common.clock import SystemClock
from common.errors import DeviceUnavailable, NoBody, StorageError
from common.timestamp import ZERO, Stamp
from object.wire import SPACE_OBJECT, BodyState, Descriptor, Kind, Mode, make_key, make_version
from tests.contract.real_store import run_storages

DEVICE = 1                                                 # owned by worker 1
BODY = random.Random(3).randbytes(2_500_000)
KEY = make_key(SPACE_OBJECT, 3, b"0123456789abcdef")
T_S = 10.0


@pytest.fixture(params=["local", "remote"])
def open_client(request):
    """Opens a client of one device, and gives the device as well."""
    @asynccontextmanager
    async def opened():
        async with run_storages(SystemClock()) as storages:
            storage = storages[DEVICE if request.param == "local" else 0]
            client = storage.store.cluster.client(DEVICE)
            assert client.is_local == (request.param == "local") and client.device_id == DEVICE
            yield client, storages[DEVICE]._owners[DEVICE].device
    return opened


def stamp(number):
    return Stamp(SystemClock().now_us() + number, 0, 1, number)


def version_of(t, *, kind=Kind.LIVE, body_id=0, size=0, path="/a/c/\u00fc"):
    return make_version(stamp=t, root=t, kind=kind, path=path, body_id=body_id, size_bytes=size,
                        descriptor=Descriptor(created_us=t.micros, meta={"m": "\udcff"}).pack())


async def reply(answer):
    """A `Reply`, at once or awaited."""
    return await answer if isinstance(answer, asyncio.Future) else answer


async def look(client, ballot=None, *, read_body=False, key=KEY):
    return await reply(client.look(key, ballot, seen_us=0, is_durable=False, read_body=read_body, timeout_s=T_S))


async def accept(client, t, version, *, body=None, mode=Mode.WRITE, is_durable=True):
    return await reply(client.accept(KEY, t, version, mode, seen_us=0, is_durable=is_durable, body=body, timeout_s=T_S))


async def stage(client, body, body_id):
    upload = await client.open_stage(timeout_s=T_S)
    for at in range(0, len(body), 300_000):
        await upload.write(memoryview(body)[at:at + 300_000])
    return await upload.finish(KEY, body_id, "/a/c/\u00fc")


async def read(client, body_id, offset, count):
    return b"".join([bytes(piece) async for piece in client.read_body(KEY, body_id, offset, count, timeout_s=T_S)])


def files_of(device, *parts):
    return [path for part in parts for path in (Path(device.root) / part).rglob("*") if path.is_file()]


async def test_what_was_never_written_is_nothing(open_client):
    async with open_client() as (client, _):
        found = await look(client, read_body=True)
        assert found.ok and found.version.kind == Kind.NOTHING and found.ballot == ZERO and found.body is None


@pytest.mark.parametrize("size", [0, 1, 65_536])
async def test_a_small_write_is_accepted_and_looked_at_with_its_body(open_client, size):
    async with open_client() as (client, _):
        t = stamp(1)
        version = version_of(t, body_id=7 if size else 0, size=size)
        taken = await accept(client, t, version, body=BODY[:size] if size else None)
        assert taken.ok and taken.ballot == t
        found = await look(client, read_body=True)
        assert found.version == version and found.state == (BodyState.INLINE if size else BodyState.NONE)
        assert (found.body or b"") == BODY[:size] and (await look(client)).body is None


async def test_an_accept_is_durable_when_it_is_answered(open_client):
    async with open_client() as (client, device):
        for number in range(20):
            t = stamp(number)
            assert (await accept(client, t, version_of(t, body_id=t.write_id + 1, size=5), body=b"12345")).ok
            assert device.synced_sequence >= device.journal.next_sequence - 1


async def test_older_ballots_are_refused_with_what_is_held_and_repetitions_are_a_yes(open_client):
    async with open_client() as (client, _):
        t1, t2 = stamp(1), stamp(2)
        newer = version_of(t2, kind=Kind.TOMBSTONE)
        assert (await accept(client, t2, newer)).ok
        refused = await accept(client, t1, version_of(t1))
        assert not refused.ok and refused.version == newer and refused.ballot == t2
        assert (await accept(client, t2, newer)).ok


async def test_a_promise_refuses_everything_below_it(open_client):
    async with open_client() as (client, _):
        t1, t2 = stamp(1), stamp(2)
        promised = await look(client, t2)
        assert promised.ok and promised.promised == t2
        refused = await accept(client, t1, version_of(t1))
        assert not refused.ok and refused.promised == t2 and (await look(client)).version.kind == Kind.NOTHING
        assert not (await look(client, t1)).ok and (await accept(client, t2, version_of(t2))).ok


async def test_a_large_body_is_staged_then_named_by_a_version_and_read_in_any_range(open_client):
    async with open_client() as (client, device):
        staged = await stage(client, BODY, 9)
        assert staged.ok and staged.version.kind == Kind.NOTHING and len(files_of(device, "bodies")) == 1
        t = stamp(1)
        assert (await accept(client, t, version_of(t, body_id=9, size=len(BODY)))).ok
        assert (await look(client)).state == BodyState.FILE
        for offset, count in ((0, len(BODY)), (65_535, 2), (1_048_575, 1_048_578), (len(BODY) - 1, 1), (10, 0)):
            assert await read(client, 9, offset, count) == BODY[offset:offset + count]


async def test_a_body_given_up_leaves_nothing(open_client):
    async with open_client() as (client, device):
        for sent in (0, 1, 1_000_000):
            upload = await client.open_stage(timeout_s=T_S)
            if sent:
                await upload.write(BODY[:sent])
            upload.abort()
        assert (await look(client)).version.kind == Kind.NOTHING and files_of(device, "bodies", "tmp") == []


async def test_a_body_that_is_not_here_is_said_not_to_be_here(open_client):
    async with open_client() as (client, _):
        t = stamp(1)
        version = version_of(t, body_id=5, size=100_000)
        with pytest.raises(NoBody):
            await accept(client, t, version)
        assert (await look(client)).version.kind == Kind.NOTHING
        assert (await accept(client, t, version, mode=Mode.KEEP)).ok and (await look(client)).state == BodyState.LEARNED
        with pytest.raises(StorageError):
            await read(client, 5, 0, 10)


async def test_learned_versions_are_held(open_client):
    async with open_client() as (client, _):
        t = stamp(1)
        version = version_of(t, body_id=4, size=3)
        assert (await reply(client.learn(KEY, t, version, body=b"abc", timeout_s=T_S))).ok
        found = await look(client, read_body=True)
        assert (found.version, found.ballot, found.body) == (version, t, b"abc")


async def test_owed_is_durable_and_done_ends_it(open_client):
    async with open_client() as (client, device):
        t = stamp(1)
        assert (await accept(client, t, version_of(t, body_id=4, size=3), body=b"abc")).ok
        waiting = client.owed(KEY, t, timeout_s=T_S)
        if waiting is not None:
            await waiting
        assert device.pending[KEY].is_owed and device.synced_sequence >= device.journal.next_sequence - 1
        client.done(KEY, t)
        async with asyncio.timeout(T_S):
            while KEY in device.pending:                             # noqa: ASYNC110  (a hint: nobody answers it)
                await asyncio.sleep(0.01)


async def test_many_requests_at_once_are_each_answered(open_client):
    async with open_client() as (client, _):
        keys = [make_key(SPACE_OBJECT, 3, number.to_bytes(16, "big")) for number in range(300)]
        versions = [version_of(stamp(number), body_id=number + 1, size=4096, path=f"/a/c/{number}") for number in range(300)]
        taken = await asyncio.gather(*(reply(client.accept(key, v.stamp, v, Mode.WRITE, seen_us=0, is_durable=False, timeout_s=T_S,
                                                           body=BODY[n:n + 4096]))
                                       for n, (key, v) in enumerate(zip(keys, versions, strict=True))))
        assert all(one.ok for one in taken)
        found = await asyncio.gather(*(look(client, read_body=True, key=key) for key in keys))
        assert [one.version for one in found] == versions
        assert [one.body for one in found] == [BODY[n:n + 4096] for n in range(300)]


async def test_errors_of_the_owner_are_the_same_class_here(open_client):
    async with open_client() as (client, device):
        device.fault = "gone bad"
        with pytest.raises(DeviceUnavailable):
            t = stamp(1)
            await accept(client, t, version_of(t))
        device.fault = ""
