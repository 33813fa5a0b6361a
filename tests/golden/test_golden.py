"""Files that released versions wrote are read by this one: journals, bodies, indexes, row databases, devices, rings."""
import gzip
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from account.wire import unpack_account_state
from common.hashing import crc32
from common.timestamp import Stamp
from common.vfs import PAGE_BYTES, RealFs
from container.broker import Broker
from container.wire import PageRequest, pack_row, unpack_container_state
from object.bodies import XATTR, read_body_xattr
from object.device import Device, DeviceLimits
from object.format import (
    BatchHeader,
    RecordType,
    check_record,
    decode_batch_header,
    decode_segment_header,
    is_batch_intact,
    iterate_records,
)
from object.identity import Identity
from object.index import LmdbIndex
from object.peers import PeerMark
from object.wire import SPACE_CONTAINER, SPACE_OBJECT, BodyState, Kind, make_key, unpack_descriptor, unpack_version
from ring.ringfile import load_ring

VERSIONS = sorted(path for path in Path(__file__).parent.glob("v*") if path.is_dir())
BEFORE_THE_TAIL = ("small", "empty", "gone", "large")                # in the index; the others only in the journal
NOW_US = 1_700_000_100_000_000


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def golden(request):
    return request.param


@pytest.fixture
def expected(golden):
    return json.loads((golden / "expected.json").read_text())


@pytest.fixture
def root(golden, expected, tmp_path):
    """The device, as it was left."""
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress((golden / "device.tar.gz").read_bytes()))) as tar:
        tar.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))      # 3.11.2 has none
    for name, value in expected["device"]["xattrs"].items():
        os.setxattr(tmp_path / "device" / name, XATTR, bytes.fromhex(value))
    return tmp_path / "device"


def key_of(name, space=SPACE_OBJECT):
    return make_key(space, 5, name.encode().ljust(16, b"."))


def open_device(root):
    (root / "index").mkdir(exist_ok=True)
    identity = Identity(id="00000000-0000-0000-0000-000000000001", name="d1", cluster="golden", fingerprint="f" * 32,
                        incarnation=bytes(16))
    return Device(RealFs(), str(root), identity, LmdbIndex(str(root / "index")), now_us=NOW_US,
                  limits=DeviceLimits(segment_bytes=128 << 10, reserve_bytes=4096))


def test_there_are_files_of_a_released_version():
    assert VERSIONS


def test_a_segment_with_every_type_of_record_is_read(golden, expected):
    segment, facts = gzip.decompress((golden / "segment.gz").read_bytes()), expected["segment"]
    header = decode_segment_header(segment[:PAGE_BYTES])
    assert [header.incarnation.hex(), *header[1:]] == facts["header"]
    found, at = [], PAGE_BYTES
    while at < len(segment):
        batch = decode_batch_header(segment[at:])
        assert isinstance(batch, BatchHeader) and is_batch_intact(segment[at:], batch)
        for record in iterate_records(segment[at:at + batch.length], batch, offset=at):
            checked, body = check_record(segment[record.offset:record.offset + record.length])
            assert (checked.type, checked.meta, checked.sequence) == (record.type, record.meta, record.sequence)
            found.append({"type": RecordType(record.type).name, "number": record.type, "flags": record.flags,
                          "sequence": record.sequence, "meta": record.meta.decode(), "body": bytes(body).decode()})
        at += -(-batch.length // PAGE_BYTES) * PAGE_BYTES
    assert found == facts["records"]


@pytest.mark.parametrize("has_index", [True, False])
def test_a_device_is_opened_with_its_index_and_without(root, expected, has_index):
    if not has_index:
        shutil.rmtree(root / "index")
    device = open_device(root)
    try:
        assert device.recovery.amnesia == "" and device.recovery.is_index_rebuilt == (not has_index)
        assert device.recovery.torn_bytes == 0 and device.recovery.damaged_rows == 0
        for name, facts in expected["device"]["states"].items():
            check_state(device, name, facts)
        container = device.get(key_of("c", SPACE_CONTAINER))
        assert container.version.descriptor.hex() == expected["device"]["container_state"]
        assert device.promise_of(key_of("small")).write_id == 0xABCD0000 + 50
        assert device.peers.marks["peer"] == PeerMark(b"p" * 16, 4, 44)
        assert device.pending[key_of("late")].is_owed and device.pending[key_of("late")].path == "/a/c/late"
        assert [meta for _, meta, _ in device.take_row_records()] == [b"row of a container", b"row of an account"]
    finally:
        device.close()


def check_state(device, name, facts):
    held = device.get(key_of(name))
    assert held.version == unpack_version(bytes.fromhex(facts["packed"])) and held.version.stamp == Stamp(*facts["stamp"])
    assert (held.version.kind, held.version.size_bytes, held.version.body_id) == (facts["kind"], facts["size"], facts["body_id"])
    if held.version.kind == Kind.LIVE:
        descriptor = unpack_descriptor(held.version.descriptor)
        assert descriptor.meta == {"color": "gr\u00fcn"} and descriptor.s3_etag.endswith("-2") and descriptor.extra["post_us"]
    if held.state == BodyState.INLINE:
        assert crc32(device.read_inline(held)) == facts["body_crc"]
    elif held.state == BodyState.FILE:
        reader = device.open_body(key_of(name), held)
        assert crc32(reader.read(0, reader.size_bytes)) == facts["body_crc"]
        reader.close()
    else:
        assert held.state == {"learned": BodyState.LEARNED}.get(name, BodyState.NONE)


def test_bodies_say_themselves_whose_they_are(root, expected):
    found = {read_body_xattr(RealFs(), str(root / name))[:4] for name in expected["device"]["xattrs"]}
    assert found == {(key_of("large"), 5, 70_000, "/a/c/large"), (key_of("late large"), 9, 70_000, "/a/c/late large")}


def test_an_index_is_read(root, expected):
    index = LmdbIndex(str(root / "index"))
    try:
        assert index.mark() is not None
        for name, facts in expected["device"]["states"].items():
            held = index.get(key_of(name))
            assert (held is not None) == (name in BEFORE_THE_TAIL)
            assert held is None or held.version.packed.hex() == facts["packed"]
        assert {entry.path for _, entry in index.pending()} == {f"/a/c/{name}" for name in BEFORE_THE_TAIL}
    finally:
        index.close()


@pytest.mark.parametrize(("part", "name", "key"), [("containers", "/a/c", "rows"), ("accounts", "/a", "containers")])
def test_a_row_database_is_read_and_written_on(root, expected, part, name, key):
    rows = expected["device"][key]
    broker = Broker(str(root / part / "golden.db"), name, ["peer"])
    try:
        assert broker.applied == 11 and broker.figures.row_count == sum(1 for row in rows if row[3])
        answer = broker.page(PageRequest(100), instance=0, peer="peer")
        live = [row for entry in answer.entries for row in broker.versions(entry[0])]
        assert [plain(row) for row in live] == [row for row in rows if row[3]]
        assert sorted(plain(row) for row in answer.unconfirmed) == sorted(rows)
        newer = live[0]._replace(stamp=live[0].stamp._replace(micros=NOW_US), size_bytes=1)
        broker.apply([(newer, None)], sequence=12)
        assert broker.versions(newer.name) == [newer]
    finally:
        broker.close()


def plain(row):
    return [value.hex() if isinstance(value, bytes) else value for value in pack_row(row)]


def test_states_of_containers_and_accounts_are_read(expected):
    container = unpack_container_state(bytes.fromhex(expected["device"]["container_state"]))
    account = unpack_account_state(bytes.fromhex(expected["device"]["account_state"]))
    assert (container.instance, container.meta, container.headers) == (7, {"a": "b"}, {"x-container-read": ".r:*"})
    assert account.meta == {"a": "b"} and account.put_us == container.put_us


def test_a_ring_is_read_and_places_as_it_did(golden, expected):
    ring = load_ring(golden / "ring.ring.gz", key=b"golden")
    assert ring.version == expected["ring"]["version"]
    assert [[device.id for device in ring.primaries(part)] for part in range(16)] == expected["ring"]["primaries"]
