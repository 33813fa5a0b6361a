"""Space is counted as df does."""
from __future__ import annotations

import os
import subprocess
from types import SimpleNamespace

from common.vfs import RealFs


def test_blocks_that_are_kept_for_others_are_neither_free_nor_part_of_the_size(monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_frsize=4096, f_blocks=1000, f_bfree=880, f_bavail=240))
    assert RealFs().free_bytes("/anywhere") == (240 * 4096, (120 + 240) * 4096)


def test_it_is_what_df_says(tmp_path):
    df = subprocess.run(["df", "--output=used,avail", "-B1", tmp_path], capture_output=True, text=True, check=True).stdout
    used, available = map(int, df.splitlines()[1].split())
    free, size = RealFs().free_bytes(str(tmp_path))
    assert abs(size - used - available) < 1 << 30 and abs(free - available) < 1 << 30          # others write meanwhile
