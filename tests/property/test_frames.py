"""Frames survive every cut of the byte stream, and no change of a byte goes unseen."""
from __future__ import annotations

import struct

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from common.errors import BodyTooLarge
from common.frames import FRAME_BYTES_MAX, HEAD_BYTES, HEADER_BYTES_MAX, FrameReader, FrameWriter
from common.hashing import crc32

VALUES = st.recursive(st.none() | st.booleans() | st.integers(-2**63, 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=20),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
                      max_leaves=8)
FRAMES = st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1), st.lists(VALUES, max_size=5),
                            st.binary(max_size=300) | st.builds(bytes, st.integers(0, 200_000))), max_size=6)


def encode(frames):
    writer = FrameWriter()
    return b"".join(writer.encode(*frame) + frame[3] for frame in frames)


def feed(reader, data):
    frames = []
    while data and reader.error is None:
        room = reader.room()
        assert len(room) > 0
        count = min(len(room), len(data))
        room[:count] = data[:count]
        frames += reader.advance(count)
        data = data[count:]
    return frames


@given(FRAMES, st.lists(st.integers(1, 70_000), max_size=20))
def test_frames_are_the_same_however_the_bytes_are_cut(frames, cuts):
    data, reader, found = memoryview(encode(frames)), FrameReader(), []
    for cut in cuts:
        found += feed(reader, data[:cut])
        data = data[cut:]
    found += feed(reader, data)
    assert reader.error is None
    assert found == [tuple(frame) for frame in frames]


@given(FRAMES.filter(bool), st.data())
def test_one_changed_byte_never_gives_other_frames(frames, data):
    raw = bytearray(encode(frames))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    found = feed(FrameReader(), bytes(raw))
    assert len(found) < len(frames) and found == [tuple(frame) for frame in frames[:len(found)]]


@given(st.binary(min_size=HEAD_BYTES, max_size=2_000))
@example(bytes(64))
@example(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n")
def test_garbage_is_an_error_or_an_unfinished_frame_and_never_a_frame(data):
    reader = FrameReader(4096)
    assert feed(reader, data) == []
    assert reader.error is not None or int.from_bytes(data[:4], "big") > len(data)


@pytest.mark.parametrize("length", [0, 15, FRAME_BYTES_MAX + 1, 2**32 - 1])
def test_a_length_out_of_bounds_is_refused_before_any_of_it_is_stored(length):
    reader = FrameReader()
    assert feed(reader, struct.pack(">IIHHI", length, 1, 0, 16, 0)) == []
    assert "frame of" in reader.error.fields["reason"]
    assert len(reader.room()) < FRAME_BYTES_MAX


@pytest.mark.parametrize("header", [b"\x01", b"\x81\xa1a\x01", b"\x91", b"\x90\x90", b"\xc1", b"\xdd\xff\xff\xff\xff", b"",
                                    b"\x91" * 3000])
def test_a_header_that_is_no_list_is_refused_though_its_checksum_holds(header):
    start = struct.pack(">IIHH", HEAD_BYTES + len(header), 1, len(header), 16)
    reader = FrameReader()
    assert feed(reader, start + crc32(header, crc32(start)).to_bytes(4, "big") + header) == []
    assert reader.error is not None


def test_frames_before_a_broken_one_are_delivered():
    good = encode([(1, 16, [1], b"a"), (2, 16, [2], b"b")])
    reader = FrameReader()
    assert feed(reader, good + bytes(16)) == [(1, 16, [1], b"a"), (2, 16, [2], b"b")]
    assert reader.error is not None


def test_a_frame_of_the_largest_size_travels_and_a_larger_one_cannot_be_made():
    writer = FrameWriter()
    overhead = len(writer.encode(1, 16, [], b""))
    body = bytes(FRAME_BYTES_MAX - overhead)
    reader = FrameReader()
    assert feed(reader, memoryview(writer.encode(1, 16, [], body) + body)) == [(1, 16, [], body)]
    with pytest.raises(BodyTooLarge):
        writer.encode(1, 16, [], body + b"x")
    with pytest.raises(BodyTooLarge):
        writer.encode(1, 16, [b"x" * HEADER_BYTES_MAX])
    with pytest.raises(TypeError):
        writer.encode(1, 16, [object()])
    assert writer.encode(1, 16, [1]) == FrameWriter().encode(1, 16, [1])     # nothing of the failed ones is left
    assert len(reader.room()) <= 512 << 10                                   # a large frame's memory is given back
