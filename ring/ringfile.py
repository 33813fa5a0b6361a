"""The ring on disk: `NAME.ring.gz`, readable by Swift's tools, and `NAME.ring.meta` beside it with what they do not know.

    | "R1NG" | version 1, u16 | json bytes, u32 | json | row 0, u16 each | row 1 | ...        gzip, mtime fixed

Integers of the head are big-endian, rows in the order that the json's `byteorder` says. Byte maps and fields:
docs/formats/ring.md. This module imports no numpy: a worker that only reads stays small.
"""
from __future__ import annotations

import gzip
import hashlib
import hmac
import json
import os
import struct
import sys
import zlib
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from common.errors import Corruption, RingError
from ring.device import RingDevice as RingDevice  # noqa: PLC0414 - callers find it beside Ring
from ring.device import device_from_json, device_to_json
from ring.placement import Ring

MAGIC = b"R1NG"
VERSION = 1
META_FORMAT = 1
_HEAD = struct.Struct(">4sHI")
_GZIP_MTIME = 1300507380                 # fixed, so that equal rings are equal files; the value Swift writes
_PAYLOAD_BYTES_MAX = 1 << 30             # 2^24 partitions x 16 replicas x 2 bytes is half of it


@dataclass(frozen=True, slots=True, kw_only=True)
class RingData:
    """What a ring file says, before anybody believes it. rows: as in `Ring`, in this machine's byte order."""

    part_power: int
    version: int                         # 0: the writer gave none
    devices: tuple[RingDevice | None, ...]
    rows: tuple[array[int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RingMeta:
    """The sidecar. former_devices: those named in `former` that the ring itself does not have any more."""

    version: int
    ring_hash: str                       # hex SHA-256 of the ring's uncompressed payload
    predecessor_hash: str = ""           # `ring_hash` of the version before; "" for the first
    former: dict[int, tuple[int, ...]] = field(default_factory=dict)   # partition in transition -> former primaries
    former_devices: tuple[RingDevice, ...] = ()
    signature: str = ""                  # hex HMAC-SHA-256 over the other fields; "" if no key was given


def ring_hash(payload: bytes) -> str:
    """Names one ring version: hex SHA-256 of the uncompressed payload, so that recompression does not change it."""
    return hashlib.sha256(payload).hexdigest()


def encode_payload(ring: Ring | RingData) -> bytes:
    """The uncompressed content of a `.ring.gz`, little-endian rows."""
    head = {
        "devs": [None if d is None else device_to_json(d) for d in ring.devices],
        "part_shift": 32 - ring.part_power, "replica_count": len(ring.rows), "byteorder": "little",
        "version": ring.version,
    }
    text = json.dumps(head, sort_keys=True).encode("ascii")
    return b"".join([_HEAD.pack(MAGIC, VERSION, len(text)), text, *(_row_bytes(row, "little") for row in ring.rows)])


def decode_payload(payload: bytes) -> RingData:
    """Inverse of `encode_payload`, also for what Swift wrote. Raises `Corruption`."""
    try:
        magic, version, size = _HEAD.unpack_from(payload)
        if magic != MAGIC or version != VERSION:
            raise ValueError(f"magic {magic!r} version {version}")
        head = json.loads(payload[_HEAD.size:_HEAD.size + size])
        part_power = 32 - int(head["part_shift"])
        if not 0 <= part_power <= 32:
            raise ValueError(f"part_shift {head['part_shift']}")
        rows = _split_rows(memoryview(payload)[_HEAD.size + size:], row_bytes=2 << part_power,
                           count=int(head["replica_count"]), byteorder=head.get("byteorder", "little"))
        devices = tuple(None if d is None else device_from_json(d) for d in head["devs"])
        return RingData(part_power=part_power, version=int(head.get("version") or 0), devices=devices, rows=rows)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corruption(what="ring file", reason=str(error)) from error


def _row_bytes(row: array[int], byteorder: Literal["little", "big"]) -> bytes:
    assert row.itemsize == 2
    if byteorder != sys.byteorder:
        row = array("H", row)
        row.byteswap()
    return row.tobytes()


def _split_rows(rest: memoryview, *, row_bytes: int, count: int, byteorder: str) -> tuple[array[int], ...]:
    if byteorder not in ("little", "big"):
        raise ValueError(f"byteorder {byteorder!r}")
    if not (count - 1) * row_bytes < len(rest) <= count * row_bytes or len(rest) % 2:
        raise ValueError(f"{len(rest)} bytes for {count} rows of {row_bytes}")
    rows = []
    for start in range(0, len(rest), row_bytes):
        row = array("H")
        row.frombytes(rest[start:start + row_bytes])
        if byteorder != sys.byteorder:
            row.byteswap()
        rows.append(row)
    return tuple(rows)


def compress_payload(payload: bytes) -> bytes:
    """The bytes of a `.ring.gz`; equal payloads give equal bytes with one zlib."""
    return gzip.compress(payload, mtime=_GZIP_MTIME)


def decompress_payload(data: bytes) -> bytes:
    """Inverse of `compress_payload`, bounded. Raises `Corruption`."""
    try:
        unzip = zlib.decompressobj(wbits=31)
        payload = unzip.decompress(data, _PAYLOAD_BYTES_MAX)
    except zlib.error as error:
        raise Corruption(what="ring file", reason=str(error)) from error
    if not unzip.eof or unzip.unused_data:
        raise Corruption(what="ring file", reason="the gzip stream does not end where the file ends")
    return payload


def encode_meta(meta: RingMeta, *, key: bytes | None = None) -> bytes:
    """The JSON text of a sidecar, signed with `key` if one is given."""
    text = {
        "format": META_FORMAT, "version": meta.version, "ring_hash": meta.ring_hash,
        "predecessor_hash": meta.predecessor_hash, "former": {str(p): list(ids) for p, ids in meta.former.items()},
        "former_devices": [device_to_json(d) for d in meta.former_devices],
    }
    signature = _sign(text, key) if key is not None else meta.signature
    return json.dumps({**text, "signature": signature}, sort_keys=True, indent=1).encode()


def decode_meta(data: bytes, *, key: bytes | None = None) -> RingMeta:
    """Inverse of `encode_meta`. With a key the signature must fit: `RingError` otherwise; garbage is `Corruption`."""
    try:
        text = json.loads(data)
        signature = str(text.pop("signature"))
        if text["format"] != META_FORMAT:
            raise ValueError(f"format {text['format']!r}")
        meta = RingMeta(
            version=int(text["version"]), ring_hash=str(text["ring_hash"]),
            predecessor_hash=str(text["predecessor_hash"]),
            former={int(p): tuple(int(i) for i in ids) for p, ids in text["former"].items()},
            former_devices=tuple(device_from_json(d) for d in text["former_devices"]), signature=signature)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corruption(what="ring sidecar", reason=str(error)) from error
    if key is not None and not hmac.compare_digest(signature, _sign(text, key)):
        raise RingError(reason="the signature of the ring does not fit this cluster's key")
    return meta


def _sign(text: dict[str, object], key: bytes) -> str:
    canonical = json.dumps(text, sort_keys=True, separators=(",", ":")).encode()
    return hmac.new(key, canonical, hashlib.sha256).hexdigest()


def decode_ring(payload: bytes, meta: RingMeta | None = None) -> Ring:
    """A usable ring. Raises `Corruption` for garbage, `RingError` if the sidecar belongs to another ring."""
    data = decode_payload(payload)
    if meta is None:
        return Ring(part_power=data.part_power, version=data.version, devices=data.devices, rows=data.rows)
    if meta.ring_hash != ring_hash(payload):
        raise RingError(reason=f"the sidecar (version {meta.version}) belongs to another ring than this one "
                               f"(version {data.version})")
    gone = {device.id: device for device in meta.former_devices}
    former = {}
    for partition, ids in meta.former.items():
        here = (gone.get(i) or (data.devices[i] if i < len(data.devices) else None) for i in ids)
        former[partition] = tuple(device for device in here if device is not None)
        if len(former[partition]) != len(ids) or not 0 <= partition < 1 << data.part_power:
            raise Corruption(what="ring sidecar", reason=f"partition {partition} names unknown former primaries")
    return Ring(part_power=data.part_power, version=meta.version, devices=data.devices, rows=data.rows, former=former)


def meta_path(path: str | os.PathLike[str]) -> Path:
    """object.ring.gz -> object.ring.meta, in the same directory."""
    path = Path(path)
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".ring") + ".ring.meta")


def load_ring(path: str | os.PathLike[str], *, key: bytes | None = None) -> Ring:
    """The ring in `path`, with its sidecar if there is one (required if `key` is given: it carries the signature).

    Raises `RingError` (absent, unreadable, wrong signature, sidecar of another ring), `Corruption`.
    """
    payload = decompress_payload(_read(Path(path)))
    beside = meta_path(path)
    if key is None and not beside.exists():
        return decode_ring(payload)
    return decode_ring(payload, decode_meta(_read(beside), key=key))


def save_ring(ring: Ring, path: str | os.PathLike[str], *, predecessor_hash: str = "", key: bytes | None = None) -> RingMeta:
    """Write ring and sidecar, durably, each atomically; the sidecar last.

    A crash between the two leaves a pair that `load_ring` refuses, and repeating the call repairs it.
    Nodes keep the pair in one file instead (ring/membership.py). Raises `OSError`.
    """
    payload = encode_payload(ring)
    meta = meta_of(ring, payload, predecessor_hash=predecessor_hash)
    write_atomically(Path(path), compress_payload(payload))
    write_atomically(meta_path(path), encode_meta(meta, key=key))
    return meta


def meta_of(ring: Ring, payload: bytes, *, predecessor_hash: str) -> RingMeta:
    """The sidecar of `ring`, whose encoding is `payload`; unsigned."""
    named = {device.id: device for devices in ring.former.values() for device in devices}
    gone = [d for i, d in sorted(named.items()) if i >= len(ring.devices) or ring.devices[i] != d]
    return RingMeta(
        version=ring.version, ring_hash=ring_hash(payload), predecessor_hash=predecessor_hash,
        former={p: tuple(d.id for d in devices) for p, devices in sorted(ring.former.items())},
        former_devices=tuple(gone))


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path`: readers see the old file or the new one, and the new one survives power loss. Raises `OSError`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RingError(reason=f"{path}: {error.strerror}") from error
