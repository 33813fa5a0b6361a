"""Bodies in chunks, both ways. The decoder is strict: what two readers could frame differently is an error.

Source: RFC 9112, section 7.1. Chunk extensions and trailers are read and dropped.
"""
from __future__ import annotations

import re

from common.errors import BadRequest

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")
_LINE_BYTES_MAX = 1024
_TRAILER_BYTES_MAX = 8192

LAST_CHUNK = b"0\r\n\r\n"


def encode_chunk_head(size: int) -> bytes:
    """What precedes `size` bytes of a chunk; b"\\r\\n" follows them."""
    return b"%x\r\n" % size


class ChunkDecoder:
    """Turns the bytes after a head into the bytes of the body; keeps at most one incomplete line of input."""

    __slots__ = ("_left", "_line", "_state", "_trailer_bytes", "is_complete")

    _SIZE, _DATA, _DATA_END, _TRAILER = range(4)

    def __init__(self) -> None:
        self._state = self._SIZE
        self._left = 0                           # bytes that the current chunk still owes
        self._line = b""                         # an incomplete line
        self._trailer_bytes = 0
        self.is_complete = False

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """(pieces of the body, bytes after its end). Raises `BadRequest`; then nothing more may be fed."""
        pieces: list[bytes] = []
        if self._line:
            data, self._line = self._line + data, b""
        position, end = 0, len(data)
        while position < end and not self.is_complete:
            if self._state == self._DATA:
                taken = min(self._left, end - position)
                pieces.append(data[position:position + taken])
                position += taken
                self._left -= taken
                if self._left == 0:
                    self._state = self._DATA_END
                continue
            newline = data.find(b"\n", position, position + _LINE_BYTES_MAX + 2)
            if newline < 0:
                self._keep(data[position:])
                return pieces, b""
            self._take_line(data[position:newline + 1])
            position = newline + 1
        return pieces, data[position:]

    def _keep(self, rest: bytes) -> None:
        """Hold an incomplete line back, unless no continuation can make it right."""
        if len(rest) > (2 if self._state == self._DATA_END else _LINE_BYTES_MAX):
            raise BadRequest(reason="Malformed chunked body: a line is too long.")
        if self._state == self._DATA_END and rest != b"\r":
            raise BadRequest(reason="Malformed chunked body: a chunk is longer than it says.")
        if self._state == self._SIZE and rest[:1] not in b"0123456789abcdefABCDEF":
            raise BadRequest(reason="Malformed chunked body: a chunk size is not a number.")
        self._line = rest

    def _take_line(self, line: bytes) -> None:
        if line[-2:] != b"\r\n":
            raise BadRequest(reason="Malformed chunked body: a line ends with CR LF.")
        text = line[:-2]
        if self._state == self._DATA_END:
            if text:
                raise BadRequest(reason="Malformed chunked body: a chunk is longer than it says.")
            self._state = self._SIZE
        elif self._state == self._SIZE:
            found = _SIZE_LINE.fullmatch(text)
            if found is None:
                raise BadRequest(reason="Malformed chunked body: a chunk size is not a number.")
            self._left = int(found[1], 16)
            self._state = self._DATA if self._left else self._TRAILER
        elif not text:
            self.is_complete = True
        else:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > _TRAILER_BYTES_MAX or _TRAILER_LINE.fullmatch(text) is None:
                raise BadRequest(reason="Malformed chunked body: the trailer is malformed or too large.")
