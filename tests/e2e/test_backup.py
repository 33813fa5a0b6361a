"""A running node is backed up; another directory becomes that node, and clients notice nothing."""
from __future__ import annotations

import json
import os
import stat

from tests.e2e.conftest import call, wait_until


def identity_call(node, method, path, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    return call(method, node.endpoint["urls"]["identity"] + path, data, **{"Content-Type": "application/json", **headers})


def token_of(node):
    auth = json.loads((node.root / "clouds.yaml").read_text())["clouds"]["holdfast-admin"]["auth"]
    user = {"name": auth["username"], "password": auth["password"], "domain": {"id": "default"}}
    status, answer, fields = identity_call(node, "POST", "/auth/tokens", {"auth": {
        "identity": {"methods": ["password"], "password": {"user": user}},
        "scope": {"project": {"name": "admin", "domain": {"id": "default"}}}}})
    assert status == 201, answer
    return fields["x-subject-token"]


def test_a_backup_of_a_running_node_is_restored_and_serves(make_node, tmp_path):
    first, second, archive = make_node(), make_node(name="second"), tmp_path / "backup.tar"
    first.up()
    wait_until(lambda: first.status()["control"]["is_ready"], "identity serves")
    token = token_of(first)
    done = first.run("backup", "create", str(archive), "--data", str(first.root), "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["databases"][0]["tables"]["user_account"] >= 2 and stat.S_IMODE(os.stat(archive).st_mode) == 0o600

    refused = first.run("backup", "restore", str(archive), "--data", str(first.root), "--replace")
    assert refused.returncode == 1 and "a node runs" in refused.stderr
    again = first.run("backup", "create", str(archive), "--data", str(first.root))
    assert again.returncode == 1 and "overwrite nothing" in again.stderr
    assert first.run("backup", "verify", str(archive)).returncode == 0
    dry = first.run("backup", "restore", str(archive), "--data", str(second.root), "--dry-run")
    assert dry.returncode == 0 and "nothing was done" in dry.stdout and not second.root.exists()

    first.down()
    restored = first.run("backup", "restore", str(archive), "--data", str(second.root))
    assert restored.returncode == 0, restored.stderr
    (first.root / "devices").rename(second.root / "devices")             # the disks go with their node
    second.up()
    wait_until(lambda: second.status()["control"]["is_ready"], "identity serves")
    status, answer, _ = identity_call(second, "GET", "/auth/tokens", **{"X-Auth-Token": token, "X-Subject-Token": token})
    assert status == 200 and json.loads(answer)["token"]["user"]["name"] == "admin"
    assert token_of(second)
    client = second.login()
    assert client.call("PUT", "/c")[0] == 201 and client.call("PUT", "/c/o", b"x")[0] == 201
    assert client.call("GET", "/c/o") == (200, b"x")


def test_a_damaged_archive_is_refused_with_what_is_damaged(make_node, tmp_path):
    node, archive = make_node(), tmp_path / "backup.tar"
    node.up()
    wait_until(lambda: node.status()["control"]["is_ready"], "identity serves")
    assert node.run("backup", "create", str(archive), "--data", str(node.root)).returncode == 0
    data = bytearray(archive.read_bytes())
    place = data.index(b"SQLite format 3") + 5_000
    data[place] ^= 0xFF
    archive.write_bytes(data)
    for verb in (("verify", str(archive)), ("restore", str(archive), "--data", str(tmp_path / "elsewhere"))):
        done = node.run("backup", *verb)
        assert done.returncode == 1 and "databases/identity/database.sqlite is damaged" in done.stderr, done.stderr
    told = json.loads(node.run("backup", "verify", str(archive), "--json").stdout)
    assert told["is_whole"] is False and len(told["problems"]) == 1
    node.down()
