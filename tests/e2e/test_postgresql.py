"""A node whose control plane is in PostgreSQL."""
from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import wait_until
from tests.e2e.test_backup import identity_call, token_of


@pytest.mark.needs_postgresql
def test_a_node_on_postgresql_serves_is_restarted_and_backed_up(make_node, postgres_url, tmp_path):
    node = make_node(environ={"HOLDFAST_IDENTITY_DATABASE": postgres_url})
    node.up()
    wait_until(lambda: node.status()["control"]["is_ready"], "identity serves")
    token = token_of(node)
    node.down()
    node.up()
    wait_until(lambda: node.status()["control"]["is_ready"], "identity serves")
    status, _, _ = identity_call(node, "GET", "/auth/tokens", **{"X-Auth-Token": token, "X-Subject-Token": token})
    assert status == 200
    assert not (node.root / "control/identity.sqlite").exists()
    done = node.run("backup", "create", str(tmp_path / "b.tar"), "--data", str(node.root), "--json")
    assert done.returncode == 0, done.stderr
    (database,) = json.loads(done.stdout)["databases"]
    assert database["kind"] in ("pg_dump", "pg_copy") and database["tables"]["user_account"] >= 2
    node.down()
