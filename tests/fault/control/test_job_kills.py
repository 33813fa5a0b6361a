"""kill -9 at every point of a job, forwards and back, on both databases: the wanted state, or a clean error with its reason."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LIMIT_S = 300


def run_trials(scenario, url, directory, *, faults="", pairs=0):
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).with_name("job_trials.py")), scenario, url, str(directory), faults, str(pairs)]
    done = subprocess.run(command, env=environ, cwd=directory, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr[-4_000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def bad(rows):
    return {" ".join(row["kill"]): row["problems"] for row in rows if row["problems"]}


@pytest.mark.parametrize(("scenario", "passed"), [
    ("create", {"submit_create.inside#1", "claim.inside#1", "reserve.inside#1", "fill.inside#1", "record.inside#1",
                "record.inside#4", "fenced.inside#1", "end_done.inside#1", "end_done.after#1"}),
    ("fail", {"begin_undo.before#1", "begin_undo.inside#1", "hide.before#1", "hide.after#1", "free.after#1", "cancel.inside#1",
              "record.inside#7", "fail_here.inside#1", "fail_here.after#1"}),
    ("delete", {"submit_delete.inside#1", "cancel.inside#1", "erase.inside#1", "record.after#1", "end_done.inside#1"})])
def test_a_job_killed_at_any_point_ends_as_it_would_have(scenario, passed, database_url, tmp_path):
    rows = run_trials(scenario, database_url, tmp_path)
    assert bad(rows) == {}
    assert passed <= {point for row in rows for point in row["kill"]}


def test_a_step_that_ends_its_worker_each_time_ends_as_an_error_and_is_undone(database_url, tmp_path):
    assert bad(run_trials("poison", database_url, tmp_path)) == {}


@pytest.mark.parametrize("scenario", ["create", "fail", "delete"])
def test_whoever_goes_on_may_be_killed_as_well(scenario, database_url, tmp_path):
    rows = run_trials(scenario, database_url, tmp_path, pairs=5)
    assert len(rows) == 6 and bad(rows) == {}


@pytest.mark.all_only
@pytest.mark.parametrize("scenario", ["create", "fail", "delete"])
def test_many_pairs_of_kills(scenario, database_url, tmp_path):
    assert bad(run_trials(scenario, database_url, tmp_path, pairs=400)) == {}


@pytest.mark.parametrize(("scenario", "fault", "seen"), [("create", "not idempotent", "lines of the ledger"),
                                                         ("fail", "forgets", "a directory")])
def test_the_check_finds_a_step_that_is_not_idempotent_and_one_that_is_not_undone(scenario, fault, seen, tmp_path):
    found = bad(run_trials(scenario, f"sqlite:///{tmp_path / 'test.sqlite'}", tmp_path, faults=fault))
    assert any(seen in sentence for sentences in found.values() for sentence in sentences)
