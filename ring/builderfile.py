"""The builder on disk, `NAME.builder`.

    | "HFRB" | version u16 | json bytes u32 | json | table: u16 each, row by row | last moves: u32 s each | crc32 u32 |

All integers little-endian; the crc covers everything before it. The table has ceil(replicas) rows of 2^part_power ids,
0xFFFF where there is no replica. Fields of the json: docs/formats/ring.md.
"""
from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np

from common.errors import Corruption, RingError
from common.hashing import crc32
from ring.builder import BuilderState, RingBuilder
from ring.device import device_from_json, device_to_json
from ring.mover import NONE
from ring.placement import NO_DEVICE
from ring.ringfile import write_atomically

MAGIC, VERSION = b"HFRB", 1
_HEAD = struct.Struct("<4sHI")
_CRC = struct.Struct("<I")
_PLAIN = ("part_power", "replicas", "min_part_hours", "overload", "version", "ring_version", "is_changed",
          "last_rebalance_s")


def encode_builder(builder: RingBuilder) -> bytes:
    """The bytes of a builder file."""
    state = builder.state
    head: dict[str, object] = {name: getattr(state, name) for name in _PLAIN}
    head["devices"] = [None if d is None else device_to_json(d) for d in state.devices]
    head["removed"] = sorted(state.removed)
    head["rows"] = len(state.table)
    text = json.dumps(head, sort_keys=True).encode()
    table = np.where(state.table == NONE, NO_DEVICE, state.table).astype("<u2")
    content = b"".join([_HEAD.pack(MAGIC, VERSION, len(text)), text, table.tobytes(),
                        state.last_move_s.astype("<u4").tobytes()])
    return content + _CRC.pack(crc32(content))


def decode_builder(data: bytes) -> RingBuilder:
    """Inverse of `encode_builder`. Raises `Corruption`; `RingError` for a file of a newer Holdfast or of another tool."""
    if data[:4] != MAGIC:
        raise RingError(reason="this is no builder file of Holdfast (swift-ring-builder's own files cannot be read)")
    try:
        _magic, version, size = _HEAD.unpack_from(data)
        if version > VERSION:
            raise RingError(reason=f"the builder file has version {version}, this Holdfast knows {VERSION}")
        if _CRC.unpack(data[-_CRC.size:])[0] != crc32(memoryview(data)[:-_CRC.size]):
            raise ValueError("checksum")
        head = json.loads(data[_HEAD.size:_HEAD.size + size])
        parts, rows = 1 << head["part_power"], head["rows"]
        table = np.frombuffer(data, "<u2", rows * parts, _HEAD.size + size).astype(np.int64).reshape(rows, parts)
        moves = np.frombuffer(data, "<u4", parts, _HEAD.size + size + 2 * rows * parts).astype(np.int64)
        devices = [None if d is None else device_from_json(d) for d in head["devices"]]
        return RingBuilder.from_state(BuilderState(
            **{name: head[name] for name in _PLAIN}, devices=devices, removed=set(head["removed"]),
            table=np.where(table == NO_DEVICE, NONE, table), last_move_s=moves))
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise Corruption(what="builder file", reason=str(error)) from error


def load_builder(path: str | os.PathLike[str]) -> RingBuilder:
    """Raises `RingError` (absent, foreign), `Corruption`."""
    try:
        return decode_builder(Path(path).read_bytes())
    except OSError as error:
        raise RingError(reason=f"{path}: {error.strerror}") from error


def save_builder(builder: RingBuilder, path: str | os.PathLike[str]) -> None:
    """Durable and atomic. Raises `RingError`."""
    try:
        write_atomically(Path(path), encode_builder(builder))
    except OSError as error:
        raise RingError(reason=f"{path}: {error.strerror}") from error
