"""Frames: what travels on a connection between two processes. Byte map, see docs/formats/wire.md:

    | length u32 | stream id u32 | header length u16 | op u16 | crc32 u32 | header: msgpack list | body |

Big-endian; `length` counts the whole frame; the crc covers all bytes but itself. A reader trusts nothing: a length out of
bounds, a wrong crc or a header that is no list ends the connection, because after it nothing can be found again.

Budget: one copy of a body on the way in (out of the receive buffer), none on the way out; about 1 us per frame and side.
"""
from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgpack

from common.errors import BodyTooLarge, StorageError
from common.hashing import crc32, crc32_long

FRAME_BYTES_MAX = 8 << 20
HEADER_BYTES_MAX = 0xFFFF
HEAD_BYTES = 16

REPLY, ERROR, DATA, END, CREDIT, RESET, OPENED = range(7)       # ops of the transport itself
HELLO, CHALLENGE, PROOF, WELCOME, REFUSED = range(8, 13)        # before anything else
OP_MIN, OP_MAX = 16, 0x3FFF                                     # ops of the services
UPLOAD, DOWNLOAD = 0x4000, 0x8000                               # flags of a request: DATA follows it; its answer may be a stream

Frame = tuple[int, int, list[Any], bytes]                       # stream id, op, fields, body

_HEAD = struct.Struct(">IIHHI")
_UNSUMMED = struct.Struct(">IIHH")
_UNSUMMED_BYTES = _UNSUMMED.size
_ROOM_BYTES_MIN, _ROOM_BYTES_MAX = 64 << 10, 512 << 10


class FrameError(StorageError):
    """The bytes are no frame. reason."""

    code = "frame_error"


class FrameWriter:
    """Encodes frames; one per connection, because a packer with a buffer of its own costs a third of a new one."""

    __slots__ = ("_pack",)

    def __init__(self) -> None:
        self._pack = msgpack.Packer(unicode_errors="surrogatepass", buf_size=4096).pack

    def encode(self, stream_id: int, op: int, fields: Sequence[object], body: bytes | memoryview = b"") -> bytes:
        """Head and header of a frame; `body` follows them unchanged.

        Raises `BodyTooLarge` (limit_bytes) if frame or header are too long, `TypeError` or `ValueError` if msgpack
        cannot express a field.
        """
        header: bytes = self._pack(fields)
        header_bytes = len(header)
        length = HEAD_BYTES + header_bytes + len(body)
        if header_bytes > HEADER_BYTES_MAX:
            raise BodyTooLarge(limit_bytes=HEADER_BYTES_MAX, what="frame header")
        if length > FRAME_BYTES_MAX:
            raise BodyTooLarge(limit_bytes=FRAME_BYTES_MAX, what="frame")
        start = _UNSUMMED.pack(length, stream_id, header_bytes, op)
        crc = crc32(start + header)
        if body:
            crc = crc32_long(body, crc)
        return start + crc.to_bytes(4, "big") + header


class FrameReader:
    """Finds frames in a stream of bytes, however it was cut.

    `room()` is where the next bytes go, `advance(n)` takes them and returns the frames that are now whole. After the
    first broken one `error` says why and nothing more is read. The buffer holds one frame, at least 64 KiB.
    """

    __slots__ = ("_buffer", "_end", "_start", "_wanted_bytes", "error", "frame_bytes_max")

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self.frame_bytes_max = frame_bytes_max
        self.error: FrameError | None = None
        self._buffer = memoryview(bytearray(_ROOM_BYTES_MIN))
        self._start = self._end = 0
        self._wanted_bytes = 0                                   # of the frame that has begun, when its head is here

    def room(self) -> memoryview:
        """Writable, never empty; valid until `advance`."""
        return self._buffer[self._end:]

    def advance(self, count: int) -> list[Frame]:
        """Take `count` bytes that were written to `room()`."""
        view = self._buffer
        start, end = self._start, self._end + count
        is_full = end == len(view)
        frames: list[Frame] = []
        self._wanted_bytes = 0
        while end - start >= HEAD_BYTES and self.error is None:
            length, stream_id, header_bytes, op, crc = _HEAD.unpack_from(view, start)
            header_at = start + HEAD_BYTES
            body_at = header_at + header_bytes
            stop = start + length
            if length > self.frame_bytes_max or body_at > stop:
                self.error = FrameError(reason=f"a frame of {length} bytes with a header of {header_bytes}")
                break
            if stop > end:
                self._wanted_bytes = length
                break
            if crc32_long(view[header_at:stop], crc32(view[start:start + _UNSUMMED_BYTES])) != crc:
                self.error = FrameError(reason="checksum of a frame")
                break
            fields = self._unpack(view[header_at:body_at])
            if fields is None:
                break
            frames.append((stream_id, op, fields, bytes(view[body_at:stop]) if body_at < stop else b""))
            start = stop
        self._start, self._end = start, end
        self._make_room(is_full=is_full)
        return frames

    def _unpack(self, header: memoryview) -> list[Any] | None:
        try:
            fields = msgpack.unpackb(header, unicode_errors="surrogatepass", strict_map_key=False)
        except (ValueError, TypeError) as error:                 # TypeError: a map whose key is a map
            self.error = FrameError(reason=f"header of a frame: {error}")
            return None
        if type(fields) is not list:
            self.error = FrameError(reason="the header of a frame is no list")
            return None
        return fields

    def _make_room(self, *, is_full: bool) -> None:
        """Move what is left to the front, or to a buffer that fits: more when reads fill it, less after a large frame."""
        left = self._end - self._start
        size = len(self._buffer)
        wanted = max(self._wanted_bytes, size if size <= _ROOM_BYTES_MAX else _ROOM_BYTES_MAX, left + HEAD_BYTES)
        if is_full and size < _ROOM_BYTES_MAX:
            wanted = max(wanted, _ROOM_BYTES_MAX)
        if wanted > size or (size > _ROOM_BYTES_MAX >= wanted):
            buffer = memoryview(bytearray(wanted))
        elif left == 0 or is_full or self._start + self._wanted_bytes > size or size - self._end < HEAD_BYTES:
            buffer = self._buffer
        else:
            return
        buffer[:left] = self._buffer[self._start:self._end]
        self._buffer, self._start, self._end = buffer, 0, left
