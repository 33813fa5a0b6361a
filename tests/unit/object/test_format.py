"""Reading a part of a record without the rest."""
from __future__ import annotations

import os

import msgpack
import pytest

from common.errors import Corruption
from common.timestamp import Stamp
from object.format import decode_row_key, encode_register_row
from object.wire import SPACE_CONTAINER, SPACE_OBJECT, Kind, make_key, make_version

STAMP = Stamp(5, 4, 3, 2)
VERSION = make_version(stamp=STAMP, root=STAMP, kind=Kind.LIVE, path="/a/c/o", body_id=7, size_bytes=9, descriptor=b"d")


@pytest.mark.parametrize("space", [SPACE_CONTAINER, SPACE_OBJECT, SPACE_OBJECT + 200])
def test_the_key_of_a_row_is_found_without_decoding_the_row(space):
    key = make_key(space, 123_456, os.urandom(16))
    assert decode_row_key(encode_register_row(key, STAMP, VERSION, 99)) == key


def test_a_row_in_another_form_is_decoded_whole_and_rubbish_is_refused():
    key = b"short key"
    assert decode_row_key(msgpack.packb((key, STAMP.pack(), VERSION.packed, 0))) == key
    for rubbish in (b"", b"\x94", b"\x94\xc4\x15", b"\x94\xc4\x15" + b"k" * 20):
        with pytest.raises(Corruption):
            decode_row_key(rubbish)
