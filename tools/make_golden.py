"""Write what this version writes to disk, small, for later versions to read: python tools/make_golden.py DIRECTORY

Run once per released version, into tests/golden/v<version>; files of a released version are never written again.
    segment.gz       a segment with a record of every type, by object/format.py
    device.tar.gz    a whole device: journal, index, bodies, row databases beside it (xattrs in expected.json)
    ring.ring.gz     and its sidecar
    expected.json    what a reader has to find
"""
from __future__ import annotations

import gzip
import io
import json
import random
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from account.wire import AccountState
from common.hashing import crc32
from common.timestamp import Stamp
from common.version import VERSION
from common.vfs import RealFs
from container.broker import Broker
from container.wire import ContainerState, Row, pack_row
from object.bodies import XATTR
from object.device import Device, DeviceLimits
from object.format import (
    BATCH_HEADER_BYTES,
    FLAG_MOVED,
    BatchHeader,
    RecordType,
    SegmentHeader,
    encode_batch,
    encode_record,
    encode_segment_header,
)
from object.identity import Identity
from object.index import LmdbIndex
from object.peers import PeerMark
from object.wire import SPACE_CONTAINER, SPACE_OBJECT, Descriptor, Kind, Mode, Version, make_key, make_version
from ring.builder import RingBuilder
from ring.device import RingDevice
from ring.ringfile import save_ring

NOW_US = 1_700_000_000_000_000
IDENTITY = Identity(id="00000000-0000-0000-0000-000000000001", name="d1", cluster="golden", fingerprint="f" * 32,
                    incarnation=bytes(range(16)))
LIMITS = DeviceLimits(segment_bytes=128 << 10, reserve_bytes=4096)
BIG = random.Random(1).randbytes(700) * 100


def stamp(number: int) -> Stamp:
    return Stamp(NOW_US + number, 0, 1, 0xABCD0000 + number)


def key_of(name: str, space: int = SPACE_OBJECT) -> bytes:
    return make_key(space, 5, name.encode().ljust(16, b"."))


def descriptor(number: int) -> Descriptor:
    return Descriptor(created_us=NOW_US + number, etag="0" * 32, s3_etag="1" * 32 + "-2", content_type="text/plain", instance=7,
                      delete_at_s=1_800_000_000, meta={"color": "gr\u00fcn"}, headers={"content-encoding": "x"},
                      extra={"post_us": NOW_US})


def version(number: int, name: str, **fields: Any) -> Version:
    fields = {"kind": Kind.LIVE, "descriptor": descriptor(number).pack(), **fields}
    return make_version(stamp=stamp(number), root=stamp(number), path=f"/a/c/{name}", **fields)


def make_segment() -> tuple[bytes, dict[str, object]]:
    """One record of every type, in two batches; bodies of two."""
    header = SegmentHeader(bytes(range(16)), 3, 2, 100, 1, 8192, 99, 4096)
    batches, expected, sequence, types = [encode_segment_header(header)], [], 100, list(RecordType)
    for chunk in (types[:7], types[7:]):
        parts: list[bytes | memoryview] = []
        first = sequence
        for kind in chunk:
            meta = f"meta of {kind.name}".encode()
            body = b"body" * kind if kind in (RecordType.PUT_INLINE, RecordType.POST) else b""
            flags = FLAG_MOVED if kind == RecordType.TOMBSTONE else 0
            parts += [encode_record(kind, meta, body, sequence=sequence, flags=flags), body]
            expected.append({"type": kind.name, "number": int(kind), "flags": flags, "sequence": sequence, "meta": meta.decode(),
                             "body": body.decode()})
            sequence += 1
        length = BATCH_HEADER_BYTES + sum(len(part) for part in parts)
        batch = BatchHeader(len(chunk), header.incarnation, 3, 2, length, first, first - 1)
        batches += [bytes(part) for part in encode_batch(parts, batch)]
    return b"".join(batches), {"header": [header.incarnation.hex(), *header[1:]], "records": expected}


def fill_device(device: Device) -> dict[str, object]:
    """States of every kind, some in the index, some only in the journal."""
    states: dict[str, object] = {}

    def accept(number: int, name: str, body: bytes | None = None, mode: Mode = Mode.WRITE, **fields: Any) -> None:
        made = version(number, name, **fields)
        assert device.replica.accept(key_of(name), ballot=made.stamp, version=made, mode=mode, now_us=made.stamp.micros,
                                     body=body).ok
        device.commit_inline()
        found = {"stamp": list(made.stamp), "kind": int(made.kind), "size": made.size_bytes, "body_id": made.body_id}
        whole = BIG if made.size_bytes == len(BIG) else body
        states[name] = {**found, "packed": made.packed.hex(), "body_crc": None if whole is None else crc32(whole)}

    def put_large(number: int, name: str) -> None:
        writer = device.new_body()
        writer.write(BIG)
        device.staged(key_of(name), number, writer.finish(key_of(name), number, f"/a/c/{name}"))
        accept(number, name, body_id=number, size_bytes=len(BIG))

    accept(1, "small", b"hello", body_id=1, size_bytes=5)
    accept(2, "empty")
    accept(3, "gone", b"x", body_id=3, size_bytes=1)
    accept(4, "gone", kind=Kind.TOMBSTONE)
    put_large(5, "large")
    container = make_version(stamp=stamp(6), root=stamp(6), kind=Kind.LIVE, path="/a/c", descriptor=CONTAINER.pack())
    assert device.replica.accept(key_of("c", SPACE_CONTAINER), ballot=container.stamp, version=container, mode=Mode.KEEP,
                                 now_us=container.stamp.micros, body=None).ok
    device.flush_inline()
    accept(7, "learned", mode=Mode.KEEP, body_id=99, size_bytes=100)
    accept(8, "late", b"after the flush", body_id=8, size_bytes=15)
    put_large(9, "late large")
    device.append_row(RecordType.CONTAINER_ROW, b"row of a container")
    device.append_row(RecordType.ACCOUNT_ROW, b"row of an account")
    device.append_promise(key_of("small"), stamp(50))
    device.append_peer_mark("peer", PeerMark(b"p" * 16, 4, 44))
    device.owe(key_of("late"), stamp(8))
    device.commit_inline()
    return states


CONTAINER = ContainerState(instance=7, created_us=NOW_US, put_us=NOW_US + 1, policy=0, meta={"a": "b"},
                           headers={"x-container-read": ".r:*"})
ACCOUNT = AccountState(created_us=NOW_US, put_us=NOW_US + 1, meta={"a": "b"}, headers={})
ROWS = (Row("a", "", stamp(1), True, 7, 5, 0, "0" * 32, "text/plain", NOW_US),
        Row("b/\u00fc", "", stamp(2), False, 7, created_us=NOW_US),
        Row("z", "", stamp(3), True, 7, 70_000, 0, "1" * 32, "", NOW_US + 3))
CONTAINERS = (Row("c", "", stamp(6), True, 7, 70_005, 2, created_us=NOW_US, stat_us=NOW_US + 9),)


def make_device(root: Path) -> dict[str, object]:
    """A device directory with two row databases in it. Returns what it holds."""
    device = Device(RealFs(), str(root), IDENTITY, _index(root), limits=LIMITS, now_us=NOW_US)
    states = fill_device(device)
    device.close()
    for part, name, rows in (("containers", "/a/c", ROWS), ("accounts", "/a", CONTAINERS)):
        broker = Broker(str(root / part / "golden.db"), name, ["peer"])
        broker.apply([(row, None) for row in rows], sequence=11)
        broker.checkpoint()
        broker.close()
    xattrs = {str(path.relative_to(root)): _xattr(path).hex() for path in sorted(root.glob("bodies/*/*"))}
    return {"states": states, "xattrs": xattrs, "rows": [_row(row) for row in ROWS],
            "containers": [_row(row) for row in CONTAINERS], "container_state": CONTAINER.pack().hex(),
            "account_state": ACCOUNT.pack().hex()}


def _index(root: Path) -> LmdbIndex:
    (root / "index").mkdir(parents=True, exist_ok=True)
    return LmdbIndex(str(root / "index"), map_bytes=1 << 20)


def _xattr(path: Path) -> bytes:
    fs = RealFs()
    handle = fs.open(str(path), read_only=True)
    try:
        return fs.get_xattr(handle, XATTR) or b""
    finally:
        fs.close(handle)


def _row(row: Row) -> list[object]:
    return [value.hex() if isinstance(value, bytes) else value for value in pack_row(row)]


def make_ring(target: Path) -> dict[str, object]:
    """Four devices of unequal weight. Returns the primaries of every partition."""
    builder = RingBuilder(4, 3, 0)
    for number in range(4):
        builder.add_dev(RingDevice(id=number, region=1, zone=number, ip="127.0.0.1", port=6200, device=f"d{number}",
                                   weight=100.0 + number, meta="", node="n1"))
    builder.rebalance(seed=1, now_s=0)
    ring = builder.ring()
    save_ring(ring, target / "ring.ring.gz", predecessor_hash="p" * 64, key=b"golden")
    return {"version": ring.version, "primaries": [[device.id for device in ring.primaries(part)] for part in range(16)]}


def main(target: Path) -> None:
    """Everything, into an empty directory."""
    target.mkdir(parents=True)
    segment, expected = make_segment()
    (target / "segment.gz").write_bytes(gzip.compress(segment, mtime=0))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "device"
        found = make_device(root)
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
            tar.add(root, "device")
        (target / "device.tar.gz").write_bytes(gzip.compress(archive.getvalue(), mtime=0))
    everything = {"version": VERSION, "segment": expected, "device": found, "ring": make_ring(target)}
    (target / "expected.json").write_text(json.dumps(everything, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
