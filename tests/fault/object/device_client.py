"""One device on a file system that fails: does operations, remembers what was acknowledged, checks it after a restart."""
from __future__ import annotations

import random

from common.timestamp import Stamp
from object.compaction import begin_scan, drop_segment, load_records, move_lost, move_records, plan_compaction
from object.device import Device, DeviceLimits
from object.identity import Identity
from object.wire import SPACE_OBJECT, BodyState, Descriptor, Kind, Mode, make_key, make_version

IDENTITY = Identity(id="u1", name="d1", cluster="c", fingerprint="f", incarnation=b"i" * 16)
LIMITS = DeviceLimits(segment_bytes=64 << 10, reserve_bytes=4096)
NOW = 1_700_000_000_000_000
LARGE = 150_000


def open_device(fs, index, limits=LIMITS):
    return Device(fs, "/d1", IDENTITY, index, limits=limits, now_us=NOW)


def key_of(name):
    return make_key(SPACE_OBJECT, 7, name.encode().ljust(16, b"."))


def body_of(number, size):
    return random.Random(number).randbytes(size)


class Client:
    """Does operations on one device, commits, and remembers what was acknowledged and what may have happened."""

    def __init__(self, fs, index):
        self.fs, self.index = fs, index
        self.number = 0
        self.limits = LIMITS
        self.acknowledged = {}               # name -> stamp of the last acknowledged state
        self.bodies = {}                     # stamp -> body or None
        self.metas = {}
        self.possible = {}                   # name -> stamps begun after the acknowledged one

    def start(self):
        self.device = open_device(self.fs, self.index, self.limits)

    def next_stamp(self):
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
        self.device.unlink(self.device.take_displaced())
        self.acknowledged[name] = version.stamp
        self.possible[name] = []

    def version(self, stamp, name, kind=Kind.LIVE, body_id=0, size=0, meta=""):
        return make_version(stamp=stamp, root=stamp, kind=kind, path=f"/a/c/{name}", body_id=body_id, size_bytes=size,
                            descriptor=Descriptor(created_us=stamp.micros, meta={"m": meta}).pack())

    def put(self, name, size):
        stamp = self.next_stamp()
        body = body_of(stamp.write_id, size)
        self._accept(name, self.version(stamp, name, body_id=stamp.write_id, size=size), body=body, content=body)

    def put_large(self, name, size=LARGE):
        stamp = self.next_stamp()
        body = body_of(stamp.write_id, size)
        writer = self.device.new_body()
        for at in range(0, size, 40_000):
            writer.write(body[at:at + 40_000])
        crc = writer.finish(key_of(name), stamp.write_id, f"/a/c/{name}")
        self.device.staged(key_of(name), stamp.write_id, crc)
        self._accept(name, self.version(stamp, name, body_id=stamp.write_id, size=size), content=body)

    def post(self, name, meta):
        held = self.device.get(key_of(name))
        stamp = self.next_stamp()
        version = self.version(stamp, name, body_id=held.version.body_id, size=held.version.size_bytes, meta=meta)
        self._accept(name, version, mode=Mode.KEEP, content=self.bodies[held.version.stamp], meta=meta)

    def delete(self, name):
        stamp = self.next_stamp()
        self._accept(name, self.version(stamp, name, kind=Kind.TOMBSTONE))

    def flush(self):
        self.device.flush_inline()

    def compact(self):
        for key, entry in list(self.device.pending.items()):
            self.device.done(key, entry.stamp)
        segment = plan_compaction(self.device)
        if segment is None:
            return False
        scan = begin_scan(self.device, segment)
        for step in load_records(self.device, scan):
            move_records(self.device, segment, step)
            self.device.commit_inline()
        if not move_lost(self.device, scan):
            self.device.damaged_segments.add(segment)
            return True
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
