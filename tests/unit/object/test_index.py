"""What an index of LMDB keeps in memory between two flushes."""
from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from common.clock import ManualClock
from common.timestamp import Stamp
from object.index import MAPPED_BYTES_MAX, LmdbIndex, Mark
from object.owner import Owner
from object.register import Held
from object.wire import SPACE_OBJECT, BodyState, Kind, make_key, make_version
from tests.resident import resident_bytes


def rows_of(count):
    rng, out = random.Random(1), {}
    for number in range(count):
        key = make_key(SPACE_OBJECT, number % 256, rng.randbytes(16))
        stamp = Stamp(1_700_000_000_000_000 + number, 0, 1, number)
        version = make_version(stamp=stamp, root=stamp, kind=Kind.LIVE, path=f"/AUTH_a/c/{number}", size_bytes=number,
                               descriptor=bytes(40))
        out[key] = Held(stamp, version, BodyState.INLINE, number, 1, 4096, 100, 0)
    return out


@pytest.mark.parametrize(("count", "is_large"), [(1000, False), (100_000, True)])
def test_a_large_index_is_let_go_of_after_a_flush_and_found_again(tmp_path, count, is_large):
    index, rows = LmdbIndex(str(tmp_path), map_bytes=1 << 30), rows_of(count)
    index.flush(rows, {}, Mark(1, 1, 1, {}, b""))
    file = tmp_path / "data.mdb"
    assert (file.stat().st_size > MAPPED_BYTES_MAX) is is_large
    held = resident_bytes(file)
    assert held == 0 if is_large else held > 0
    for key, row in rows.items():
        found = index.get(key)
        assert found is not None and found.version == row.version
    assert resident_bytes(file) > 0
    index.let_go()
    assert (resident_bytes(file) == 0) is is_large
    index.let_go(above_bytes=0)
    assert resident_bytes(file) == 0
    index.close()
    index.let_go(above_bytes=0)                      # of nothing: whoever asks may come late


async def test_a_process_that_has_grown_lets_go_of_small_indexes_as_well(tmp_path):
    index, rows = LmdbIndex(str(tmp_path), map_bytes=1 << 30), rows_of(100)
    index.flush(rows, {}, Mark(1, 1, 1, {}, b""))
    owner = Owner(SimpleNamespace(identity=SimpleNamespace(name="d"), index=index), ManualClock())
    assert index.get(next(iter(rows))) is not None and resident_bytes(tmp_path / "data.mdb") > 0
    owner.let_go()
    await owner._index_pool.run(lambda: None)            # behind it
    assert resident_bytes(tmp_path / "data.mdb") == 0
    owner._index_pool.shutdown()
    index.close()
