"""One supervisor per state directory, and files that are whole and private."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import Conflict
from node.files import find_running, lock_state, write_private

ROOT = Path(__file__).parents[3]
HOLD = ("import sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path; from node.files import lock_state; "
        "lock_state(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()")


@pytest.fixture
def root(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path


@pytest.fixture
def holder(root):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(root), str(ROOT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_supervisor_is_refused_and_told_who_has_it(root, holder):
    assert find_running(root) == holder.pid
    with pytest.raises(Conflict) as caught:
        lock_state(root)
    assert caught.value.fields["pid"] == holder.pid and f"process id {holder.pid}" in caught.value.fields["reason"]


def test_a_dead_supervisor_holds_nothing(root, holder):
    holder.kill()
    holder.wait()
    assert find_running(root) is None
    os.close(lock_state(root))


def test_asking_who_runs_neither_takes_nor_loses_the_lock(root, holder):
    for _ in range(3):
        assert find_running(root) == holder.pid


@pytest.mark.parametrize("path", ["nowhere", "file"])
def test_where_no_state_is_nothing_runs(tmp_path, path):
    (tmp_path / "file").touch()
    assert find_running(tmp_path / path) is None


def test_a_private_file_is_replaced_whole_and_stays_private(tmp_path):
    path = tmp_path / "x"
    old_mask = os.umask(0)
    try:
        write_private(path, b"one, and long")
        write_private(path, b"two")
    finally:
        os.umask(old_mask)
    assert path.read_bytes() == b"two" and path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_private_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "x"
    write_private(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_private(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["x"]
