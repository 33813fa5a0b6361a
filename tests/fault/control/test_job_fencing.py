"""A worker that stood still while another took its job over goes on, and writes nothing."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select

from control.db import Database
from control.jobs_model import job, job_step
from tests.job_sample import make_tables, problems

ROOT = Path(__file__).parents[3]
LEASE_S, LIMIT_S = 0.6, 60


def start(url, files, role, stop_at, fault):
    command = [sys.executable, str(Path(__file__).with_name("job_worker.py")), url, str(files), str(LEASE_S), role, stop_at, fault]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)


def paused(url, tmp_path, stop_at, *, fault=""):
    """A worker is stopped at a point, another one ends its job, the first goes on: job, steps, problems, log of the first."""
    files = tmp_path / "files"
    files.mkdir()
    database = Database(url)
    database.run_here(make_tables)
    slow = start(url, files, "begin", stop_at, fault)
    try:
        _, status = os.waitpid(slow.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), slow.stderr.read()
        fast = start(url, files, "join", "", fault)
        assert fast.wait(LIMIT_S) == 0, fast.stderr.read()
        os.kill(slow.pid, signal.SIGCONT)
        assert slow.wait(LIMIT_S) == 0, slow.stderr.read()
        told = slow.stderr.read()
    finally:
        slow.kill()
        slow.stderr.close()
    with database.engine.connect() as connection:
        (ended,) = connection.execute(select(job)).all()
        steps = {row.name: row for row in connection.execute(select(job_step))}
        found = problems(connection, files, "b1", wanted="available")
    database.close()
    return ended, steps, found, told


@pytest.mark.parametrize(("stop_at", "step"), [("fill.before", "fill"), ("fill.inside", "fill"), ("fill.after", "fill"),
                                               ("record.before", "reserve"), ("publish.before", "publish"),
                                               ("announce.after", "announce"), ("end_done.before", "announce")])
def test_a_worker_that_was_paused_writes_nothing_once_its_lease_was_taken(stop_at, step, database_url, tmp_path):
    ended, steps, found, told = paused(database_url, tmp_path, stop_at)
    assert found == []
    assert ended.state == "done" and ended.attempt == 2
    assert steps[step].attempt == 2                                   # recorded by the second worker, and not written over
    assert "held no more" in told or "taken over" in told


def test_the_check_finds_a_worker_that_is_not_fenced(tmp_path):
    _, steps, _, _ = paused(f"sqlite:///{tmp_path / 'test.sqlite'}", tmp_path, "fill.after", fault="unfenced")
    assert steps["fill"].attempt == 1
