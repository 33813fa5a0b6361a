"""Power loss at every durable step of a device: what was acknowledged survives, what was not is old or new, never torn."""
from __future__ import annotations

import random

import pytest

from common.errors import NoBody
from common.faultfs import FaultFs, PowerLoss
from common.timestamp import Stamp
from object.compaction import drop_segment, move_records, plan_compaction
from object.device import Device, DeviceLimits
from object.identity import Identity
from object.index import MemoryIndex
from object.wire import SPACE_OBJECT, BodyState, Descriptor, Kind, Mode, make_key, make_version

IDENTITY = Identity(id="u1", name="d1", cluster="c", fingerprint="f", incarnation=b"i" * 16)
LIMITS = DeviceLimits(segment_bytes=64 << 10, reserve_bytes=4096)
NOW = 1_700_000_000_000_000
LARGE = 150_000


def open_device(fs, index):
    return Device(fs, "/d1", IDENTITY, index, limits=LIMITS, now_us=NOW)


def key_of(name):
    return make_key(SPACE_OBJECT, 7, name.encode().ljust(16, b"."))


def body_of(number, size):
    return random.Random(number).randbytes(size)


class Client:
    """Does operations on one device, commits, and remembers what was acknowledged and what may have happened."""

    def __init__(self, fs, index):
        self.fs, self.index = fs, index
        self.number = 0
        self.acknowledged = {}               # name -> stamp of the last acknowledged state
        self.bodies = {}                     # stamp -> body or None
        self.metas = {}
        self.possible = {}                   # name -> stamps begun after the acknowledged one

    def start(self):
        self.device = open_device(self.fs, self.index)

    def _stamp(self):
        self.number += 1
        return Stamp(NOW + self.number, 0, 1, self.number)

    def _accept(self, name, version, body=None, mode=Mode.WRITE, content=None, meta=""):
        self.bodies[version.stamp], self.metas[version.stamp] = content, meta
        self.possible.setdefault(name, []).append(version.stamp)
        reply = self.device.replica.accept(key_of(name), ballot=version.stamp, version=version, mode=mode,
                                           now_us=version.stamp.micros, body=body)
        assert reply.ok
        self.device.commit_inline()
        assert reply.wait_seq <= self.device.synced_sequence
        self.device.unlink_displaced()
        self.acknowledged[name] = version.stamp
        self.possible[name] = []

    def _version(self, stamp, name, kind=Kind.LIVE, body_id=0, size=0, meta=""):
        return make_version(stamp=stamp, root=stamp, kind=kind, path=f"/a/c/{name}", body_id=body_id, size_bytes=size,
                            descriptor=Descriptor(created_us=stamp.micros, meta={"m": meta}).pack())

    def put(self, name, size):
        stamp = self._stamp()
        body = body_of(stamp.write_id, size)
        self._accept(name, self._version(stamp, name, body_id=stamp.write_id, size=size), body=body, content=body)

    def put_large(self, name, size=LARGE):
        stamp = self._stamp()
        body = body_of(stamp.write_id, size)
        writer = self.device.new_body()
        for at in range(0, size, 40_000):
            writer.write(body[at:at + 40_000])
        crc = writer.finish(key_of(name), stamp.write_id, f"/a/c/{name}")
        self.device.staged(key_of(name), stamp.write_id, crc)
        self._accept(name, self._version(stamp, name, body_id=stamp.write_id, size=size), content=body)

    def post(self, name, meta):
        held = self.device.get(key_of(name))
        stamp = self._stamp()
        version = self._version(stamp, name, body_id=held.version.body_id, size=held.version.size_bytes, meta=meta)
        self._accept(name, version, mode=Mode.KEEP, content=self.bodies[held.version.stamp], meta=meta)

    def delete(self, name):
        stamp = self._stamp()
        self._accept(name, self._version(stamp, name, kind=Kind.TOMBSTONE))

    def flush(self):
        self.device.flush_inline()

    def compact(self):
        for key, entry in list(self.device.pending.items()):
            self.device.done(key, entry.stamp)
        segment = plan_compaction(self.device)
        if segment is None:
            return False
        for _ in move_records(self.device, segment):
            self.device.commit_inline()
        self.device.commit_inline()
        drop_segment(self.device, segment)
        return True

    def check(self):
        """On a fresh device: every name is in its acknowledged state or a later one that was begun, whole."""
        for name in {*self.acknowledged, *self.possible}:
            held = self.device.get(key_of(name))
            allowed = [self.acknowledged.get(name), *self.possible.get(name, [])]
            found = held.version.stamp if held is not None else None
            assert found in allowed, f"{name}: {found} not in {allowed}"
            if held is None:
                continue
            expected = self.bodies[held.version.stamp]
            if expected is None:
                assert held.version.kind == Kind.TOMBSTONE
            elif held.state == BodyState.INLINE:
                assert self.device.read_inline(held) == expected
            elif held.state == BodyState.FILE:
                reader = self.device.open_body(key_of(name), held)
                assert reader.read(0, len(expected)) == expected
                reader.close()
            else:
                assert expected == b"" and held.state == BodyState.NONE
            self.acknowledged[name], self.possible[name] = found, []


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
    stamp = client._stamp()
    version = client._version(stamp, "a", body_id=stamp.write_id, size=LARGE)
    with pytest.raises(NoBody):
        client.device.replica.accept(key_of("a"), ballot=stamp, version=version, mode=Mode.WRITE, now_us=stamp.micros)
    assert client.device.get(key_of("a")) is None


def test_a_replica_without_the_body_learns_the_order():
    client = Client(FaultFs(), MemoryIndex())
    client.start()
    stamp = client._stamp()
    version = client._version(stamp, "a", body_id=stamp.write_id, size=10)
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
