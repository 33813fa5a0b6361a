"""Jobs of a running node's control plane, as an operator sees them."""
from __future__ import annotations

import json

from common.clock import SystemClock
from control.db import Database, sqlite_url
from control.jobs_store import JobStore
from tests.e2e.conftest import wait_until

REQUEST = "req-6f1c2d3e-0000-4000-8000-123456789abc"
ERROR = {"code": "full", "reason": "the disk is full", "step": "allocate",
         "chain": [{"rule": "job.step", "facts": {"step": "allocate", "kind": "box.create", "tries": "5"}}]}


def plant(connection, store):
    job_id = store.add(connection, kind="box.create", step="allocate", resource_type="box", resource_id="b1",
                       origin={"request_id": REQUEST, "method": "POST", "path": "/boxes"})
    store.end(connection, store.claim(connection, owner="w", kinds=("box.create",), targets=(), lease_us=1), state="failed",
              error=ERROR)
    return job_id


def test_a_failed_job_is_listed_and_explained_by_its_request(cluster):
    wait_until(lambda: cluster.run("jobs", "--data", str(cluster.root)).returncode == 0, "the control plane serves")
    assert cluster.run("jobs", "--data", str(cluster.root)).stdout == "no jobs\n"
    database = Database(sqlite_url(cluster.root / "control/identity.sqlite"))
    job_id, _ = database.run_here(plant, JobStore(SystemClock()))
    database.close()
    (row,) = json.loads(cluster.run("jobs", "--data", str(cluster.root), "--state", "failed", "--json").stdout)["jobs"]
    assert (row["id"], row["service"], row["step"], row["error"]["reason"]) == (job_id, "identity", "allocate", "the disk is full")
    assert "the disk is full" in cluster.run("jobs", "--data", str(cluster.root)).stdout
    told = cluster.run("explain", REQUEST, "--data", str(cluster.root))
    assert told.returncode == 0, told.stderr
    assert "job.step" in told.stdout and "allocate" in told.stdout and "the disk is full" in told.stdout
    refused = cluster.run("jobs", "--data", str(cluster.root), "--limit", "0")
    assert refused.returncode == 1 and "limit" in refused.stderr


def test_a_refused_request_of_the_control_plane_is_explained(cluster):
    wait_until(lambda: cluster.run("jobs", "--data", str(cluster.root)).returncode == 0, "the control plane serves")
    status, _, fields = cluster.get(cluster.endpoint["urls"]["identity"] + "/users")
    told = cluster.run("explain", fields["x-openstack-request-id"], "--data", str(cluster.root))
    assert status == 401 and "token.missing" in told.stdout, told
