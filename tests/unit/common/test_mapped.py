"""A file that is mapped for reading is let go of, and can be read on."""
from __future__ import annotations

import mmap
import os

from common.mapped import Mapped, find_mapped
from tests.resident import resident_bytes

SIZE = 8 << 20


def test_pages_of_a_mapped_file_are_let_go_and_read_again(tmp_path):
    path = tmp_path / "data.mdb"
    path.write_bytes(os.urandom(SIZE))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert bytes(mapped) == path.read_bytes() and resident_bytes(path) == SIZE
        (found,) = find_mapped(str(path))
        assert found.length == SIZE and found.let_go() and resident_bytes(path) == 0
        assert bytes(mapped) == path.read_bytes()
    assert list(find_mapped(str(path))) == []


def test_what_can_be_written_is_not_found(tmp_path):
    path = tmp_path / "data.mdb"
    path.write_bytes(bytes(4096))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0):
        assert list(find_mapped("/data.mdb")) == []


def test_an_address_range_that_is_none_is_refused():
    assert not Mapped(1, 4096).let_go()
