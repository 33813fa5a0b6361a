"""The ring file: both ways, damage, signature, atomic replacement; and that a reader stays small."""
from __future__ import annotations

import gzip
import json
import struct
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from common.errors import Corruption, RingError
from ring.builder import RingBuilder
from ring.device import RingDevice
from ring.placement import Ring
from ring.ringfile import (
    RingMeta,
    decode_meta,
    decode_payload,
    decompress_payload,
    encode_meta,
    encode_payload,
    load_ring,
    meta_of,
    meta_path,
    save_ring,
)

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "ring"


def make_ring(seed: int = 1, replicas: float = 2.5) -> Ring:
    builder = RingBuilder(6, replicas, 1)
    for i in range(5):
        builder.add_dev(RingDevice(id=0, region=1, zone=i, ip=f"10.0.0.{i}", port=6200, device="sda", weight=10.0,
                                   meta="rack é", node=f"n{i}"))
    builder.rebalance(seed=seed, now_s=10)
    return builder.ring()


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    ring = make_ring()
    path = tmp_path / "object.ring.gz"
    save_ring(ring, path, key=b"k")
    again = load_ring(path, key=b"k")
    assert (again.devices, again.rows, again.version, again.replica_count) == (
        ring.devices, ring.rows, ring.version, ring.replica_count)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["object.ring.gz", "object.ring.meta"]


def test_equal_rings_are_equal_files(tmp_path: Path) -> None:
    save_ring(make_ring(), tmp_path / "a.ring.gz")
    save_ring(make_ring(), tmp_path / "b.ring.gz")
    assert (tmp_path / "a.ring.gz").read_bytes() == (tmp_path / "b.ring.gz").read_bytes()


def test_the_head_is_what_swift_reads() -> None:
    payload = encode_payload(make_ring())
    assert payload[:6] == b"R1NG\x00\x01"
    size = struct.unpack(">I", payload[6:10])[0]
    head = json.loads(payload[10:10 + size])
    assert set(head) == {"devs", "part_shift", "replica_count", "byteorder", "version"}
    assert (head["part_shift"], head["replica_count"], head["byteorder"]) == (26, 3, "little")
    assert len(payload) == 10 + size + 2 * (64 + 64 + 32)


def test_rows_of_the_other_byte_order_are_swapped() -> None:
    payload = encode_payload(make_ring())
    size = struct.unpack(">I", payload[6:10])[0]
    head = json.loads(payload[10:10 + size])
    rows = array("H", payload[10 + size:])
    rows.byteswap()
    text = json.dumps({**head, "byteorder": "big"}).encode()
    assert decode_payload(payload[:6] + struct.pack(">I", len(text)) + text + rows.tobytes()).rows == make_ring().rows


def test_a_file_that_swift_wrote_comes_out_as_it_went_in() -> None:
    payload = decompress_payload((GOLDEN / "swift.ring.gz").read_bytes())
    data = decode_payload(payload)
    assert decode_payload(encode_payload(data)) == data
    assert data.devices[3] is None


def test_no_damage_to_the_file_goes_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "o.ring.gz"
    save_ring(make_ring(), path)
    good = path.read_bytes()
    for at in range(10, len(good), 7):                                  # the first 10 bytes are gzip's own head
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x20]) + good[at + 1:])
        with pytest.raises((Corruption, RingError)):
            load_ring(path)
        path.write_bytes(good[:at])
        with pytest.raises(Corruption):
            load_ring(path)


@pytest.mark.parametrize("payload", [
    b"", b"R1NG", b"R1NG\x00\x02\x00\x00\x00\x00", b"R1NG\x00\x01\xff\xff\xff\xff{}", b"R1NG\x00\x01\x00\x00\x00\x02{}",
    b"R1NG\x00\x01\x00\x00\x00\x02[]"])
def test_garbage_is_corruption(payload: bytes, tmp_path: Path) -> None:
    (tmp_path / "o.ring.gz").write_bytes(gzip.compress(payload))
    with pytest.raises(Corruption):
        load_ring(tmp_path / "o.ring.gz")


def test_a_sidecar_of_another_ring_or_key_is_refused(tmp_path: Path) -> None:
    path, other = tmp_path / "o.ring.gz", tmp_path / "p.ring.gz"
    save_ring(make_ring(), path, key=b"k")
    save_ring(make_ring(seed=2), other, key=b"k")
    with pytest.raises(RingError, match="signature"):
        load_ring(path, key=b"another")
    meta_path(path).write_bytes(meta_path(other).read_bytes())
    with pytest.raises(RingError, match="belongs to another ring"):
        load_ring(path, key=b"k")
    meta_path(path).unlink()
    assert load_ring(path).version == 1
    with pytest.raises(RingError):
        load_ring(path, key=b"k")


def test_every_field_of_the_sidecar_is_signed() -> None:
    ring = make_ring()
    ring.former[3] = ring.primaries(4)
    meta = save_ring_meta(ring)
    text = json.loads(encode_meta(meta, key=b"k"))
    for name in set(text) - {"signature", "format"}:
        changed = {**text, name: {"version": 9, "former": {"3": [1]}, "former_devices": []}.get(name, "0")}
        if changed != text:
            with pytest.raises(RingError):
                decode_meta(json.dumps(changed).encode(), key=b"k")


def save_ring_meta(ring: Ring) -> RingMeta:
    return meta_of(ring, encode_payload(ring), predecessor_hash="ab")


def test_former_primaries_survive_even_when_the_ring_has_dropped_the_device(tmp_path: Path) -> None:
    ring = make_ring()
    gone = RingDevice(id=77, region=1, zone=1, ip="10.9.9.9", port=6200, device="old", weight=0.0)
    ring.former[3] = (gone, *ring.primaries(3)[1:])
    save_ring(ring, tmp_path / "o.ring.gz")
    assert load_ring(tmp_path / "o.ring.gz").former == ring.former


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "o.ring.gz"
    save_ring(make_ring(), path)
    before = path.read_bytes()

    def fail(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        save_ring(make_ring(seed=2), path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_reading_a_ring_does_not_load_numpy() -> None:
    code = "import sys, ring.ringfile, ring.placement, ring.membership; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
